"""The queue on this machine."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from piggyback.shell.errors import SweepError
from piggyback.shell.files import write_json
from slurm.local_queue import find_gpus, start_queue, work
from slurm.planning.plans import Plan
from slurm.sending.cancellation import cancel
from slurm.sending.submission import Target, send
from slurm.states import find_standings

HERE = Target(cluster="local", parallel=2, stay=True)

pytestmark = pytest.mark.usefixtures("no_slurm")


def prepare(planned: Plan) -> None:
    planned.folder.write_plan(planned.name, planned.runs)
    send(planned, planned.runs, target=HERE)


def states(planned: Plan) -> dict[str, str]:
    return {one.run.id: one.state for one in find_standings(planned.folder, planned.runs)}


def result(planned: Plan, run: str) -> Path:
    return planned.folder.root / "toy" / run / "result.json"


def test_in_the_order_of_needs_and_past_failures(make_plan: Callable[..., Plan], tmp_path: Path) -> None:
    planned = make_plan(
        bad=(["fail", "3"], []), child=(["make"], ["bad"]), a=(["make"], []), b=(["make"], ["a"]), c=(["make"], ["b"])
    )
    prepare(planned)
    ended = work(planned.folder, planned.runs, parallel=2)
    assert ended == {"bad": 3, "child": 1, "a": 0, "b": 0, "c": 0}
    lines = (tmp_path / "order.log").read_text().splitlines()
    assert [Path(line.split()[1]).parent.name for line in lines] == ["a", "b", "c"]
    assert states(planned)["child"] == "failed"


def test_no_more_at_a_time_than_asked(make_plan: Callable[..., Plan], eventually: Callable[..., None]) -> None:
    planned = make_plan(**{name: (["hold"], []) for name in "abc"})
    prepare(planned)
    started = [Path(f"{result(planned, name)}.pid") for name in "abc"]
    seen = []

    def watch() -> None:
        eventually(lambda: started[0].exists() and started[1].exists())
        seen.append(started[2].exists())
        seen.append(states(planned))
        for name in "abc":
            result(planned, name).parent.mkdir(parents=True, exist_ok=True)
            Path(f"{result(planned, name)}.go").touch()

    thread = threading.Thread(target=watch)
    thread.start()
    assert work(planned.folder, planned.runs, parallel=2) == dict.fromkeys("abc", 0)
    thread.join()
    assert seen == [False, {"a": "running", "b": "running", "c": "queued"}]
    assert started[2].exists()


def test_one_gpu_each(make_plan: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4, 7")
    planned = make_plan(a=(["gpu"], []), b=(["gpu"], []))
    prepare(planned)
    work(planned.folder, planned.runs, parallel=0)  # as many as GPUs
    assert {result(planned, name).read_text() for name in "ab"} == {"gpu=4\n", "gpu=7\n"}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert find_gpus() == []


def test_gpus_by_the_drivers_tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "without" / "nvidia-smi"
    assert find_gpus() == []
    tool.write_text("#!/bin/sh\necho 'GPU 0: H100 (UUID: x)'\necho '  MIG'\necho 'GPU 1: H100 (UUID: y)'\n")
    tool.chmod(0o755)
    assert find_gpus() == ["0", "1"]


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_leaves_checkpoints_and_the_queue_goes_on_later(
    make_plan: Callable[..., Plan], eventually: Callable[..., None], how: signal.Signals
) -> None:
    planned = make_plan(a=(["hold"], []), b=(["make"], ["a"]))
    prepare(planned)
    command = [sys.executable, "-m", "slurm.local_queue", str(planned.folder.root), "1", "a", "b"]
    queue = subprocess.Popen(command, start_new_session=True)
    proof = result(planned, "a")
    eventually(lambda: Path(f"{proof}.pid").exists())
    assert states(planned) == {"a": "running", "b": "queued"}
    os.killpg(queue.pid, how)  # as a terminal does
    assert queue.wait(timeout=30) == {signal.SIGTERM: 75, signal.SIGINT: 130}[how]
    assert Path(f"{proof}.told").read_text() == "told\n"  # once, though the stop took a while
    assert states(planned) == {"a": "stopped", "b": "stopped"}
    Path(f"{proof}.go").touch()
    prepare(planned)
    assert work(planned.folder, planned.runs, parallel=1) == {"a": 0, "b": 0}


def test_a_queue_of_its_own_and_no_second_one(make_plan: Callable[..., Plan], eventually: Callable[..., None]) -> None:
    planned = make_plan(a=(["hold"], []), b=(["hold"], []), c=(["make"], []))
    prepare(planned)
    pid = start_queue(planned.folder, planned.runs, parallel=1)
    eventually(lambda: Path(f"{result(planned, 'a')}.pid").exists())
    with pytest.raises(SweepError, match=rf"a queue is at work on .* already \(process {pid} on "):
        send(planned, planned.runs, target=HERE)
    with pytest.raises(SweepError, match="is at work on the queue of this sweep already"):
        work(planned.folder, planned.runs, parallel=1)
    assert cancel(planned, [planned.runs[1]]) == ["b"]  # it waits, and never starts
    assert states(planned) == {"a": "running", "b": "stopped", "c": "queued"}
    assert cancel(planned, [planned.runs[0]]) == ["a"]  # it is under way, and told
    eventually(lambda: states(planned) == {"a": "stopped", "b": "stopped", "c": "done"})
    eventually(lambda: planned.folder.queue.last().end is not None)  # type: ignore[union-attr]
    assert not Path(f"{result(planned, 'b')}.pid").exists()
    assert cancel(planned, planned.runs) == []


def test_a_killed_queue_is_no_hindrance(make_plan: Callable[..., Plan], eventually: Callable[..., None]) -> None:
    planned = make_plan(a=(["hold"], []), b=(["make"], []))
    prepare(planned)
    pid = start_queue(planned.folder, planned.runs, parallel=1)
    eventually(lambda: Path(f"{result(planned, 'a')}.pid").exists())
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: states(planned) == {"a": "running", "b": "stopped"})  # its run goes on
    Path(f"{result(planned, 'a')}.go").touch()
    eventually(lambda: states(planned)["a"] == "done")
    send(planned, planned.runs[1:], target=HERE)
    assert work(planned.folder, planned.runs[1:], parallel=1) == {"b": 0}


def test_a_queue_that_does_not_start(make_plan: Callable[..., Plan]) -> None:
    planned = make_plan(a=(["make"], []))
    write_json(planned.folder.plan, {})
    with pytest.raises(SweepError, match=r"does not start: see .*queue\.log"):
        start_queue(planned.folder, planned.runs, parallel=1)
    assert "no sweep was submitted" in (planned.folder.root / "queue.log").read_text()
