"""JSON from strangers: one meaning only, no surprises for who reads it, and a bound on what it takes to hold it."""

import json
import math
from typing import Final, TypeGuard

from pydantic_core import from_json

from leaderboard.faults import Fault, shown

MAX_VALUES: Final = 1_000_000
LARGEST: Final = (1 << 53) - 1
"""Whole numbers up to here are the same in every program, as RFC 8259 says in its section 6."""


def parse(data: bytes, *, values: int = MAX_VALUES) -> object:
    """Parse UTF-8 JSON; a key stands once in an object, and every number is finite.

    `json.loads` takes NaN, makes infinity of 1e999 and keeps the last of two equal keys; none of these is taken here.

    Args:
        data: the text.
        values: how many values it may hold; counted by commas and brackets, before anything is made of them.

    Raises:
        Fault: ``not-text``, ``not-json``, ``duplicate-key``, ``not-finite``, ``huge-number``, ``too-deep`` or
            ``too-large``.
    """
    if data.count(b",") + data.count(b"[") + data.count(b"{") > values:
        raise Fault("too-large", f"is not JSON of ours: it has more than {values:,} values")
    document = _parse_quickly(data)
    return _parse_slowly(data) if document is None else document


def _parse_quickly(data: bytes) -> object:
    """The document where it is surely one of ours, in a fifth of the time; None where it has to be looked at closely.

    This parser takes nothing that `json.loads` does not, but keeps the last of two equal keys, and any number.  A
    document has at least as many colons as pairs, so where as many pairs as colons were kept, no key stood twice.
    """
    try:
        document = from_json(data, allow_inf_nan=False)
    except ValueError:
        return None
    pairs, rest = 0, [document]
    for value in rest:  # which grows on the way
        kind = type(value)
        if kind is dict:
            pairs += len(value)
            rest += value.values()
        elif kind is list:
            rest += value
        elif (kind is float and not math.isfinite(value)) or (kind is int and not -LARGEST <= value <= LARGEST):
            return None
    return document if pairs == data.count(b":") else None


def _parse_slowly(data: bytes) -> object:
    """The document by a parser that tells each key and number, so that what is wrong can be named."""
    try:
        text = data.decode()
    except UnicodeDecodeError as fault:
        raise Fault("not-text", f"is not JSON: not UTF-8 at byte {fault.start}") from None
    try:
        return json.loads(text, object_pairs_hook=_once, parse_constant=_finite, parse_float=_finite, parse_int=_whole)
    except RecursionError:
        raise Fault("too-deep", "is nested too deeply to be one of ours") from None
    except json.JSONDecodeError as fault:
        raise Fault("not-json", f"is not JSON: {fault.msg} at line {fault.lineno}, column {fault.colno}") from None


def is_number(value: object) -> TypeGuard[float]:
    """Whether a parsed value is a number; true and false are none, though they are ints to Python."""
    return type(value) is float or type(value) is int


def is_count(value: object) -> TypeGuard[int]:
    """Whether a parsed value is a whole number, 0 or more."""
    return type(value) is int and value >= 0


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    seen: set[str] = set()
    for key, _ in pairs:
        if key in seen:
            raise Fault(
                "duplicate-key", f"is not JSON of ours: the key {shown(key, longest=80)!r} stands twice in one object"
            )
        seen.add(key)
    raise AssertionError("some key must stand twice")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise Fault(
            "not-finite", f"has the number {shown(text, longest=40)}, which is not finite and cannot be written as JSON"
        )
    return value


def _whole(text: str) -> int:
    value = int(text) if len(text) <= len(str(-LARGEST)) else LARGEST + 1
    if abs(value) > LARGEST:
        raise Fault("huge-number", f"is not JSON of ours: it has the number {shown(text, longest=40)}, beyond 2^53")
    return value
