"""The report on finished runs: tables beside the score of an empty answer, and overlay sheets."""

from collections.abc import Callable
from typing import Any, cast

import numpy as np

from piggyback.shell import console
from piggyback.shell.errors import one_line
from piggyback.suite import report
from piggyback.suite.bench import Job
from piggyback.suite.recipe import Recipe
from piggyback.suite.report import Request
from piggyback.suite.results import FinishedRun, advise
from segmentation.bench import open_bench
from segmentation.metric.confusion import Matrix, read_matrix
from segmentation.metric.miou import score, show, warn_if_background
from segmentation.metric.sheets import write_sheets
from segmentation.options import OwnReport, OwnRun
from segmentation.prediction import count_place
from segmentation.recipes import FCNRecipe
from segmentation.release.packed import PackedSplit, open_split


def detail(run: FinishedRun, job: Job[FCNRecipe], *, json: bool) -> dict[str, Any]:
    """Print one run's scores by class, or return them for the document of ``--json``."""
    with advise(run.folder):
        matrix = read_matrix(run.folder.root / "confusion.json")
    warn_if_background(matrix)
    scores = score(matrix, pictures=len(open_bench(job).evaluation))
    if json:
        return dict(scores.as_json())
    show(scores, title=f"{job.title}, {run.result.split}, {run.recipe['pictures_evaluated']} pictures")
    return {}


def tell(request: Request) -> dict[str, Any]:
    """Draw the sheets and print the tables of finished runs; return the document for ``--json``."""
    own = request.own
    split = open_split(request.data, split_of(own, request.recipe))
    summaries = report.gather(request)
    background = score_background(split)
    if isinstance(own, OwnRun):
        look_at_first(request, split, sheets=own.sheets)
    if not request.json:
        caption = f"background everywhere: {100 * background:.2f} %"
        title = f"{request.benchmark.title} on {split.name}, {split.completeness} pictures"
        report.show(request.benchmark, summaries, title=title, caption=caption)
        if not all(run.result.official_data for run in report.find_all(request)):
            console.out.print("not the official data as a whole: no benchmark result", markup=False)
        if isinstance(own, OwnRun) and own.sheets > 0:
            console.out.print(f"overlay sheets: {one_line(request.out / 'sheets')}", markup=False, soft_wrap=True)
    return {**report.as_json(request.benchmark, summaries), "all_background_mean_iou": background}


def split_of(own: object, recipe: Recipe | None) -> str:
    """Name of the split that a report is about."""
    return own.split if isinstance(own, OwnReport) else cast(FCNRecipe, recipe).evaluate


def keep(own: object, recipe: Recipe | None) -> Callable[[FinishedRun], bool]:
    """A test for the runs that were evaluated on that split."""
    name = split_of(own, recipe)
    return lambda run: run.result.split == name


def look_at_first(request: Request, split: PackedSplit, *, sheets: int) -> None:
    """Warn of an empty answer, and draw an overlay sheet, of each method's first run."""
    first: dict[str, FinishedRun] = {}
    for run in report.find_all(request):
        first.setdefault(run.result.method, run)
    for method, run in first.items():
        with advise(run.folder):
            warn_if_background(read_matrix(run.folder.root / "confusion.json"))
            if sheets > 0:
                sheet, predictions = (
                    request.out / "sheets" / f"{method}.png",
                    run.folder.root / "predictions" / split.name,
                )
                write_sheets(sheet, split, predictions=predictions, pictures=sheets)


def score_background(split: PackedSplit) -> float:
    """Mean IoU of calling every pixel background: the number to beat."""
    sizes = zip(split.heights.tolist(), split.widths.tolist(), strict=True)
    matrix = sum(count_place(split, place, np.zeros(size, dtype=np.uint8)) for place, size in enumerate(sizes))
    return score(cast(Matrix, matrix), pictures=len(split)).mean_iou
