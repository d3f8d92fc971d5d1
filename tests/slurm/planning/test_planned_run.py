"""Plans of benchmarks, as they are taken over."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from piggyback.shell.errors import SweepError
from slurm.planning import planned_run
from slurm.planning.planned_run import PlannedRun, check_plan, plan_benchmark, read_planned
from slurm.planning.plans import plan
from slurm.planning.sweep_files import read_sweep

GOOD = {"id": "a", "title": "t", "kind": "run", "argv": ["x"], "folder": "f", "proof": None}


def run(name: str, *needs: str, argv: tuple[str, ...] = ("x",)) -> PlannedRun:
    return PlannedRun(id=name, title=name, kind="run", argv=argv, folder=Path("f"), proof=None, needs=needs)


def test_order() -> None:
    found = check_plan([run("c", "b"), run("a"), run("b", "a"), run("d")])
    assert [one.id for one in found] == ["a", "d", "b", "c"]


def test_the_same_run_planned_twice_counts_once() -> None:
    assert [one.id for one in check_plan([run("a"), run("b", "a"), run("a")])] == ["a", "b"]


@pytest.mark.parametrize(
    ("runs", "words"),
    [
        ([run("a"), run("a", argv=("y",))], "two runs of the plan are called a"),
        ([run("a", "z")], "a needs z, which is not in the plan"),
        ([run("a", "b"), run("b", "a")], "wait for each other: a, b"),
    ],
)
def test_plans_that_cannot_be_done(runs: list[PlannedRun], words: str) -> None:
    with pytest.raises(SweepError, match=words):
        check_plan(runs)


@pytest.mark.parametrize(
    "change",
    [{"id": "../a"}, {"id": "a b"}, {"id": "-a"}, {"kind": "other"}, {"after": "never"}, {"color": "red"}],
)
def test_a_benchmark_that_breaks_the_contract(change: Mapping[str, Any]) -> None:
    assert read_planned(GOOD, benchmark="toy").id == "a"
    with pytest.raises(SweepError, match="the plan of toy"):
        read_planned({**GOOD, **change}, benchmark="toy")
    with pytest.raises(SweepError, match="the plan of toy"):
        read_planned({key: value for key, value in GOOD.items() if key != "argv"}, benchmark="toy")


def test_benchmarks_that_are_not_there_or_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusal(Exception):
        for_user = True

    def refuse(spec: Mapping[str, Any]) -> list[Any]:
        raise Refusal("no such task") if spec else ValueError("a fault in the program")

    class Point:
        name = "toy"

        def load(self) -> SimpleNamespace:
            return SimpleNamespace(plan=refuse)

    monkeypatch.setattr(planned_run, "entry_points", lambda group: [Point()])
    with pytest.raises(SweepError, match=r"no package plans sweeps of 'tyo'; known: toy"):
        plan_benchmark("tyo", {})
    with pytest.raises(SweepError, match="toy: no such task"):
        plan_benchmark("toy", {"x": 1})
    with pytest.raises(ValueError, match="a fault in the program"):
        plan_benchmark("toy", {})


def test_a_sweep_ends_with_a_page(toy: Callable[..., Path]) -> None:
    file = toy({"a": ["make"], "b": ["make"]})
    assert [run.id for run in plan(read_sweep(file)).runs] == ["prep", "a", "b", "score"]
    file.write_text(file.read_text().replace("page = false", ""))
    page = plan(read_sweep(file)).runs[-1]
    assert (page.id, page.kind, page.needs, page.after) == ("page", "page", ("score",), "ended")
    out = file.parent / "swept"
    words = ["leaderboard", "build", out / "board", "--runs", out, "--out", out / "site"]
    assert page.argv == tuple(map(str, words))
