"""The report on finished runs: scores where there are labels, then the final tables."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch

from decathlon.challenge.collection import collect, find_runs
from decathlon.challenge.records import write_test_records
from decathlon.challenge.scoring import ScoreReport, score_file
from decathlon.challenge.submission import submission_entries, write_submission
from decathlon.challenge.summary import MethodSummary, print_summaries, summaries_as_json, summarise
from decathlon.options import OwnReport
from decathlon.release.labels import Labels, find_labels, read_labels
from piggyback.shell import console
from piggyback.shell.errors import BadInput
from piggyback.suite import report
from piggyback.suite.benchmark import Metric
from piggyback.suite.report import Request, Spread, Summary


def tell(request: Request) -> dict[str, Any]:
    """Score what is finished and print the tables, or give the document for ``--json``."""
    own = cast(OwnReport, request.own)
    labels = labels_for(own.labels, data=request.data)
    by_seed: dict[int, list[MethodSummary]] = {}
    for seed in request.seeds:
        by_seed[seed] = gather(request.out, request.methods, seed=seed, labels=labels, device=request.device)
        if request.json:
            continue
        if request.verb == "report" or len(request.seeds) > 1:
            console.out.print(f"seed {seed}", style="bold")
        print_summaries(by_seed[seed])
    if request.verb == "run" and len(request.seeds) == 1:
        return summaries_as_json(by_seed[request.seeds[0]])
    spread = spread_over(request, by_seed)
    if not request.json and len(request.seeds) > 1:
        show_spread(request, spread)
    seeds = {str(seed): summaries_as_json(summaries) for seed, summaries in by_seed.items()}
    return {"seeds": seeds, "spread": report.as_json(request.benchmark, spread)["methods"]}


def spread_over(request: Request, by_seed: Mapping[int, Sequence[MethodSummary]]) -> list[Summary]:
    """Val accuracies over the seeds, and test accuracies where every seed's were scored."""
    found = []
    for one in report.gather(request):
        summaries = [each for seed in one.seeds for each in by_seed[seed] if each.method == one.method]
        lines = [summary.tasks.get(one.task) for summary in summaries]
        test = [line.test for line in lines if line is not None and line.test is not None]
        more = {"test_accuracy": Spread.of(test)} if len(test) == len(one.seeds) else {}
        found.append(replace(one, metrics={**one.metrics, **more}))
    return found


def show_spread(request: Request, spread: Sequence[Summary]) -> None:
    """Print means and deviations over the seeds: of test where all of it was scored, else of val."""
    scored = all("test_accuracy" in one.metrics for one in spread)
    name, title = ("test_accuracy", "test accuracy") if scored else ("accuracy", "val accuracy")
    metric = Metric(name=name, title=title)
    benchmark = replace(request.benchmark, metrics=(metric,))
    caption = f"± is the sample standard deviation over seeds {', '.join(map(str, request.seeds))}"
    report.show_tasks(benchmark, spread, title="all seeds", caption=caption)


def gather(
    out: Path, methods: Sequence[str], *, seed: int, labels: Labels | None, device: torch.device
) -> list[MethodSummary]:
    """Summaries of each method's finished runs; scored where there are labels."""
    scores = score_methods(out, methods, seed=seed, labels=labels, device=device) if labels is not None else {}
    return [
        summarise(method, find_runs(out, method=method, seed=seed), report=scores.get(method))
        for method in dict.fromkeys(methods)
    ]


def score_methods(
    out: Path, methods: Sequence[str], *, seed: int, labels: Labels, device: torch.device
) -> dict[str, ScoreReport]:
    """Write, score and record every method's submission; a method without a labelled task is left out."""
    reports = {}
    for method in dict.fromkeys(methods):
        predictions = collect(out, method=method, seed=seed, device=device)
        labelled = {task: found for task, found in predictions.items() if task in labels.tasks}
        if not labelled:
            console.notice(f"note: {labels.source} has no labels of any task of {method}")
            continue
        file = out / "submissions" / f"{method}-seed{seed}.json"
        write_submission(file, submission_entries(labelled))
        reports[method] = score_file(file, labels=labels)
        write_test_records(out, method=method, seed=seed, report=reports[method], device=device)
    return reports


def labels_for(labels: Path | None, *, data: Path) -> Labels | None:
    """Test labels, if there are any; this is the only place of a run that opens them."""
    if labels is not None:
        return read_labels(labels)
    try:
        found: Path = find_labels(data)
    except BadInput:
        console.notice("note: no labels of the test parts, so there are val accuracies only")
        return None
    return read_labels(found)
