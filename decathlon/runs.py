"""All tasks with one or more methods: training, then scoring, then the final tables."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from decathlon.collection import collect, find_runs, write_setup
from decathlon.labels import Labels, find_labels, read_labels
from decathlon.options import RunOptions
from decathlon.scoring import ScoreReport, score_file
from decathlon.submission import submission_entries, write_submission
from decathlon.summary import MethodSummary, print_summaries, summaries_as_json, summarise
from decathlon.tasks import MASKED_TASKS, find_task
from decathlon.training import Job, train_task
from decathlon.workers import devices_for, train_side_by_side
from piggyback import console
from piggyback.device import pick_device
from piggyback.errors import BadInput
from piggyback.methods import named_method
from piggyback.runs import StopFlag, stop_on_signal


def plan_jobs(options: RunOptions) -> list[Job]:
    """Every task with every method, a task's methods one after the other.

    Raises:
        UnknownName: a task or method is not known; nothing was trained then.
    """
    tasks = [find_task(name).name for name in options.tasks] or list(MASKED_TASKS)
    methods = [named_method(name).name for name in options.methods]
    if not methods:
        raise BadInput("no method was named: give --methods, such as piggyback,feature")
    device = pick_device(options.device)
    return [
        Job(
            task=task,
            method=method,
            recipe=options.settings,
            data=options.data,
            backbone=options.backbone,
            out=options.out,
            device=device,
            allow_other_environment=options.allow_other_environment,
        )
        for task in tasks
        for method in methods
    ]


def train_all(jobs: Sequence[Job], *, parallel: int) -> None:
    """Train jobs, one after the other or side by side, with progress.

    Raises:
        BadInput: some failed; the others are done.
    """
    devices = devices_for(parallel, device=jobs[0].device)
    with stop_on_signal() as stop, console.progress_bar() as bar:
        total = bar.add_task("runs", total=len(jobs))
        if len(devices) > 1:
            failed = train_side_by_side(jobs, devices=devices, stop=stop, on_done=lambda _: bar.advance(total))
            if failed:
                names = ", ".join(f"{job.task} {job.method}" for job in failed)
                raise BadInput(f"{len(failed)} of {len(jobs)} runs failed: {names}; the same command tries them again")
            return
        for job in jobs:
            shown = bar.add_task(f"{job.task} {job.method}", total=1.0)
            train_one(job, stop=stop, update=lambda share, shown=shown: bar.update(shown, completed=share))
            bar.remove_task(shown)
            bar.advance(total)


def train_one(job: Job, *, stop: StopFlag, update: object) -> None:
    """One run, with a line when it ends: a log without a terminal shows progress too."""
    folder = train_task(job, stop=stop, on_step=update)  # type: ignore[arg-type]
    console.notice(f"done: {job.task} {job.method} ({folder.root.name})")


def score_methods(options: RunOptions, *, labels: Labels) -> dict[str, ScoreReport]:
    """Write every method's submission and score it."""
    reports = {}
    for method in options.methods:
        predictions = collect(options.out, method=method, seed=options.settings.seed)
        labelled = {task: found for task, found in predictions.items() if task in labels.tasks}
        file = options.out / "submissions" / f"{method}-seed{options.settings.seed}.json"
        write_submission(file, submission_entries(labelled))
        reports[method] = score_file(file, labels=labels)
    return reports


def labels_for(options: RunOptions) -> Labels | None:
    """Test labels, if there are any; this is the only place of a run that opens them."""
    if options.labels is not None:
        return read_labels(options.labels)
    try:
        found: Path = find_labels(options.data)
    except BadInput:
        console.notice("note: no labels of the test parts, so there are val accuracies only")
        return None
    return read_labels(found)


def run(options: RunOptions) -> int:
    """``piggyback decathlon run``."""
    jobs = plan_jobs(options)
    write_setup(options.out, data=options.data, backbone=options.backbone, size=options.settings.size)
    train_all(jobs, parallel=options.parallel)
    labels = labels_for(options)
    reports: Mapping[str, ScoreReport] = score_methods(options, labels=labels) if labels is not None else {}
    summaries: list[MethodSummary] = [
        summarise(method, find_runs(options.out, method=method, seed=options.settings.seed), report=reports.get(method))
        for method in options.methods
    ]
    if options.json:
        console.print_json(summaries_as_json(summaries))
    else:
        print_summaries(summaries)
    return 0
