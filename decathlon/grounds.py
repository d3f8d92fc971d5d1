"""Networks that a method stands on in the backbone's place: made once, before any task's run.

A folder each under ``<out>/grounds``: the network as a backbone file, written last, and for joint training what each
task adds to it.
"""

from collections.abc import Callable
from dataclasses import asdict

from decathlon.bench import BACKBONE_FILE, Bench, Job, ground_folder, ground_key, open_bench
from decathlon.joint import train_jointly
from decathlon.options import GroundOptions
from decathlon.pruning import prune_backbone
from piggyback import console
from piggyback.device import pick_device
from piggyback.runs import RunFolder, StopFlag, Watch, conduct, open_run, stop_on_signal


def make_ground(
    bench: Bench, *, stop: StopFlag | None = None, on_step: Callable[[float], None] = lambda share: None
) -> RunFolder | None:
    """Make the network that the bench's method stands on, or go on with it, or find it done.

    Args:
        bench: of any of the method's tasks.
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
    folder = open_run(ground_folder(bench), key=asdict(ground_key(bench)))
    make = prune_backbone if bench.method.stands_on == "pruned" else train_jointly

    def do(watch: Watch) -> None:
        make(bench, folder=folder, watch=watch, stop=stop, on_step=on_step)

    conduct(folder, do, proof=folder.root / BACKBONE_FILE)
    return folder


def run(options: GroundOptions) -> int:
    """``piggyback decathlon ground``."""
    recipe = options.settings
    job = Job(
        task=recipe.sequence[0],
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
        folder = make_ground(bench, stop=stop, on_step=lambda share: bar.update(shown, completed=share))
    made = None if folder is None else str(folder.root / BACKBONE_FILE)
    if options.json:
        console.print_json({"method": job.method, "file": made})
        return 0
    text = f"{job.method} stands on the backbone itself: nothing to make" if made is None else f"done: {made}"
    console.out.print(text, markup=False, soft_wrap=True)
    return 0
