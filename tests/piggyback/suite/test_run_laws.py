"""Laws for one run of any benchmark: what it leaves, what it refuses, and what it says of itself."""

import json
import os
import re
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_benchmarks import Small

from leaderboard.result import read_result
from piggyback.methods.registry import METHODS
from piggyback.methods.table import stands_on
from piggyback.payload import read_payload
from piggyback.shell.cli import main
from piggyback.shell.errors import BadInput, Requeue, UnknownName, one_line
from piggyback.shell.files import sha256_of
from piggyback.suite.bench import (
    Bench,
    Job,
    data_fingerprint,
    key_of,
    make_adapter,
    method_of,
    open_bench,
    root_of,
    steps_of,
)
from piggyback.suite.recipe import settings_of
from piggyback.suite.train import train_task
from piggyback.suite.training.checkpoints import Environment

Change = Callable[..., Job]
Outcome = Callable[[Any], dict[str, Any]]
Count = Callable[[Job], tuple[Any, int]]
Folder = Callable[[Job], Any]
Words = Callable[..., list[str]]


def stamps(root: Path) -> dict[Path, tuple[int, bytes]]:
    """When every file below a folder was written, and its bytes."""
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in root.rglob("*") if path.is_file()}


# -- what it leaves -------------------------------------------------------------------------------------


def test_a_run_leaves_what_it_says_and_the_same_again_changes_no_byte(
    small: Small, job: Job, count_steps: Count, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, steps = count_steps(job)
    bench, benchmark = open_bench(job), small.benchmark
    assert isinstance(bench, Bench)
    assert steps >= 6  # two epochs of at least three steps
    assert folder.root == root_of(bench) == job.out / "runs" / folder.root.name
    assert folder.root.name.startswith(f"{benchmark.label_of(job.task, job.recipe)}-piggyback-seed0-")
    assert json.loads(folder.key.read_text()) == json.loads(json.dumps(key_of(bench)))
    status = folder.read_status()
    assert (status["state"], status["progress"], status["pid"]) == ("done", 1.0, os.getpid())
    lines = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]
    assert not folder.checkpoints.exists()

    result = read_result(folder.result)
    assert (result.benchmark, result.task, result.method) == (small.name, job.task, "piggyback")
    assert (result.seed, result.selected_on, result.trained_on) == (0, "last epoch", "train")
    assert result.metrics.keys() >= {metric.name for metric in benchmark.metrics} | {"train_loss", "zeros"}
    assert result.metrics["train_loss"] == lines[-1]["loss"]
    assert 0.02 < result.metrics["zeros"] < 0.98  # some masks moved, or equal bits elsewhere would say nothing
    assert result.recipe is not None
    assert result.recipe.items() >= json.loads(json.dumps(settings_of(job.recipe))).items()
    assert (result.recipe["lr_used"], result.recipe["lr_trials"]) == (job.recipe.lr, [])
    assert result.counts is not None
    assert 0 <= result.counts.correct <= result.counts.n
    assert result.parameter_ratio == pytest.approx(1 + len(benchmark.tasks) / 32)
    assert result.versions is not None
    assert (result.versions["torch"], result.versions["mask update"]) == (torch.__version__, "eager")
    assert result.fingerprints is not None
    assert result.fingerprints.data == data_fingerprint(bench)
    assert result.fingerprints.backbone == sha256_of(job.backbone)
    assert result.fingerprints.predictions in {sha256_of(path) for path in folder.root.iterdir() if path.is_file()}
    assert sum(result.bits.values()) == 8 * folder.payload.stat().st_size
    payload = read_payload(folder.payload)
    assert (payload.task, payload.method, payload.recipe["lr"]) == (job.task, method_of(job), job.recipe.lr)

    before = stamps(job.out)
    assert count_steps(job) == (folder, 0)
    assert stamps(job.out) == before
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("selected_on", ["last epoch", "val"])
def test_a_run_whose_masks_hardly_moved_says_so_at_its_end(
    small: Small, job: Job, change: Change, selected_on: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Once, after all epochs, also where every epoch so far may have been the best."""
    job = change(job, **small.choosing, selected_on=selected_on, lr=1e-6)
    train_task(job)
    said = capsys.readouterr().err
    assert len(re.findall("mask values of task", said)) == 1
    bench = open_bench(job)
    total = job.recipe.epochs_for(bench.count_batches("train")) * steps_of(bench, "train")
    assert "note: 0 of " in said
    assert f"have changed in {total} steps" in said
    train_task(change(job, lr=small.job(job.data, job.backbone, out=job.out).recipe.lr))
    assert "mask values of task" not in capsys.readouterr().err


@pytest.mark.parametrize("method", METHODS)
def test_every_method_runs_to_the_same_bits_or_is_refused_with_its_reason(
    small: Small,
    job: Job,
    method: str,
    stop_after: Any,
    outcome: Outcome,
    tmp_path: Path,
    train_words: Words,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Once without a break, and once stopped at the second step, by a process that drew other numbers before."""
    reason = small.benchmark.without.get(method)
    if reason is not None:
        assert main(train_words(replace(job, method=method))) == 1
        said = " ".join(capsys.readouterr().err.split())
        assert said == f"piggyback: {small.name} has no {method}: {reason}; take another method"
        assert not job.out.exists()
        return
    jobs = small.jobs(job, method=method)
    whole = [train_task(one) for one in jobs]
    torch.manual_seed(99)
    np.random.seed(99)
    again = [replace(one, out=tmp_path / "again") for one in jobs]
    with pytest.raises(Requeue):
        train_task(again[0], stop=stop_after(2))
    for one, folder in zip(again, whole, strict=True):
        assert outcome(train_task(one)) == outcome(folder)
        result, payload = read_result(folder.result), read_payload(folder.payload)
        assert (result.task, result.method, payload.task, payload.method.name) == (one.task, method) * 2
        assert folder.sparsity.exists() == ("zeros" in result.metrics)
        assert payload.head
        assert payload.fingerprint


def test_another_seed_gives_other_bits(job: Job, change: Change) -> None:
    short = change(job, epochs=1)
    first, other = (train_task(change(short, seed=seed)).payload.read_bytes() for seed in (0, 1))
    assert first != other


def test_heads_start_alike_for_every_method(small: Small, job: Job, change: Change) -> None:
    """Whatever was drawn before; another seed has another start."""

    def start(method: str, seed: int = 0) -> dict[str, torch.Tensor]:
        torch.manual_seed(len(method))
        adapter = make_adapter(open_bench(change(replace(job, method=method), seed=seed)), network=None)
        head = adapter.task(job.task).head
        assert head is not None
        return head.state_dict()

    alone = [name for name in METHODS if stands_on(name) == "backbone" and name not in small.benchmark.without]
    first, *others = (start(method) for method in alone)
    for other in others:
        assert other.keys() == first.keys()
        assert all(torch.equal(other[name], tensor) for name, tensor in first.items())
    assert not all(torch.equal(tensor, first[name]) for name, tensor in start("feature", seed=1).items())


# -- what it refuses ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"method": "pigyback"}, "no method is called 'pigyback'. Did you mean 'piggyback'?"),
        ({"data": Path("nowhere")}, "not packed in nowhere.*`piggyback {name} prepare"),
        ({"backbone": Path("nowhere.safetensors")}, "nowhere.safetensors"),
    ],
    ids=["method", "data", "backbone"],
)
def test_what_is_missing_is_one_line_said_before_anything_is_written(
    small: Small,
    job: Job,
    fields: dict[str, Any],
    words: str,
    train_words: Words,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(train_words(replace(job, **fields))) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("piggyback: ")
    assert said.err.count("\n") == 1, said.err
    assert re.search(words.format(name=small.name), said.err)
    assert not job.out.exists()


def test_a_task_that_there_is_not_is_refused(small: Small, job: Job) -> None:
    with pytest.raises(UnknownName, match=f"Did you mean '{job.task}'"):
        train_task(replace(job, task=job.task[:-1]))
    assert not job.out.exists()


def test_the_folder_of_another_run_is_refused(job: Job, folder_of: Folder) -> None:
    folder = folder_of(job)
    folder.root.mkdir(parents=True)
    folder.key.write_text('{"task": "another"}')
    with pytest.raises(BadInput, match="another run"):
        train_task(job)


def test_a_run_in_a_folder_of_its_own_is_of_one_recipe(job: Job, change: Change, tmp_path: Path) -> None:
    own = replace(change(job, epochs=1), folder=tmp_path / "own")
    assert train_task(own).root == tmp_path / "own"
    with pytest.raises(BadInput, match="another run"):
        train_task(change(own, epochs=2))


def test_a_second_process_is_kept_out(job: Job, folder_of: Folder) -> None:
    folder = folder_of(job)
    folder.root.mkdir(parents=True)
    with folder.hold(), pytest.raises(BadInput, match="another process is at work"):
        train_task(job)
    assert train_task(job).result.exists()


def test_a_checkpoint_of_another_environment_is_refused_unless_allowed(
    job: Job, stop_after: Any, monkeypatch: pytest.MonkeyPatch, folder_of: Folder
) -> None:
    with pytest.raises(Requeue):
        train_task(job, stop=stop_after(2))
    other = Environment(torch_version="9.9", device="abacus, 3 threads", machine="m68k", update="eager")
    monkeypatch.setattr(Environment, "here", lambda device, **_: other)
    with pytest.raises(BadInput, match=r"is abacus, 3 threads.*--allow-other-environment"):
        train_task(job)
    assert folder_of(job).read_status()["state"] == "failed"
    assert train_task(replace(job, allow_other_environment=True)).result.exists()


def test_a_damaged_result_is_a_message(job: Job, train_words: Words, capsys: pytest.CaptureFixture[str]) -> None:
    folder = train_task(replace(job, method="feature"))
    folder.result.write_text("{}")
    assert main(train_words(replace(job, method="feature"))) == 1
    assert "result.json" in capsys.readouterr().err


# -- what it says of itself -----------------------------------------------------------------------------


def test_the_status_says_how_far_it_is_and_counts_time_over_breaks(
    job: Job, folder_of: Folder, stop_after: Any, kill_at: Any, checkpoint_each_step: None, count_steps: Count
) -> None:
    total = steps_of(open_bench(job), "train") * job.recipe.epochs
    folder = folder_of(job)
    with pytest.raises(Requeue):
        train_task(job, stop=stop_after(2))
    status = folder.read_status()
    assert (status["state"], status["progress"]) == ("requeue", pytest.approx(2 / total))
    folder.status.write_text(json.dumps({**status, "seconds": 1000.0}))
    kill_at(job, 3)  # after the fifth step, whose checkpoint was not written yet
    status = folder.read_status()
    assert (status["state"], status["progress"]) == ("running", pytest.approx(4 / total))
    assert status["seconds"] >= 1000
    assert not folder.result.exists()
    assert count_steps(job) == (folder, total - 4)
    assert [json.loads(line)["epoch"] for line in folder.metrics.read_text().splitlines()] == [1, 2]
    wall = read_result(folder.result).wall_s
    assert wall is not None
    assert 1000 <= wall < 1600


def test_interrupted_by_hand_it_can_be_continued(job: Job, folder_of: Folder) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_task(job, on_step=interrupt)
    assert folder_of(job).read_status()["state"] == "requeue"


def test_a_loss_that_is_not_finite_fails_the_run_and_the_same_command_tries_again(
    job: Job,
    train_words: Words,
    bench_class: Any,
    folder_of: Folder,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(bench_class, "loss", lambda bench, outputs, targets: outputs.sum() * float("nan"))
        assert main(train_words(job)) == 1
    said = capsys.readouterr().err
    assert said.endswith("piggyback: the loss is not finite any more at epoch 1, step 1: lower the learning rate\n")
    folder = folder_of(job)
    status = folder.read_status()
    assert (status["state"], "not finite" in status["message"]) == ("failed", True)
    assert not folder.result.exists()
    assert not folder.payload.exists()
    assert main(train_words(job)) == 0
    assert folder.result.exists()


def test_a_fault_of_ours_is_told_to_who_watches(
    job: Job, bench_class: Any, folder_of: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("bug")

    monkeypatch.setattr(bench_class, "finish", broken)
    with pytest.raises(ZeroDivisionError):
        train_task(job)
    status = folder_of(job).read_status()
    assert (status["state"], status["message"]) == ("failed", "bug")


# -- the verb -------------------------------------------------------------------------------------------


def test_the_verb_says_done_twice_minds_no_name_and_keeps_json_clean(
    small: Small, job: Job, train_words: Words, capsys: pytest.CaptureFixture[str]
) -> None:
    job = replace(job, out=job.out.parent / "a \"b\" 'c'\n[d] $e [/d]")
    assert main(train_words(job)) == 0
    root = root_of(open_bench(job))  # so the words of the command line are the job's recipe
    assert [path.name for path in (job.out / "runs").iterdir()] == [root.name]
    first = capsys.readouterr().out
    assert f"done: {one_line(root)}\n" in first
    assert main(train_words(job)) == 0
    assert capsys.readouterr().out == first
    assert main(train_words(job, "--json")) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["folder"] == str(root)
    assert report["result"] == read_result(root / "result.json").model_dump(mode="json")


def test_the_verb_stops_at_a_signal_and_goes_on(
    job: Job,
    train_words: Words,
    bench_class: Any,
    outcome: Outcome,
    folder_of: Folder,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    plain = outcome(train_task(replace(job, out=tmp_path / "plain")))
    batches = bench_class.batches

    def signalled(*given: Any) -> Iterator[Any]:
        for number, batch in enumerate(batches(*given)):
            if number == 2:
                signal.raise_signal(signal.SIGUSR2)
            yield batch

    with monkeypatch.context() as patch:
        patch.setattr(bench_class, "batches", signalled)
        assert main(train_words(job)) == 75
    assert "the same command again continues" in capsys.readouterr().err
    assert [path.stem for path in folder_of(job).checkpoints.rglob("*.pt")] == ["step-000000003"]
    assert main(train_words(job)) == 0
    assert outcome(folder_of(job)) == plain
