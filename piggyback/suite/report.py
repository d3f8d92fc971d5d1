"""Final tables: numbers with their spread over seeds, learning rates tried, sizes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Final, Literal

import torch

from piggyback.methods.registry import named_method
from piggyback.shell import console
from piggyback.suite.benchmark import Benchmark
from piggyback.suite.recipe import Recipe
from piggyback.suite.results import FinishedRun, find_runs

BITS_PER_MB: Final = 8e6


@dataclass(frozen=True, kw_only=True)
class Request:
    """A report to make.

    Attributes:
        out: folder of the runs.
        data: prepared folder.
        methods, tasks, seeds: to show, each once.
        device: for what has to be computed.
        json: print nothing but the returned document.
        verb: ``run``, after training, or ``report``.
        recipe: the runs' recipe if it is known, as it is after ``run``.
        own: the benchmark's own options for that verb.
        keep: says whether the report covers a finished run.
    """

    benchmark: Benchmark
    out: Path
    data: Path
    methods: tuple[str, ...]
    tasks: tuple[str, ...]
    seeds: tuple[int, ...]
    device: torch.device
    json: bool
    verb: Literal["run", "report"]
    recipe: Recipe | None = None
    own: Any = None
    keep: Callable[[FinishedRun], bool] = lambda run: True


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Mean and deviation over n seeds, as fractions in [0, 1]; no deviation for one seed."""

    mean: float
    deviation: float | None
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Mean and sample standard deviation."""
        return cls(mean=fmean(values), deviation=stdev(values) if len(values) > 1 else None, n=len(values))

    def percent(self) -> str:
        spread = f" ± {100 * self.deviation:.2f}" if self.deviation is not None else ""
        return f"{100 * self.mean:.2f}{spread}"


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The runs of one task with one method, summed up over their seeds.

    Attributes:
        rates: learning rate used, by seed.
        trials: learning rates tried, by seed.
        zeros: fraction of masked weights that are off; None without masks.
        bits: a payload's bits by kind, of the first seed.
        seconds: of all runs together.
        parameter_ratio: by the paper's convention.
    """

    method: str
    task: str
    seeds: tuple[int, ...]
    metrics: Mapping[str, Spread]
    rates: tuple[float, ...]
    trials: tuple[Sequence[Mapping[str, Any]], ...]
    zeros: float | None
    bits: Mapping[str, int]
    seconds: float
    parameter_ratio: float | None

    def as_json(self) -> dict[str, Any]:
        return {
            "seeds": list(self.seeds),
            **{name: dict(vars(spread)) for name, spread in self.metrics.items()},
            "rates": list(self.rates),
            "trials": [list(tried) for tried in self.trials],
            "zeros": self.zeros,
            "bits": dict(self.bits),
            "seconds": self.seconds,
        }


def summarise(benchmark: Benchmark, runs: Sequence[FinishedRun]) -> Summary:
    """Sum up the runs of one task with one method; there must be at least one."""
    results = [run.result for run in runs]
    off = [result.metrics["zeros"] for result in results if "zeros" in result.metrics]
    return Summary(
        method=results[0].method,
        task=results[0].task,
        seeds=tuple(run.seed for run in runs),
        metrics={m.name: Spread.of([result.metrics[m.name] for result in results]) for m in benchmark.metrics},
        rates=tuple(run.recipe["lr_used"] for run in runs),
        trials=tuple(run.recipe["lr_trials"] for run in runs),
        zeros=fmean(off) if off else None,
        bits=results[0].bits,
        seconds=sum(result.wall_s or 0.0 for result in results),
        parameter_ratio=results[0].parameter_ratio,
    )


def find_all(request: Request, *, method: str | None = None) -> list[FinishedRun]:
    """The finished runs that the request covers, of one method or of all."""
    methods = request.methods if method is None else (method,)
    found = (
        run
        for name in methods
        for run in find_runs(request.out, benchmark=request.benchmark, method=name, seeds=request.seeds).values()
    )
    return [run for run in found if request.keep(run)]


def gather(request: Request) -> list[Summary]:
    """One summary for each method and task with finished runs."""
    found = []
    for method in request.methods:
        runs = find_all(request, method=method)
        for task in dict.fromkeys(run.result.task for run in runs):
            found.append(summarise(request.benchmark, [run for run in runs if run.result.task == task]))
    return found


def find_missing(request: Request) -> list[str]:
    benchmark, missing = request.benchmark, []
    for method in request.methods:
        found = {(run.result.task, run.seed) for run in find_all(request, method=method)}
        joint = named_method(method).stands_on == "joint"  # only then the backbone's own task is one to train
        tasks = [task for task in request.tasks if joint or task != benchmark.backbone_task]
        names = {task: f"{task} " if benchmark.several else "" for task in tasks}
        lacking = [(task, seed) for seed in request.seeds for task in tasks if (task, seed) not in found]
        missing += [f"{names[task]}{method} seed {seed}" for task, seed in lacking]
    return missing


def tell(request: Request) -> dict[str, Any]:
    """Default of `Benchmark.report`: print the tables, unless the request is for JSON, and return the document."""
    summaries = gather(request)
    if not request.json:
        show(request.benchmark, summaries, title=request.benchmark.title)
    return as_json(request.benchmark, summaries)


def as_json(benchmark: Benchmark, summaries: Sequence[Summary]) -> dict[str, Any]:
    """The document that ``--json`` prints: by method, and by task if there are several."""
    methods: dict[str, Any] = {}
    for one in summaries:
        if benchmark.several:
            methods.setdefault(one.method, {"parameter_ratio": one.parameter_ratio, "tasks": {}})
            methods[one.method]["tasks"][one.task] = one.as_json()
        else:
            methods[one.method] = one.as_json()
    return {"methods": methods}


def show(benchmark: Benchmark, summaries: Sequence[Summary], *, title: str, caption: str = "") -> None:
    spread = "± is the sample standard deviation over seeds"
    caption = f"{spread}; {caption}" if caption else spread
    if benchmark.several:
        show_tasks(benchmark, summaries, title=title, caption=caption)
    else:
        show_methods(benchmark, summaries, title=title, caption=caption)
    show_trials(benchmark, summaries)


def show_methods(benchmark: Benchmark, summaries: Sequence[Summary], *, title: str, caption: str) -> None:
    """Print a row for each method, a column for each metric."""
    rows: list[tuple[str, ...]] = [
        (
            one.method,
            str(len(one.seeds)),
            *(one.metrics[metric.name].percent() for metric in benchmark.metrics),
            "-" if one.zeros is None else f"{100 * one.zeros:.1f}",
            f"{sum(one.bits.values()) / BITS_PER_MB:.2f}",
            f"{one.seconds:.0f}",
        )
        for one in summaries
    ]
    columns = ("method", "seeds", *(f"{metric.title} %" for metric in benchmark.metrics))
    console.table(title, *columns, "zeros %", "payload MB", "seconds", rows=rows, caption=caption)


def show_tasks(benchmark: Benchmark, summaries: Sequence[Summary], *, title: str, caption: str) -> None:
    """Print the first metric: a row for each task, a column for each method."""
    methods = list(dict.fromkeys(one.method for one in summaries))
    by_place = {(one.task, one.method): one for one in summaries}
    metric = benchmark.metrics[0]
    rows: list[tuple[str, ...]] = []
    for task in dict.fromkeys(one.task for one in summaries):
        found = [by_place.get((task, method)) for method in methods]
        rows.append((task, *(one.metrics[metric.name].percent() if one else "-" for one in found)))
    of = {method: [one for one in summaries if one.method == method] for method in methods}
    ratios = (next((one.parameter_ratio for one in of[m] if one.parameter_ratio), None) for m in methods)
    rows.append(("parameter ratio", *("-" if ratio is None else f"{ratio:.5f}" for ratio in ratios)))
    sizes = (sum(sum(one.bits.values()) for one in of[method]) / BITS_PER_MB for method in methods)
    rows.append(("payload files, MB", *(f"{size:.2f}" for size in sizes)))
    rows.append(("minutes", *(f"{sum(one.seconds for one in of[method]) / 60:.1f}" for method in methods)))
    console.table(f"{title}, {metric.title} %", "task", *methods, rows=rows, caption=caption)


def show_trials(benchmark: Benchmark, summaries: Sequence[Summary]) -> None:
    """Print every learning rate tried with its metric on val; a star marks the one used."""
    lines: list[tuple[str, ...]] = [
        (
            *((one.task,) if benchmark.several else ()),
            one.method,
            str(seed),
            "  ".join(trial_text(trial, used=rate, metric=benchmark.trial_metric) for trial in trials),
        )
        for one in summaries
        for seed, rate, trials in zip(one.seeds, one.rates, one.trials, strict=True)
        if trials
    ]
    if lines:
        title = f"learning rates tried, {benchmark.metrics[0].title} % on val; * used"
        console.table(title, *(("task",) if benchmark.several else ()), "method", "seed", "", rows=lines)


def trial_text(trial: Mapping[str, Any], *, used: float, metric: str) -> str:
    """A learning rate, a star if it was used, and its percentage on val."""
    value = "diverged" if trial[metric] is None else f"{100 * trial[metric]:.2f}"
    return f"{trial['lr']:g}{'*' if trial['lr'] == used else ''} {value}"
