"""The result record: what is written is read back, and what cannot be is refused in one line."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from leaderboard.result import Code, Counts, Fingerprints, Result, read_result, schema_text, write_result
from piggyback.shell.errors import ResultError

HERE = Path(__file__).resolve().parent
SCHEMA = HERE.parents[1] / "docs" / "result.schema.json"


def measured(**changes: Any) -> Result:
    fields: dict[str, Any] = {
        "benchmark": "decathlon",
        "task": "dtd",
        "task_version": 1,
        "split": "test",
        "method": "piggyback",
        "recipe": {"epochs": 60, "mask_lr": 1e-4, "decay": (45,), "note": None},
        "seed": 0,
        "metrics": {"accuracy": 0.75, "error": 0.25, "loss": 1.5},
        "counts": Counts(n=400, correct=300),
        "bits": {"masks": 5_839_280, "head": 81_920, "norm": 0, "header": 4096},
        "parameter_ratio": 1.28125,
        "selected_on": "last epoch",
        "trained_on": "train",
        "origin": "measured",
        "official_data": False,
        "code": Code(commit="a1b2c3d", dirty=True),
        "versions": {"torch": "2.15.0", "python": "3.11.7"},
        "device": "2 cores",
        "wall_s": 12.5,
        "fingerprints": Fingerprints(data="d" * 64, backbone="b" * 64, predictions=None),
    }
    return Result(**(fields | changes))


def edited(path: Path, **changes: Any) -> Path:
    """A written result with some top-level values replaced."""
    write_result(path, measured())
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return path


def test_written_is_read_back_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "x" / "result.json"
    write_result(path, measured())
    write_result(path, measured(seed=1))
    assert read_result(path) == measured(seed=1)
    assert read_result(path).recipe == {"epochs": 60, "mask_lr": 1e-4, "decay": [45], "note": None}
    assert [file.name for file in path.parent.iterdir()] == ["result.json"]


def test_published_needs_its_source_only(tmp_path: Path) -> None:
    row: dict[str, Any] = {"benchmark": "decathlon", "task": "dtd", "task_version": 1, "split": "test", "method": "dan"}
    with pytest.raises(ValidationError, match="a published result needs citation, table"):
        Result(**row, metrics={"accuracy": 0.5654}, origin="published")
    found = Result(**row, metrics={"accuracy": 0.5654}, origin="published", citation="X 2018", table="8")
    write_result(tmp_path / "r.json", found)
    assert read_result(tmp_path / "r.json") == found


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metrics": {"accuracy": 75.0}}, "accuracy is 75.0; it must be a fraction"),
        ({"metrics": {"mean_iou": -0.1}}, "mean_iou is -0.1"),
        ({"metrics": {"loss": float("nan")}}, "finite"),
        ({"metrics": {"loss": float("inf")}}, "finite"),
        ({"metrics": {}}, "at least 1"),
        ({"metrics": {"accuracy": 0.75, "error": 0.3}}, "do not add up to 1"),
        ({"metrics": {"error": 0.3}}, "is not 300 of 400"),
        ({"counts": None}, "a measured result needs counts"),
        ({"citation": "X 2018"}, "has no citation"),
        ({"recipe": {"lr": float("nan")}}, "cannot be written as JSON"),
        ({"selected_on": "test"}, "'val' or 'last epoch'"),
        ({"trained_on": "test"}, "'train' or 'train.val'"),
        ({"seed": True}, "valid integer"),
        ({"wall_s": "12"}, "valid number"),
        ({"accuracy": 0.5}, "Extra inputs"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        measured(**changes)


def test_more_right_than_there_are() -> None:
    with pytest.raises(ValidationError, match="5 of 4 cannot be correct"):
        Counts(n=4, correct=5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema_version": 3}, "has schema_version 3; this program reads 1 and 2"),
        ({"schema_version": True}, "has schema_version True"),
        ({"counts": {"n": 400, "correct": 300, "wrong": 100}}, "counts.wrong: Extra inputs"),
        ({"metrics": {"accuracy": "0.75"}}, "metrics.accuracy: Input should be a valid number"),
        ({"task": 7, "split": 8}, r"task: Input should be a valid string \(1 more\)"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ResultError, match=message) as caught:
        read_result(edited(tmp_path / "r.json", **changes))
    assert "\n" not in str(caught.value)
    assert "r.json" in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"loss": 1.5', '"loss": 1e999', "finite"),
        ('"loss": 1.5', '"loss": NaN', "finite"),
        ('"epochs": 60', '"epochs": 1e999', "not finite"),
        ('"seed": 0', '"seed": 0, "seed": 1', "the key 'seed' twice"),
        ('"seed": 0', '"seed": ' + "9" * 5000, "has the number 9+"),
        ('"recipe": {', '"recipe": ' + '{"a":' * 100_000, "nested too deeply|not JSON"),
        ('"schema_version": 2,', "", "no schema_version"),
        ('"device": "2 cores"', '"device": "\\ud800"', "surrogate|UTF-8|JSON"),
        ("{", "[", "not JSON"),
    ],
)
def test_adversarial_text(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "r.json"
    write_result(path, measured())
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(ResultError, match=message):
        read_result(path)


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(ResultError, match="No such file"):
        read_result(tmp_path / "missing.json")
    with pytest.raises(ResultError, match="is a folder"):
        read_result(tmp_path)
    (tmp_path / "list.json").write_bytes(b"[]")
    with pytest.raises(ResultError, match="no JSON object"):
        read_result(tmp_path / "list.json")
    (tmp_path / "bytes.json").write_bytes(b'{"a": "\xff"}')
    with pytest.raises(ResultError, match="not JSON"):
        read_result(tmp_path / "bytes.json")


def test_a_result_spoilt_after_making_is_not_written(tmp_path: Path) -> None:
    for key, value in (("accuracy", 75.0), ("loss", float("nan"))):
        result = measured()
        result.metrics[key] = value  # frozen models do not freeze their dicts
        with pytest.raises(ResultError):
            write_result(tmp_path / "r.json", result)
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_version_1_is_read() -> None:
    old = HERE / "result-v1.json"  # as `piggyback decathlon train` wrote it
    result = read_result(old)
    assert json.loads(old.read_text())["schema_version"] == 1
    assert result.schema_version == 2
    assert (result.label, result.link, result.note) == (None, None, None)
    assert result.model_dump(mode="json", exclude={"schema_version", "label", "link", "note", "coverage"}) == {
        key: value for key, value in json.loads(old.read_text()).items() if key != "schema_version"
    }


def test_a_file_of_version_1_has_no_fields_of_version_2(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text(json.dumps(json.loads((HERE / "result-v1.json").read_text()) | {"note": "early"}))
    with pytest.raises(ResultError, match="has note, which schema_version 1 does not know"):
        read_result(path)


@pytest.mark.parametrize(
    "link",
    [
        "javascript:alert(1)",
        "ftp://x.org/a",
        "//x.org",
        "https://",
        "http://x.org/a b",
        'https://x.org/"onload="a',
        " http://x",
    ],
)
def test_links_lead_to_the_web_only(link: str) -> None:
    with pytest.raises(ValidationError, match="a link begins with http"):
        measured(link=link)
    assert measured(link="https://arxiv.org/abs/1801.06519").link is not None


def test_the_schema_in_docs_is_the_models() -> None:
    write = "from pathlib import Path; from leaderboard.result import schema_text"
    again = f"python -c \"{write}; Path('docs/result.schema.json').write_text(schema_text())\""
    assert json.loads(SCHEMA.read_text()) == json.loads(schema_text()), f"write it anew: {again}"
