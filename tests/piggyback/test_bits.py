import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from piggyback.masks.bits import CODINGS, Stream, decode, deflate, encode, encode_gaps, pack, unpack
from piggyback.shell.errors import BadPayload


def booleans(*ones: int, count: int) -> NDArray[np.bool_]:
    values = np.zeros(count, np.bool_)
    values[list(ones)] = True
    return values


@pytest.mark.parametrize(
    ("ones", "count", "expected"),
    [
        ((0, 2), 3, "05"),  # 1 + 4
        ((0,), 8, "01"),
        ((7,), 8, "80"),
        ((8,), 9, "00 01"),
        ((1, 3, 15), 16, "0a 80"),  # 2 + 8, 128
    ],
)
def test_the_first_value_is_the_lowest_bit(ones: tuple[int, ...], count: int, expected: str) -> None:
    values = booleans(*ones, count=count)
    assert pack(values) == bytes.fromhex(expected)
    assert np.array_equal(unpack(bytes.fromhex(expected), count=count), values)


# Distances between places, less one, the first from place -1, as base-128 numbers with the lowest seven bits first:
# 0 and 130 give 0 and 129 = 1 * 128 + 1; 16384 gives 1 * 128 * 128.
@pytest.mark.parametrize(
    ("places", "expected"),
    [((0, 130), "00 81 01"), ((127,), "7f"), ((128,), "80 01"), ((5, 6, 7), "05 00 00"), ((16384,), "80 80 01")],
)
def test_gap_codes_by_hand(places: tuple[int, ...], expected: str) -> None:
    count = 40_000
    data = bytes.fromhex(expected)
    assert encode_gaps(np.array(places)) == data
    few = booleans(*places, count=count)
    assert encode(few) == Stream("gap1", data)
    assert encode(~few) == Stream("gap0", data)
    assert np.array_equal(decode(Stream("gap1", data), count=count), few)
    assert np.array_equal(decode(Stream("gap0", data), count=count), ~few)


def test_all_equal_values_take_no_byte() -> None:
    assert encode(np.ones(1000, np.bool_)) == Stream("gap0", b"")
    assert encode(np.zeros(1000, np.bool_)) == Stream("gap1", b"")


@pytest.mark.parametrize(
    ("share", "coding", "low", "high"),
    # Entropy of independent bits below; reference/masking.md 5.2 measured 0.3007, 0.5388 and 0.8883 bits per value
    [
        (0.05, "deflate", 0.2864, 0.31),
        (0.12, "deflate", 0.5294, 0.55),
        (0.30, "deflate", 0.8813, 0.90),
        (0.5, "raw", 1, 1),
    ],
)
def test_coded_masks_come_near_the_entropy(share: float, coding: str, low: float, high: float) -> None:
    values = np.random.default_rng(0).random(1 << 20) < share
    stream = encode(values)
    assert stream.coding == coding
    assert low * 0.99 <= 8 * len(stream.data) / values.size <= high
    assert np.array_equal(decode(stream, count=values.size), values)


@settings(max_examples=150, deadline=None, database=None, derandomize=True)
@given(
    count=st.integers(0, 3000),
    share=st.sampled_from([0.0, 0.001, 0.01, 0.05, 0.3, 0.5, 0.9, 0.99, 1.0]),
    seed=st.integers(0, 2**32 - 1),
)
def test_every_tensor_comes_back(count: int, share: float, seed: int) -> None:
    values = np.random.default_rng(seed).random(count) < share
    stream = encode(values)
    assert stream.coding in CODINGS
    assert len(stream.data) <= (count + 7) // 8
    assert np.array_equal(decode(stream, count=count), values)


@settings(max_examples=150, deadline=None, database=None, derandomize=True)
@given(values=st.lists(st.booleans(), max_size=200))
def test_every_coding_by_itself_comes_back(values: list[bool]) -> None:
    array = np.array(values, np.bool_)
    for stream in (
        Stream("raw", pack(array)),
        Stream("deflate", deflate(pack(array))),
        Stream("gap1", encode_gaps(np.flatnonzero(array))),
        Stream("gap0", encode_gaps(np.flatnonzero(~array))),
    ):
        assert np.array_equal(decode(stream, count=array.size), array)


@settings(max_examples=300, deadline=None, database=None, derandomize=True)
@given(coding=st.sampled_from([*CODINGS, "zip"]), data=st.binary(max_size=40), count=st.integers(0, 400))
def test_any_bytes_decode_to_the_right_length_or_are_refused(coding: str, data: bytes, count: int) -> None:
    try:
        values = decode(Stream(coding, data), count=count)  # type: ignore[arg-type]
    except BadPayload:
        return
    assert values.shape == (count,)
    assert values.dtype == np.bool_
    assert set(values.view(np.uint8)) <= {0, 1}


@pytest.mark.parametrize(
    ("coding", "data", "count", "message"),
    [
        ("raw", b"\x05\x00", 8, "8 bits take 1 bytes, but there are 2"),
        ("raw", b"", 8, "8 bits take 1 bytes, but there are 0"),
        ("raw", b"\x08", 3, "unused bits"),
        ("deflate", deflate(b"\x08"), 3, "unused bits"),
        ("deflate", deflate(b"\x01\x00"), 8, "does not hold exactly 1 bytes"),
        ("deflate", deflate(b"\x01"), 9, "does not hold exactly 2 bytes"),
        ("deflate", deflate(b"\x01") + b"\x00", 8, "does not hold exactly 1 bytes"),
        ("deflate", deflate(b"\x01" * 99)[:-1], 792, "does not hold exactly 99 bytes"),
        ("deflate", b"\xff\xff", 8, "damaged"),
        ("gap1", b"\x08", 8, "outside its 8 values"),
        ("gap1", b"\x07\x00", 8, "outside its 8 values"),
        ("gap0", b"\x00" * 9, 8, "outside its 8 values"),
        ("gap1", b"\x80", 8, "ends inside a number"),
        ("gap1", b"\x80\x80\x80\x80\x80\x01", 8, "more than 35 bits"),
        ("zip", b"", 8, "no mask coding 'zip'"),
    ],
)
def test_wrong_streams_are_refused(coding: str, data: bytes, count: int, message: str) -> None:
    with pytest.raises(BadPayload, match=message):
        decode(Stream(coding, data), count=count)  # type: ignore[arg-type]


def test_the_last_place_is_inside() -> None:
    """The control of the two refusals above."""
    assert np.array_equal(decode(Stream("gap1", b"\x07"), count=8), booleans(7, count=8))
    assert np.array_equal(decode(Stream("raw", b"\x07"), count=3), np.ones(3, np.bool_))


def test_a_deflate_bomb_is_not_unpacked() -> None:
    coder = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = coder.compress(bytes(1 << 26)) + coder.flush()
    assert len(bomb) < 1 << 17
    tracemalloc.start()
    try:
        with pytest.raises(BadPayload, match="does not hold exactly 125 bytes"):
            decode(Stream("deflate", bomb), count=1000)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
