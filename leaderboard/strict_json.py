"""JSON from strangers: one meaning only, no surprises for who reads it, and a bound on what it takes to hold it."""

import json
import math
from typing import Final, TypeGuard

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
