"""Claims: two processes never are at work on one run."""

import contextlib
import os
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from piggyback.shell.errors import SweepError
from slurm.folder.claims import SILENT_S, Claims, Owner, find_start

JOB = Owner(job="12_3", restart=0, host="node1", pid=4711, start=99, node="node1")


def says(answer: bool | None) -> Callable[[str], bool | None]:
    return lambda job: answer


def never(job: str) -> bool | None:
    raise AssertionError(f"Slurm was asked about {job}")


@pytest.fixture
def claims(tmp_path: Path) -> Claims:
    return Claims(tmp_path / "attempts")


def test_one_of_many_at_the_same_time_gets_it(claims: Claims) -> None:
    dead = replace(Owner.local(), start=1)
    claims.take(dead, what="r", ask_slurm=never)
    start, got = threading.Barrier(8), []

    def try_it(number: int) -> None:
        start.wait()
        with contextlib.suppress(SweepError):
            got.append(claims.take(replace(Owner.local(), job=f"local-{number}"), what="r", ask_slurm=never))

    threads = [threading.Thread(target=try_it, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == [1]


def test_the_own_job_queued_again_takes_over_and_an_older_copy_of_it_does_not(claims: Claims) -> None:
    claims.take(JOB, what="r", ask_slurm=never)
    assert claims.take(replace(JOB, restart=1, host="node2", pid=1), what="r", ask_slurm=never) == 1
    with pytest.raises(SweepError, match="job 12_3 on node2 is at work on r already"):
        claims.take(replace(JOB, host="node1"), what="r", ask_slurm=never)


@pytest.mark.parametrize(
    ("answer", "silent_s", "taken"),
    [(True, 9 * SILENT_S, False), (False, 0, True), (None, 0, False), (None, 2 * SILENT_S, True)],
)
def test_another_job_is_asked_about_and_lacking_an_answer_its_signs_of_life_count(
    claims: Claims, answer: bool | None, silent_s: float, taken: bool
) -> None:
    claims.take(JOB, what="r", ask_slurm=never)
    os.utime(claims.root / "0000.json", (time.time() - silent_s,) * 2)
    if taken:
        assert claims.take(replace(JOB, job="13"), what="r", ask_slurm=says(answer)) == 1
    else:
        with pytest.raises(SweepError, match="at work"):
            claims.take(replace(JOB, job="13"), what="r", ask_slurm=says(answer))


def test_a_process_that_ended_or_whose_number_is_used_again_holds_nothing(claims: Claims) -> None:
    child = subprocess.Popen(["sleep", "60"])
    owner = replace(Owner.local(), job=f"local-{child.pid}", pid=child.pid, start=find_start(child.pid))
    claims.take(owner, what="r", ask_slurm=never)
    with pytest.raises(SweepError, match=f"process {child.pid} on "):
        claims.take(Owner.local(), what="r", ask_slurm=never)
    child.kill()
    while find_start(child.pid) is not None:  # a corpse counts as gone before it is buried
        time.sleep(0.01)
    child.wait()
    assert claims.take(replace(Owner.local(), start=1), what="r", ask_slurm=never) == 1
    assert claims.take(Owner.local(), what="r", ask_slurm=never) == 2  # its number and start are not this process's


def test_a_local_process_of_another_machine_counts_by_its_signs_of_life(claims: Claims) -> None:
    number = claims.take(replace(Owner.local(), host="elsewhere"), what="r", ask_slurm=never)
    other = replace(Owner.local(), job="local-x")
    with pytest.raises(SweepError, match="on elsewhere"):
        claims.take(other, what="r", ask_slurm=never)
    os.utime(claims.root / "0000.json", (1, 1))
    claims.beat(number)
    with pytest.raises(SweepError, match="on elsewhere"):
        claims.take(other, what="r", ask_slurm=never)
    os.utime(claims.root / "0000.json", (1, 1))
    assert claims.take(other, what="r", ask_slurm=never) == 1


def test_a_claim_that_is_being_written_is_respected_and_a_torn_one_is_not_for_ever(claims: Claims) -> None:
    claims.root.mkdir()
    (claims.root / "0000.json").touch()
    with pytest.raises(SweepError, match="at work"):
        claims.take(Owner.local(), what="r", ask_slurm=never)
    os.utime(claims.root / "0000.json", (1, 1))
    assert claims.take(Owner.local(), what="r", ask_slurm=never) == 1


def test_ends_are_kept_in_order_and_a_killed_attempt_has_none(claims: Claims) -> None:
    for number, code in enumerate([1, None, 75]):
        assert claims.take(replace(Owner.local(), start=1), what="r", ask_slurm=never) == number
        if code is not None:
            claims.end(number, {"code": code})
    assert [end["code"] for end in claims.ends()] == [1, 75]
    last = claims.last()
    assert last is not None
    assert (last.number, last.end and last.end["code"]) == (2, 75)


def test_who_a_job_is() -> None:
    assert Owner.of_job({"SLURM_JOB_ID": "9", "SLURM_RESTART_COUNT": "2"}).restart == 2
    array = {"SLURM_JOB_ID": "9", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3"}
    assert Owner.of_job(array).job == "7_3"
    assert Owner.of_job({}) == Owner.local()
    assert Owner.local().job == f"local-{os.getpid()}"  # also inside an allocation of Slurm's
