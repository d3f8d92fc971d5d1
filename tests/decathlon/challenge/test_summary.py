import json
from typing import Any

import pytest

from decathlon.challenge.scoring import ScoreReport, TaskScore
from decathlon.challenge.summary import (
    METRIC,
    MethodSummary,
    TaskLine,
    percent,
    print_summaries,
    summaries_as_json,
)
from decathlon.tasks import MASKED_TASKS, TASKS
from piggyback.suite.report import trial_text

TRIALS = (
    {"lr": 1e-4, "steps": 9, "val_accuracy": 0.125},
    {"lr": 3e-4, "steps": 9, "val_accuracy": 0.5},
    {"lr": 1e-3, "steps": 9, "val_accuracy": None},
)


def line(test: float | None, **fields: Any) -> TaskLine:
    values: dict[str, Any] = {"val": 0.5, "test": test, "points": None, "rate": 3e-4, "trials": TRIALS}
    return TaskLine(
        **(values | {"zeros": None, "bits": {"mask": 4_000_000, "head": 4_000_000}, "seconds": 30.0} | fields)
    )


def summary(method: str, test: float | None, *, tasks: tuple[str, ...] = MASKED_TASKS, scored: bool = True) -> Any:
    one = TaskScore(n=4, correct=3, accuracy=0.75, error=0.25, points=12.5)
    report = ScoreReport(
        score=125.0 if len(tasks) == 9 else None,
        mean_accuracy=0.75,
        tasks={name: one for name in (*tasks, "imagenet12")},
        complete=len(tasks) == 9,
        official=False,
    )
    lines = {task: line(test) for task in tasks}
    return MethodSummary(method=method, tasks=lines, report=report if scored else None, parameter_ratio=1.28125)


def rows(text: str) -> dict[str, list[str]]:
    cells = [[cell.strip() for cell in line.strip("│┃").split("│")] for line in text.splitlines() if "│" in line]
    return {first: rest for first, *rest in cells}


def test_every_number_of_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    print_summaries([summary("piggyback", 0.75), summary("finetune", 0.7375)])
    text = capsys.readouterr().out
    first, second = text.split("learning rates tried")
    table = rows(first)
    assert [name for name in table if name in TASKS] == [*MASKED_TASKS, "imagenet12"]
    assert table["dtd"] == ["75.00 (50.00)", "73.75 (50.00)"]
    assert table["imagenet12"] == ["75.00", "75.00"]
    assert table["mean of the nine"] == ["75.00", "73.75"]
    assert table["sum of points"] == ["125.0", "125.0"]
    assert table["parameter ratio"] == ["1.28125", "1.28125"]
    assert table["payload files, MB"] == ["9.00", "9.00"]
    assert table["minutes"] == ["4.5", "4.5"]
    assert rows(second)["dtd"] == ["0.0001 12.50  0.0003* 50.00  0.001 diverged"] * 2
    assert "piggyback against finetune, mean test accuracy of the nine tasks: +1.25 percentage points" in text
    assert "not a decathlon score" in text


def test_what_is_not_there_is_a_dash(capsys: pytest.CaptureFixture[str]) -> None:
    some, none = summary("piggyback", None, tasks=("dtd",), scored=False), summary("finetune", 0.5, tasks=())
    print_summaries([some, none])
    text = capsys.readouterr().out
    table = rows(text.split("learning rates tried")[0])
    assert table["dtd"] == ["- (50.00)", "-"]
    assert table["mean of the nine"] == ["-", "-"]
    assert table["sum of points"] == ["-", "-"]
    assert table["parameter ratio"] == ["1.28125", "-"]
    assert "svhn" not in table
    assert "percentage points" not in text


def test_the_json_has_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    report = json.loads(json.dumps(summaries_as_json([summary("piggyback", 0.75)]), allow_nan=False))["piggyback"]
    assert report["mean_test_accuracy"] == 0.75
    assert report["payload_megabytes"] == 9.0
    assert report["score"]["score"] == 125.0
    assert report["tasks"]["dtd"]["lr_trials"] == list(TRIALS)
    assert report["tasks"]["dtd"]["lr"] == 3e-4


def test_words() -> None:
    assert [percent(value) for value in (None, 0.0, 1.0, 0.12345)] == ["-", "0.00", "100.00", "12.35"]
    texts = [trial_text(trial, used=3e-4, metric=METRIC) for trial in TRIALS]
    assert texts == ["0.0001 12.50", "0.0003* 50.00", "0.001 diverged"]
