"""Palette indices in and out, and every file that would silently give others."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from piggyback.shell.errors import BadInput, one_line
from segmentation.release.label_files import (
    encode_label_map,
    palette_of,
    read_label_file,
    read_label_map,
    write_label_map,
)
from segmentation.voc import PALETTE

LABELS = [*range(21), 255]


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(row: bytes, *, width: int, depth: int, colour: int, palette: bytes | None = None, extra: bytes = b"") -> bytes:
    """One row of packed pixels, as the specification has it, with no help from Pillow."""
    header = struct.pack(">IIBBBBB", width, 1, depth, colour, 0, 0, 0)
    plte = b"" if palette is None else chunk(b"PLTE", palette)
    body = chunk(b"IDAT", zlib.compress(b"\0" + row))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + plte + body + chunk(b"IEND", b"")


def saved(picture: Image.Image, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind)
    return buffer.getvalue()


def refused(data: bytes, match: str) -> None:
    with pytest.raises(BadInput, match=match) as caught:
        read_label_map(data, name="somewhere/one.png")
    assert str(caught.value).startswith("somewhere/one.png ")
    assert "\n" not in str(caught.value)


@settings(deadline=None)
@given(arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.sampled_from(LABELS)))
def test_what_is_written_is_read(labels: np.ndarray) -> None:
    data = encode_label_map(labels)
    assert np.array_equal(read_label_map(data, name="x"), labels)
    assert data == encode_label_map(np.asfortranarray(labels))
    assert palette_of(data, name="x") == PALETTE
    with Image.open(io.BytesIO(data)) as picture:  # and by any other reader of mode P
        assert picture.mode == "P"
        assert picture.convert("RGB").getpixel((0, 0)) == tuple(PALETTE[3 * int(labels[0, 0]) :][:3])


def test_other_palettes_and_grey_are_taken() -> None:
    row = bytes([0, 1, 20, 255])
    ramp = bytes(value for value in range(256) for _ in range(3))
    for palette in (ramp, bytes(768), bytes(3), PALETTE[:63], None):
        data = png(row, width=4, depth=8, colour=3, palette=palette)
        assert read_label_map(data, name="x").tolist() == [list(row)]
    assert read_label_map(png(row, width=4, depth=8, colour=0), name="x").tolist() == [list(row)]
    # Black is VOC's background, and also what nobody set: it proves nothing about index 5.
    assert read_label_map(png(b"\5", width=1, depth=8, colour=3, palette=bytes(768)), name="x").tolist() == [[5]]
    assert read_label_map(png(b"\x1f", width=2, depth=4, colour=3, palette=ramp[:48]), name="x").tolist() == [[1, 15]]
    labels = read_label_map(png(b"\x40", width=3, depth=1, colour=3, palette=PALETTE[:6]), name="x")
    assert labels.tolist() == [[0, 1, 0]]
    assert labels.dtype == np.uint8


def test_other_values_are_refused() -> None:
    refused(png(bytes([0, 21, 30]), width=3, depth=8, colour=3, palette=PALETTE), "value 21 in row 0, column 1")
    refused(png(bytes([0, 20, 254]), width=3, depth=8, colour=0), "value 254 in row 0, column 2")


def test_renumbered_palettes_are_refused() -> None:
    person, void = PALETTE[45:48], PALETTE[765:768]
    compact = PALETTE[:3] + person + void
    refused(png(bytes([0, 1, 2]), width=3, depth=8, colour=3, palette=compact), r"1 has the colour of 15 \(person\)")
    refused(png(bytes([0, 2]), width=2, depth=8, colour=3, palette=compact), r"2 has the colour of 255 \(void\)")
    # Red and blue may be swapped in a whole palette, but a compact one proves nothing of the kind.
    swapped = np.frombuffer(PALETTE, np.uint8).reshape(256, 3)[:, ::-1].tobytes()
    for colours in (21, 256):
        data = png(bytes([0, 1, 4, 15]), width=4, depth=8, colour=3, palette=swapped[: 3 * colours])
        assert read_label_map(data, name="x").tolist() == [[0, 1, 4, 15]]
    refused(png(b"\1", width=1, depth=8, colour=3, palette=swapped[:6]), r"1 has the colour of 4 \(boat\)")
    # What the colours do not prove is let be: here 2 has no colour of VOC's.
    other = PALETTE[:3] + person + b"\x01\x02\x03"
    assert read_label_map(png(bytes([0, 1, 2]), width=3, depth=8, colour=3, palette=other), name="x")[0, 1] == 1


def test_indices_cut_by_their_writer_are_refused() -> None:
    # What Pillow makes of mode P without a palette: one colour, one bit, and 255 and 20 become 1.
    picture = Image.frombytes("P", (4, 1), bytes([0, 1, 255, 20]))
    refused(saved(picture), "index 1, but only 1 colours and 1 bits")


@pytest.mark.parametrize(
    ("mode", "match"),
    [("RGB", "is RGB"), ("RGBA", "is RGBA"), ("LA", "grey with transparency"), ("1", "1-bit grey"), ("I;16", "16-bit")],
)
def test_other_modes_are_refused(mode: str, match: str) -> None:
    refused(saved(Image.new(mode, (3, 2))), match)


def test_grey_of_few_bits_is_refused_and_not_scaled() -> None:
    refused(png(b"\x10", width=2, depth=4, colour=0), "4-bit grey")  # Pillow reads 17, a sheep


def test_other_files_are_refused() -> None:
    refused(saved(Image.new("L", (3, 2)), "JPEG"), "is a JPEG")
    refused(b"", "is empty")
    refused(b"P5 1 1 255 0", "not a PNG")
    header = struct.pack(">IIBBBBB", 1 << 16, 1 << 16, 8, 3, 0, 0, 0)
    refused(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IEND", b""), "claims 65,536 x 65,536")
    frames = chunk(b"acTL", struct.pack(">II", 2, 0))
    refused(png(b"\0", width=1, depth=8, colour=3, palette=PALETTE, extra=frames), "animated")
    refused(png(b"", width=9, depth=8, colour=3, palette=PALETTE), "cannot be decoded")
    refused(png(b"\0", width=1, depth=5, colour=3, palette=PALETTE), "is not a PNG picture")


def test_damage_is_found_wherever_it_is() -> None:
    whole = encode_label_map(np.arange(20, dtype=np.uint8).reshape(4, 5))
    for size in range(len(whole)):  # Pillow takes a file without its last 20 bytes
        with pytest.raises(BadInput, match=r"not a PNG|empty|ends early"):
            read_label_map(whole[:size], name="x")
    for place in range(len(whole)):
        broken = bytearray(whole)
        broken[place] ^= 4
        with pytest.raises(BadInput):
            read_label_map(bytes(broken), name="x")
    assert read_label_map(whole + b"more", name="x").shape == (4, 5)


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "a folder" / "with\nnewline" / "one.png"
    write_label_map(path, np.full((2, 3), 15, dtype=np.uint8))
    assert read_label_file(path).tolist() == [[15] * 3] * 2
    assert [file.name for file in path.parent.iterdir()] == ["one.png"]
    path.write_bytes(b"")
    for place, match in (
        (path, "is empty"),
        (tmp_path / "none.png", "cannot be read: No such file"),
        (tmp_path, "is a folder"),
    ):
        with pytest.raises(BadInput, match=match) as caught:
            read_label_file(place)
        assert "\n" not in str(caught.value)
    assert one_line(Path("a b")) == "a b"
    assert one_line("a\nb") == r"'a\nb'"


def test_labels_that_are_none_are_not_written(tmp_path: Path) -> None:
    for labels in (np.zeros((2, 2)), np.zeros(4, np.uint8), np.zeros((0, 3), np.uint8), np.full((2, 2), 21, np.uint8)):
        with pytest.raises(ValueError, match="labels must be"):
            write_label_map(tmp_path / "x.png", labels)
    assert not list(tmp_path.iterdir())


def test_real_label_maps(shared_data: Path) -> None:
    folder = shared_data / "segmentation" / "VOCdevkit" / "VOC2012" / "SegmentationClass"
    paths = sorted(folder.glob("*.png"))[:10]
    for path in paths:
        labels = read_label_file(path)
        with Image.open(path) as picture:
            assert picture.size == labels.shape[::-1]
            colours = np.asarray(picture.convert("RGB"))
        assert np.array_equal(np.frombuffer(PALETTE, np.uint8).reshape(256, 3)[labels], colours)
    assert paths
