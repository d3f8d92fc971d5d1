"""Work in several processes gives what one process gives."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from leaderboard.store import processes as spreading
from leaderboard.store.processes import spread


@pytest.fixture
def two_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr(spreading, "LEAST", 3)


@pytest.mark.usefixtures("two_processors")
@pytest.mark.parametrize("count", [0, 1, 5, 6, 7, 50])
def test_everything_is_made_once_and_in_order(count: int, tmp_path: Path) -> None:
    def work(number: int) -> tuple[int, int]:
        (tmp_path / str(number)).open("x").close()
        return number * number, os.getpid()

    made = spread(work, range(count))
    assert [square for square, _ in made] == [number * number for number in range(count)]
    assert len(list(tmp_path.iterdir())) == count
    assert ({process for _, process in made} == {os.getpid()}) is (0 < count < 6)


@pytest.mark.usefixtures("two_processors")
def test_a_fault_in_a_process_is_raised_here() -> None:
    def work(number: int) -> int:
        if number == 7:
            raise OSError("no space left")
        return number

    with pytest.raises(OSError, match="no space left"):
        spread(work, range(10))


FOREVER = """
import os, sys, time
from pathlib import Path
from leaderboard.store import processes as spreading

def work(number):
    (Path(sys.argv[1]) / str(os.getpid())).touch()
    time.sleep(600)

spreading.LEAST = 3
os.sched_getaffinity = lambda _: {0, 1}
spreading.LOOK_EVERY_S = 0.1
spreading.spread(work, list(range(6)))
"""


def test_no_process_outlives_a_killed_parent(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", FOREVER, str(tmp_path)]) as parent:
        try:
            wait_for(lambda: len(list(tmp_path.iterdir())) == 2)
        finally:
            parent.send_signal(signal.SIGKILL)
    workers = [int(path.name) for path in tmp_path.iterdir()]
    wait_for(lambda: not any(is_alive(worker) for worker in workers))


def is_alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"  # nobody may be there to look at how it ended


def wait_for(condition: Callable[[], bool], *, seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)
