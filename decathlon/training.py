"""One run: one task, one method, one recipe, from packed pictures to payload, predictions and result."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, cast

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from decathlon.batches import epoch_length
from decathlon.bench import Bench, Job, ground_folder, open_bench
from decathlon.challenge.submission import Predictions
from decathlon.collection import Setup, load_result, note_setup
from decathlon.grounds import make_ground
from decathlon.joint import PAYLOADS, read_record
from decathlon.options import TrainOptions
from decathlon.prediction import measure, predict
from decathlon.tasks import TASK_VERSION
from leaderboard.result import Code, Counts, Fingerprints, Result, write_result
from piggyback.adapter import Adapter
from piggyback.budget import count_masked, parameter_ratio, write_sparsity
from piggyback.data.labelled import join
from piggyback.device import describe_device, pick_device
from piggyback.methods.contract import Prunes
from piggyback.payload import read_payload
from piggyback.shell import console
from piggyback.shell.errors import Diverged
from piggyback.shell.files import sha256_of, write_bytes
from piggyback.suite.loop import Batches, Plan, Record, Training
from piggyback.suite.rate_trials import choose_rate, cut_batches
from piggyback.suite.run_folder import (
    Checkpoints,
    RunFolder,
    StopFlag,
    Watch,
    code_version,
    conduct,
    open_run,
    stop_on_signal,
)

TASKS_ADDED: Final = 9  # the parameter ratio counts nine tasks beside the backbone's own


@dataclass(frozen=True, kw_only=True)
class Work:
    """A run under way in this process.

    Attributes:
        bench: what it works on.
        folder: the run's.
        watch: keeps ``status.json``.
        stop: asks for a checkpoint and an end.
        on_step: told the share of the final training that is done.
    """

    bench: Bench
    folder: RunFolder
    watch: Watch
    stop: StopFlag | None
    on_step: Callable[[float], None]


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What the final training gave.

    Attributes:
        adapter: shows the task as it is in the payload.
        history: one record per epoch.
        rate: learning rate used.
        trials: records of the learning rates tried.
        update: form of the mask update.
    """

    adapter: Adapter
    history: list[Record]
    rate: float
    trials: list[Record]
    update: str


def train_task(
    job: Job, *, stop: StopFlag | None = None, on_step: Callable[[float], None] = lambda share: None
) -> RunFolder:
    """Do a run, or go on with it, or find it done.

    Args:
        job: what to train.
        stop: asks for a checkpoint and an end.
        on_step: told the share of the final training that is done.

    Raises:
        BadInput: data or backbone are missing or do not fit, or another process is at work on the run.
        Diverged: the loss is not finite.
        Requeue: a stop was asked for.
    """
    bench = open_bench(job)
    folder = open_run(bench.root, key=asdict(bench.key))

    def do(watch: Watch) -> None:
        work = Work(bench=bench, folder=folder, watch=watch, stop=stop, on_step=on_step)
        trained = take_joint(work) if bench.method.stands_on == "joint" else train_final(work, *find_rate(work))
        finish(work, trained)

    if not folder.result.exists():
        make_ground(bench, stop=stop)
    conduct(folder, do)
    return folder


def find_rate(work: Work) -> tuple[float, list[Record]]:
    """The learning rate to train with, and the records of those tried on val.

    Trials train on train, from the same start and with the same pictures for every rate and method.
    """
    recipe, job = work.bench.job.recipe, work.bench.job
    if not recipe.lr_grid:
        return recipe.lr, []
    return choose_rate(
        recipe.lr_grid,
        file=work.folder.trials,
        metric="val_accuracy",
        title=f"{job.task} {job.method}",
        measure=lambda rate, number: try_rate(work, rate=rate, number=number),
    )


def try_rate(work: Work, *, rate: float, number: int) -> tuple[int, float]:
    """One trial: its steps, and its accuracy on val."""
    bench, recipe = work.bench, work.bench.job.recipe
    work.watch.say("running", stage=f"trying learning rate {rate:g}, {number} of {len(recipe.lr_grid)}")
    epoch_steps = epoch_length(len(bench.train), batch_size=recipe.batch_size)
    steps = max(1, round(recipe.trial_share * recipe.epochs_for(len(bench.train)) * epoch_steps))
    batches = cut_batches(lambda e, start: bench.batches(bench.train, e, start), epoch=epoch_steps, total=steps)
    checkpoints = Checkpoints(work.folder.checkpoints / f"trial-{number}")
    adapter = bench.make_adapter()
    plan = Plan(
        epochs=1,
        steps=steps,
        schedule=recipe.schedule,
        decay_after=recipe.decay_after,
        decay_again=recipe.decay_again,
        decay_factor=recipe.decay_factor,
        precision=recipe.precision,
    )
    training = make_training(bench, adapter, plan=plan, batches=batches, rate=rate)
    try:
        replace(training, checkpoints=checkpoints, stop=work.stop).run()
        accuracy = measure(bench, adapter.network, bench.val)
    except Diverged:
        checkpoints.clear()
        raise
    checkpoints.clear()
    return steps, accuracy


def train_final(work: Work, rate: float, trials: list[Record]) -> Trained:
    """The training that counts; leaves the payload and gives the adapter that shows its state."""
    bench, recipe = work.bench, work.bench.job.recipe
    pictures = join(bench.train, bench.val) if recipe.trained_on == "train+val" else bench.train
    epochs = recipe.epochs_for(len(pictures))
    plan = Plan(
        epochs=epochs,
        steps=epoch_length(len(pictures), batch_size=recipe.batch_size),
        schedule=recipe.schedule,
        decay_after=recipe.decay_after,
        decay_again=recipe.decay_again,
        decay_factor=recipe.decay_factor,
        precision=recipe.precision,
    )
    adapter = bench.make_adapter()
    total = plan.epochs * plan.steps
    prune_at = find_pruning(bench, total=total)

    def advance(step: int) -> None:
        if step == prune_at:
            adapter.prune(recipe.prune)
            training.optimizer.reset()  # the authors' code goes on with a new one
        work.on_step(step / total)

    def look(history: list[Record]) -> None:
        # a task that gave nothing back yet would leave later ones no weights
        if recipe.selected_on == "val" and len(history) * plan.steps >= prune_at:
            best = max((line["val_accuracy"] for line in history[:-1] if "val_accuracy" in line), default=-1.0)
            history[-1]["val_accuracy"] = measure(bench, adapter.network, bench.val)
            if history[-1]["val_accuracy"] > best:  # of equally good epochs the first
                save_payload(work, adapter)
        work.folder.write_metrics(history)
        work.watch.progress = len(history) / epochs
        work.watch.say("running", stage="training", loss=history[-1]["loss"])

    training = replace(
        make_training(bench, adapter, plan=plan, batches=lambda e, start: bench.batches(pictures, e, start), rate=rate),
        checkpoints=Checkpoints(work.folder.checkpoints),
        stop=work.stop,
        on_step=advance,
        on_epoch=look,
        on_save=lambda step: work.watch.note(step / total),
    )
    history = training.run()
    if recipe.selected_on == "val":
        adapter.load(work.folder.payload, task=f"{bench.job.task} as selected")
    else:
        save_payload(work, adapter)
    update = training.environment.update
    return Trained(adapter=adapter, history=history, rate=rate, trials=trials, update=update)


def find_pruning(bench: Bench, *, total: int) -> int:
    """After how many steps the task gives weights back, 0 for never; the last of the sequence keeps all."""
    recipe = bench.job.recipe
    if not isinstance(bench.method, Prunes) or bench.job.task == recipe.sequence[-1]:
        return 0
    return max(1, total - max(1, round(recipe.retrain * total)))


def take_joint(work: Work) -> Trained:
    """What the joint training gave for this task."""
    bench, job = work.bench, work.bench.job
    ground = ground_folder(bench)
    record = read_record(ground)
    write_bytes(work.folder.payload, (ground / PAYLOADS / f"{job.task}.safetensors").read_bytes())
    adapter = bench.attach_adapter()
    adapter.load(work.folder.payload)
    history: list[Record] = [{"epoch": 1, "loss": record["loss"][job.task], "lr": record["lr_used"], "seconds": 0.0}]
    work.folder.write_metrics(history)
    return Trained(adapter=adapter, history=history, rate=record["lr_used"], trials=record["lr_trials"], update="none")


def make_training(bench: Bench, adapter: Adapter, *, plan: Plan, batches: Batches, rate: float) -> Training:
    """The loop with the bench's optimizer and seed."""
    return Training(
        adapter=adapter,
        optimizer=bench.make_optimizer(adapter, rate=rate),
        batches=batches,
        loss=cross_entropy,
        plan=plan,
        seed=bench.job.recipe.seed,
        allow_other_environment=bench.job.allow_other_environment,
    )


def save_payload(work: Work, adapter: Adapter) -> None:
    """Write what the task adds."""
    adapter.save(work.folder.payload, task=work.bench.job.task, recipe=asdict(work.bench.job.recipe))


def finish(work: Work, trained: Trained) -> None:
    """Predict the test part without its labels, measure val, and write the result last."""
    bench, folder, adapter = work.bench, work.folder, trained.adapter
    recipe, job = bench.job.recipe, bench.job
    places = predict(bench, adapter.network, bench.test)
    chosen = Predictions(task=job.task, image_ids=bench.test.image_ids, category_ids=bench.test.category_ids[places])
    chosen.save(folder.predictions)
    correct = int((predict(bench, adapter.network, bench.val) == bench.val.labels).sum())
    accuracy = correct / len(bench.val)
    payload = read_payload(folder.payload)
    shapes = [tuple(adapter.frozen[name].shape) for name in adapter.anatomy.weights]
    masked = count_masked(adapter, cast(str, adapter.current))
    metrics = {"accuracy": accuracy, "error": 1 - accuracy, "train_loss": trained.history[-1]["loss"]}
    zeros = write_sparsity(folder.sparsity, adapter, cast(str, adapter.current))
    if zeros is not None:
        metrics["zeros"] = zeros
    commit, dirty = code_version()
    result = Result(
        benchmark="decathlon",
        task=job.task,
        task_version=TASK_VERSION,
        split="val",
        method=job.method,
        recipe=cast(Any, {**asdict(recipe), "lr_used": trained.rate, "lr_trials": trained.trials}),
        seed=recipe.seed,
        metrics=metrics,
        counts=Counts(n=len(bench.val), correct=correct),
        bits={kind: 8 * count for kind, count in payload.bytes_by_kind.items()},
        parameter_ratio=parameter_ratio([bench.method] * TASKS_ADDED, shapes=shapes, masked=masked),
        selected_on=recipe.selected_on,
        trained_on=recipe.trained_on,
        origin="measured",
        official_data=bench.train.official,
        code=Code(commit=commit, dirty=dirty),
        versions={"torch": str(torch.__version__), "numpy": np.__version__, "mask update": trained.update},
        device=describe_device(job.device),
        wall_s=round(work.watch.seconds, 1),
        fingerprints=Fingerprints(
            data=bench.train.fingerprint, backbone=bench.backbone.sha256, predictions=sha256_of(folder.predictions)
        ),
    )
    write_result(folder.result, result)


def run(options: TrainOptions) -> int:
    """``piggyback decathlon train``."""
    job = Job(
        task=options.task,
        method=options.method,
        recipe=options.settings,
        data=options.data,
        backbone=options.backbone,
        out=options.out,
        device=pick_device(options.device),
        allow_other_environment=options.allow_other_environment,
        folder=options.folder,
        after=options.after,
        ground=options.ground,
    )
    open_bench(job)
    note_setup(job.out, Setup(data=job.data, backbone=job.backbone, size=job.recipe.size))
    with stop_on_signal() as stop, console.progress_bar() as bar:
        shown = bar.add_task(f"{job.task} {job.method}", total=1.0)
        folder = train_task(job, stop=stop, on_step=lambda share: bar.update(shown, completed=share))
    result = load_result(folder.result)
    if options.json:
        console.print_json({"folder": str(folder.root), "result": result.model_dump(mode="json")})
        return 0
    rows: list[tuple[str, ...]] = [(name, f"{value:.4f}") for name, value in result.metrics.items()]
    console.table(f"{job.task}, {job.method}, val", "metric", "value", rows=rows, caption=f"done: {folder.root}")
    return 0
