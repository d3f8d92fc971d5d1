"""JSON from untrusted sources: one meaning only, and a bound on the memory that it takes."""

import json
import math
from pathlib import Path
from typing import Final, TypeGuard

from pydantic_core import from_json

from piggyback.shell.errors import Fault, one_line, shown
from piggyback.shell.files import read_file

MAX_BYTES: Final = 64 << 20
MAX_VALUES: Final = 1_000_000
LARGEST: Final = (1 << 53) - 1
"""Whole numbers up to here are the same in every program, as RFC 8259 says in its section 6."""


def read_json(path: Path, *, limit: int = MAX_BYTES, values: int = MAX_VALUES) -> object:
    """Read a JSON file strictly.

    Args:
        path: of the file.
        limit: in bytes.
        values: as of `parse_json`.

    Raises:
        Fault: as of `piggyback.shell.files.read_file` and `parse_json`.
    """
    return parse_json(read_file(path, limit=limit), name=one_line(path), values=values)


def parse_json(data: bytes, *, name: str = "", values: int = MAX_VALUES, largest: int = LARGEST) -> object:
    """Parse UTF-8 JSON from an untrusted source; keys are unique within an object, and every number is finite.

    `json.loads` accepts NaN, turns 1e999 into infinity and keeps the last of two equal keys; these are refused here.

    Args:
        data: the text.
        name: the file's name for messages; empty if the caller names it.
        values: how many values it may hold; counted by commas and brackets before parsing.
        largest: largest whole number accepted.

    Raises:
        Fault: ``not-text``, ``not-json``, ``duplicate-key``, ``not-finite``, ``huge-number``, ``too-deep`` or
            ``too-large``.
    """
    if data.count(b",") + data.count(b"[") + data.count(b"{") > values:
        raise Fault("too-large", f"has more than {values:,} values, too many to be one of ours", file=name)
    document = _parse_quickly(data, largest=largest)
    if document is not None:
        return document
    try:
        return _parse_slowly(data, largest=largest)
    except Fault as fault:
        raise Fault(fault.kind, fault.message, file=name) from None


def _parse_quickly(data: bytes, *, largest: int) -> object:
    """The document if it is certainly acceptable, in a fifth of the time; None if it needs the slow parser.

    This parser accepts nothing that `json.loads` does not, but keeps the last of two equal keys, and any number.  A
    document has at least as many colons as pairs, so if as many pairs as colons were kept, no key was repeated.
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
        elif (kind is float and not math.isfinite(value)) or (kind is int and not -largest <= value <= largest):
            return None
    return document if pairs == data.count(b":") else None


def _parse_slowly(data: bytes, *, largest: int) -> object:
    """The document, by a parser that calls back for each key and number, so that the fault can be named."""
    try:
        text = data.decode()
    except UnicodeDecodeError as fault:
        raise Fault("not-text", f"is not JSON: not UTF-8 at byte {fault.start}") from None
    try:
        return json.loads(
            text,
            object_pairs_hook=_once,
            parse_constant=_finite,
            parse_float=_finite,
            parse_int=lambda digits: _whole(digits, largest=largest),
        )
    except RecursionError:
        raise Fault("too-deep", "is nested too deeply") from None
    except json.JSONDecodeError as fault:
        raise Fault("not-json", f"is not JSON: {fault.msg} at line {fault.lineno}, column {fault.colno}") from None


def is_number(value: object) -> TypeGuard[float]:
    """Whether a parsed value is a number; booleans are not, although Python counts them as ints."""
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
            raise Fault("duplicate-key", f"has the key {shown(key, longest=80)!r} twice in one object")
        seen.add(key)
    raise AssertionError("some key must be repeated")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise Fault("not-finite", f"has the number {shown(text, longest=40)}, which is not finite, so not JSON")
    return value


def _whole(text: str, *, largest: int) -> int:
    value = int(text) if len(text) <= len(str(-largest)) else largest + 1  # Python refuses thousands of digits
    if abs(value) > largest:
        raise Fault("huge-number", f"has the number {shown(text, longest=40)}, beyond the largest, {largest}")
    return value
