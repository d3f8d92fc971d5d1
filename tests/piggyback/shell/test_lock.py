import fcntl
import os
from pathlib import Path

import pytest

from piggyback.shell.errors import BadInput
from piggyback.shell.lock import LOCK, hold


def test_a_second_one_is_kept_away_until_the_first_has_ended(tmp_path: Path) -> None:
    with hold(tmp_path, work="at work on"):
        with (
            pytest.raises(BadInput, match=f"another process is at work on {tmp_path}"),
            hold(tmp_path, work="at work on"),
        ):
            raise AssertionError("it got the lock")
        with pytest.raises(BadInput, match="another process is packing into"), hold(tmp_path, work="packing into"):
            raise AssertionError("it got the lock")
    with hold(tmp_path, work="at work on"):
        assert [path.name for path in tmp_path.iterdir()] == [LOCK]


def test_a_lock_is_not_opened_through_a_link(tmp_path: Path) -> None:
    precious, folder = tmp_path / "precious", tmp_path / "folder"
    precious.write_text("precious")
    folder.mkdir()
    (folder / LOCK).symlink_to(precious)
    with pytest.raises(BadInput, match=r"folder/\.lock is a link"), hold(folder, work="at work on"):
        raise AssertionError("it got the lock")
    assert precious.read_text() == "precious"


def test_what_a_file_of_that_name_holds_stays(tmp_path: Path) -> None:
    (tmp_path / LOCK).write_text("a list of locksmiths")
    with hold(tmp_path, work="at work on"):
        pass
    assert (tmp_path / LOCK).read_text() == "a list of locksmiths"


def test_a_pipe_is_no_lock(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / LOCK)
    with pytest.raises(BadInput, match="must be a file"), hold(tmp_path, work="at work on"):
        raise AssertionError("it got the lock")


def test_without_locks_it_goes_on_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(number: int, operation: int) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with hold(tmp_path, work="at work on"):
        assert f"{tmp_path} cannot be locked (Operation not supported)" in capsys.readouterr().err
