"""Laws for the verbs of any benchmark that look at many runs: `run`, `report` and `evaluate`."""

import errno
import json
from collections.abc import Callable, Iterator
from dataclasses import fields as fields_of
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import forked_runs
import pytest
import torch
import tyro
from small_benchmarks import Small

from leaderboard.result import read_result
from piggyback.methods.registry import METHODS
from piggyback.methods.table import stands_on
from piggyback.shell.cli import main
from piggyback.shell.errors import BadInput, Diverged, Requeue
from piggyback.suite import runs
from piggyback.suite.bench import Job
from piggyback.suite.recipe import as_flags
from piggyback.suite.results import find_runs
from piggyback.suite.train import train_task
from piggyback.suite.training import workers
from piggyback.suite.training.run_folder import RunFolder

Outcome = Callable[[Any], dict[str, Any]]
Words = Callable[..., list[str]]
TWO = ("piggyback", "feature")
THREE = (*TWO, "finetune")


@pytest.fixture
def words(small: Small, job: Job) -> Words:
    """The console command that runs methods on all tasks that are there; further fields are of the recipe."""

    def build(verb: str, *methods: str, more: tuple[str, ...] = (), **fields: Any) -> list[str]:
        tasks = ["--tasks", ",".join(small.written)] if small.benchmark.several else []
        places = ["--data", str(job.data)]
        if verb == "run":
            places += ["--backbone", str(job.backbone), "--out", str(job.out), "--device", "cpu"]
            start = small.benchmark.recipes[small.benchmark.default_recipe]
            places += as_flags({**small.settings, **small.choosing, "epochs": 1, **fields}, start=start)
        else:
            places += ["--runs", str(job.out)]
        return [small.name, verb, *tasks, "--methods", ",".join(methods), *places, *more]

    return build


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Titles of the runs that were trained."""
    titles: list[str] = []

    def train_and_note(job: Job, **more: Any) -> RunFolder:
        folder = train_task(job, **more)
        titles.append(job.title)
        return folder

    monkeypatch.setattr(runs, "train_task", train_and_note)
    return titles


def title(small: Small, task: str, method: str, seed: int = 0) -> str:
    return f"{task} {method} seed {seed}" if small.benchmark.several else f"{method} seed {seed}"


def finished(small: Small, job: Job, method: str) -> dict[tuple[str, int], Any]:
    return find_runs(job.out, benchmark=small.benchmark, method=method)


def summary_of(document: dict[str, Any], small: Small, *, method: str, task: str) -> dict[str, Any]:
    """What a report's document says of a method's runs over the seeds."""
    found = document["spread" if "spread" in document else "methods"][method]
    summary: dict[str, Any] = found["tasks"][task] if small.benchmark.several else found
    return summary


# -- methods and seeds ----------------------------------------------------------------------------------


def test_methods_and_seeds_in_one_command_and_the_spread_over_them(
    small: Small, job: Job, words: Words, trained: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    grid = {"lr_grid": (1e-3, 2e-3), "trial_share": 0.5, "trained_on": "train+val"}
    command = words("run", *THREE, more=("--seeds", "0,1"), **grid)
    assert main(command) == 0
    assert trained == [
        title(small, task, method, seed) for seed in (0, 1) for task in small.written for method in THREE
    ]
    said = capsys.readouterr()
    done = [line.split(" (")[0] for line in said.err.splitlines() if line.startswith("done")]
    assert done == [f"done: {one}" for one in trained]
    assert "±" in said.out
    tried = said.out.split("learning rates tried")[1:]
    assert sum(text.count("0.001") for text in tried) == sum(text.count("0.002") for text in tried) == len(trained)
    assert sum(text.count("*") for text in tried) == len(tried) + len(trained)  # one in each title

    trained.clear()
    assert main([*command, "--json"]) == 0  # all is done: it says the same, and trains nothing
    document = json.loads(capsys.readouterr().out)
    assert main(words("report", *THREE, more=("--seeds", "0,1", "--json"))) == 0
    assert json.loads(capsys.readouterr().out) == {**document, "missing": []}
    for method in THREE:
        for task in small.written:
            check_summary(summary_of(document, small, method=method, task=task), small, job, method=method, task=task)

    assert main(words("report", *TWO, more=("--seeds", "0,2", "--json"))) == 1
    missing = [title(small, task, method, 2) for method in TWO for task in small.written]
    assert json.loads(capsys.readouterr().out)["missing"] == missing
    assert main(words("report", *TWO, more=("--seeds", "0,2"))) == 1
    assert f"missing: {', '.join(missing)}\n" in capsys.readouterr().out


def check_summary(summary: dict[str, Any], small: Small, job: Job, *, method: str, task: str) -> None:
    """It says what the results say."""
    results = [run.result for (of, _), run in finished(small, job, method).items() if of == task]
    assert summary["seeds"] == [result.seed for result in results] == [0, 1]
    for metric in small.benchmark.metrics:
        values = [result.metrics[metric.name] for result in results]
        assert summary[metric.name] == pytest.approx({"mean": fmean(values), "deviation": stdev(values), "n": 2})
    assert [[trial["lr"] for trial in tried] for tried in summary["trials"]] == [[1e-3, 2e-3]] * 2
    assert summary["rates"] == [(result.recipe or {})["lr_used"] for result in results]
    assert (summary["zeros"] is None) == (method != "piggyback")
    assert summary["bits"] == dict(results[0].bits)


def test_a_seed_of_the_recipe_is_the_one_that_is_trained(
    small: Small, job: Job, words: Words, trained: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    command = words("run", "feature", more=("--json",), seed=4)
    assert main(command) == 0
    assert trained == [title(small, task, "feature", 4) for task in small.written]
    json.loads(capsys.readouterr().out)
    assert {seed for _, seed in finished(small, job, "feature")} == {4}


def test_what_is_named_twice_is_done_once(
    small: Small, words: Words, read_command: Callable[[list[str]], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = read_command(words("run", "feature", "feature", more=("--seeds", "3,3")))
    jobs = runs.plan_jobs(small.benchmark, options)
    assert [(job.task, job.method, job.recipe.seed) for job in jobs] == [(t, "feature", 3) for t in small.written]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert runs.plan_jobs(small.benchmark, replace(options, device=None))[0].device == torch.device("cpu")


# -- side by side ---------------------------------------------------------------------------------------


def test_runs_side_by_side_have_the_bytes_of_runs_one_after_the_other(
    small: Small,
    job: Job,
    words: Words,
    processes: Any,
    outcome: Outcome,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With a method whose tasks build on each other, where the benchmark has one."""
    monkeypatch.setattr(workers.multiprocessing, "get_context", lambda kind: processes)
    monkeypatch.setattr(workers, "work", forked_runs.work)
    monkeypatch.setattr(workers, "POLL_S", 0.01)
    following = [name for name in METHODS if stands_on(name) == "pruned" and name not in small.benchmark.without]
    methods = (*TWO, *following)
    assert main(words("run", *methods, more=("--parallel", "2"), epochs=2)) == 0
    alone = replace(job, out=tmp_path / "alone")
    command = words("run", *methods, epochs=2)
    command[command.index(str(job.out))] = str(alone.out)
    assert main(command) == 0
    for method in methods:
        found, expected = (finished(small, one, method) for one in (job, alone))
        assert found.keys() == expected.keys() == {(task, 0) for task in small.written}
        for place, run in found.items():
            assert outcome(run.folder) == outcome(expected[place].folder)


# -- what is said first ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("piggyback,feature", "piggyback,fintune", "no method is called 'fintune'. Did you mean 'finetune'"),
        ("piggyback,feature", "", "name at least one method and one seed"),
        ("{backbone}", "nowhere.safetensors", "nowhere.safetensors"),
        ("{data}", "nowhere", "not packed in nowhere"),
        ("cpu", "cuda:99", "no device"),
        ("1", "-1", "--parallel"),
    ],
    ids=["method", "no method", "backbone", "data", "device", "parallel"],
)
def test_what_would_fail_is_said_before_anything_is_trained(
    job: Job,
    words: Words,
    trained: list[str],
    old: str,
    new: str,
    fault: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = words("run", *TWO, more=("--parallel", "1"))
    place = len(command) - 1 - command[::-1].index(old.format(data=job.data, backbone=job.backbone))
    command[place] = new
    assert main(command) == 1
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert fault in said.err
    assert trained == []
    assert not (job.out / "runs").exists()


def test_a_folder_with_runs_of_another_recipe_is_refused(
    small: Small, job: Job, words: Words, trained: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words("run", "feature")) == 0
    trained.clear()
    capsys.readouterr()
    for path in job.out.glob("*.json"):  # what the benchmark notes of the folder
        path.unlink()
    before = sorted(job.out.rglob("*"))
    assert main(words("run", "feature", epochs=2)) == 1
    assert sorted(job.out.rglob("*")) == before
    said = " ".join(capsys.readouterr().err.split())
    assert f"has a run with {title(small, small.written[0], 'feature')} by another recipe" in said
    assert "take another --out" in said
    assert trained == []
    assert main(words("run", "feature", more=("--seeds", "1"), epochs=2)) == 0  # nothing of that seed is there
    assert trained == [title(small, task, "feature", 1) for task in small.written]
    train_task(replace(job, method="feature"))  # by the other verb, which looks at no other run
    with pytest.raises(BadInput, match=r"two runs .*with feature, seed 0.*keep each recipe's runs in a folder"):
        finished(small, job, "feature")


# -- failures and breaks --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (Diverged("the loss is not finite any more"), "the loss is not finite any more"),
        (OSError(errno.ENOSPC, "No space left on device", "a\nb"), r"'a\nb': No space left on device"),
    ],
    ids=["diverged", "disk full"],
)
def test_one_failure_does_not_keep_the_others_from_being_done(
    small: Small,
    words: Words,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    fault: Exception,
    text: str,
) -> None:
    first = small.written[0]

    def train(job: Job, **more: Any) -> RunFolder:
        if (job.method, job.task) == ("piggyback", first):
            raise fault
        return train_task(job, **more)

    monkeypatch.setattr(runs, "train_task", train)
    assert main(words("run", *TWO)) == 1
    said = capsys.readouterr()
    failed = title(small, first, "piggyback")
    assert f"failed: {failed}: {text}\n" in said.err
    count = len(TWO) * len(small.written)
    assert f"1 of {count} runs failed: {failed}; the same command tries them again" in " ".join(said.err.split())
    assert "feature" in said.out  # what is there is shown


def test_when_all_fail_there_is_no_table(
    words: Words, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def train(job: Job, **more: Any) -> RunFolder:
        raise Diverged("no")

    monkeypatch.setattr(runs, "train_task", train)
    assert main(words("run", *TWO)) == 1
    assert capsys.readouterr().out == ""


def test_a_stop_ends_the_whole_run_and_it_goes_on(
    small: Small,
    words: Words,
    read_command: Callable[[list[str]], Any],
    trained: list[str],
    stop_after: Any,
    tmp_path: Path,
) -> None:
    jobs = runs.plan_jobs(small.benchmark, read_command(words("run", *TWO)))[:2]
    titles = [job.title for job in jobs]
    whole = stop_after(1000)
    workers.train_jobs(jobs[:1], train=train_task, parallel=1, stop=whole)
    again = [replace(job, out=tmp_path / "again") for job in jobs]
    looks = 1000 - whole.left  # as often it was looked at: before the first job and in it
    with pytest.raises(Requeue):
        workers.train_jobs(again, train=runs.train_task, parallel=1, stop=stop_after(looks + 2))
    assert trained == titles[:1]
    assert workers.train_jobs(again, train=runs.train_task, parallel=1, stop=stop_after(1000)) == []
    assert trained == [titles[0], *titles]


# -- finished runs, read again --------------------------------------------------------------------------


def test_runs_of_another_benchmark_may_lie_in_the_same_folder(
    small: Small, job: Job, words: Words, trained: list[str]
) -> None:
    assert main(words("run", "feature")) == 0
    own = finished(small, job, "feature")
    for number, run in enumerate(own.values()):
        value = json.loads(run.folder.result.read_text())
        other = RunFolder(job.out / "runs" / f"other-feature-seed0-{number:010}")
        other.root.mkdir()
        other.result.write_text(json.dumps({**value, "benchmark": "another"}))
    assert finished(small, job, "feature") == own
    assert main(words("run", "feature")) == 0
    assert trained == [title(small, task, "feature") for task in small.written] * 2


def test_names_that_begin_alike_are_kept_apart(small: Small, job: Job) -> None:
    train_task(replace(job, method="piggyback-ternary"))
    assert finished(small, job, "piggyback") == {}
    assert finished(small, job, "piggyback-ternary").keys() == {(job.task, 0)}


def test_a_result_that_lacks_something_is_told_of_with_what_to_do(
    small: Small, job: Job, words: Words, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = train_task(replace(job, method="feature"))
    value = json.loads(folder.result.read_text())
    del value["recipe"]["lr_used"]
    folder.result.write_text(json.dumps(value))
    assert main(words("report", "feature")) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "result.json lacks lr_used: delete the file and the same run makes it again" in said
    assert main(words("report", "features")) == 1
    assert "Did you mean 'feature'" in capsys.readouterr().err


@pytest.fixture
def evaluate_words(small: Small, job: Job, tmp_path: Path) -> Words:
    """The console command that measures a run again, with what the benchmark itself needs for it."""

    def build(root: Path) -> list[str]:
        own = small.benchmark.own.evaluate
        needed = [entry.name for entry in fields_of(own) if entry.default is tyro.MISSING] if own else []
        more = [word for name in needed for word in (f"--{name}", str(tmp_path / name))]
        places = ["--data", str(job.data), "--backbone", str(job.backbone), "--device", "cpu"]
        return [small.name, "evaluate", "--run", str(root), *places, *more, "--json"]

    return build


def numbers(value: Any) -> Iterator[float]:
    """All numbers of a JSON document."""
    if isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            yield from numbers(one)
    elif isinstance(value, int | float):
        yield value


@pytest.mark.parametrize("method", THREE)
def test_a_finished_run_is_measured_as_it_measured_itself(
    small: Small, job: Job, method: str, evaluate_words: Words, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = train_task(replace(job, method=method))
    assert main(evaluate_words(folder.root)) == 0
    document = json.loads(capsys.readouterr().out)
    result = read_result(folder.result)
    assert result.metrics[small.benchmark.metrics[0].name] in list(numbers(document))


def test_only_finished_runs_of_the_benchmark_are_measured(
    small: Small, job: Job, evaluate_words: Words, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(evaluate_words(job.out / "runs" / "none")) == 1
    assert "is not a finished run: it has no result.json" in " ".join(capsys.readouterr().err.split())
    folder = train_task(replace(job, method="feature"))
    value = json.loads(folder.result.read_text())
    folder.result.write_text(json.dumps({**value, "benchmark": "another"}))
    assert main(evaluate_words(folder.root)) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "is a run of another: `piggyback another evaluate` reads it" in said
