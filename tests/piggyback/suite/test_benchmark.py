"""How benchmarks of installed packages are found, and what is said where one is broken."""

import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint, EntryPoints
from types import SimpleNamespace
from typing import Any

import pytest

from piggyback.shell.errors import BadInput, UnknownName
from piggyback.suite import benchmark
from piggyback.suite.benchmark import GROUP, Benchmark, Metric, find_benchmark, find_benchmarks
from piggyback.suite.recipe import Recipe, SequenceRecipe
from piggyback.suite.verbs import commands
from piggyback.suite.verbs.commands import make_commands, offered_commands


def make(**fields: Any) -> Benchmark:
    start: dict[str, Any] = {
        **{"name": "toy", "title": "Toy", "recipes": {"paper": Recipe()}, "opener": "not.there:open_bench"},
        **{"metrics": (Metric(name="accuracy", title="accuracy"),), "tasks": ("one",)},
    }
    return Benchmark(**{**start, **fields})


@pytest.fixture
def offer(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Lets a package offer these, as attributes of its module, and nobody else anything."""

    def install(**offered: object) -> None:
        monkeypatch.setitem(sys.modules, "toys", SimpleNamespace(**offered))
        points = EntryPoints(EntryPoint(name=name, value=f"toys:{name}", group=GROUP) for name in (*offered, "missing"))
        for module in (benchmark, commands):
            monkeypatch.setattr(module, "entry_points", lambda *, group: points if group == GROUP else EntryPoints())
        find_benchmark.cache_clear()

    yield install
    find_benchmark.cache_clear()


def test_a_benchmark_is_found_by_name(offer: Callable[..., None]) -> None:
    toy = make()
    offer(toy=toy)
    assert find_benchmark("toy") is toy
    with pytest.raises(UnknownName, match=r"no benchmark is called 'tyo'\. Did you mean 'toy'"):
        find_benchmark("tyo")


@pytest.mark.parametrize(
    ("offered", "words"),
    [
        ({"toy": make(name="other")}, r"toys:toy is not a Benchmark named 'toy': see docs/adding-a-benchmark\.md"),
        ({"toy": "text"}, "is not a Benchmark named 'toy'"),
        ({}, "benchmark 'missing' of toys:missing cannot be loaded: "),
    ],
    ids=["another name", "no benchmark", "not there"],
)
def test_a_broken_offer_is_told_and_takes_no_other_verb_along(
    offer: Callable[..., None], offered: dict[str, object], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    offer(**offered, good=make(name="good"))
    with pytest.raises(BadInput, match=words):
        find_benchmark(next(iter(offered), "missing"))
    with pytest.raises(BadInput):
        find_benchmarks()
    names = [command.name for command in offered_commands()]
    assert names == ["good train", "good run", "good report", "good evaluate"]
    said = capsys.readouterr().err
    assert said.startswith("piggyback: note: ")
    assert said.count("\n") == len(offered) + 1  # and that of the one that is not there


def test_verbs_follow_the_contract() -> None:
    alone = make_commands(make())
    assert [command.name for command in alone] == ["toy train", "toy run", "toy report", "toy evaluate"]
    assert not any("--task" in command.examples for command in alone)
    several = make_commands(make(tasks=("one", "two"), recipes={"paper": SequenceRecipe()}))
    assert [command.name for command in several][-1] == "toy ground"
    assert "--task one" in several[0].examples


def test_tasks_and_methods_by_name() -> None:
    toy = make(tasks=("one", "two"), backbone_task="own", without={"packnet": "it has no pictures of its own"})
    assert [toy.find_task(name) for name in ("two", "own")] == ["two", "own"]
    with pytest.raises(UnknownName, match="Did you mean 'two'"):
        toy.find_task("tow")
    toy.refuse_method("feature")
    with pytest.raises(BadInput, match="toy has no packnet: it has no pictures of its own; take another method"):
        toy.refuse_method("packnet")
    assert (toy.default_recipe, toy.trial_metric, toy.several) == ("paper", "val_accuracy", True)
    assert make(metrics=(Metric(name="iou", title="IoU", on_val="held_out_iou"),)).trial_metric == "held_out_iou"
