"""Arrays: what numpy writes is read, anything else is one message, and no header makes memory."""

import io
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from piggyback.shell.arrays import TEXT, Form, parse_array, parse_arrays, read_array
from piggyback.shell.errors import BadInput, Fault

RECORD = np.dtype([("image_id", "<i8"), ("label", "<i4"), ("offset", "<i8")])
IDS = Form(np.dtype(np.int64), (None,))
FORMS = {"task": TEXT, "image_ids": IDS, "category_ids": IDS}


def saved(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def zipped(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


WHOLE = zipped(task=np.array("dtd"), image_ids=np.arange(3), category_ids=np.arange(3))


@pytest.mark.parametrize(
    ("array", "form"),
    [
        (np.arange(5), IDS),
        (np.arange(0), IDS),
        (np.arange(5), Form(np.dtype(np.int64), (5,))),
        (np.zeros((2, 3), dtype=bool), Form(np.dtype(bool), (2, None))),
        (np.float32(1.5), Form(np.dtype(np.float32))),
        (np.ones(4, dtype=RECORD), Form(RECORD, (4,))),
        (np.array("gtsrb"), TEXT),
        (np.array("é\N{GRINNING FACE}"), TEXT),
        (np.array(""), TEXT),
    ],
)
def test_what_numpy_writes_is_read(array: NDArray[Any], form: Form) -> None:
    found = parse_array(saved(array), form=form)
    assert (found.dtype, found.shape, found.tolist()) == (array.dtype, array.shape, array.tolist())


@pytest.mark.parametrize(
    ("array", "form", "said"),
    [
        (np.arange(5, dtype=np.int32), IDS, "must be int64 [n], not '<i4' [5,]"),
        (np.arange(5, dtype=">i8"), IDS, "must be int64 [n], not '>i8' [5,]"),
        (np.zeros((2, 2), dtype=np.int64), IDS, "must be int64 [n], not '<i8' [2, 2]"),
        (np.int64(3), IDS, "must be int64 [n], not '<i8' []"),
        (np.arange(5), Form(np.dtype(np.int64), (4,)), "must be int64 [4], not '<i8' [5,]"),
        (np.arange(5), TEXT, "must be one text, not '<i8' [5,]"),
        (np.array(["a"]), TEXT, "must be one text, not '<U1' [1,]"),
        (np.ones(4, dtype=[("image_id", "<i8")]), Form(RECORD, (4,)), "not [('image_id', '<i8')] [4,]"),
        (np.array([{}]), IDS, "must be int64 [n], not '|O' [1,]"),
    ],
)
def test_another_array_is_refused_in_words(array: Any, form: Form, said: str) -> None:
    with pytest.raises(Fault) as caught:
        parse_array(saved(array), form=form, name="a.npy")
    assert str(caught.value).startswith("a.npy must be")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x93NUMPY",
        saved(np.arange(5))[:-1],
        saved(np.arange(5)) + b"0",
        saved(np.arange(5)).replace(b"(5,)", b"(6,)"),
        saved(np.arange(5)).replace(b"(5,)", b"(999999999999,)"),
        saved(np.arange(5)).replace(b"(5,)", b"(" + b"9" * 40 + b",)"),
        saved(np.arange(5)).replace(b"(5,)", b"(-1,)"),
        saved(np.arange(5)).replace(b"(5,)", b"(,)"),
        saved(np.arange(5)).replace(b"'<i8'", b"[" * 90 + b"'<i8'"),
        saved(np.asfortranarray(np.zeros((2, 2), dtype=np.int64))),
        saved(np.arange(5)).replace(b"\x01\x00", b"\x03\x00", 1),
    ],
)
def test_damage_is_one_message(data: bytes) -> None:
    with pytest.raises(BadInput, match=r"^a\.npy "):
        parse_array(data, form=IDS, name="a.npy")


def test_a_text_of_no_characters_is_refused() -> None:
    data = saved(np.array("ab"))
    with pytest.raises(Fault, match="is damaged, or is not one text"):
        parse_array(data[:-4] + b"\xff\xff\xff\x7f", form=TEXT)


def test_a_file_is_read_no_further_than_its_form_says(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.arange(5))
    assert read_array(path, form=Form(np.dtype(np.int64), (5,))).tolist() == [0, 1, 2, 3, 4]
    np.save(path, np.zeros(100_000, dtype=np.int64))
    with pytest.raises(Fault, match=r"a\.npy has 800,128 bytes; at most 65,576 are read"):
        read_array(path, form=Form(np.dtype(np.int64), (5,)))
    assert len(read_array(path, form=IDS)) == 100_000


def test_several_arrays_of_one_file() -> None:
    found = parse_arrays(WHOLE, forms=FORMS, limit=1000)
    assert str(found["task"]) == "dtd"
    assert found["image_ids"].tolist() == [0, 1, 2]


def test_a_zip_that_unpacks_to_too_much_is_not_unpacked() -> None:
    file = io.BytesIO()
    np.savez_compressed(
        file, task=np.array("dtd"), image_ids=np.zeros(1 << 20, dtype=np.int64), category_ids=np.arange(3)
    )
    tracemalloc.start()
    with pytest.raises(Fault, match="unpacks to 8,389") as caught:
        parse_arrays(file.getvalue(), forms=FORMS, limit=1 << 20)
    assert caught.value.kind == "zip-bomb"
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


@pytest.mark.parametrize(
    "members",
    [
        {},
        {"task": np.array("dtd"), "image_ids": np.arange(3)},
        {"task": np.array("dtd"), "image_ids": np.arange(3), "category_ids": np.arange(3), "more": np.arange(3)},
        {"task": np.array("dtd"), "image_ids": np.arange(3), "categories": np.arange(3)},
    ],
)
def test_other_arrays_than_expected(members: dict[str, Any]) -> None:
    with pytest.raises(Fault, match=r"p\.npz is damaged, .* a zip of the arrays task, image_ids, category_ids"):
        parse_arrays(zipped(**members), forms=FORMS, limit=1000, name="p.npz")


def test_the_array_that_is_wrong_is_named() -> None:
    data = zipped(task=np.array("dtd"), image_ids=np.arange(3.0), category_ids=np.arange(3))
    with pytest.raises(Fault, match=r"^p\.npz image_ids must be int64 \[n\], not '<f8'"):
        parse_arrays(data, forms=FORMS, limit=1000, name="p.npz")


def test_a_zip_by_another_method_is_damaged() -> None:
    data = bytearray(WHOLE)
    for place in range(len(data)):
        if data[place : place + 4] == b"PK\1\2":
            data[place + 10] = 99
    with pytest.raises(Fault, match="is damaged or not a zip of arrays") as caught:
        parse_arrays(bytes(data), forms=FORMS, limit=1000, name="p.npz")
    assert caught.value.kind == "damaged"


@settings(deadline=None)
@given(st.data())
@example(None)
def test_no_damage_leaks(drawn: st.DataObject | None) -> None:
    """Whatever is done to the bytes, they are read or refused."""
    data = bytearray(WHOLE)
    if drawn is not None:
        for _ in range(drawn.draw(st.integers(1, 4))):
            at = drawn.draw(st.integers(0, len(data)))
            data[at : at + drawn.draw(st.integers(0, 3))] = drawn.draw(st.binary(max_size=3))
    said = "p.npz was read"
    try:
        parse_arrays(bytes(data), forms=FORMS, limit=10_000, name="p.npz")
    except BadInput as fault:
        said = str(fault)
    assert said.startswith("p.npz ")
    assert "\n" not in said


def test_a_zip_with_a_password(tmp_path: Path) -> None:
    data = bytearray(WHOLE)
    for mark, place in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        at = -1
        while (at := data.find(mark, at + 1)) >= 0:
            data[at + place] |= 1
    with pytest.raises(RuntimeError, match="password"), zipfile.ZipFile(io.BytesIO(data)) as archive:
        archive.read("task.npy")
    with pytest.raises(Fault, match=r"RuntimeError: .*password"):
        parse_arrays(bytes(data), forms=FORMS, limit=10_000)
