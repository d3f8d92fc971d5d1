"""Packed folders: what their manifest and their index must be, and every file that they must not be."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from piggyback.data.packed import Packs, count_pixels, fingerprint, map_bytes, open_index, read_flag, set_offsets
from piggyback.shell.errors import BadInput

PACKS = Packs(benchmark="third", unit="album", key="name", version=3)
KIND = np.dtype([("offset", "<i8"), ("height", "<i4"), ("width", "<i4")])


def build(fields: Mapping[str, Any]) -> tuple[int, bool]:
    return int(fields["count"]), read_flag(fields["official"])


def test_a_manifest_is_read_as_it_was_written(tmp_path: Path) -> None:
    root = tmp_path / "my albums"
    assert PACKS.read(root, "one", build=build) is None
    with pytest.raises(BadInput, match=r"one is not packed in .*\. Run `piggyback third prepare .* --albums one`$"):
        PACKS.read_finished(root, "one", build=build)
    PACKS.write(root, "one", {"name": "one", "count": 7, "official": True})
    assert PACKS.read_finished(root, "one", build=build) == (7, True)
    assert json.loads((root / "one" / "album.json").read_text())["version"] == 3
    assert PACKS.command(root, "one") == f"piggyback third prepare --source FOLDER --out '{root}' --albums one"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "is not a version 3 description of one"),
        ('{"version": 2, "name": "one"}', "is not a version 3 description of one"),
        ('{"version": 3, "name": "two"}', "is not a version 3 description of one"),
        ('{"version": 3, "name": "one"}', r"is damaged \(KeyError\('count'\)\)"),
        ('{"version": 3, "name": "one", "count": "many", "official": true}', "is damaged"),
        ('{"version": 3, "name": "one", "count": 1, "official": 1}', "1 is neither true nor false"),
        ('{"version": 3, "name": "one", "count": 1e999, "official": true}', "album.json "),
        ("\\xff", "is not JSON"),
    ],
)
def test_a_damaged_manifest_says_what_to_do(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "album.json").write_text(text)
    with pytest.raises(BadInput, match=message) as caught:
        PACKS.read(tmp_path, "one", build=build)
    assert str(caught.value).endswith(f": delete {tmp_path / 'one'} and run `{PACKS.command(tmp_path, 'one')}`")
    assert "\n" not in str(caught.value)


def write(folder: Path, *, step: int = 3) -> np.ndarray:
    index = np.zeros(2, dtype=KIND)
    index["height"], index["width"] = (2, 3), (4, 5)
    set_offsets(index, step=step)
    np.save(folder / "index.npy", index)
    (folder / "pixels.u8").write_bytes(bytes(range(69)))
    return index


def opened(folder: Path, *, count: int = 2) -> np.ndarray:
    return open_index(folder / "index.npy", kind=KIND, count=count, step=3, files={folder / "pixels.u8": 3})


def test_an_index_fits_its_pixels(tmp_path: Path) -> None:
    index = write(tmp_path)
    assert index["offset"].tolist() == [0, 24]
    assert np.array_equal(opened(tmp_path), index)
    assert count_pixels(index).tolist() == [8, 15]
    pixels = map_bytes(tmp_path / "pixels.u8")
    assert pixels.tolist() == list(range(69))
    with pytest.raises(ValueError, match="read-only"):
        pixels[0] = 1


def change(index: np.ndarray, field: str, value: int) -> np.ndarray:
    index[field][1] = value
    return index


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder, index: np.save(folder / "index.npy", index[:1]), "is not an index of 2 pictures"),
        (lambda folder, index: np.save(folder / "index.npy", index["offset"]), "is not an index of 2 pictures"),
        (
            lambda folder, index: np.save(folder / "index.npy", change(index, "offset", 25)),
            "offsets that do not follow",
        ),
        (lambda folder, index: np.save(folder / "index.npy", change(index, "height", 0)), "has a height that is"),
        (lambda folder, index: np.save(folder / "index.npy", change(index, "width", 1 << 30)), "has a width that is"),
        (lambda folder, index: os.truncate(folder / "pixels.u8", 68), "has 68 bytes, not the 69 of its index"),
        (lambda folder, index: (folder / "pixels.u8").unlink(), r"cannot read what belongs to .*pixels\.u8: No such"),
        (
            lambda folder, index: (folder / "index.npy").unlink(),
            "is not an index of 2 pictures: it cannot be read",
        ),
    ],
)
def test_an_index_that_does_not_fit_is_refused(tmp_path: Path, spoil: Any, message: str) -> None:
    spoil(tmp_path, write(tmp_path))
    with pytest.raises(BadInput, match=message):
        opened(tmp_path)


def test_a_folder_of_nothing_is_refused(tmp_path: Path) -> None:
    write(tmp_path)
    np.save(tmp_path / "index.npy", np.zeros(0, dtype=KIND))
    with pytest.raises(BadInput, match="has no picture"):
        opened(tmp_path, count=0)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PK\x05\x06" + bytes(18),
        b"\x93NUMPY\x01\x00\x10\x00{'descr': ((((((",
        b"\x93NUMPY\x01\x00" + b"\xff\xff" + b"(" * 65535,
        b"\x93NUMPY\x01\x00\x46\x00{'descr': '<i8', 'fortran_order': False, 'shape': (1125899906842624,)}",
        b"\x80\x04\x95",
    ],
)
def test_a_strangers_index_is_one_line(tmp_path: Path, data: bytes) -> None:
    write(tmp_path)
    (tmp_path / "index.npy").write_bytes(data)
    with pytest.raises(BadInput, match="is not an index of 2 pictures") as caught:
        opened(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "index.npy").unlink()
    os.mkfifo(tmp_path / "index.npy")
    with pytest.raises(BadInput, match="is not an index of 2 pictures: it is a pipe"):
        opened(tmp_path)


def test_a_fingerprint_is_over_all_parts_in_their_order(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"large")
    assert fingerprint([b"x", tmp_path / "a", b"y"]) == hashlib.sha256(b"xlargey").hexdigest()
