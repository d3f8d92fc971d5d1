"""Strict JSON: the quick way in gives what the slow one gives, value for value and fault for fault."""

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from leaderboard import strict_json
from leaderboard.faults import Fault
from leaderboard.strict_json import LARGEST, parse

NUMBERS = st.integers(-LARGEST - 2, LARGEST + 2) | st.floats() | st.sampled_from([0, -0.0, 1, 1.0, 1e308])
VALUES = st.none() | st.booleans() | NUMBERS | st.text(max_size=8) | st.sampled_from(["a:b", "\\", '"', "\ud800"])
DOCUMENTS = st.recursive(VALUES, lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=3), inner))
PIECES = b"""{}[]:,"\\ \n\t.-+0e9EaN/'\x00\x7f\x80\xc3\xa9\xed\xff"""


def read(data: bytes, *, slowly: bool) -> tuple[str, str]:
    try:
        return "", repr(strict_json._parse_slowly(data) if slowly else parse(data))
    except Fault as fault:
        return fault.kind, fault.message


@settings(deadline=None)
@given(DOCUMENTS, st.booleans())
def test_any_document_is_read_alike(document: Any, plain: bool) -> None:
    data = json.dumps(document, ensure_ascii=plain).encode(errors="surrogatepass")
    assert read(data, slowly=False) == read(data, slowly=True)


@settings(deadline=None)
@given(DOCUMENTS, st.data())
def test_any_damage_is_told_alike(document: Any, drawn: st.DataObject) -> None:
    data = bytearray(json.dumps(document).encode())
    for _ in range(drawn.draw(st.integers(1, 3))):
        at = drawn.draw(st.integers(0, len(data)))
        data[at : at + drawn.draw(st.integers(0, 1))] = bytes([drawn.draw(st.sampled_from(PIECES))])
    assert read(bytes(data), slowly=False) == read(bytes(data), slowly=True)


@settings(deadline=None)
@given(st.text("0123456789.eE+-", max_size=40))
@example("2.2250738585072011e-308")
@example("1.7976931348623159e308")
@example("9007199254740991")
@example("-9007199254740992")
def test_any_number_is_read_alike(text: str) -> None:
    assert read(text.encode(), slowly=False) == read(text.encode(), slowly=True)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ('{"a": 1, "a": 2}', "duplicate-key"),
        ('{"a": 1, "\\u0061": 1}', "duplicate-key"),
        ('{":": 1, "a": {"b": 1, "b": ":"}}', "duplicate-key"),
        ('[1, {"a": {}, "a": {"b": 1}}]', "duplicate-key"),
        ("[NaN]", "not-finite"),
        ("[-Infinity]", "not-finite"),
        ("[1e999]", "not-finite"),
        ("[9007199254740992]", "huge-number"),
        (f"[{'9' * 5000}]", "huge-number"),
        ("\ufeff{}", "not-json"),
        ("[1,]", "not-json"),
        ("[" * 100_000, "too-deep"),
        ("[1] [2]", "not-json"),
        ("", "not-json"),
    ],
)
def test_what_is_not_ours_is_refused(text: str, kind: str) -> None:
    assert read(text.encode(), slowly=False)[0] == kind


def test_what_is_ours_is_taken() -> None:
    """Colons in texts, a lone surrogate, and more depth than the quick parser goes."""
    for document in ({"a:b": ":::", "c": [True, None, -0.0, LARGEST]}, None, "\ud800", {"": {"": {}}}):
        found = parse(json.dumps(document).encode())
        assert repr(found) == repr(document)
    assert read(b"[" * 300 + b"]" * 300, slowly=False) == ("", "[" * 300 + "]" * 300)
