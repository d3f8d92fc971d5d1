"""All tasks with one or more methods: training, then scoring, then the final tables."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from decathlon.bench import Job, ground_folder, open_bench
from decathlon.challenge.records import write_test_records
from decathlon.challenge.scoring import ScoreReport, score_file
from decathlon.challenge.submission import submission_entries, write_submission
from decathlon.collection import Setup, collect, find_runs, write_setup
from decathlon.grounds import make_ground
from decathlon.options import ReportOptions, RunOptions
from decathlon.recipes import recipe_for, tasks_of
from decathlon.release.labels import Labels, find_labels, read_labels
from decathlon.release.packed import read_manifest
from decathlon.summary import MethodSummary, print_summaries, summaries_as_json, summarise
from decathlon.tasks import BACKBONE_TASK, MASKED_TASKS, find_task
from decathlon.training import train_task
from piggyback.device import pick_device
from piggyback.methods.registry import named_method
from piggyback.shell import console
from piggyback.shell.errors import BadInput
from piggyback.suite.run_folder import StopFlag, stop_on_signal
from piggyback.suite.workers import show_share, train_jobs


def plan_jobs(options: RunOptions) -> list[Job]:
    """Every task with every method, a task's methods one after the other.

    Raises:
        UnknownName: a task or method is not known; nothing was trained then.
        BadInput: no method was named, or one does not have a task.
    """
    tasks = [find_task(name).name for name in dict.fromkeys(options.tasks)] or list(MASKED_TASKS)
    methods = [named_method(name).name for name in dict.fromkeys(options.methods)]
    if not methods:
        raise BadInput("no method was named: give --methods, such as piggyback,feature")
    first = Job(
        task=tasks[0],
        method=methods[0],
        recipe=options.settings,
        data=options.data,
        backbone=options.backbone,
        out=options.out,
        device=pick_device(options.device),
        allow_other_environment=options.allow_other_environment,
    )
    jobs = []
    for method in methods:
        stands_on = named_method(method).stands_on
        recipe = recipe_for(options.settings, stands_on=stands_on, tasks=tasks)
        own = tasks_of(recipe, method=method, stands_on=stands_on, tasks=tasks)
        jobs += [replace(first, task=task, method=method, recipe=recipe) for task in own]
    return sorted(jobs, key=lambda job: place_of(job, tasks=tasks))


def place_of(job: Job, *, tasks: Sequence[str]) -> tuple[bool, int]:
    """Where a job stands: a task's methods one after the other, then those whose tasks depend on one another."""
    apart = named_method(job.method).stands_on != "backbone"
    return apart, 0 if apart else tasks.index(job.task)


def check_jobs(jobs: Sequence[Job]) -> None:
    """Find what would fail before anything is trained, which can take days.

    Raises:
        BadInput: a task is not packed, the backbone is missing, or the folder has finished runs of another
            recipe, so that tables and submissions could not tell which to take.
    """
    data = jobs[0].data
    missing = [task for task in dict.fromkeys(job.task for job in jobs) if read_manifest(data, task) is None]
    if len(missing) > 1:  # one alone has a message of its own
        raise BadInput(
            f"{', '.join(missing)} are not packed in {data}: run `piggyback decathlon prepare`, "
            "or name others in --tasks"
        )
    for job in jobs:
        bench = open_bench(job)
        found = find_runs(job.out, method=job.method, seed=job.recipe.seed).get(job.task)
        if found is not None and found.folder.root.name != bench.root.name:
            raise BadInput(
                f"{job.out} has a run of {job.task} with {job.method} by another recipe, data or backbone, "
                f"{found.folder.root.name}: take another --out, or remove that folder"
            )


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


def run(options: RunOptions) -> int:
    """``piggyback decathlon run``."""
    jobs = plan_jobs(options)
    check_jobs(jobs)
    if options.labels is not None and not options.labels.exists():  # not opened: that comes at the end
        raise BadInput(f"there are no labels in {options.labels}; leave --labels out to have val accuracies only")
    write_setup(options.out, Setup(data=options.data, backbone=options.backbone, size=options.settings.size))
    with stop_on_signal() as stop:
        make_grounds(jobs, stop=stop)
        failed = train_jobs(jobs, train=train_task, parallel=options.parallel, stop=stop)
    if len(failed) < len(jobs):
        report(options)
    if failed:
        names = ", ".join(job.title for job in failed)
        raise BadInput(f"{len(failed)} of {len(jobs)} runs failed: {names}; the same command tries them again")
    return 0


def make_grounds(jobs: Sequence[Job], *, stop: StopFlag) -> None:
    """Make the networks that methods stand on, before runs side by side would each want to."""
    done = set[Path]()
    for job in jobs:
        bench = open_bench(job)
        if bench.method.stands_on == "backbone" or bench.root.joinpath("result.json").exists():
            continue
        folder = ground_folder(bench)
        if folder in done:
            continue
        done.add(folder)
        with console.progress_bar() as bar:
            line = bar.add_task(f"the network of {job.method}", total=1.0)
            make_ground(bench, stop=stop, on_step=partial(show_share, bar, line))


def report(options: RunOptions) -> None:
    """Score what is finished and print the tables."""
    summaries = gather(
        options.out,
        options.methods,
        seed=options.settings.seed,
        labels=labels_for(options.labels, data=options.data),
        device=pick_device(options.device),
    )
    if options.json:
        console.print_json(summaries_as_json(summaries))
    else:
        print_summaries(summaries)


def gather(
    out: Path, methods: Sequence[str], *, seed: int, labels: Labels | None, device: torch.device
) -> list[MethodSummary]:
    """What each method's finished runs gave; scored where there are labels."""
    scores = score_methods(out, methods, seed=seed, labels=labels, device=device) if labels is not None else {}
    return [
        summarise(method, find_runs(out, method=method, seed=seed), report=scores.get(method))
        for method in dict.fromkeys(methods)
    ]


def run_report(options: ReportOptions) -> int:
    """``piggyback decathlon report``; 1 where a run is missing."""
    labels, device = labels_for(options.labels, data=options.data), pick_device(options.device)
    tasks = [find_task(name).name for name in dict.fromkeys(options.tasks)] or list(MASKED_TASKS)
    reports, missing = {}, []
    for seed in dict.fromkeys(options.seeds):
        summaries = gather(options.runs, options.methods, seed=seed, labels=labels, device=device)
        missing += [
            f"{task} {method} seed {seed}"
            for method in dict.fromkeys(options.methods)
            for task in find_missing(options.runs, method=method, seed=seed, tasks=tasks)
        ]
        reports[seed] = summaries
        if not options.json:
            console.out.print(f"seed {seed}", style="bold")
            print_summaries(summaries)
    if options.json:
        seeds = {str(seed): summaries_as_json(summaries) for seed, summaries in reports.items()}
        console.print_json({"seeds": seeds, "missing": missing})
    elif missing:
        console.out.print(f"missing: {', '.join(missing)}", markup=False, soft_wrap=True)
    return 1 if missing else 0


def find_missing(runs: Path, *, method: str, seed: int, tasks: Sequence[str]) -> list[str]:
    """The tasks without a finished run; the backbone's own counts for methods that are trained on all tasks jointly."""
    joint = named_method(method).stands_on == "joint"
    found = find_runs(runs, method=method, seed=seed)
    return [task for task in tasks if task not in found and (task != BACKBONE_TASK or joint)]
