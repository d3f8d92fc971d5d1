"""`leaderboard show` and `compare`, as typed."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import leaderboard.verbs.comparing
import leaderboard.verbs.showing
from leaderboard.commands import COMMANDS
from leaderboard.store.reading import Finding, StoredResult
from piggyback.shell.cli import load, parse
from piggyback.shell.errors import ResultError

Maker = Callable[..., StoredResult]
TenMaker = Callable[..., list[StoredResult]]
PLACE = "decathlon/svhn/piggyback/seed0-0123456789ab-01234567"


def leaderboard_verb(verb: str, *words: object) -> int:
    """Run a verb through the console command's own parser."""
    command = next(one for one in COMMANDS if one.name == f"leaderboard {verb}")
    return int(load(command.target)(parse(command, [str(word) for word in words])))


@pytest.fixture
def answer(capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """The JSON of a verb that ends with 0."""

    def run(verb: str, *words: object) -> Any:
        capsys.readouterr()
        assert leaderboard_verb(verb, *words, "--json") == 0
        return json.loads(capsys.readouterr().out)

    return run


@pytest.fixture
def board(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Puts results where the verbs would read a store."""

    def put(stored: list[StoredResult], findings: list[Finding] | None = None) -> str:
        for module in (leaderboard.verbs.showing, leaderboard.verbs.comparing):
            monkeypatch.setattr(module, "read_store", lambda root: (stored, findings or []))
        return "board"

    return put


def labels(report: Any) -> list[str]:
    return [row["label"] for row in report["rows"]]


def test_show_without_a_store_is_the_published_rows(answer: Callable[..., Any]) -> None:
    report = answer("show")
    assert labels(report)[0] == "URL + parallel RA"
    assert {row["evidence"] for row in report["rows"]} == {"published"}
    assert len(report["rows"]) == 21
    assert len(answer("show", "--unverified")["rows"]) == 36
    assert len(answer("show", "--view", "segmentation")["rows"]) == 4
    with pytest.raises(ResultError, match="give a store, or leave out --no-published"):
        leaderboard_verb("show", "--no-published")


def test_show_filters_by_method_and_protocol(
    answer: Callable[..., Any], board: Callable[..., str], make_ten: TenMaker
) -> None:
    store = board(make_ten() + make_ten(method="feature", official=False) + make_ten(method="norm", split="val"))
    assert labels(answer("show", store, "--no-published")) == ["piggyback", "norm", "feature"]
    assert labels(answer("show", store, "--no-published", "--protocol", "official")) == ["piggyback", "norm"]
    assert labels(answer("show", store, "--method", "p*y*")) == ["piggyback", "Piggyback"]
    assert labels(answer("show", store, "--method", "DAN")) == ["DAN"]


def test_show_counts_what_was_left_out(
    answer: Callable[..., Any], board: Callable[..., str], make_stored: Maker
) -> None:
    findings = [
        Finding(place=f"{PLACE}/result.json", kind="not-json", message=""),
        Finding(place=f"{PLACE}/predictions.npz", kind="zip-bomb", message=""),
        Finding(place=PLACE.replace("seed0", "seed1"), kind="bad-name", message=""),
        Finding(place="stray.txt", kind="stray", message=""),
        Finding(place="truth/decathlon-dtd-val.json", kind="bad-truth", message=""),
    ]
    store = board([make_stored(), make_stored(metrics={"loss": 1.0})], findings)
    report = answer("show", store, "--no-published")
    assert labels(report) == ["piggyback"]
    assert report["notes"][-1].startswith("3 results were left out by the checks")


def test_show_reproduced_needs_the_users_word_about_the_backbone(
    answer: Callable[..., Any], board: Callable[..., str], make_ten: TenMaker
) -> None:
    store = board(make_ten(correct=970))
    verdicts = {row["cells"]["verdict"]["value"] for row in answer("show", store, "--view", "reproduced")["rows"]}
    assert verdicts == {"not comparable"}
    assert answer("show", store, "--view", "reproduced", "--no-published")["rows"]
    report = answer(
        "show", store, "--view", "reproduced", "--same-backbone", "bbbbbbbb=WRN-28-4", "--method", "piggyback"
    )
    assert {row["cells"]["verdict"]["value"] for row in report["rows"]} == {"above", "within 1 point"}
    report = answer("show", store, "--view", "reproduced", "--same-backbone", "bbbbbbbb=ResNet-26")
    assert {row["cells"]["verdict"]["value"] for row in report["rows"]} == {"not comparable"}
    for word in ("bb=WRN-28-4", "bbbbbbbb", "=WRN", "bbbbbbbb="):
        with pytest.raises(ResultError, match="names no backbone"):
            leaderboard_verb("show", store, "--view", "reproduced", "--same-backbone", word)


@pytest.mark.parametrize("view", ["decathlon", "points", "segmentation", "reproduced"])
@pytest.mark.parametrize("form", ["table", "md", "csv", "json", "latex"])
def test_every_view_has_every_format(
    view: str, form: str, board: Callable[..., str], make_ten: TenMaker, capsys: pytest.CaptureFixture[str]
) -> None:
    assert leaderboard_verb("show", board(make_ten(seeds=(0, 1))), "--view", view, "--format", form) == 0
    out = capsys.readouterr().out
    match form:
        case "json":
            assert json.loads(out)["view"] == view
        case "csv":
            assert len(list(csv.reader(io.StringIO(out)))) > 1
        case "latex":
            assert out.count(r"\begin{tabular}") == 1
        case _:
            assert "piggyback" in out.lower()


def test_compare_prints_both_sides(
    board: Callable[..., str],
    answer: Callable[..., Any],
    make_ten: TenMaker,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    store = board(make_ten(root=tmp_path) + make_ten(method="feature", correct=800, root=tmp_path))
    assert leaderboard_verb("compare", "piggyback", "feature", "--store", store) == 0
    out = capsys.readouterr().out
    assert "first: piggyback\nsecond: feature" in out
    assert "truth/decathlon-svhn-test.json is not in the store" in out
    assert "mean accuracy, first minus second: 10.00, without an interval" in out
    report = answer("compare", "piggyback", "feature", "--store", store, "--benchmark", "decathlon")
    (found,) = report["comparisons"]
    assert found["mean"] == {"value": pytest.approx(0.1), "interval": None}
    assert len(found["lines"]) == 10
    with pytest.raises(ResultError, match="no method and no label"):
        leaderboard_verb("compare", "piggyback", "feature", "--store", store, "--benchmark", "segmentation")


def test_a_store_that_is_not_there_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ResultError, match="no store"):
        leaderboard_verb("show", tmp_path / "none")
