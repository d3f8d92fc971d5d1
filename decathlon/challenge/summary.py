"""The final tables of a run: accuracies, points, learning rates tried, sizes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Final

from decathlon.challenge.scoring import ScoreReport
from decathlon.tasks import MASKED_TASKS
from piggyback.shell import console
from piggyback.suite.report import BITS_PER_MB, trial_text
from piggyback.suite.results import FinishedRun

METRIC: Final = "val_accuracy"


@dataclass(frozen=True, kw_only=True)
class TaskLine:
    """One task of one method: fractions in [0, 1], and None where test was not scored."""

    val: float
    test: float | None
    points: float | None
    rate: float
    trials: Sequence[Mapping[str, Any]]
    zeros: float | None
    bits: Mapping[str, int]
    seconds: float


@dataclass(frozen=True, kw_only=True)
class MethodSummary:
    """Results of a method's runs.

    Attributes:
        tasks: the finished ones.
        report: of its submission, when test labels were there.
        parameter_ratio: by the paper's convention, for nine tasks; 1 without a run.
    """

    method: str
    tasks: Mapping[str, TaskLine]
    report: ScoreReport | None
    parameter_ratio: float

    @property
    def mean_test(self) -> float | None:
        """Mean test accuracy over the nine trained tasks, a fraction; None where one is missing."""
        values = [line.test for line in self.tasks.values() if line.test is not None]
        return fmean(values) if len(values) == len(MASKED_TASKS) else None

    @property
    def megabytes(self) -> float:
        """Size of all payload files together, in 10^6 bytes."""
        return sum(sum(line.bits.values()) for line in self.tasks.values()) / BITS_PER_MB


def summarise(method: str, runs: Mapping[str, FinishedRun], *, report: ScoreReport | None) -> MethodSummary:
    lines = {}
    for task in MASKED_TASKS:
        if task not in runs:
            continue
        result = runs[task].result
        recipe: Mapping[str, Any] = result.recipe or {}
        scored = report.tasks.get(task) if report is not None else None
        lines[task] = TaskLine(
            val=result.metrics["accuracy"],
            test=scored.accuracy if scored is not None else None,
            points=scored.points if scored is not None else None,
            rate=recipe["lr_used"],
            trials=recipe["lr_trials"],
            zeros=result.metrics.get("zeros"),
            bits=result.bits,
            seconds=result.wall_s or 0.0,
        )
    ratio = next((run.result.parameter_ratio for run in runs.values() if run.result.parameter_ratio), 1.0)
    return MethodSummary(method=method, tasks=lines, report=report, parameter_ratio=ratio)


def summaries_as_json(summaries: Sequence[MethodSummary]) -> dict[str, object]:
    return {
        summary.method: {
            "parameter_ratio": summary.parameter_ratio,
            "payload_megabytes": summary.megabytes,
            "mean_test_accuracy": summary.mean_test,
            "score": summary.report.as_json() if summary.report is not None else None,
            "tasks": {
                task: {
                    "val_accuracy": line.val,
                    "test_accuracy": line.test,
                    "points": line.points,
                    "lr": line.rate,
                    "lr_trials": list(line.trials),
                    "zeros": line.zeros,
                    "seconds": line.seconds,
                }
                for task, line in summary.tasks.items()
            },
        }
        for summary in summaries
    }


def percent(value: float | None) -> str:
    """A fraction as percent, or a dash."""
    return "-" if value is None else f"{100 * value:.2f}"


def print_summaries(summaries: Sequence[MethodSummary]) -> None:
    """Print accuracies and sizes, then the learning rates tried, then notes on the numbers."""
    methods = [summary.method for summary in summaries]
    tasks = [task for task in MASKED_TASKS if any(task in summary.tasks for summary in summaries)]
    rows: list[tuple[str, ...]] = []
    for task in tasks:
        lines = [summary.tasks.get(task) for summary in summaries]
        rows.append((task, *(f"{percent(line.test)} ({percent(line.val)})" if line else "-" for line in lines)))
    own = [s.report.tasks.get("imagenet12") if s.report is not None else None for s in summaries]
    rows.append(("imagenet12", *(percent(line.accuracy) if line else "-" for line in own)))
    rows.append(("mean of the nine", *(percent(summary.mean_test) for summary in summaries)))
    rows.append(
        (
            "sum of points",
            *(f"{s.report.score:.1f}" if s.report and s.report.score is not None else "-" for s in summaries),
        )
    )
    rows.append(("parameter ratio", *(f"{s.parameter_ratio:.5f}" if s.tasks else "-" for s in summaries)))
    rows.append(("payload files, MB", *(f"{summary.megabytes:.2f}" for summary in summaries)))
    rows.append(("minutes", *(f"{sum(line.seconds for line in s.tasks.values()) / 60:.1f}" for s in summaries)))
    console.table("accuracy in percent: test (val)", "task", *methods, rows=rows)
    if any(line.trials for summary in summaries for line in summary.tasks.values()):
        print_trials(summaries, tasks=tasks)
    print_distances(summaries)
    for note in sorted({note for summary in summaries if summary.report is not None for note in summary.report.notes}):
        console.out.print(note, markup=False, soft_wrap=True)


def print_trials(summaries: Sequence[MethodSummary], *, tasks: Sequence[str]) -> None:
    """Print every learning rate tried, with its accuracy on val; the one used has a star."""
    rows: list[tuple[str, ...]] = []
    for task in tasks:
        lines = [summary.tasks.get(task) for summary in summaries]
        tried = (
            [trial_text(t, used=line.rate, metric=METRIC) for t in line.trials] if line else ["-"] for line in lines
        )
        rows.append((task, *("  ".join(texts) for texts in tried)))
    title = "learning rates tried: percent right on val after a short training, * used"
    console.table(title, "task", *(summary.method for summary in summaries), rows=rows)


def print_distances(summaries: Sequence[MethodSummary]) -> None:
    """Print how far each method's mean is from full fine-tuning, where both are there."""
    means = {summary.method: summary.mean_test for summary in summaries}
    finetune = means.get("finetune")
    if finetune is None:
        return
    for method, mean in means.items():
        if method != "finetune" and mean is not None:
            difference = f"{100 * (mean - finetune):+.2f} percentage points"
            text = f"{method} against finetune, mean test accuracy of the nine tasks: {difference}"
            console.out.print(text, markup=False, soft_wrap=True)
