"""The final tables of a run: scores with their spread over seeds, learning rates tried, sizes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from piggyback.shell import console
from segmentation.collection import FinishedRun
from segmentation.training import METRIC

BITS_PER_MB = 8e6


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A number over n seeds: fractions in [0, 1]; no deviation for one seed."""

    mean: float
    deviation: float | None
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Mean and sample standard deviation."""
        return cls(mean=fmean(values), deviation=stdev(values) if len(values) > 1 else None, n=len(values))

    def percent(self) -> str:
        """As shown."""
        spread = f" ± {100 * self.deviation:.2f}" if self.deviation is not None else ""
        return f"{100 * self.mean:.2f}{spread}"


@dataclass(frozen=True, kw_only=True)
class MethodSummary:
    """What a method's runs gave.

    Attributes:
        method: name.
        seeds: of the runs.
        mean_iou, pixel_accuracy, mean_accuracy, frequency_weighted_iou: over the seeds.
        rates: learning rate used, by seed.
        trials: learning rates tried, by seed.
        zeros: share of masked weights that are off, over the seeds; None without masks.
        bits: of a payload by kind, of the first seed.
        seconds: of all runs.
    """

    method: str
    seeds: tuple[int, ...]
    mean_iou: Spread
    pixel_accuracy: Spread
    mean_accuracy: Spread
    frequency_weighted_iou: Spread
    rates: tuple[float, ...]
    trials: tuple[Sequence[Mapping[str, Any]], ...]
    zeros: float | None
    bits: Mapping[str, int]
    seconds: float


def summarise(method: str, runs: Sequence[FinishedRun]) -> MethodSummary:
    """Gather one method's runs, at least one."""
    results = [run.result for run in runs]
    recipes: list[Mapping[str, Any]] = [result.recipe or {} for result in results]
    off = [result.metrics["zeros"] for result in results if "zeros" in result.metrics]
    return MethodSummary(
        method=method,
        seeds=tuple(result.seed or 0 for result in results),
        mean_iou=Spread.of([result.metrics["mean_iou"] for result in results]),
        pixel_accuracy=Spread.of([result.metrics["pixel_accuracy"] for result in results]),
        mean_accuracy=Spread.of([result.metrics["mean_accuracy"] for result in results]),
        frequency_weighted_iou=Spread.of([result.metrics["frequency_weighted_iou"] for result in results]),
        rates=tuple(recipe["lr_used"] for recipe in recipes),
        trials=tuple(recipe["lr_trials"] for recipe in recipes),
        zeros=fmean(off) if off else None,
        bits=results[0].bits,
        seconds=sum(result.wall_s or 0.0 for result in results),
    )


def as_json(summaries: Sequence[MethodSummary], *, background: float) -> dict[str, object]:
    """The report as ``--json`` prints it."""
    methods = {}
    for summary in summaries:
        fields = dict(vars(summary))
        method = fields.pop("method")
        for name, value in fields.items():
            if isinstance(value, Spread):
                fields[name] = dict(vars(value))
        methods[method] = fields | {
            "seeds": list(summary.seeds),
            "rates": list(summary.rates),
            "trials": [list(tried) for tried in summary.trials],
            "bits": dict(summary.bits),
        }
    return {"methods": methods, "all_background_mean_iou": background}


def show(summaries: Sequence[MethodSummary], *, title: str, background: float) -> None:
    """Print the final tables."""
    rows: list[tuple[str, ...]] = [
        (
            one.method,
            str(one.mean_iou.n),
            one.mean_iou.percent(),
            one.pixel_accuracy.percent(),
            one.mean_accuracy.percent(),
            one.frequency_weighted_iou.percent(),
            "-" if one.zeros is None else f"{100 * one.zeros:.1f}",
            f"{sum(one.bits.values()) / BITS_PER_MB:.2f}",
            f"{one.seconds:.0f}",
        )
        for one in summaries
    ]
    columns = ("method", "seeds", "mean IoU %", "pixel acc %", "mean acc %", "fw IoU %")
    console.table(
        title,
        *columns,
        *("zeros %", "payload MB", "seconds"),
        rows=rows,
        caption=f"± is the sample standard deviation over seeds; background everywhere: {100 * background:.2f} %",
    )
    tried = [one for one in summaries if any(one.trials)]
    if tried:
        lines: list[tuple[str, ...]] = [
            (one.method, str(seed), "  ".join(trial_text(trial, used=rate) for trial in trials))
            for one in tried
            for seed, rate, trials in zip(one.seeds, one.rates, one.trials, strict=True)
        ]
        console.table("learning rates tried, mean IoU % on held-out pictures; * used", "method", "seed", "", rows=lines)


def trial_text(trial: Mapping[str, Any], *, used: float) -> str:
    """One trial as shown."""
    value = "diverged" if trial[METRIC] is None else f"{100 * trial[METRIC]:.2f}"
    return f"{trial['lr']:g}{'*' if trial['lr'] == used else ''} {value}"
