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
from decathlon.training import train_task

import piggyback.suite.training.workers as workers
from decathlon.bench import Job
from leaderboard.result import read_result
from piggyback.payload import read_payload
from piggyback.shell.errors import BadInput, Requeue
from piggyback.suite.training.run_folder import StopFlag
from piggyback.suite.training.workers import devices_for, train_jobs, train_side_by_side

CPU = torch.device("cpu")


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


def test_two_processes_do_what_one_does(
    job: Job, outcome: Callable[..., Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    job = replace(job, method="feature")
    jobs = [job, replace(job, task="aircraft"), replace(job, backbone=tmp_path / "nowhere.safetensors")]
    ended: list[str] = []
    torch.set_num_threads(2)  # one for each
    failed = train_side_by_side(
        jobs,
        train=train_task,
        devices=[CPU, CPU],
        stop=StopFlag(),
        on_end=lambda job: ended.append(f"{job.task} {job.backbone.name}"),
    )
    torch.set_num_threads(1)
    assert [job.backbone.name for job in failed] == ["nowhere.safetensors"]
    assert len(ended) == 3
    said = capfd.readouterr().err
    assert "done: svhn feature" in said
    assert "done: aircraft feature" in said
    assert "failed: svhn feature: " in said
    (root,) = (job.out / "runs").glob("svhn-*")
    found = train_task(job)
    assert found.root == root
    result = read_result(found.result)
    assert (result.device or "").endswith(", 1 threads")
    assert outcome(found) == outcome(train_task(replace(job, out=tmp_path / "alone")))
    assert read_payload(found.payload).task == "svhn"


# The rest is about processes, not about training: forks are quick, and the workers' body can be replaced.

Body = Callable[[Job, Any, int, int], None]
forks = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


@pytest.fixture
def body(monkeypatch: pytest.MonkeyPatch) -> Callable[[Body], None]:
    fork = multiprocessing.get_context("fork")
    monkeypatch.setattr(workers.multiprocessing, "get_context", lambda kind: fork)
    monkeypatch.setattr(workers, "POLL_S", 0.01)
    return lambda function: monkeypatch.setattr(workers, "work", function)


def run_all(jobs: list[Job], *, stop: StopFlag | None = None) -> list[Job]:
    return train_side_by_side(
        jobs, train=train_task, devices=[CPU, CPU], stop=stop or StopFlag(), on_end=lambda job: None
    )


@forks
def test_a_killed_worker_is_a_failure_that_is_told(
    job: Job, body: Callable[[Body], None], capfd: pytest.CaptureFixture[str]
) -> None:
    body(lambda job, train, threads, parent: os.kill(os.getpid(), signal.SIGKILL) if job.method == "finetune" else None)
    jobs = [replace(job, method=method) for method in ("feature", "finetune", "piggyback")]
    assert [job.method for job in run_all(jobs)] == ["finetune"]
    assert "failed: svhn finetune: its process was ended by SIGKILL: is the memory enough" in capfd.readouterr().err


@forks
def test_as_many_at_a_time_as_there_are_devices(job: Job, body: Callable[[Body], None], tmp_path: Path) -> None:
    def note(job: Job, train: Any, threads: int, parent: int) -> None:
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


def wait_for_signal(job: Job, train: Any, threads: int, parent: int) -> None:
    signal.signal(signal.SIGUSR2, lambda *_: sys.exit(75))
    (job.out / f"ready {os.getpid()}").touch()
    time.sleep(60)


@forks
def test_a_stop_reaches_every_worker(job: Job, body: Callable[[Body], None]) -> None:
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
def test_a_fault_here_ends_the_workers_too(job: Job, body: Callable[[Body], None]) -> None:
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
def test_a_worker_that_was_told_to_stop_stops_all(job: Job, body: Callable[[Body], None]) -> None:
    body(lambda job, train, threads, parent: sys.exit(75) if job.method == "feature" else None)
    with pytest.raises(Requeue):
        run_all([job, replace(job, method="feature"), job, job])


@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGTERM, signal.SIGINT])
def test_a_worker_leaves_a_checkpoint_when_told_to(
    job: Job, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    found: list[bool] = []

    def train(job: Job, *, stop: StopFlag, on_step: Callable[[float], None]) -> None:
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


def test_a_worker_without_its_parent_ends(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    def train(job: Job, *, stop: StopFlag, on_step: Callable[[float], None]) -> None:
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


def test_one_device_needs_no_process(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_process(kind: str) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(workers.multiprocessing, "get_context", no_process)
    assert train_jobs([replace(job, method="feature")], train=train_task, parallel=1, stop=StopFlag()) == []
