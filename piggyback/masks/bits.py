"""Boolean tensors as packed bits, and three codings of them.

``docs/payload-format.md`` specifies the codings.
"""

import zlib
from typing import Final, Literal, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from piggyback.shell.errors import BadPayload

Coding = Literal["raw", "deflate", "gap0", "gap1"]
CODINGS: Final[tuple[Coding, ...]] = ("raw", "deflate", "gap0", "gap1")
SPARSE: Final = 0.02  # a gap code is tried where the rarer symbol is at most this frequent


class Stream(NamedTuple):
    """A coded boolean tensor."""

    coding: Coding
    data: bytes


def pack(values: NDArray[np.bool_]) -> bytes:
    """Eight values in each byte, the first in the lowest bit; zeros fill up the last byte."""
    return np.packbits(values.reshape(-1), bitorder="little").tobytes()


def unpack(data: bytes, *, count: int) -> NDArray[np.bool_]:
    """The first `count` values of packed bits.

    Raises:
        BadPayload: the length does not fit `count` values, or the filling is not zero.
    """
    if len(data) != (count + 7) // 8:
        raise BadPayload(f"{count} bits take {(count + 7) // 8} bytes, but there are {len(data)}")
    if count % 8 and data[-1] >> (count % 8):
        raise BadPayload("the unused bits of a mask's last byte are not zero")
    values = np.unpackbits(np.frombuffer(data, np.uint8), count=count, bitorder="little")
    return cast(NDArray[np.bool_], values.view(np.bool_))


def encode(values: NDArray[np.bool_]) -> Stream:
    """The shortest coding of the values, never longer than their packed bits."""
    values = values.reshape(-1)
    packed = pack(values)
    candidates = [Stream("raw", packed), Stream("deflate", deflate(packed))]
    ones = int(np.count_nonzero(values))
    rare = 1 if 2 * ones <= values.size else 0
    if min(ones, values.size - ones) <= SPARSE * values.size:
        places = np.flatnonzero(values if rare else ~values)
        candidates.append(Stream("gap1" if rare else "gap0", encode_gaps(places)))
    return min(candidates, key=lambda stream: len(stream.data))


def decode(stream: Stream, *, count: int) -> NDArray[np.bool_]:
    """The `count` values of a coded tensor, in no more memory than they need.

    Raises:
        BadPayload: the bytes are not a coding of exactly `count` values.
    """
    if stream.coding == "raw":
        return unpack(stream.data, count=count)
    if stream.coding == "deflate":
        return unpack(inflate(stream.data, size=(count + 7) // 8), count=count)
    if stream.coding in ("gap0", "gap1"):
        places = decode_gaps(stream.data)
        if places.size > count or (places.size and (places[-1] >= count or places.min() < 0)):
            raise BadPayload(f"a gap code names places outside its {count} values")
        rare = stream.coding == "gap1"
        values = np.full(count, not rare)
        values[places] = rare
        return values
    raise BadPayload(f"there is no mask coding {stream.coding!r}; known are {', '.join(CODINGS)}")


def deflate(data: bytes) -> bytes:
    """The bytes as raw deflate, with Huffman codes alone: a mask has no repeats for a dictionary to find."""
    coder = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zlib.Z_HUFFMAN_ONLY)
    return coder.compress(data) + coder.flush()


def inflate(data: bytes, *, size: int) -> bytes:
    """The `size` bytes in raw deflate."""
    decoder = zlib.decompressobj(-15)
    try:
        found = decoder.decompress(data, size + 1)
    except zlib.error as fault:
        raise BadPayload(f"a mask's deflate stream is damaged: {fault}") from None
    if len(found) != size or not decoder.eof or decoder.unused_data:
        raise BadPayload(f"a mask's deflate stream does not hold exactly {size} bytes")
    return found


def encode_gaps(places: NDArray[np.int64]) -> bytes:
    """Distances between ascending places, less one, each as a little-endian base-128 number (LEB128)."""
    gaps = np.diff(places, prepend=-1) - 1
    pieces = [np.zeros((gaps.size, 0), np.uint8)]
    used = [np.zeros((gaps.size, 0), np.bool_)]
    more = np.ones(gaps.size, np.bool_)
    while more.any():
        low, gaps = gaps & 0x7F, gaps >> 7
        last = gaps == 0
        pieces.append(np.where(last, low, low | 0x80).astype(np.uint8)[:, None])
        used.append(more[:, None])
        more = more & ~last
    return cast(bytes, np.concatenate(pieces, axis=1)[np.concatenate(used, axis=1)].tobytes())


def decode_gaps(data: bytes) -> NDArray[np.int64]:
    """The ascending places in a gap code."""
    raw = np.frombuffer(data, np.uint8)
    if raw.size == 0:
        return np.zeros(0, np.int64)
    last = raw < 0x80
    if not last[-1]:
        raise BadPayload("a gap code ends inside a number")
    ends = np.flatnonzero(last)
    starts = np.concatenate(([0], ends[:-1] + 1))
    length = ends - starts + 1
    if length.max() > 5:
        raise BadPayload("a gap code has a number of more than 35 bits")
    position = np.arange(raw.size) - np.repeat(starts, length)
    gaps = np.add.reduceat((raw & 0x7F).astype(np.int64) << (7 * position), starts)
    return np.cumsum(gaps + 1) - 1
