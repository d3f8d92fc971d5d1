"""Work in several processes gives what one process gives."""

import os
from pathlib import Path

import pytest

from leaderboard import spreading
from leaderboard.spreading import spread


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
