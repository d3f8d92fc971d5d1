"""Networks that a method stands on in the backbone's place: made once, before any task's run.

A folder each under ``<out>/grounds``: the network as a backbone file, written last, and for joint training what each
task adds to it.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

from decathlon.bench import BACKBONE_FILE, Bench, Job, ground_folder, ground_key, open_bench
from decathlon.joint import PAYLOADS, train_jointly
from decathlon.options import GroundOptions
from decathlon.pruning import prune_backbone
from decathlon.release.packed import read_manifest
from piggyback.device import pick_device
from piggyback.shell import console
from piggyback.shell.errors import BadInput
from piggyback.shell.files import write_bytes
from piggyback.suite.run_folder import RunFolder, StopFlag, Watch, conduct, open_run, stop_on_signal


def make_ground(
    bench: Bench,
    *,
    root: Path | None = None,
    stop: StopFlag | None = None,
    on_step: Callable[[float], None] = lambda share: None,
) -> RunFolder | None:
    """Make the network that the bench's method stands on, or go on with it, or find it done.

    Args:
        bench: of any of the method's tasks.
        root: its folder; where the runs look for it when not given.
        stop: asks for a checkpoint and an end.
        on_step: told the share that is done.

    Returns:
        Its folder; None where the method stands on the backbone itself.

    Raises:
        BadInput: what it is trained on is missing, or another process is at work on it.
        Diverged: the loss is not finite.
        Requeue: a stop was asked for.
    """
    if bench.method.stands_on == "backbone":
        return None
    key = asdict(ground_key(bench))
    if bench.job.ground is not None:
        copy_ground(bench.job.ground, root=ground_folder(bench), key=key)
    folder = open_run(root or ground_folder(bench), key=key)
    make = prune_backbone if bench.method.stands_on == "pruned" else train_jointly

    def do(watch: Watch) -> None:
        make(bench, folder=folder, watch=watch, stop=stop, on_step=on_step)

    conduct(folder, do, proof=folder.root / BACKBONE_FILE)
    return folder


def copy_ground(source: Path, *, root: Path, key: Mapping[str, object]) -> None:
    """Copy a network that was made elsewhere, unless it is there, so that the folder of the runs is whole by itself.

    Several processes may do so at once: each file is written whole, and the network last.

    Raises:
        BadInput: it is not finished, or was made by another recipe or of other data.
    """
    if (root / BACKBONE_FILE).exists():
        return
    if not (source / BACKBONE_FILE).exists() or not RunFolder(source).key.exists():
        raise BadInput(f"{source} has no finished network: `piggyback decathlon ground --folder {source}` makes it")
    open_run(source, key=key)
    others = [path for pattern in ("*.json", "*.jsonl", f"{PAYLOADS}/*.safetensors") for path in source.glob(pattern)]
    for path in (*others, source / BACKBONE_FILE):
        write_bytes(root / path.relative_to(source), path.read_bytes())


def run(options: GroundOptions) -> int:
    """``piggyback decathlon ground``."""
    recipe = options.settings
    packed = (task for task in recipe.sequence if read_manifest(options.data, task) is not None)
    job = Job(
        task=next(packed, recipe.sequence[0]),  # any: a joint training looks for all of them itself
        method=options.method,
        recipe=recipe,
        data=options.data,
        backbone=options.backbone,
        out=options.out,
        device=pick_device(options.device),
        allow_other_environment=options.allow_other_environment,
    )
    bench = open_bench(job)
    with stop_on_signal() as stop, console.progress_bar() as bar:
        shown = bar.add_task(f"the network of {job.method}", total=1.0)
        folder = make_ground(
            bench, root=options.folder, stop=stop, on_step=lambda share: bar.update(shown, completed=share)
        )
    made = None if folder is None else str(folder.root / BACKBONE_FILE)
    if options.json:
        console.print_json({"method": job.method, "file": made})
        return 0
    text = f"{job.method} stands on the backbone itself: nothing to make" if made is None else f"done: {made}"
    console.out.print(text, markup=False, soft_wrap=True)
    return 0
