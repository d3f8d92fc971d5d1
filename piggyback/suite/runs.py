"""All tasks with one or more methods and seeds: training, then the final tables."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from piggyback.device import pick_device
from piggyback.methods.registry import named_method
from piggyback.shell import console
from piggyback.shell.cli import load
from piggyback.shell.errors import BadInput, one_line
from piggyback.suite.bench import Job, method_of, names_of, open_bench, root_of
from piggyback.suite.benchmark import Benchmark
from piggyback.suite.networks.foundation import foundation_folder, make_foundation
from piggyback.suite.options import ReportOptions, RunOptions
from piggyback.suite.ordering import recipe_for, tasks_of
from piggyback.suite.recipe import Recipe
from piggyback.suite.report import Request, find_missing
from piggyback.suite.results import FinishedRun, find_runs
from piggyback.suite.train import train_task
from piggyback.suite.training.checkpoints import StopFlag, stop_on_signal
from piggyback.suite.training.run_folder import RunFolder
from piggyback.suite.training.workers import show_share, train_jobs


def named(benchmark: Benchmark, methods: Sequence[str], seeds: Sequence[int]) -> tuple[list[str], list[int]]:
    """Methods and seeds as the user named them, each once.

    Raises:
        UnknownName: a method is unknown.
        BadInput: no method or no seed was named, or a method is meaningless for the benchmark.
    """
    if not methods or not seeds:
        raise BadInput("name at least one method and one seed: --methods piggyback,feature --seeds 0,1,2")
    found = [named_method(name).name for name in dict.fromkeys(methods)]
    for name in found:
        benchmark.refuse_method(name)
    return found, list(dict.fromkeys(seeds))


def named_tasks(benchmark: Benchmark, options: object) -> list[str]:
    """The tasks that the options name, each once; all tasks to train if they name none."""
    return [benchmark.find_task(name) for name in dict.fromkeys(getattr(options, "tasks", ()))] or list(benchmark.tasks)


def plan_jobs(benchmark: Benchmark, options: RunOptions[Any, Any]) -> list[Job]:
    """Every task with every method and seed, sorted by seed, then task, then method.

    Raises:
        UnknownName: a task or method is unknown; nothing has been trained then.
        BadInput: no method was named, or a method does not have one of the tasks.
    """
    tasks = named_tasks(benchmark, options)
    methods, seeds = named(benchmark, options.methods, options.seeds or (options.settings.seed,))
    first = Job(
        benchmark=benchmark.name,
        task=tasks[0],
        method=methods[0],
        recipe=options.settings,
        data=options.data,
        backbone=options.backbone,
        out=options.out,
        device=pick_device(options.device),
        allow_other_environment=options.allow_other_environment,
        own=options.own,
    )
    jobs = []
    for seed in seeds:
        of_seed = []
        for method in methods:
            stands_on = named_method(method).stands_on
            recipe = recipe_for(benchmark, replace(options.settings, seed=seed), stands_on=stands_on, tasks=tasks)
            own = tasks_of(benchmark, recipe, method=method, stands_on=stands_on, tasks=tasks)
            of_seed += [replace(first, task=task, method=method, recipe=recipe) for task in own]
        jobs += sorted(of_seed, key=lambda job: place_of(job, tasks=tasks))
    return jobs


def place_of(job: Job, *, tasks: Sequence[str]) -> tuple[bool, int]:
    """Sort key: independent tasks first, each with its methods; then methods whose tasks depend on each other."""
    apart = named_method(job.method).stands_on != "backbone"
    return apart, 0 if apart else tasks.index(job.task)


def check_jobs(benchmark: Benchmark, jobs: Sequence[Job]) -> None:
    """Find what would fail before training starts, which can take days.

    Raises:
        BadInput: data or backbone do not fit, or the folder has finished runs of another recipe, so that the tables
            could not tell which to show.
    """
    seeds = {job.recipe.seed for job in jobs}
    finished = {job.method: find_runs(job.out, benchmark=benchmark, method=job.method, seeds=seeds) for job in jobs}
    for job in jobs:
        found = finished[job.method].get((job.task, job.recipe.seed))
        if found is not None and found.folder.root.name != root_of(open_bench(job)).name:
            raise BadInput(
                f"{one_line(job.out)} has a run with {job.title} by another recipe, data or backbone, "
                f"{found.folder.root.name}: take another --out, or remove that folder"
            )
    if benchmark.begin is not None:  # last: it may write into the folder
        load(benchmark.begin)(jobs, strict=True)
        return
    for job in jobs:
        open_bench(job)


def run(benchmark: Benchmark, options: RunOptions[Any, Any]) -> int:
    """``piggyback <benchmark> run``."""
    jobs = plan_jobs(benchmark, options)
    check_jobs(benchmark, jobs)
    with stop_on_signal() as stop:
        make_networks(jobs, stop=stop)
        failed = train_jobs(jobs, train=train_task, parallel=options.parallel, stop=stop)
    if len(failed) < len(jobs):
        request = Request(
            benchmark=benchmark,
            out=options.out,
            data=options.data,
            methods=tuple(dict.fromkeys(job.method for job in jobs)),
            tasks=tuple(dict.fromkeys(job.task for job in jobs)),
            seeds=tuple(dict.fromkeys(job.recipe.seed for job in jobs)),
            device=jobs[0].device,
            json=options.json,
            verb="run",
            recipe=options.settings,
            own=options.own,
            keep=keeper(benchmark, options.own, options.settings),
        )
        document = load(benchmark.report)(request)
        if options.json:
            console.print_json(document)
    if failed:
        names = names_of(failed)
        raise BadInput(f"{len(failed)} of {len(jobs)} runs failed: {names}; the same command tries them again")
    return 0


def keeper(benchmark: Benchmark, own: Any, recipe: Recipe | None) -> Callable[[FinishedRun], bool]:
    """Make the predicate that says which finished runs a report covers."""
    if benchmark.keep is None:
        return lambda run: True
    keep: Callable[[FinishedRun], bool] = load(benchmark.keep)(own, recipe)
    return keep


def make_networks(jobs: Sequence[Job], *, stop: StopFlag) -> None:
    """Make the methods' own networks first, so that runs side by side do not each begin to make them."""
    done = set[Path]()
    for job in jobs:
        bench = open_bench(job)
        if method_of(job).stands_on == "backbone" or RunFolder(root_of(bench)).result.exists():
            continue
        folder = foundation_folder(bench)
        if folder in done:
            continue
        done.add(folder)
        with console.progress_bar() as bar:
            line = bar.add_task(f"the network of {job.method}", total=1.0)
            make_foundation(bench, stop=stop, on_step=partial(show_share, bar, line))


def run_report(benchmark: Benchmark, options: ReportOptions[Any]) -> int:
    """``piggyback <benchmark> report``; returns 1 if a run is missing."""
    methods, seeds = named(benchmark, options.methods, options.seeds)
    tasks = named_tasks(benchmark, options)
    request = Request(
        benchmark=benchmark,
        out=options.runs,
        data=options.data,
        methods=tuple(methods),
        tasks=tuple(tasks),
        seeds=tuple(seeds),
        device=pick_device(options.device),
        json=options.json,
        verb="report",
        own=options.own,
        keep=keeper(benchmark, options.own, None),
    )
    document = load(benchmark.report)(request)
    missing = find_missing(request)
    if options.json:
        console.print_json({**document, "missing": missing})
    elif missing:
        console.out.print(f"missing: {', '.join(missing)}", markup=False, soft_wrap=True)
    return 1 if missing else 0
