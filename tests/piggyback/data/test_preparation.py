"""What `prepare` does alike for all: what is finished is left alone, what is outdated is packed again."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from piggyback.data.preparation import find_problems, keep_first, name_first, pack_unless_finished, packing_below
from piggyback.shell.errors import BadInput
from piggyback.shell.lock import hold


class Album:
    """A folder to pack, whose outcome is a word."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.wanted, self.packed = folder, "first", 0
        self.others: list[Album] = []

    def finished(self) -> str:
        if self.others:
            self.others.pop().pack()
            raise BadInput("it was not finished")
        if (self.folder / "album.json").read_text() != self.wanted:
            raise BadInput("its list changed")
        return "was packed"

    def pack(self) -> str:
        self.packed += 1
        (self.folder / "pixels.u8").write_bytes(b"pixels")
        (self.folder / "album.json").write_text(self.wanted)
        return "packed"

    def prepare(self, pack: Callable[[], str] | None = None) -> str:
        return pack_unless_finished(
            self.folder,
            manifest=self.folder / "album.json",
            finished=self.finished,
            pack=pack or self.pack,
            stale=lambda: self.folder.glob("*.u8"),
        )


@pytest.fixture
def album(tmp_path: Path) -> Album:
    return Album(tmp_path / "albums" / "one")


def test_what_is_packed_is_left_alone_whoever_holds_it(album: Album) -> None:
    assert album.prepare() == "packed"
    with hold(album.folder, work="packing into"):
        assert album.prepare() == "was packed"
    if os.geteuid() != 0:  # root writes everywhere
        album.folder.chmod(0o500)
        assert album.prepare() == "was packed"
        album.folder.chmod(0o700)
    assert album.packed == 1


def test_what_is_outdated_is_deleted_before_it_is_packed_again(
    album: Album, capsys: pytest.CaptureFixture[str]
) -> None:
    album.prepare()
    album.wanted = "second"

    def fail() -> str:
        assert {path.name for path in album.folder.iterdir()} == {".lock"}
        return "problems"

    assert album.prepare(fail) == "problems"
    assert "one: its list changed; packing it again" in capsys.readouterr().err
    assert not album.folder.exists()  # nothing was left in it
    assert album.prepare() == "packed"


def test_one_process_packs_at_a_time(album: Album) -> None:
    album.folder.mkdir(parents=True)
    with hold(album.folder, work="packing into"), pytest.raises(BadInput, match="another process is packing into"):
        album.prepare()
    assert album.packed == 0


def test_another_process_may_finish_while_this_one_looks(album: Album) -> None:
    album.folder.mkdir(parents=True)
    (album.folder / "album.json").write_text("other")
    album.others = [Album(album.folder)]
    assert album.prepare() == "was packed"
    assert album.packed == 0


def test_what_a_killed_process_was_writing_goes(album: Album) -> None:
    album.folder.mkdir(parents=True)
    (album.folder / ".album.json.01234567.tmp").write_text("half")
    (album.folder / "notes.tmp").write_text("the user's own")
    album.prepare()
    assert {path.name for path in album.folder.iterdir()} == {".lock", "pixels.u8", "album.json", "notes.tmp"}


def test_what_cannot_be_a_folder_of_albums_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match="file is a file: give a folder"), packing_below(tmp_path / "file"):
        pass
    with packing_below(tmp_path / "new" / "er"):
        assert (tmp_path / "new" / "er").is_dir()
    with pytest.raises(BadInput, match=r"cannot prepare .*: x: No space left"), packing_below(tmp_path):
        raise OSError(28, "No space left on device", "x")


def test_faults_are_counted_and_the_first_named() -> None:
    names = [f"{number}.jpg" for number in range(5)]
    problems = find_problems("photos", count=9, missing=names, faulty=["6.jpg is none"], listed="a.txt", searched="b/")
    assert problems == [
        "5 of the 9 photos listed in a.txt are missing in b/: 0.jpg, 1.jpg, 2.jpg, and 2 more",
        "1 of the 9 photos are unusable: 6.jpg is none",
    ]
    assert find_problems("photos", count=9, missing=[], faulty=[], listed="a.txt", searched="b/") == []
    assert name_first(names[:3], joint="; ") == "0.jpg; 1.jpg; 2.jpg"
    assert keep_first([*names, *names]) == (*names[:3], "and 2 more left out")
