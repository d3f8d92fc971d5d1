"""Networks that a method builds on in place of the backbone: made once, before any task's run.

Each has a folder under ``<out>/grounds``: the network as a file of the backbone's format, written last, and for joint
training what each task adds to it.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from piggyback.device import pick_device
from piggyback.methods.registry import named_method
from piggyback.shell import console
from piggyback.shell.errors import BadInput
from piggyback.shell.files import write_bytes
from piggyback.suite.bench import (
    Bench,
    Job,
    backbone_digest,
    benchmark_of,
    data_fingerprint,
    method_of,
    open_bench,
    open_own_task,
)
from piggyback.suite.benchmark import Benchmark
from piggyback.suite.networks.first_pruning import prune_backbone
from piggyback.suite.networks.joint import PAYLOADS, train_jointly
from piggyback.suite.networks.making import NETWORK_FILE, Making
from piggyback.suite.options import GroundOptions
from piggyback.suite.ordering import sequence_of
from piggyback.suite.recipe import SequenceRecipe, run_id, settings_of
from piggyback.suite.training.checkpoints import StopFlag, stop_on_signal
from piggyback.suite.training.run_folder import RunFolder, Watch, conduct, open_run

GROUNDS: Final = "grounds"  # folder, beside that of the runs


def key_of_foundation(bench: Bench) -> dict[str, Any]:
    """Everything that identifies the network that the bench's method builds on."""
    job, recipe = bench.job, bench.job.recipe
    if method_of(job).stands_on == "pruned":
        if isinstance(recipe, SequenceRecipe):
            recipe = replace(recipe, order=())  # the same network for every order
        own = open_own_task(bench, recipe)
        data = {own.job.task: data_fingerprint(own)}
    else:
        tasks = sequence_of(benchmark_of(bench), recipe)
        data = {task: data_fingerprint(open_bench(replace(job, task=task, folder=None))) for task in tasks}
    return {
        "method": job.method,
        "recipe": settings_of(recipe),
        "data": data,
        "backbone": backbone_digest(job.backbone),
    }


def foundation_folder(bench: Bench) -> Path:
    """Folder of the network that the bench's method builds on."""
    job = bench.job
    return job.out / GROUNDS / f"{job.method}-seed{job.recipe.seed}-{run_id(key_of_foundation(bench))}"


def find_foundation(bench: Bench) -> Path | None:
    """The network file that the bench's method builds on; None for the backbone itself.

    Raises:
        BadInput: it has not been made yet.
    """
    job = bench.job
    if method_of(job).stands_on == "backbone":
        return None
    path = foundation_folder(bench) / NETWORK_FILE
    if not path.exists():
        raise BadInput(
            f"{job.method} is built on {path}, which does not exist yet: run `piggyback {job.benchmark} ground`"
        )
    return path


def make_foundation(
    bench: Bench,
    *,
    root: Path | None = None,
    stop: StopFlag | None = None,
    on_step: Callable[[float], None] = lambda share: None,
) -> RunFolder | None:
    """Make the network that the bench's method builds on, from the start or from its checkpoint.

    Args:
        bench: of any of the method's tasks.
        root: its folder; by default the one where the runs look for it.
        stop: set to ask for a checkpoint and an end.
        on_step: called with the fraction completed.

    Returns:
        Its folder; None if the method builds on the backbone itself.

    Raises:
        BadInput: what it is trained on is missing, or another process is working on it.
        Diverged: the loss is not finite.
        Requeue: a stop was requested.
    """
    method = method_of(bench.job)
    if method.stands_on == "backbone":
        return None
    key = key_of_foundation(bench)
    if bench.job.ground is not None:
        copy_foundation(bench.job.ground, root=foundation_folder(bench), key=key, noun=bench.job.benchmark)
    folder = open_run(root or foundation_folder(bench), key=key)
    make = prune_backbone if method.stands_on == "pruned" else train_jointly

    def do(watch: Watch) -> None:
        make(bench, Making(folder=folder, watch=watch, stop=stop, on_step=on_step))

    conduct(folder, do, proof=folder.root / NETWORK_FILE)
    return folder


def copy_foundation(source: Path, *, root: Path, key: Mapping[str, object], noun: str) -> None:
    """Copy a network that was made elsewhere, unless it is there, so that the folder of the runs is complete by itself.

    Several processes may do so at once: each file is written atomically, and the network last.

    Raises:
        BadInput: it is not finished, or was made by another recipe or from other data.
    """
    if (root / NETWORK_FILE).exists():
        return
    if not (source / NETWORK_FILE).exists() or not RunFolder(source).key.exists():
        raise BadInput(f"{source} has no finished network: `piggyback {noun} ground --folder {source}` makes it")
    open_run(source, key=key)
    others = [path for pattern in ("*.json", "*.jsonl", f"{PAYLOADS}/*.safetensors") for path in source.glob(pattern)]
    for path in (*others, source / NETWORK_FILE):
        write_bytes(root / path.relative_to(source), path.read_bytes())


def run(benchmark: Benchmark, options: GroundOptions[Any]) -> int:
    """``piggyback <benchmark> ground``."""
    recipe, method = options.settings, named_method(options.method)
    tasks = [task for task in sequence_of(benchmark, recipe) if task != benchmark.backbone_task]
    first = Job(
        benchmark=benchmark.name,
        task=tasks[0],
        method=options.method,
        recipe=recipe,
        data=options.data,
        backbone=options.backbone,
        out=options.out,
        device=pick_device(options.device),
        allow_other_environment=options.allow_other_environment,
    )
    bench = open_any(first, tasks=tasks)
    with stop_on_signal() as stop, console.progress_bar() as bar:
        shown = bar.add_task(f"the network of {options.method}", total=1.0)
        folder = make_foundation(
            bench, root=options.folder, stop=stop, on_step=lambda share: bar.update(shown, completed=share)
        )
    made = None if folder is None else str(folder.root / NETWORK_FILE)
    if options.json:
        console.print_json({"method": method.name, "file": made})
        return 0
    text = f"{method.name} is built on the backbone itself: nothing to make" if made is None else f"done: {made}"
    console.out.print(text, markup=False, soft_wrap=True)
    return 0


def open_any(job: Job, *, tasks: list[str]) -> Bench:
    """The bench of the first task whose data are there; joint training checks the data of all tasks itself.

    Raises:
        BadInput: none can be opened; the message is that of the first task.
    """
    faults = []
    for task in tasks:
        try:
            return open_bench(replace(job, task=task))
        except BadInput as fault:
            faults.append(fault)
    raise faults[0]
