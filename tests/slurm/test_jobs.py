"""What a job does on its node."""

import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from piggyback.shell.errors import SweepError
from piggyback.shell.files import write_json
from slurm.children import REQUEUE, run_child
from slurm.folder.claims import Owner, find_start
from slurm.folder.state_files import read_state
from slurm.jobs import (
    JobCall,
    do_run,
    find_failed_need,
    find_progress,
    find_stall,
    order_of,
    requeue,
    wants_requeue,
)
from slurm.planning.plans import Plan
from slurm.states import find_standings

JOB = Owner(job="12_3", restart=0, host="node1", pid=1, start=1, node="node1")


def give_orders(planned: Plan) -> None:
    known = {run.id: planned.folder.proof(run) for run in planned.runs}
    for run in planned.runs:
        needs = {need: known[need] for need in run.needs}
        order = order_of(run, needs=needs)
        write_json(planned.folder.job(run.id).order, order)


def do(planned: Plan, run: str, *, asked: list[int] | None = None) -> int:
    give_orders(planned)
    argv = next(one.argv for one in planned.runs if one.id == run)
    return do_run(planned.folder.root, run=run, argv=argv, owner=Owner.local(), asked=[] if asked is None else asked)


def test_a_run_that_ends_well(make_plan: Callable[..., Plan]) -> None:
    planned = make_plan(a=(["make"], []))
    assert do(planned, "a") == 0
    folder = planned.folder.job("a")
    assert folder.log.read_text().startswith("== ")
    assert [(end["code"], end["message"]) for end in folder.claims.ends()] == [(0, None)]
    assert not folder.done.exists()  # its result is its proof
    assert planned.finished == {"a"}


def test_failures_keep_their_exit_code_and_output(make_plan: Callable[..., Plan]) -> None:
    planned = make_plan(a=(["fail", "3"], []))
    assert do(planned, "a") == 3
    assert "no luck" in planned.folder.job("a").log.read_text()
    assert planned.finished == set()


def test_a_killed_command_and_one_that_is_not_there(
    make_plan: Callable[..., Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slurm.jobs.COMMAND", ("/bin/sh", "-c", "kill -9 $$"))
    assert do(make_plan(a=(["say"], [])), "a") == 128 + 9
    monkeypatch.setattr("slurm.jobs.COMMAND", (str(tmp_path / "nothing"),))
    planned = make_plan(b=(["say"], []))
    assert do(planned, "b") == 127
    assert "cannot run" in planned.folder.job("b").log.read_text()


def test_a_run_whose_parent_failed_says_so_and_does_not_start(make_plan: Callable[..., Plan]) -> None:
    planned = make_plan(parent=(["fail", "3"], []), child=(["make"], ["parent"]))
    assert do(planned, "child") == 1
    assert do(planned, "parent") == 3
    assert do(planned, "child") == 1
    words = [end["message"] for end in planned.folder.job("child").claims.ends()]
    assert words == ["parent, which it needs, has not run", "parent, which it needs, ended with exit code 3"]
    assert words[1] in planned.folder.job("child").log.read_text()
    planned.folder.job("parent").cancelled.touch()
    needs = {"parent": planned.folder.proof(planned.runs[0])}
    assert find_failed_need(planned.folder.root, needs) == "parent, which it needs, was cancelled"


def test_steps_without_a_result_are_done_anew_when_something_before_them_was(make_plan: Callable[..., Plan]) -> None:
    planned = make_plan(a=(["make"], []), score=(["say", "1"], ["a"]))
    assert do(planned, "a") == do(planned, "score") == 0
    assert planned.finished == {"a", "score"}
    other = make_plan(a=(["make"], []), score=(["say", "2"], ["a"]))
    assert other.finished == {"a"}  # the same step by another command
    result = planned.runs[0].proof
    assert result is not None
    os.utime(result, (1, 1))
    assert planned.finished == {"a"}  # the run was done again since
    assert do(planned, "score") == 0
    assert planned.finished == {"a", "score"}
    result.unlink()
    assert planned.finished == set()


def test_no_second_copy(make_plan: Callable[..., Plan]) -> None:
    planned = make_plan(a=(["make"], []))
    planned.folder.job("a").claims.take(Owner.local(), what="a", ask_slurm=lambda job: None)
    with pytest.raises(SweepError, match="is at work on a already"):
        do(planned, "a")
    assert planned.finished == set()


@pytest.mark.parametrize("how", ["signal", "cancelled"])
def test_a_stop_before_the_start(make_plan: Callable[..., Plan], how: str) -> None:
    planned = make_plan(a=(["make"], []))
    if how == "cancelled":
        write_json(planned.folder.job("a").cancelled, {})
    assert do(planned, "a", asked=[signal.SIGUSR2] if how == "signal" else []) == REQUEUE
    assert planned.finished == set()


def test_a_stop_reaches_the_command_once(
    make_plan: Callable[..., Plan], eventually: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = make_plan(a=(["hold"], []))
    proof, asked = planned.folder.proof(planned.runs[0]), list[int]()

    def stop() -> None:
        eventually(lambda: Path(f"{proof}.pid").exists())
        asked.extend([signal.SIGUSR2, signal.SIGTERM, signal.SIGUSR2])

    thread = threading.Thread(target=stop)
    thread.start()
    assert do(planned, "a", asked=asked) == REQUEUE
    thread.join()
    assert Path(f"{proof}.told").read_text() == "told\n"
    Path(f"{proof}.go").touch()
    assert do(planned, "a") == 0


@pytest.mark.parametrize(("in_slurm", "asks", "code"), [("1", True, REQUEUE), ("1", False, 143), ("", False, 143)])
def test_the_command_dies_of_a_stop_before_this_process_hears_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_slurm: str, asks: bool, code: int
) -> None:
    monkeypatch.setattr("slurm.children.HEAR_S", 20.0 if asks else 0.1)
    if in_slurm:
        monkeypatch.setenv("SLURM_JOB_ID", in_slurm)
    asked: list[int] = []
    timer = threading.Timer(0.5, asked.append, (signal.SIGTERM,))
    if asks:
        timer.start()
    with (tmp_path / "log").open("wb") as log:
        assert run_child(["/bin/sh", "-c", "kill -TERM $$"], log=log, asked=asked, sign=lambda: None) == code


def test_a_run_cancelled_from_another_machine_ends(
    make_plan: Callable[..., Plan], eventually: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slurm.children.BEAT_S", 0.0)
    planned = make_plan(a=(["hold"], []))
    proof = planned.folder.proof(planned.runs[0])

    def cancel() -> None:
        eventually(lambda: Path(f"{proof}.pid").exists())
        write_json(planned.folder.job("a").cancelled, {})

    thread = threading.Thread(target=cancel)
    thread.start()
    assert do(planned, "a") == REQUEUE
    thread.join()


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel tells the child of its parent's death")
def test_a_job_killed_without_warning(make_plan: Callable[..., Plan], eventually: Callable[..., None]) -> None:
    planned = make_plan(a=(["hold"], []))
    give_orders(planned)
    proof = planned.folder.proof(planned.runs[0])
    process = subprocess.Popen([sys.executable, "-m", "slurm.local_queue", "--one", str(planned.folder.root), "a"])
    eventually(lambda: Path(f"{proof}.pid").exists())
    child = int(Path(f"{proof}.pid").read_text())
    assert [one.state for one in find_standings(planned.folder, planned.runs)] == ["running"]
    process.kill()
    process.wait()
    eventually(lambda: find_start(child) is None)
    (one,) = find_standings(planned.folder, planned.runs)
    assert (one.state, one.message) == ("failed", "its process ended without a word")
    Path(f"{proof}.go").touch()
    assert do(planned, "a") == 0


@pytest.mark.parametrize(
    ("asked", "cancelled", "state", "wanted"),
    [
        ([signal.SIGUSR2], False, "RUNNING", True),  # before the time limit, or preempted with a warning
        ([signal.SIGUSR2, signal.SIGTERM], False, "COMPLETING", True),  # preempted without grace
        ([], False, "RUNNING", True),
        ([signal.SIGTERM], False, "COMPLETING", False),  # scancel: asking again would undo it
        ([signal.SIGTERM], False, "RUNNING", True),  # preempted with grace, but without a user signal
        ([signal.SIGUSR2], True, "RUNNING", False),
    ],
)
def test_what_asks_to_be_queued_again(
    make_plan: Callable[..., Plan], fake_slurm: Path, asked: list[int], cancelled: bool, state: str, wanted: bool
) -> None:
    folder = make_plan(a=(["make"], [])).folder.job("a")
    (fake_slurm / "squeue.txt").write_text(f"{JOB.job}|{state}\n")
    if cancelled:
        write_json(folder.cancelled, {})
    assert wants_requeue(folder, owner=JOB, asked=asked) is wanted


def test_requeue(fake_slurm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    requeue(JOB, [signal.SIGTERM])
    monkeypatch.setattr("slurm.jobs.KILL_WAIT_S", 0.0)
    requeue(JOB, [])
    assert (fake_slurm / "scontrol.args").read_text() == "requeue 12_3\n" * 2
    (fake_slurm / "scontrol.err").write_text("Job is pending execution for job 12_3\n")
    requeue(JOB, [])
    (fake_slurm / "scontrol.err").write_text("Requested operation is presently disabled for job 12_3\n")
    with pytest.raises(SweepError, match="cannot queue job 12_3 again: Requested operation is presently disabled"):
        requeue(JOB, [])


@pytest.mark.usefixtures("no_slurm")
def test_requeue_without_scontrol() -> None:
    with pytest.raises(SweepError, match="scontrol does not answer"):
        requeue(JOB, [])


def test_a_slurm_job_from_its_pickle(
    make_plan: Callable[..., Plan],
    fake_slurm: Path,
    eventually: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    planned = make_plan(a=(["hold"], []))
    give_orders(planned)
    call = JobCall(argv=planned.runs[0].argv, root=str(planned.folder.root), run="a")
    data = pickle.dumps(call)
    assert len(data) < 1000
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    monkeypatch.setattr("slurm.jobs.KILL_WAIT_S", 0.0)
    proof = planned.folder.proof(planned.runs[0])

    def stop() -> None:
        eventually(lambda: Path(f"{proof}.pid").exists())
        os.kill(os.getpid(), signal.SIGUSR2)

    before = signal.getsignal(signal.SIGUSR2)
    thread = threading.Thread(target=stop)
    thread.start()
    with pytest.raises(SweepError, match=r"a ended with exit code 75: see .*log\.txt"):
        pickle.loads(data)()
    thread.join()
    assert (fake_slurm / "scontrol.args").read_text() == "requeue 77\n"
    assert signal.getsignal(signal.SIGUSR2) is before
    assert read_state(planned.folder.job("a").claims.root / "0000.json")["restart"] == 1
    Path(f"{proof}.go").touch()
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    assert pickle.loads(data)() == 0


def stall(planned: Plan, *, starts: list[float], now: float, first: int = 0) -> str | None:
    folder = planned.folder.job("a")
    give_orders(planned)
    folder.note_sent(cluster="local", job="", attempt=first)
    for number, progress in enumerate([*starts, now]):
        write_json(folder.claims.root / f"{number:04}.json", {**vars(JOB), "progress": progress})
    return find_stall(folder, number=len(starts), progress=now)


def test_a_run_that_gets_no_further(make_plan: Callable[..., Plan]) -> None:
    planned = make_plan(a=(["make"], []))
    assert "5 attempts got no further than 20 %" in str(stall(planned, starts=[0.1, 0.2, 0.2, 0.2, 0.2, 0.2], now=0.2))
    assert stall(planned, starts=[0.1, 0.2, 0.2, 0.2, 0.2], now=0.2) is None  # the first of five had less
    assert stall(planned, starts=[0.2] * 9, now=0.3) is None
    assert stall(planned, starts=[0.2] * 4, now=0.2) is None
    assert stall(planned, starts=[0.2] * 9, now=0.2, first=6) is None  # sent again since


def test_a_stalled_run_is_not_begun(make_plan: Callable[..., Plan]) -> None:
    planned = make_plan(a=(["make"], []))
    for _ in range(5):
        assert do(planned, "a", asked=[signal.SIGUSR2]) == REQUEUE
    assert do(planned, "a") == 1
    assert "5 attempts got no further than 0 %" in str(find_standings(planned.folder, planned.runs)[0].message)


def test_progress_is_what_the_run_says(make_plan: Callable[..., Plan]) -> None:
    planned = make_plan(a=(["make"], []))
    give_orders(planned)
    folder = planned.folder.job("a")
    assert find_progress(folder) == 0.0
    write_json(planned.runs[0].folder / "status.json", {"progress": 0.25})
    assert find_progress(folder) == 0.25
    write_json(planned.runs[0].folder / "status.json", {"progress": "much"})
    assert find_progress(folder) == 0.0


@pytest.fixture
def second_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process as the second task of a job; variables as srun of Slurm 22.05 sets them."""
    names = {"SUBMITIT_EXECUTOR": "slurm", "SLURM_JOB_ID": "9", "SLURM_NTASKS": "2", "SLURM_PROCID": "1"}
    names |= {"SLURM_JOB_NUM_NODES": "2", "SLURM_LOCALID": "0", "SLURM_NODEID": "1", "SLURM_JOB_NODELIST": "n0"}
    for name, value in names.items():
        monkeypatch.setenv(name, value)
    for name in ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "")  # so that what is set meanwhile is undone
        monkeypatch.delenv(name)


@pytest.mark.usefixtures("second_of_two", "fake_slurm")
def test_the_second_task_joins_and_claims_nothing(
    make_plan: Callable[..., Plan], fake_slurm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (fake_slurm / "bin" / "scontrol").write_text("#!/bin/sh\necho n0; echo n1\n")
    monkeypatch.setattr("slurm.jobs.COMMAND", ("/bin/sh", "-c", 'echo "$RANK of $WORLD_SIZE at $MASTER_ADDR"; exit $1'))
    planned = make_plan(a=(["say", "0"], []))
    give_orders(planned)
    root, folder = str(planned.folder.root), planned.folder.job("a")
    assert JobCall(argv=("0",), root=root, run="a")() == 0
    assert folder.log_of(1).read_text() == "1 of 2 at n0\n"
    assert folder.claims.last() is None
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    with pytest.raises(SweepError, match=r"a ended with exit code 3: see .*log-1\.txt"):
        JobCall(argv=("", "3"), root=root, run="a")()
    assert folder.log_of(1).read_text().endswith("1 of 2 at 127.0.0.1\n")
