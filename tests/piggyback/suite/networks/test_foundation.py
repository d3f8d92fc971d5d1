"""The network that a method is built on: the verb that makes it, and networks made elsewhere."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from small_benchmarks import DECATHLON

from piggyback.shell.cli import main
from piggyback.shell.errors import BadInput
from piggyback.suite.bench import Job, open_bench
from piggyback.suite.networks.foundation import find_foundation, make_foundation
from piggyback.suite.networks.making import NETWORK_FILE

Of = Callable[[Job], Path]
ORDER = ("aircraft", "svhn")


@pytest.fixture
def words(job: Job) -> list[str]:
    """Arguments that name the job's recipe and places, but for the order."""
    places = ["--data", str(job.data), "--backbone", str(job.backbone), "--out", str(job.out)]
    return [*places, *DECATHLON.words]


def test_the_verb_makes_the_network_and_says_so(
    job: Job, words: list[str], network_of: Of, capsys: pytest.CaptureFixture[str]
) -> None:
    job = replace(job, method="packnet", recipe=DECATHLON.recipe)
    ground = ["decathlon", "ground", *words, "--json"]
    for _ in range(2):  # the second time it is there
        assert main([*ground, "--method", "packnet"]) == 0
        assert json.loads(capsys.readouterr().out) == {"method": "packnet", "file": str(network_of(job) / NETWORK_FILE)}
    assert main([*ground, "--method", "piggyback"]) == 0
    assert json.loads(capsys.readouterr().out) == {"method": "piggyback", "file": None}
    assert main([*ground[:-1], "--method", "piggyback"]) == 0
    assert "piggyback is built on the backbone itself: nothing to make" in capsys.readouterr().out


def test_a_network_made_elsewhere_must_be_finished_and_of_the_same_recipe(
    job: Job, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = tmp_path / "made"
    method = ["--method", "packnet", "--order", "svhn"]
    train = ["decathlon", "train", "--task", "svhn", *method, *words, "--ground"]
    for wrong in (made, job.backbone.parent):  # the latter has a file of that name, which nobody pruned
        assert main([*train, str(wrong)]) == 1
        assert f"{wrong} has no finished network" in "".join(capsys.readouterr().err.splitlines())
        assert not (wrong / "recipe.json").exists()
    assert main(["decathlon", "ground", *method, *words, "--lr", "5e-3", "--folder", str(made)]) == 0
    assert main([*train, str(made)]) == 1
    assert "belongs to another run than the one asked for" in capsys.readouterr().err.replace("\n", " ")
    assert not (job.out / "grounds").exists()
    assert main([*train, str(made), "--lr", "5e-3"]) == 0
    (copied,) = (job.out / "grounds").iterdir()
    assert (copied / NETWORK_FILE).read_bytes() == (made / NETWORK_FILE).read_bytes()
    assert {path.name for path in copied.iterdir()} == {"recipe.json", "status.json", "metrics.jsonl", NETWORK_FILE}


def test_a_network_that_is_not_there_is_named_with_the_verb_that_makes_it(job: Job) -> None:
    with pytest.raises(
        BadInput, match=r"packnet is built on .*which does not exist yet: run `piggyback decathlon ground`"
    ):
        find_foundation(open_bench(replace(job, method="packnet")))
    assert find_foundation(open_bench(replace(job, method="feature"))) is None
    assert make_foundation(open_bench(replace(job, method="feature"))) is None
