"""What squeue and sacct of Slurm 22.05 print, and what it means."""

from pathlib import Path

import pytest

from slurm.queries import find_states, is_running, read_states

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


def test_squeue_has_the_last_word(fake_slurm: Path) -> None:
    (fake_slurm / "squeue.txt").write_text("12_0|PENDING\n")
    (fake_slurm / "sacct.txt").write_text("12_0|NODE_FAIL\n12_1|RUNNING\n12_2|COMPLETED\n")
    answer = find_states(["12_0", "12_1", "12_2", "12_3"])
    assert answer.of("12_0") == ("queued", "PENDING")
    assert answer.of("12_1") == ("ended", "RUNNING")  # accounting missed its end
    assert answer.of("12_2") == ("ended", "COMPLETED")
    assert answer.of("12_3") == ("ended", "")
    told = (fake_slurm / "squeue.args").read_text()
    assert told == "0 --noheader --states=all --format=%i|%T --jobs 12\n"  # 0: long arrays are written in full


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
