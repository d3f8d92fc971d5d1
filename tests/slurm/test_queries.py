"""What squeue and sacct of Slurm 22.05 print, and what it means."""

from pathlib import Path

import pytest

from slurm.queries import find_states, is_running, read_reasons, read_states

SQUEUE = """\
12_[3-5,7%2]|PENDING
12_1|RUNNING
12_2|COMPLETING
13|PREEMPTED
14_[1-9:4]|PENDING
15|SOMETHING_NEW
"""

SACCT = """\
12_0|COMPLETED
12_0.batch|COMPLETED
12_0.extern|COMPLETED
12_0.0|FAILED
12_6|CANCELLED by 0
12_8|NODE_FAIL
12_9|OUT_OF_ME+
12_10|TIMEOUT
16|CANCELLED+
17|REQUEUED
"""

# Lines that the test cluster (Slurm 22.05.8) printed, some under other numbers, so that they fit together: a job at
# its time limit (1), an array that gave way to a job on the partition above (2, 4), arrays on a node that was lost,
# which may not (5) and may be queued again (6), a throttled array (7), an array that was held and cancelled, one
# element of it before the others (8), one that is held, less an element (10), jobs queued again by scontrol (14, 15),
# and one that failed (9).  Of 8 and 10 accounting knew nothing.
RECORDED_SQUEUE = """\
2_0|PENDING|BeginTime
2_1|COMPLETING|None
4|COMPLETED|None
5_0|NODE_FAIL|NodeDown
6_5|PENDING|BeginTime
6_7|PENDING|ReqNodeNotAvail, UnavailableNodes:n1
1|TIMEOUT|TimeLimit
7_[2-5%2]|PENDING|JobArrayTaskLimit
7_0|RUNNING|None
8_[0,2-3]|CANCELLED|JobHeldUser
9|FAILED|NonZeroExitCode
10_[0,2-3]|PENDING|JobHeldUser
14|PENDING|BeginTime
15|PENDING|job requeued in held state
16|PENDING|Resources
17|PENDING|Priority
18|PENDING|Dependency
"""

RECORDED_SACCT = """\
1|TIMEOUT
2_0|PREEMPTED
2_1|RUNNING
3|CANCELLED by 0
4|COMPLETED
5_0|NODE_FAIL
6_5|NODE_FAIL
6_7|PENDING
7_0|RUNNING
9|FAILED
14|REQUEUED
15|REQUEUED
"""


def test_recorded(fake_slurm: Path) -> None:
    (fake_slurm / "squeue.txt").write_text(RECORDED_SQUEUE)
    (fake_slurm / "sacct.txt").write_text(RECORDED_SACCT)
    answer = find_states(["1"])
    queued = ("2_0", "6_5", "6_7", "7_2", "7_5", "10_0", "10_3", "14", "15", "16", "17", "18")
    assert {job: answer.of(job) for job in queued} == dict.fromkeys(queued, ("queued", "PENDING"))
    assert {job: answer.of(job)[0] for job in ("2_1", "7_0")} == {"2_1": "running", "7_0": "running"}
    ended = {"1": "TIMEOUT", "3": "CANCELLED", "4": "COMPLETED", "5_0": "NODE_FAIL", "8_2": "CANCELLED", "9": "FAILED"}
    assert {job: answer.of(job) for job in ended} == {job: ("ended", word) for job, word in ended.items()}
    assert answer.of("8_1") == ("ended", "")
    assert answer.reasons == {
        "6_7": "ReqNodeNotAvail, UnavailableNodes:n1",
        **dict.fromkeys(("10_0", "10_2", "10_3"), "JobHeldUser"),
        "15": "job requeued in held state",
    }
    (fake_slurm / "squeue.err").write_text("slurm_load_jobs error: Unable to contact slurm controller\n")
    answer = find_states(["1"])
    assert answer.of("5_0") == answer.of("2_0") == answer.of("6_5") == ("unknown", "")  # some may come back
    assert answer.of("14") == ("queued", "REQUEUED")
    assert answer.of("1") == ("ended", "TIMEOUT")


def test_squeue() -> None:
    found = read_states(SQUEUE)
    queued, running = ("queued", "PENDING"), ("running", "RUNNING")
    assert {job: found[job] for job in ("12_3", "12_4", "12_5", "12_7", "12_1")} == {
        **dict.fromkeys(("12_3", "12_4", "12_5", "12_7"), queued),
        "12_1": running,
    }
    assert found["12_2"][0] == "running"
    assert found["13"] == ("ended", "PREEMPTED")
    assert {job for job in found if job.startswith("14")} == {"14_1", "14_5", "14_9"}
    assert found["15"] == ("unknown", "SOMETHING_NEW")
    assert "12_6" not in found


def test_sacct() -> None:
    found = read_states(SACCT)
    ended = {"12_0": "COMPLETED", "12_6": "CANCELLED", "12_8": "NODE_FAIL", "12_10": "TIMEOUT", "16": "CANCELLED"}
    assert {job: found[job] for job in ended} == {job: ("ended", word) for job, word in ended.items()}
    assert found["17"] == ("queued", "REQUEUED")
    assert not [job for job in found if "." in job]
    assert read_states("garbage\n\n|\n12_[x-3]|PENDING\n") == {}
    assert read_reasons("garbage\n\n|\n12_[x-3]|PENDING|x\n13|PENDING\n14|RUNNING|y\n") == {}


def test_squeue_has_the_last_word(fake_slurm: Path) -> None:
    (fake_slurm / "squeue.txt").write_text("12_0|PENDING\n")
    (fake_slurm / "sacct.txt").write_text("12_0|NODE_FAIL\n12_1|RUNNING\n12_2|COMPLETED\n")
    answer = find_states(["12_0", "12_1", "12_2", "12_3"])
    assert answer.of("12_0") == ("queued", "PENDING")
    assert answer.of("12_1") == ("ended", "RUNNING")  # accounting missed its end
    assert answer.of("12_2") == ("ended", "COMPLETED")
    assert answer.of("12_3") == ("ended", "")
    told = (fake_slurm / "squeue.args").read_text()
    assert told == "0 --noheader --states=all --format=%i|%T|%r --jobs 12\n"  # 0: long arrays are written in full


def test_no_answer_is_not_the_same_as_no_job(fake_slurm: Path) -> None:
    (fake_slurm / "squeue.err").write_text("slurm_load_jobs error: Unable to contact slurm controller\n")
    assert find_states(["12"]).of("12") == ("unknown", "")
    assert is_running("12") is None
    (fake_slurm / "sacct.txt").write_text("12|FAILED\n")
    assert find_states(["12"]).of("12") == ("ended", "FAILED")
    (fake_slurm / "sacct.txt").unlink()
    (fake_slurm / "squeue.err").write_text("slurm_load_jobs error: Invalid job id specified\n")
    assert find_states(["12"]).of("12") == ("ended", "")
    assert is_running("12") is False


@pytest.mark.usefixtures("no_slurm")
def test_without_slurm_nobody_knows() -> None:
    assert is_running("12") is None
    assert find_states([]).of("12") == ("ended", "")
