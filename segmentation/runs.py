"""All methods and seeds of a recipe: training and evaluation, then the final tables and overlay sheets."""

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import numpy as np

from piggyback.device import pick_device
from piggyback.methods.registry import named_method
from piggyback.shell import console
from piggyback.shell.errors import BadInput, one_line
from piggyback.suite.run_folder import stop_on_signal
from piggyback.suite.workers import train_jobs
from segmentation.bench import Bench, Job, open_bench
from segmentation.collection import advise, find_runs
from segmentation.metric.confusion import Matrix, read_matrix, score, warn_if_background
from segmentation.metric.sheets import write_sheets
from segmentation.options import ReportOptions, RunOptions
from segmentation.prediction import count_place
from segmentation.release.packed import PackedSplit, open_split
from segmentation.summary import as_json, show, summarise
from segmentation.training import train_task


def named(methods: Sequence[str], seeds: Sequence[int]) -> tuple[list[str], list[int]]:
    """Methods and seeds as asked for, each once.

    Raises:
        UnknownName: a method is not known.
        BadInput: no method or no seed was named.
    """
    if not methods or not seeds:
        raise BadInput("name at least one method and one seed: --methods piggyback,feature --seeds 0,1,2")
    return [named_method(name).name for name in dict.fromkeys(methods)], list(dict.fromkeys(seeds))


def plan_jobs(options: RunOptions) -> list[Job]:
    """Every method with every seed, a seed's methods one after the other.

    Raises:
        UnknownName: a method is not known; nothing was trained then.
        BadInput: no method or no seed was named.
    """
    methods, seeds = named(options.methods, options.seeds)
    device = pick_device(options.device)
    return [
        Job(
            method=method,
            recipe=replace(options.settings, seed=seed),
            data=options.data,
            backbone=options.backbone,
            out=options.out,
            device=device,
            allow_overlap=options.allow_overlap,
            allow_other_environment=options.allow_other_environment,
        )
        for seed in seeds
        for method in methods
    ]


def check_jobs(jobs: Sequence[Job]) -> Bench:
    """Find what would fail before anything is trained, which can take days; gives the first job's bench.

    Raises:
        BadInput: data or backbone do not fit, or the folder has finished runs of another recipe, so that tables
            could not tell which to take.
    """
    benches = [open_bench(job) for job in jobs]
    finished = {job.method: find_runs(job.out, method=job.method) for job in jobs}
    for bench in benches:
        for run in finished[bench.job.method]:
            if run.result.seed == bench.job.recipe.seed and run.folder.root.name != bench.root.name:
                raise BadInput(
                    f"{one_line(bench.job.out)} has a run with {bench.job.title} by another recipe, data or backbone, "
                    f"{run.folder.root.name}: take another --out, or remove that folder"
                )
    return benches[0]


def score_background(split: PackedSplit) -> float:
    """Mean IoU of calling every pixel background, the number to be above."""
    sizes = zip(split.heights.tolist(), split.widths.tolist(), strict=True)
    matrix = sum(count_place(split, place, np.zeros(size, dtype=np.uint8)) for place, size in enumerate(sizes))
    return score(cast(Matrix, matrix), pictures=len(split)).mean_iou


def run(options: RunOptions) -> int:
    """``piggyback segmentation run``."""
    jobs = plan_jobs(options)
    bench = check_jobs(jobs)
    with stop_on_signal() as stop:
        failed = train_jobs(jobs, train=train_task, parallel=options.parallel, stop=stop)
    if len(failed) < len(jobs):
        report(options, bench)
    if failed:
        names = ", ".join(job.title for job in failed)
        raise BadInput(f"{len(failed)} of {len(jobs)} runs failed: {names}; the same command tries them again")
    return 0


def report(options: RunOptions, bench: Bench) -> None:
    """Draw the sheets and print the tables of what is finished."""
    split = bench.evaluation
    summaries = []
    for method in dict.fromkeys(options.methods):
        runs = [run for run in find_runs(options.out, method=method) if run.result.seed in options.seeds]
        if not runs:
            continue
        summaries.append(summarise(method, runs))
        shown = runs[0].folder
        with advise(shown):
            warn_if_background(read_matrix(shown.root / "confusion.json"))
            if options.sheets > 0:
                sheet, predictions = options.out / "sheets" / f"{method}.png", shown.root / "predictions" / split.name
                write_sheets(sheet, split, predictions=predictions, pictures=options.sheets)
    background = score_background(split)
    if options.json:
        console.print_json(as_json(summaries, background=background))
        return
    show(summaries, title=f"FCN-32s on {split.name}, {split.completeness} pictures", background=background)
    if not bench.evaluation.official or not bench.train.official:
        console.out.print("not the official data as a whole: no benchmark result", markup=False)
    if options.sheets > 0:
        console.out.print(f"overlay sheets: {one_line(options.out / 'sheets')}", markup=False, soft_wrap=True)


def run_report(options: ReportOptions) -> int:
    """``piggyback segmentation report``; 1 where a run is missing."""
    methods, seeds = named(options.methods, options.seeds)
    split = open_split(options.data, options.split)
    summaries, missing = [], []
    for method in methods:
        of_method = [run for run in find_runs(options.runs, method=method) if run.result.split == split.name]
        runs = [run for run in of_method if run.result.seed in seeds]
        found = {run.result.seed for run in runs}
        missing += [f"{method} seed {seed}" for seed in seeds if seed not in found]
        if runs:
            summaries.append(summarise(method, runs))
    background = score_background(split)
    if options.json:
        console.print_json({**as_json(summaries, background=background), "missing": missing})
        return 1 if missing else 0
    show(summaries, title=f"FCN-32s on {split.name}, {split.completeness} pictures", background=background)
    if missing:
        console.out.print(f"missing: {', '.join(missing)}", markup=False, soft_wrap=True)
    return 1 if missing else 0
