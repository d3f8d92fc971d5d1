"""Strict JSON: the quick way in gives what the slow one gives, value for value and fault for fault."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from piggyback.shell import strict_json
from piggyback.shell.errors import BadInput, Fault
from piggyback.shell.strict_json import LARGEST, is_count, is_number, parse_json, read_json

NUMBERS = st.integers(-LARGEST - 2, LARGEST + 2) | st.floats() | st.sampled_from([0, -0.0, 1, 1.0, 1e308])
VALUES = st.none() | st.booleans() | NUMBERS | st.text(max_size=8) | st.sampled_from(["a:b", "\\", '"', "\ud800"])
DOCUMENTS = st.recursive(VALUES, lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=3), inner))
PIECES = b"""{}[]:,"\\ \n\t.-+0e9EaN/'\x00\x7f\x80\xc3\xa9\xed\xff"""


def read(data: bytes, *, slowly: bool) -> tuple[str, str]:
    try:
        return "", repr(strict_json._parse_slowly(data, largest=LARGEST) if slowly else parse_json(data))
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
        found = parse_json(json.dumps(document).encode())
        assert repr(found) == repr(document)
    assert read(b"[" * 300 + b"]" * 300, slowly=False) == ("", "[" * 300 + "]" * 300)


def test_faults_name_the_file_on_one_line() -> None:
    for text, said in (
        (b"{", "is not JSON: Expecting property name enclosed in double quotes at line 1, column 2"),
        (b'{"a": {"b": 1, "b": 1}}', "has the key 'b' twice in one object"),
        (b'{"a\\nb": 1, "a\\nb": 1}', "has the key 'a\\\\nb' twice in one object"),
        (b"[-Infinity]", "has the number -Infinity, which is not finite"),
        (b'"\xff"', "is not JSON: not UTF-8 at byte 1"),
        (b"1" * 5000, "has the number 1111111111111111111111111111111111111..., beyond the largest"),
    ):
        with pytest.raises(BadInput) as caught:
            parse_json(text, name="settings.json")
        assert str(caught.value).startswith(f"settings.json {said}")
        assert "\n" not in str(caught.value)


def test_few_bytes_cannot_stand_for_many_values() -> None:
    assert parse_json(b"[1,2,[3]]", values=4) == [1, 2, [3]]
    with pytest.raises(Fault, match="has more than 3 values"):
        parse_json(b"[1,2,[3]]", values=3)


def test_whole_numbers_of_64_bits_can_be_asked_for() -> None:
    text = f"[{2**64 - 1}]".encode()
    assert parse_json(text, largest=1 << 64) == [2**64 - 1]
    with pytest.raises(Fault, match=f"has the number {2**64 - 1}, beyond the largest, {LARGEST}"):
        parse_json(text)


def test_true_is_no_number() -> None:
    assert [is_number(value) for value in (1, 1.5, True, "1", None)] == [True, True, False, False, False]
    assert [is_count(value) for value in (1, 0, -1, 1.0, True)] == [True, True, False, False, False]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"nothing\.json cannot be read: No such file"):
        read_json(tmp_path / "nothing.json")
    (tmp_path / "a.json").write_text("[1, 2]")
    assert read_json(tmp_path / "a.json") == [1, 2]
    with pytest.raises(BadInput, match=r"a\.json has 6 bytes; at most 5 are read"):
        read_json(tmp_path / "a.json", limit=5)
