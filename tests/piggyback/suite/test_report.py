"""The final tables: means and spread over seeds, learning rates tried, sizes."""

import json
from pathlib import Path
from typing import Any

import pytest

from decathlon.benchmark import BENCHMARK as DECATHLON
from leaderboard.result import Code, Counts, Fingerprints, Result
from piggyback.suite.report import Spread, Summary, as_json, show, summarise, trial_text
from piggyback.suite.results import FinishedRun
from piggyback.suite.training.run_folder import RunFolder
from segmentation.benchmark import BENCHMARK

METRIC = BENCHMARK.trial_metric
TRIALS = [
    {"lr": 1e-4, "steps": 3, "held_out_mean_iou": 0.1234},
    {"lr": 3e-4, "steps": None, "held_out_mean_iou": None},
]


def finished(seed: int, mean_iou: float, **more: Any) -> FinishedRun:
    """A run that says what is given; its other three numbers are those of its mean IoU, plus a little."""
    metrics = {"mean_iou": mean_iou, "pixel_accuracy": mean_iou + 0.25, "mean_accuracy": mean_iou + 0.125}
    metrics |= {"frequency_weighted_iou": mean_iou + 0.0625, **more.pop("metrics", {})}
    fields: dict[str, Any] = {
        "benchmark": "segmentation",
        "task": "pascal-voc",
        "split": "seg11valid",
        "method": "piggyback",
        "counts": Counts(n=2, correct=1),
        "recipe": {"lr_used": 1e-4, "lr_trials": []},
        "bits": {"masks": 8_000_000, "head": 4_000_000},
        "wall_s": 10.0,
        **more,
    }
    result = Result(
        task_version=1,
        seed=seed,
        metrics=metrics,
        selected_on="last epoch",
        trained_on="train",
        origin="measured",
        official_data=False,
        code=Code(commit=None, dirty=None),
        versions={"torch": "2"},
        device="abacus",
        fingerprints=Fingerprints(data="a", backbone="b", predictions="c"),
        **fields,
    )
    return FinishedRun(folder=RunFolder(Path("nowhere")), result=result)


def test_spread_is_the_sample_standard_deviation() -> None:
    spread = Spread.of([0.25, 0.5, 0.75])
    assert (spread.mean, spread.deviation, spread.n) == (0.5, 0.25, 3)  # over n - 1; over n it were 0.204
    assert spread.percent() == "50.00 ± 25.00"


def test_one_seed_has_no_spread() -> None:
    spread = Spread.of([0.4567])
    assert (spread.mean, spread.deviation, spread.n) == (0.4567, None, 1)
    assert spread.percent() == "45.67"


def test_seeds_that_agree_have_a_spread_of_zero() -> None:
    assert Spread.of([0.5, 0.5]).percent() == "50.00 ± 0.00"


def summary(**more: Any) -> Summary:
    runs = [
        finished(0, 0.25, metrics={"zeros": 0.1}, **more),
        finished(2, 0.5, metrics={"zeros": 0.2}, recipe={"lr_used": 3e-4, "lr_trials": TRIALS}, wall_s=32.5),
    ]
    return summarise(BENCHMARK, runs)


def test_a_method_is_gathered_over_its_seeds() -> None:
    found = summary()
    assert (found.method, found.seeds, found.rates) == ("piggyback", (0, 2), (1e-4, 3e-4))
    assert found.metrics["mean_iou"] == Spread.of([0.25, 0.5])
    assert found.metrics["pixel_accuracy"] == Spread.of([0.5, 0.75])
    assert found.metrics["mean_accuracy"] == Spread.of([0.375, 0.625])
    assert found.metrics["frequency_weighted_iou"] == Spread.of([0.3125, 0.5625])
    assert found.zeros == pytest.approx(0.15)
    assert (found.bits, found.seconds) == ({"masks": 8_000_000, "head": 4_000_000}, 42.5)
    assert [list(trials) for trials in found.trials] == [[], TRIALS]


def test_methods_without_masks_have_no_zeros(capsys: pytest.CaptureFixture[str]) -> None:
    found = summarise(BENCHMARK, [finished(0, 0.5, bits={"head": 4_000_000}, method="feature")])
    assert found.zeros is None
    show(BENCHMARK, [found], title="t")
    row = next(line for line in capsys.readouterr().out.splitlines() if "feature" in line)
    assert [cell.strip() for cell in row.strip("│").split("│")] == [
        *("feature", "1", "50.00", "75.00", "62.50", "56.25", "-", "0.50", "10"),
    ]


def test_tables_for_a_person(capsys: pytest.CaptureFixture[str]) -> None:
    show(BENCHMARK, [summary()], title="FCN-32s on [scenes]", caption="background everywhere: 3.47 %")
    said = capsys.readouterr().out
    assert "FCN-32s on [scenes]" in said
    assert "background everywhere: 3.47 %" in said
    row = next(line for line in said.splitlines() if "piggyback" in line)
    cells = [cell.strip() for cell in row.strip("│").split("│")]
    assert cells == [
        *("piggyback", "2", "37.50 ± 17.68", "62.50 ± 17.68", "50.00 ± 17.68", "43.75 ± 17.68", "15.0", "1.50", "42"),
    ]
    tried = said.split("learning rates tried")[1]
    assert "0.0001 12.34  0.0003* diverged" in tried


def test_trials_are_not_shown_where_there_were_none(capsys: pytest.CaptureFixture[str]) -> None:
    show(BENCHMARK, [summarise(BENCHMARK, [finished(0, 0.5)])], title="t")
    assert "learning rates tried" not in capsys.readouterr().out


def test_one_trial_in_words() -> None:
    assert trial_text(TRIALS[0], used=1e-4, metric=METRIC) == "0.0001* 12.34"
    assert trial_text(TRIALS[0], used=3e-4, metric=METRIC) == "0.0001 12.34"
    assert trial_text(TRIALS[1], used=1e-4, metric=METRIC) == "0.0003 diverged"


def test_the_report_is_plain_json() -> None:
    report = json.loads(json.dumps(as_json(BENCHMARK, [summary()]), allow_nan=False))
    assert report.keys() == {"methods"}
    assert report["methods"].keys() == {"piggyback"}
    found = report["methods"]["piggyback"]
    assert found["mean_iou"] == {"mean": 0.375, "deviation": pytest.approx(0.25 / 2**0.5), "n": 2}
    assert (found["seeds"], found["rates"], found["trials"]) == ([0, 2], [1e-4, 3e-4], [[], TRIALS])
    assert "method" not in found


def of_task(task: str, seed: int, accuracy: float, *, method: str = "piggyback") -> FinishedRun:
    """A run of a benchmark with several tasks."""
    trials = [{"lr": 1e-4, "steps": 3, "val_accuracy": 0.5}]
    return finished(
        seed,
        accuracy,
        benchmark="decathlon",
        task=task,
        split="val",
        method=method,
        counts=Counts(n=8, correct=round(8 * accuracy)),
        metrics={"accuracy": accuracy},
        recipe={"lr_used": 1e-4, "lr_trials": trials if method == "piggyback" else []},
        parameter_ratio=1.28125 if method == "piggyback" else 1.0,
    )


def test_several_tasks_have_a_row_each_and_a_column_for_each_method(capsys: pytest.CaptureFixture[str]) -> None:
    found = [
        summarise(DECATHLON, [of_task("dtd", 0, 0.25), of_task("dtd", 1, 0.75)]),
        summarise(DECATHLON, [of_task("svhn", 0, 0.5)]),
        summarise(DECATHLON, [of_task("dtd", 0, 0.125, method="feature")]),
    ]
    show(DECATHLON, found, title="all seeds")
    table, tried = capsys.readouterr().out.split("learning rates tried")
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in table.splitlines() if "│" in line]
    assert rows == [
        ["dtd", "50.00 ± 35.36", "12.50"],
        ["svhn", "50.00", "-"],
        ["parameter ratio", "1.28125", "1.00000"],
        ["payload files, MB", "3.00", "1.50"],
        ["minutes", "0.5", "0.2"],
    ]
    assert tried.count("0.0001* 50.00") == 3  # dtd by two seeds and svhn
    report = json.loads(json.dumps(as_json(DECATHLON, found), allow_nan=False))["methods"]
    assert report["piggyback"]["parameter_ratio"] == 1.28125
    assert report["piggyback"]["tasks"]["dtd"]["accuracy"] == {
        "mean": 0.5,
        "deviation": pytest.approx(0.125**0.5),
        "n": 2,
    }
    assert report["feature"]["tasks"].keys() == {"dtd"}
