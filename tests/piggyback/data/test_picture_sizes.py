"""Sizes are measured once, by headers alone."""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from piggyback.data.packing import begin
from piggyback.data.picture_sizes import load_sizes, measure_all

SIZES = {"a": (3, 4), "b": (5, 6)}


def encode(height: int, width: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((height, width), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


class Source:
    """Pictures that count how often they are read."""

    def __init__(self, **pictures: bytes) -> None:
        self.pictures, self.read = pictures, 0

    def __iter__(self) -> Iterator[tuple[str, bytes, str]]:
        for one, data in self.pictures.items():
            self.read += 1
            yield one, data, f"{one}.png"


def test_sizes_are_measured_once(tmp_path: Path) -> None:
    source = Source(**{one: encode(*size) for one, size in SIZES.items()})
    for state in ("first", "first"):
        begin(tmp_path, state=state)
        assert measure_all(tmp_path, source, ids=["a", "b"], title="sizes") == (SIZES, {})
    assert source.read == 2
    assert load_sizes(tmp_path, count=3) is None
    begin(tmp_path, state="something else")
    assert measure_all(tmp_path, source, ids=["a", "b"], title="sizes") == (SIZES, {})
    assert source.read == 4


def test_what_is_missing_or_no_picture_has_no_size_and_nothing_is_noted(tmp_path: Path) -> None:
    source = Source(a=encode(3, 4)[:30], b=encode(5, 6))
    begin(tmp_path, state="first")
    for _ in range(2):
        sizes, faults = measure_all(tmp_path, source, ids=["a", "b", "c"], title="sizes")
        assert sizes == {"b": (5, 6)}
        assert faults.keys() == {"a"}
        assert faults["a"].startswith("a.png ")
    assert source.read == 4
    (tmp_path / ".partial" / "sizes.npy").write_bytes(b"damaged")
    assert measure_all(tmp_path, source, ids=["b"], title="sizes")[0] == {"b": (5, 6)}
