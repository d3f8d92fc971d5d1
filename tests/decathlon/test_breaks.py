"""A run that is stopped, killed or damaged goes on to the same bits."""

import json
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import decathlon.training as training
import pytest
from decathlon.training import train_task

from decathlon.bench import Job, open_bench
from leaderboard.result import read_result
from piggyback.shell.errors import BadInput, Requeue
from piggyback.suite.training.run_folder import Environment, RunFolder

Change = Callable[..., Job]
Outcome = Callable[[RunFolder], dict[str, Any]]
Kill = Callable[[Job, int], None]
Count = Callable[[Job], tuple[RunFolder, int]]


def checkpoint_files(folder: RunFolder) -> list[Path]:
    return sorted(folder.checkpoints.rglob("*.pt"))


@pytest.mark.parametrize(
    ("fields", "breaks"),
    [({}, 6), ({"lr_grid": (1e-3, 2e-3), "trial_share": 0.5}, 12), ({"selected_on": "val", "norm": "trained"}, 6)],
    ids=["plain", "trials", "selected on val"],
)
def test_stops_after_every_step_change_no_bit(
    job: Job,
    change: Change,
    outcome: Outcome,
    stop_after: Any,
    tmp_path: Path,
    fields: dict[str, Any],
    breaks: int,
    count_steps: Count,
) -> None:
    job = change(job, **fields)
    whole = train_task(job)
    again = replace(job, out=tmp_path / "again")
    folder = RunFolder(again.out / "runs" / whole.root.name)
    for number in range(breaks):
        with pytest.raises(Requeue):
            train_task(again, stop=stop_after(1))
        status = json.loads(folder.status.read_text())
        assert (status["state"], status["progress"] <= 1) == ("requeue", True), number
        assert not folder.result.exists()
        assert checkpoint_files(folder)
    resumed, steps = count_steps(again)
    assert (resumed, steps) == (folder, 0)
    assert outcome(folder) == outcome(whole)
    assert not checkpoint_files(folder)


@pytest.mark.parametrize("steps", [1, 3, 4, 6])
def test_a_killed_run_goes_on_to_the_same_bits(
    job: Job,
    outcome: Outcome,
    kill_at: Kill,
    checkpoint_each_step: None,
    tmp_path: Path,
    steps: int,
    count_steps: Count,
) -> None:
    again = replace(job, out=tmp_path / "again")
    kill_at(again, steps)
    folder = RunFolder(open_bench(again).root)
    assert json.loads(folder.status.read_text())["state"] == "running"
    assert not folder.result.exists()
    resumed, more = count_steps(again)
    assert more == 6 - (steps - 1)  # the checkpoint of the step itself was not written yet
    assert outcome(resumed) == outcome(train_task(job))


def test_a_process_killed_without_warning_goes_on_to_the_same_bits(
    job: Job, outcome: Outcome, tmp_path: Path, count_steps: Count
) -> None:
    again = replace(job, out=tmp_path / "again")
    script = """
import functools, os, pickle, signal, sys
import torch
import decathlon.training as training
torch.set_num_threads(1)
training.Plan = functools.partial(training.Plan, checkpoint_s=-1.0)
steps = []
def on_step(share):
    steps.append(share)
    if len(steps) == 5:
        os.kill(os.getpid(), signal.SIGKILL)
training.train_task(pickle.load(sys.stdin.buffer), on_step=on_step)
"""
    ended = subprocess.run([sys.executable, "-c", script], input=pickle.dumps(again), capture_output=True, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    resumed, more = count_steps(again)
    assert more == 2
    assert outcome(resumed) == outcome(train_task(job))


@pytest.mark.parametrize(("damaged", "steps"), [(1, 3), (2, 6)], ids=["the newest", "all"])
def test_damaged_checkpoints_cost_time_and_no_bits(
    job: Job,
    outcome: Outcome,
    kill_at: Kill,
    checkpoint_each_step: None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    damaged: int,
    steps: int,
    count_steps: Count,
) -> None:
    again = replace(job, out=tmp_path / "again")
    kill_at(again, 5)
    folder = RunFolder(open_bench(again).root)
    files = checkpoint_files(folder)
    assert [path.stem for path in files] == ["step-000000003", "step-000000004"]
    for path in files[-damaged:]:
        path.write_bytes(path.read_bytes()[:-1] + b"?")
    resumed, more = count_steps(again)
    assert more == steps
    assert capsys.readouterr().err.count("is damaged") == damaged
    assert outcome(resumed) == outcome(train_task(job))


def test_a_checkpoint_in_the_middle_of_an_epoch_counts_as_progress(
    job: Job, kill_at: Kill, stop_after: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Requeue):
        train_task(job, stop=stop_after(2))
    status = RunFolder(open_bench(job).root).status
    assert json.loads(status.read_text())["progress"] == pytest.approx(2 / 6)
    monkeypatch.setattr(training, "Plan", partial(training.Plan, checkpoint_s=-1.0))
    kill_at(job, 3)  # after the fifth step, whose checkpoint was not written yet
    assert json.loads(status.read_text())["progress"] == pytest.approx(4 / 6)


def test_no_epoch_is_recorded_twice(job: Job, kill_at: Kill, stop_after: Any) -> None:
    with pytest.raises(Requeue):
        train_task(job, stop=stop_after(2))
    kill_at(job, 4)  # past the end of the first epoch, which is not in a checkpoint
    folder = train_task(job)
    lines = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]


def test_a_run_that_ended_just_before_its_last_word_is_done(
    job: Job, monkeypatch: pytest.MonkeyPatch, count_steps: Count
) -> None:
    class Gone(BaseException):
        pass

    write = training.write_result

    def write_and_end(*arguments: Any) -> None:
        write(*arguments)
        raise Gone

    monkeypatch.setattr(training, "write_result", write_and_end)
    with pytest.raises(Gone):
        train_task(job)
    monkeypatch.undo()
    folder, steps = count_steps(job)
    assert steps == 0
    assert json.loads(folder.status.read_text())["state"] == "done"
    assert not folder.checkpoints.exists()


def test_time_is_counted_over_breaks(job: Job, stop_after: Any) -> None:
    with pytest.raises(Requeue):
        train_task(job, stop=stop_after(2))
    folder = RunFolder(open_bench(job).root)
    status = json.loads(folder.status.read_text())
    folder.status.write_text(json.dumps({**status, "seconds": 1000.0}))
    wall = read_result(train_task(job).result).wall_s
    assert wall is not None
    assert 1000 <= wall < 1600  # a fast machine takes less than the tenth of a second that is written


def test_a_checkpoint_of_another_environment_is_refused_unless_allowed(
    job: Job, stop_after: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Requeue):
        train_task(job, stop=stop_after(2))
    other = Environment(torch_version="9.9", device="abacus, 3 threads", machine="m68k", update="eager")
    monkeypatch.setattr(Environment, "here", lambda device, *, update: other)
    with pytest.raises(BadInput, match=r"is abacus, 3 threads.*--allow-other-environment"):
        train_task(job)
    folder = RunFolder(open_bench(job).root)
    assert json.loads(folder.status.read_text())["state"] == "failed"
    assert train_task(replace(job, allow_other_environment=True)).result.exists()


def test_a_second_process_is_kept_out(job: Job) -> None:
    folder = RunFolder(open_bench(job).root)
    folder.root.mkdir(parents=True)
    with folder.hold(), pytest.raises(BadInput, match="another process is at work"):
        train_task(job)
    assert train_task(job).result.exists()


def test_interrupted_by_hand_it_can_be_continued(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_task(job, on_step=interrupt)
    folder = RunFolder(open_bench(job).root)
    assert json.loads(folder.status.read_text())["state"] == "requeue"
