"""Jobs side by side, each in a process of its own."""

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_jobs import CPU, ToyJob, train

import piggyback.suite.training.workers as workers
from piggyback.shell.errors import BadInput, Requeue
from piggyback.suite.training.checkpoints import StopFlag
from piggyback.suite.training.workers import Working, devices_for, next_ready, train_jobs, train_side_by_side


def test_one_worker_per_gpu_or_as_many_as_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert devices_for(0, device=CPU) == [CPU]
    assert devices_for(3, device=CPU) == [CPU] * 3
    gpus = [torch.device("cuda", 0), torch.device("cuda", 1)]
    assert devices_for(0, device=torch.device("cuda")) == gpus
    assert devices_for(3, device=torch.device("cuda")) == [*gpus, gpus[0]]
    assert devices_for(0, device=gpus[1]) == [gpus[1]]
    assert devices_for(2, device=gpus[1]) == [gpus[1]] * 2
    with pytest.raises(BadInput, match="--parallel"):
        devices_for(-1, device=CPU)


@pytest.fixture
def job(tmp_path: Path) -> ToyJob:
    return ToyJob(title="a", out=tmp_path / "out")


def test_processes_do_jobs_and_say_how_they_ended(job: ToyJob, capfd: pytest.CaptureFixture[str]) -> None:
    """As they are started in earnest."""
    jobs = [job, replace(job, title="bad")]
    ended: list[str] = []
    threads = torch.get_num_threads()
    torch.set_num_threads(2)  # one for each
    failed = train_side_by_side(
        jobs, train=train, devices=[CPU, CPU], stop=StopFlag(), on_end=lambda job: ended.append(job.title)
    )
    torch.set_num_threads(threads)
    assert failed == jobs[1:]
    assert sorted(ended) == ["a", "bad"]
    said = capfd.readouterr().err
    assert "done: a (a)\n" in said
    assert "failed: bad: it cannot be\n" in said
    pid, used = (job.out / "a" / "pid").read_text().split()
    assert (int(pid) != os.getpid(), used) == (True, "1")


def test_a_job_waits_for_the_one_that_it_builds_on(job: ToyJob) -> None:
    first, other = replace(job, title="first"), replace(job, title="other")
    second = replace(job, title="second", waits_for="first")
    at_work = [Working(process=multiprocessing.Process(), job=first, device=CPU)]
    assert next_ready([second, first, other], []) == first
    assert next_ready([second, other], at_work) == other
    assert next_ready([second], at_work) is None
    assert next_ready([second], []) == second
    assert next_ready([], []) is None


# From here on processes are forks, which are quick, and whose body can be replaced.

Body = Callable[[ToyJob, Any, int, int], None]
forks = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


@pytest.fixture
def body(monkeypatch: pytest.MonkeyPatch) -> Callable[[Body], None]:
    fork = multiprocessing.get_context("fork")
    monkeypatch.setattr(workers.multiprocessing, "get_context", lambda kind: fork)
    monkeypatch.setattr(workers, "POLL_S", 0.01)
    return lambda function: monkeypatch.setattr(workers, "work", function)


def run_all(jobs: list[ToyJob], *, stop: StopFlag | None = None) -> list[ToyJob]:
    return train_side_by_side(jobs, train=train, devices=[CPU, CPU], stop=stop or StopFlag(), on_end=lambda job: None)


@forks
def test_a_killed_worker_is_a_failure_that_is_told(
    job: ToyJob, body: Callable[[Body], None], capfd: pytest.CaptureFixture[str]
) -> None:
    body(lambda job, train, threads, parent: os.kill(os.getpid(), signal.SIGKILL) if job.title == "b" else None)
    jobs = [replace(job, title=title) for title in "abc"]
    assert [job.title for job in run_all(jobs)] == ["b"]
    assert "failed: b: its process was ended by SIGKILL: is there enough memory" in capfd.readouterr().err


@forks
def test_as_many_at_a_time_as_there_are_devices(job: ToyJob, body: Callable[[Body], None], tmp_path: Path) -> None:
    def note(job: ToyJob, train: Any, threads: int, parent: int) -> None:
        mark = tmp_path / f"at work {os.getpid()}"
        mark.touch()
        (tmp_path / f"seen {os.getpid()}").write_text(str(len(list(tmp_path.glob("at work *")))))
        time.sleep(0.1)
        mark.unlink()

    body(note)
    assert run_all([job] * 5) == []
    seen = [int(path.read_text()) for path in tmp_path.glob("seen *")]
    assert len(seen) == 5
    assert max(seen) <= 2


def wait_for_signal(job: ToyJob, train: Any, threads: int, parent: int) -> None:
    signal.signal(signal.SIGUSR2, lambda *_: sys.exit(75))
    (job.out / f"ready {os.getpid()}").touch()
    time.sleep(60)


@forks
def test_a_stop_reaches_every_worker(job: ToyJob, body: Callable[[Body], None]) -> None:
    body(wait_for_signal)
    job.out.mkdir()

    class StopWhenReady(StopFlag):
        def __init__(self) -> None: ...

        @property
        def requested(self) -> bool:  # type: ignore[override]
            return len(list(job.out.glob("ready *"))) == 2

    with pytest.raises(Requeue):
        run_all([job] * 4, stop=StopWhenReady())
    assert len(list(job.out.iterdir())) == 2  # the others were not begun
    assert multiprocessing.active_children() == []


@forks
def test_a_fault_here_ends_the_workers_too(job: ToyJob, body: Callable[[Body], None]) -> None:
    body(wait_for_signal)
    job.out.mkdir()

    class Interrupt(StopFlag):
        def __init__(self) -> None: ...

        @property
        def requested(self) -> bool:  # type: ignore[override]
            if len(list(job.out.glob("ready *"))) == 2:
                raise KeyboardInterrupt
            return False

    with pytest.raises(KeyboardInterrupt):
        run_all([job] * 2, stop=Interrupt())
    assert multiprocessing.active_children() == []


@forks
def test_a_worker_that_was_told_to_stop_stops_all(job: ToyJob, body: Callable[[Body], None]) -> None:
    body(lambda job, train, threads, parent: sys.exit(75) if job.title == "b" else None)
    with pytest.raises(Requeue):
        run_all([job, replace(job, title="b"), job, job])


@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGTERM, signal.SIGINT])
def test_a_worker_leaves_a_checkpoint_when_told_to(
    job: ToyJob, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    found: list[bool] = []

    def train(job: ToyJob, *, stop: StopFlag, on_step: Callable[[float], None]) -> None:
        on_step(0.5)
        assert not stop.requested
        signal.raise_signal(number)
        found.append(stop.requested)
        raise Requeue

    before = {kind: signal.getsignal(kind) for kind in (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT)}
    try:
        with pytest.raises(SystemExit) as ended:
            workers.work(job, train, 1, os.getppid())
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
    assert (ended.value.code, found) == (75, [True])


def test_a_worker_without_its_parent_ends(job: ToyJob, monkeypatch: pytest.MonkeyPatch) -> None:
    def train(job: ToyJob, *, stop: StopFlag, on_step: Callable[[float], None]) -> None:
        on_step(0.5)
        if stop.requested:
            raise Requeue

    before = {kind: signal.getsignal(kind) for kind in (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT)}
    try:
        with pytest.raises(SystemExit) as ended:
            workers.work(job, train, 1, os.getppid() + 1)
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
    assert ended.value.code == 75


def test_one_device_needs_no_process(job: ToyJob, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_process(kind: str) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(workers.multiprocessing, "get_context", no_process)
    assert train_jobs([job], train=train, parallel=1, stop=StopFlag()) == []
    assert (job.out / "a" / "pid").read_text().startswith(f"{os.getpid()} ")
