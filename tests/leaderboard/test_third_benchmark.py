"""Results of a benchmark that this project does not know: with a board from another package, and without one."""

import json
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import pytest
from third_results import answer, confusion, make_digits, make_run, predictions, record, write_labels

from leaderboard.boards import installed
from leaderboard.boards.installed import GROUP, find_boards
from leaderboard.commands import COMMANDS
from leaderboard.store.reading import read_store
from leaderboard.verbs.storing import add_runs
from piggyback.shell.cli import load, parse
from piggyback.shell.errors import UnknownName

Verb = Callable[..., Any]


def run(verb: str, *words: object) -> int:
    command = next(one for one in COMMANDS if one.name == f"leaderboard {verb}")
    return int(load(command.target)(parse(command, [str(word) for word in words])))


@pytest.fixture
def answer_of(capsys: pytest.CaptureFixture[str]) -> Verb:
    """The JSON of a verb, and its exit code."""

    def ask(verb: str, *words: object) -> tuple[int, Any]:
        capsys.readouterr()
        code = run(verb, *words, "--json")
        return code, json.loads(capsys.readouterr().out)

    return ask


@pytest.fixture
def offer(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Makes boards known as entry points of installed packages do: by name, module and attribute."""
    real = [*entry_points(group=GROUP)]

    def make(**values: str) -> None:
        more = [EntryPoint(name=name, value=value, group=GROUP) for name, value in values.items()]
        monkeypatch.setattr(installed, "entry_points", lambda group: [*real, *more])
        find_boards.cache_clear()

    yield make
    find_boards.cache_clear()


@pytest.fixture
def digits(offer: Callable[..., None]) -> None:
    offer(digits="third_boards:DIGITS", depth="third_boards:DEPTH")


def findings(store: Path) -> list[tuple[str, str]]:
    return [(one.place.rpartition("/")[2], one.kind) for one in read_store(store)[1]]


@pytest.mark.usefixtures("digits")
def test_a_benchmark_with_a_board_is_added_checked_shown_and_compared(tmp_path: Path, answer_of: Verb) -> None:
    store = tmp_path / "store"
    make_digits(tmp_path / "runs")
    write_labels(store, "odd", "even")
    code, told = answer_of("add", tmp_path / "runs", "--store", store)
    assert (code, len(told["added"]), told["refused"]) == (0, 8, {})
    assert answer_of("check", store) == (0, {"store": str(store), "results": 8, "findings": []})
    _, shown = answer_of("show", store, "--view", "digits")
    assert [column["key"] for column in shown["columns"]] == [
        *("rank", "method", "ratio", "odd", "even", "mean", "n", "evidence", "protocol"),
    ]
    assert [(row["method"], row["rank"]) for row in shown["rows"]] == [("piggyback", 1), ("feature", 2)]
    cells = shown["rows"][0]["cells"]
    assert (cells["odd"]["value"], cells["odd"]["n"]) == (pytest.approx(0.75), 2)
    assert cells["mean"]["interval"][0] < cells["mean"]["value"] < cells["mean"]["interval"][1]
    _, compared = answer_of("compare", "piggyback", "feature", "--store", store, "--benchmark", "digits")
    (found,) = compared["comparisons"]
    assert [line["name"] for line in found["lines"]] == ["even", "odd"]
    assert all(line["tests"][0]["only_first"] == 3 for line in found["lines"])
    assert found["mean"]["value"] == pytest.approx(0.3)
    assert found["score"] is None


@pytest.mark.usefixtures("digits")
def test_a_boards_facts_are_checked(tmp_path: Path) -> None:
    store, runs = tmp_path / "store", tmp_path / "runs"
    write_labels(store, "odd")
    write_labels(store, "odd", benchmark="nothing")
    make_run(runs / "task", record("digits", "prime"))
    make_run(runs / "split", record("digits", "odd", split="train"))
    make_run(runs / "count", record("digits", "odd", official_data=True, counts={"n": 5, "correct": 4}))
    make_run(runs / "metric", record("digits", "odd", metrics={"top5": 0.8}, seed=1, recipe={}))
    make_run(runs / "foreign", record("digits", "odd", seed=2, recipe={}), confusion=confusion([8, 0], [2, 0]))
    made = record("digits", "odd", seed=3, recipe={})
    make_run(runs / "right", made, predictions=predictions("odd", answer(1, 2, 3)))
    make_run(runs / "depth", record("depth", "indoor", metrics={"delta1": 0.8}, counts=None) | {"counts": None})
    refused = {}
    for folder in sorted(runs.iterdir()):
        done = json_of(tmp_path, folder, store)
        refused[folder.name] = done[0] if done else ""
    assert "prime is none of even, odd" in refused["task"]
    assert "train is none of val, test" in refused["split"]
    assert "the release has 10" in refused["count"]
    assert "has no accuracy" in refused["metric"]
    assert "is no evidence of digits" in refused["foreign"]
    assert "has 7 of 10 right when counted again" in refused["right"]
    assert "needs counts" in refused["depth"]
    assert findings(store) == [("nothing-odd-test.json", "unknown-file")]


def json_of(folder: Path, run_folder: Path, store: Path) -> list[str]:
    """Why a run is refused."""
    return list(add_runs(store, [run_folder]).refused.values())


@pytest.mark.usefixtures("digits")
def test_of_an_error_less_is_better_and_tasks_are_ranked_separately(tmp_path: Path, answer_of: Verb) -> None:
    store = tmp_path / "store"
    for task in ("indoor", "outdoor"):
        for method, error in (("piggyback", 0.5), ("feature", 0.75)):
            made = record("depth", task, method=method, metrics={"rmse": error, "delta1": 0.9})
            make_run(tmp_path / "runs" / f"{task}-{method}", made)
    assert answer_of("add", tmp_path / "runs", "--store", store)[1]["refused"] == {}
    _, shown = answer_of("show", store, "--view", "depth")
    rows = [(row["cells"]["task"]["value"], row["method"], row["rank"]) for row in shown["rows"]]
    assert rows == [
        *(("indoor", "piggyback", 1), ("indoor", "feature", 2)),
        *(("outdoor", "piggyback", 1), ("outdoor", "feature", 2)),
    ]
    assert shown["rows"][0]["cells"]["rmse"]["value"] == 0.5
    _, compared = answer_of("compare", "piggyback", "feature", "--store", store)
    assert len(compared["comparisons"]) == 2
    assert compared["comparisons"][0]["lines"][0]["why_no_test"] == "a run keeps no answer for each picture"


def test_a_benchmark_without_a_board_has_a_plain_table(tmp_path: Path, answer_of: Verb) -> None:
    store = tmp_path / "store"
    make_digits(tmp_path / "runs", benchmark="tones", official=False)
    code, told = answer_of("add", tmp_path / "runs", "--store", store)
    assert (code, len(told["added"])) == (0, 8)
    assert answer_of("check", store)[0] == 0
    _, shown = answer_of("show", store, "--view", "tones")
    assert [column["key"] for column in shown["columns"]] == [
        *("rank", "method", "task", "ratio", "accuracy", "n", "evidence", "protocol"),
    ]
    rows = [(row["cells"]["task"]["value"], row["method"], row["rank"]) for row in shown["rows"]]
    assert rows == [
        *(("even", "piggyback", 1), ("even", "feature", 2), ("odd", "piggyback", 1), ("odd", "feature", 2)),
    ]
    _, compared = answer_of("compare", "piggyback", "feature", "--store", store)
    assert {one["benchmark"] for one in compared["comparisons"]} == {"tones"}
    for form in ("table", "md", "csv", "latex"):
        assert run("show", store, "--view", "tones", "--format", form) == 0
    with pytest.raises(UnknownName, match=r"no table is called 'tone'\. Did you mean 'tones'"):
        run("show", store, "--view", "tone")
    with pytest.raises(UnknownName, match="no benchmark is called 'tone'"):
        run("compare", "piggyback", "feature", "--store", store, "--benchmark", "tone")


def test_of_a_metric_that_says_nothing_there_are_no_ranks(tmp_path: Path, answer_of: Verb) -> None:
    store = tmp_path / "store"
    for method, found in (("a", 3.5), ("b", 0.00123)):
        made = record("tones", "one", method=method, metrics={"train_loss": 1.0, "pitch": found, "n": 4.0})
        make_run(tmp_path / "runs" / method, made)
    assert answer_of("add", tmp_path / "runs", "--store", store)[1]["refused"] == {}
    _, shown = answer_of("show", store, "--view", "tones")
    assert [row["rank"] for row in shown["rows"]] == [None, None]
    assert shown["notes"][0] == "There are no ranks: nobody says whether a higher or a lower pitch is better."
    cells = shown["rows"][1]["cells"]
    assert (cells["pitch"]["value"], cells["n_"]["value"], cells["n"]["value"]) == (0.00123, 4.0, 1)


@pytest.mark.parametrize(
    ("files", "changes", "said"),
    [
        ({"predictions": predictions("one", answer())}, {}, ""),
        ({"predictions": predictions("two", answer())}, {}, "are of two, the record is of one"),
        ({"predictions": predictions("one", answer(), ids=(7,) * 10)}, {}, "has the picture 7 twice"),
        ({"predictions": b"PK"}, {}, "it must be a zip of the arrays"),
        ({"confusion": confusion([5, 1], [1, 3])}, {}, ""),
        ({"confusion": confusion([5, 1], [1, 2])}, {}, "has 7 of 9 pixels right when counted again"),
        ({"confusion": confusion([5, 1], [1, 3])}, {"metrics": {"mean_iou": 0.5}}, "gives mean_iou"),
        ({"confusion": confusion([5, 1], [1, 3], classes=("sky", "sky"))}, {}, "a list of different names"),
        ({}, {"counts": {"n": 10, "correct": 7}}, "accuracy 0.8 is not 7 of 10"),
        ({}, {"metrics": {"Loud": 1.0}}, "has a metric 'Loud'"),
        ({}, {"fingerprints": {"data": "x", "backbone": None, "predictions": None}}, "is no sha256"),
    ],
)
def test_what_needs_no_board_is_checked(
    files: dict[str, bytes], changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    make_run(tmp_path / "run", record("tones", "one", **changes), **files)
    refused = json_of(tmp_path, tmp_path / "run", tmp_path / "store")
    assert [said in message for message in refused] == ([True] if said else [])


def test_the_page_has_unknown_benchmarks_too(tmp_path: Path) -> None:
    store, site = tmp_path / "store", tmp_path / "site"
    make_digits(tmp_path / "runs", benchmark="tones", official=False)
    run("build", store, "--runs", tmp_path / "runs", "--out", site)
    index = (site / "index.html").read_text(encoding="utf-8")
    assert '<section id="tones" aria-labelledby="tones-title">' in index
    assert "No installed package says what is known of this benchmark" in index
    page = next((site / "runs" / "tones" / "odd" / "piggyback").glob("seed0-*/index.html")).read_text()
    assert "<strong>80.00 %</strong> accuracy" in page
    assert len(list((site / "entries").iterdir())) == 4


@pytest.mark.usefixtures("digits")
def test_the_page_has_the_boards_texts(tmp_path: Path) -> None:
    store, site = tmp_path / "store", tmp_path / "site"
    make_digits(tmp_path / "runs")
    make_run(tmp_path / "runs" / "depth", record("depth", "indoor", metrics={"rmse": 0.5}))
    run("build", store, "--runs", tmp_path / "runs", "--out", site)
    index = (site / "index.html").read_text(encoding="utf-8")
    order = [
        index.index(f'<section id="{name}"') for name in ("decathlon", "points", "segmentation", "depth", "digits")
    ]
    assert order == sorted(order)
    for text in ("Digits: accuracy (%)", "Digits, five classes each.", "<li>Digits are small.</li>", "RMSE"):
        assert text in index


def test_a_broken_board_is_named_and_stops_no_other(
    offer: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    offer(
        digits="third_boards:NO_BOARD",
        decathlon="third_boards:DIGITS",
        clashing="third_boards:CLASHING",
        another="third_boards:DIGITS",
        depth="third_boards:DEPTH",
        gone="no_such_module:BOARD",
        reproduced="third_boards:MISSING",
    )
    found = find_boards()
    assert list(found.boards) == ["decathlon", "segmentation", "depth"]
    told = {sentence.split()[2]: sentence for sentence in found.broken}
    other = "(decathlon.board:BOARD is there for the same benchmark); results of decathlon follow the other one"
    assert told["decathlon"].endswith(other)
    assert told.keys() == {"decathlon", "clashing", "digits", "another", "gone", "reproduced"}
    assert "the name of its table points is taken" in told["clashing"]
    assert "third_boards:NO_BOARD is a str, and must be a Board" in told["digits"]
    assert "its entry point is called another, its benchmark digits" in told["another"]
    assert "ModuleNotFoundError: No module named 'no_such_module'" in told["gone"]
    assert "results of gone are shown in a plain table" in told["gone"]
    make_digits(tmp_path / "runs", official=False)
    assert run("add", tmp_path / "runs", "--store", tmp_path / "store") == 0
    capsys.readouterr()
    assert run("show", tmp_path / "store", "--view", "digits", "--json") == 0
    out, err = capsys.readouterr()
    assert len(json.loads(out)["rows"]) == 4
    assert err.count("the board ") == 6
