"""Pieces of known length packed into files: what is written, what a kill leaves, what is never written to."""

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray

import piggyback.data.packing
from piggyback.data.packing import Decode, Packing, PlannedFile, partial_folder
from piggyback.shell.errors import BadInput

STATE = {"pictures": "of a third benchmark"}
FILES = {
    "photos": PlannedFile("photos.u8", np.array([3, 1, 4, 1, 5])),
    "depths": PlannedFile("depths.u8", np.array([9, 2, 6])),
}
PIECES = [(key, place) for key, planned in FILES.items() for place in range(len(planned.lengths))]
EXPECTED = {"photos": bytes([0] * 3 + [1] + [2] * 4 + [3] + [4] * 5), "depths": bytes([10] * 9 + [11] * 2 + [12] * 6)}


def decode(piece: tuple[str, int]) -> NDArray[np.uint8]:
    key, place = piece
    return np.full(FILES[key].lengths[place], place + (10 if key == "depths" else 0), dtype=np.uint8)


def pieces(wanted: Iterable[tuple[str, int]]) -> Iterator[tuple[tuple[str, int], Decode]]:
    for piece in wanted:
        yield piece, lambda piece=piece: decode(piece)  # type: ignore[misc]


def pack(folder: Path, *, state: object = STATE) -> list[tuple[str, int]]:
    """Pack what is left, move it, and give back what was left."""
    with Packing(folder, files=FILES, state=state) as packing:
        wanted = packing.wanted()
        packing.fill(pieces(wanted), title="a test")
        assert packing.wanted() == []
        packing.finish({"index.npy": np.zeros(3, dtype=[("x", "<i4")])})
    return wanted


def test_files_hold_the_pieces_one_after_the_other(tmp_path: Path) -> None:
    assert pack(tmp_path) == PIECES
    assert {key: (tmp_path / planned.name).read_bytes() for key, planned in FILES.items()} == EXPECTED
    assert {path.name for path in tmp_path.iterdir()} == {"photos.u8", "depths.u8", "index.npy"}
    assert np.load(tmp_path / "index.npy").dtype.names == ("x",)


@pytest.mark.parametrize("noted", [1, 3, 1000])
@pytest.mark.parametrize("stop", range(len(PIECES)))
def test_a_break_loses_nothing_and_a_kill_what_was_not_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int, noted: int
) -> None:
    monkeypatch.setattr(piggyback.data.packing, "NOTED_EVERY", noted)
    for name, killed in (("broken", False), ("killed", True)):
        folder = tmp_path / name
        folder.mkdir()

        def break_off() -> Iterator[tuple[tuple[str, int], Decode]]:
            yield from pieces(PIECES[:stop])
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            if killed:  # no time for a note
                patch.setattr(Packing, "__exit__", lambda self, *_: self._held.close())
            with pytest.raises(KeyboardInterrupt), Packing(folder, files=FILES, state=STATE) as packing:
                packing.fill(break_off(), title="a test")
        left = pack(folder)
        assert set(PIECES[stop:]) <= set(left)
        assert killed or left == PIECES[stop:]
        assert {key: (folder / planned.name).read_bytes() for key, planned in FILES.items()} == EXPECTED


def begin_packing(folder: Path, *, some: int = 4) -> None:
    with Packing(folder, files=FILES, state=STATE) as packing:
        packing.fill(pieces(PIECES[:some]), title="a test")


def spoil_done(folder: Path) -> None:
    (partial_folder(folder) / "photos.done.npy").write_bytes(b"\x93NUMPY no more")


def spoil_state(folder: Path) -> None:
    (partial_folder(folder) / "state.json").write_text("{")


def cut_file(folder: Path) -> None:
    os.truncate(partial_folder(folder) / "photos.u8", 7)


def lose_file(folder: Path) -> None:
    (partial_folder(folder) / "photos.u8").unlink()


@pytest.mark.parametrize("spoil", [spoil_done, spoil_state, cut_file, lose_file])
def test_work_that_cannot_be_trusted_is_done_again(tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    begin_packing(tmp_path)
    spoil(tmp_path)
    assert pack(tmp_path) == PIECES
    assert (tmp_path / "photos.u8").read_bytes() == EXPECTED["photos"]


def test_work_on_something_else_is_thrown_away(tmp_path: Path) -> None:
    begin_packing(tmp_path)
    assert pack(tmp_path, state={"pictures": "others"}) == PIECES


def test_a_piece_that_cannot_be_used_is_told_of_and_tried_again_the_next_time(tmp_path: Path) -> None:
    def fail() -> NDArray[np.uint8]:
        raise BadInput("photo 2 is no picture")

    with Packing(tmp_path, files=FILES, state=STATE) as packing:
        packing.fill([(PIECES[2], fail), *pieces([PIECES[0]])], title="a test")
        assert packing.faults == {PIECES[2]: "photo 2 is no picture"}
        assert packing.done == 1
        assert packing.wanted() == [piece for piece in PIECES if piece not in (PIECES[0], PIECES[2])]  # not found
    assert pack(tmp_path) == PIECES[1:]


def test_a_piece_never_reaches_into_its_neighbour(tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match=r"piece 1 of .*photos\.u8 has 2 bytes, 1 were planned"),
        Packing(tmp_path, files=FILES, state=STATE) as packing,
    ):
        packing.fill([(("photos", 1), lambda: np.zeros(2, dtype=np.uint8))], title="a test")


def test_checking_alone_writes_nothing(tmp_path: Path) -> None:
    with Packing(tmp_path, files=FILES, state=STATE, writes=False) as packing:
        packing.fill(pieces(PIECES[:2]), title="a test")
        assert packing.wanted() == PIECES[2:]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("linked", [".partial", ".partial/photos.u8", ".partial/photos.done.npy"])
def test_nothing_is_written_through_a_link(tmp_path: Path, linked: str) -> None:
    folder, other = tmp_path / "packed", tmp_path / "somebody's"
    other.mkdir()
    precious = other / "photos.u8"
    precious.write_bytes(b"precious")
    folder.mkdir()
    begin_packing(folder)
    path = folder / linked
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    path.symlink_to(other if linked == ".partial" else precious)
    pack(folder)
    assert precious.read_bytes() == b"precious"
    assert list(other.iterdir()) == [precious]
    assert not (folder / "photos.u8").is_symlink()
    assert (folder / "photos.u8").read_bytes() == EXPECTED["photos"]


def test_a_full_disk_is_told_of_before_anything_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    files = {"photos": PlannedFile("photos.u8", np.full(9, 1 << 20))}
    with (
        pytest.raises(BadInput, match=r"needs \d\.\d MiB more, but only 0\.0 are free"),
        Packing(tmp_path, files=files, state=STATE),
    ):
        pass
