"""One run: one method, one recipe, one seed, from packed pictures to payload, predictions and result."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, cast

import numpy as np
import torch

from leaderboard.result import Code, Counts, Fingerprints, Result, write_result
from piggyback.adapter import Adapter
from piggyback.budget import count_masked, parameter_ratio, write_sparsity
from piggyback.device import describe_device, pick_device
from piggyback.payload import read_payload
from piggyback.shell import console
from piggyback.shell.errors import Diverged, one_line
from piggyback.shell.files import sha256_of
from piggyback.suite.loop import Batches, Plan, Record, Training
from piggyback.suite.rate_trials import choose_rate, cut_batches
from piggyback.suite.run_folder import (
    Checkpoints,
    Environment,
    RunFolder,
    StopFlag,
    Watch,
    code_version,
    conduct,
    open_run,
    stop_on_signal,
)
from segmentation.bench import TASK, Bench, Job, open_bench
from segmentation.collection import advise, load_result
from segmentation.metric.confusion import read_matrix, score, show, warn_if_background, write_csv, write_matrix
from segmentation.metric.sheets import write_sheets
from segmentation.options import TrainOptions
from segmentation.prediction import Scored, count_places, predict_split
from segmentation.release.packed import PackedSplit

TASK_VERSION: Final = 1
SHEET_PICTURES: Final = 4  # on the overlay sheet that lies beside a result
METRIC: Final = "held_out_mean_iou"


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
        environment: what the bits depend on.
    """

    adapter: Adapter
    history: list[Record]
    rate: float
    trials: list[Record]
    environment: Environment


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
        finish(work, train_final(work, *find_rate(work)))

    conduct(folder, do)
    return folder


def find_rate(work: Work) -> tuple[float, list[Record]]:
    """The learning rate to train with, and the records of those tried on the held-out pictures."""
    recipe = work.bench.job.recipe
    if not recipe.lr_grid:
        return recipe.lr, []
    return choose_rate(
        recipe.lr_grid,
        file=work.folder.trials,
        metric=METRIC,
        title=work.bench.job.title,
        measure=lambda rate, number: try_rate(work, rate=rate, number=number),
    )


def try_rate(work: Work, *, rate: float, number: int) -> tuple[int, float]:
    """One trial: its steps, and its mean IoU on the held-out pictures."""
    bench, recipe = work.bench, work.bench.job.recipe
    work.watch.say("running", stage=f"trying learning rate {rate:g}, {number} of {len(recipe.lr_grid)}")
    places = bench.trial_places
    batches = bench.epoch_batches(places)
    steps = max(1, round(recipe.trial_share * recipe.epochs * -(-batches // recipe.accumulate)))
    cut = cut_batches(
        lambda epoch, start: bench.batches(places, epoch, start), epoch=batches, total=steps * recipe.accumulate
    )
    checkpoints = Checkpoints(work.folder.checkpoints / f"trial-{number}")
    adapter = bench.make_adapter()
    training = make_training(bench, adapter, plan=make_plan(bench, epochs=1, steps=steps), batches=cut, rate=rate)
    try:
        replace(training, checkpoints=checkpoints, stop=work.stop).run()
        matrix = count_places(bench, adapter.network, bench.train, bench.held_out)
    except Diverged:
        checkpoints.clear()
        raise
    checkpoints.clear()
    return steps, score(matrix, pictures=len(bench.held_out)).mean_iou


def train_final(work: Work, rate: float, trials: list[Record]) -> Trained:
    """The training that counts; leaves the payload and gives the adapter that shows its state."""
    bench, recipe = work.bench, work.bench.job.recipe
    places = bench.places
    plan = make_plan(bench, epochs=recipe.epochs, steps=-(-bench.epoch_batches(places) // recipe.accumulate))
    adapter = bench.make_adapter()

    def look(history: list[Record]) -> None:
        work.folder.write_metrics(history)
        work.watch.progress = len(history) / recipe.epochs
        work.watch.say("running", stage="training", loss=history[-1]["loss"])

    training = replace(
        make_training(
            bench, adapter, plan=plan, batches=lambda epoch, start: bench.batches(places, epoch, start), rate=rate
        ),
        checkpoints=Checkpoints(work.folder.checkpoints),
        stop=work.stop,
        on_step=lambda step: work.on_step(step / (plan.epochs * plan.steps)),
        on_epoch=look,
        on_save=lambda step: work.watch.note(step / (plan.epochs * plan.steps)),
    )
    history = training.run()
    adapter.save(work.folder.payload, task=TASK, recipe=asdict(recipe))
    return Trained(adapter=adapter, history=history, rate=rate, trials=trials, environment=training.environment)


def make_plan(bench: Bench, *, epochs: int, steps: int) -> Plan:
    """So many epochs of so many steps by the recipe."""
    recipe = bench.job.recipe
    return Plan(
        epochs=epochs,
        steps=steps,
        accumulate=recipe.accumulate,
        decay_after=recipe.decay_after,
        decay_factor=recipe.decay_factor,
        precision=recipe.precision,
    )


def make_training(bench: Bench, adapter: Adapter, *, plan: Plan, batches: Batches, rate: float) -> Training:
    """The loop with the bench's optimizer, loss and seed."""
    return Training(
        adapter=adapter,
        optimizer=bench.make_optimizer(adapter, rate=rate),
        batches=batches,
        loss=bench.loss,
        plan=plan,
        seed=bench.job.recipe.seed,
        allow_other_environment=bench.job.allow_other_environment,
    )


def prediction_source(folder: RunFolder, split: PackedSplit, *, environment: Environment) -> dict[str, Any]:
    """What predictions of a run depend on."""
    return {"payload": sha256_of(folder.payload), "split": split.fingerprint, "environment": vars(environment)}


def finish(work: Work, trained: Trained) -> None:
    """Predict the evaluation split and write the result last."""
    bench, folder = work.bench, work.folder
    split = bench.evaluation
    work.watch.say("running", stage=f"evaluating on {split.name}")
    scored = predict_split(
        bench,
        trained.adapter.network,
        split,
        folder=folder.root / "predictions" / split.name,
        source=prediction_source(folder, split, environment=trained.environment),
        stop=work.stop,
    )
    write_matrix(folder.root / "confusion.json", scored.matrix)
    write_csv(folder.root / "scores.csv", score(scored.matrix, pictures=scored.pictures))
    write_sheets(folder.root / "sheet.png", split, predictions=scored.folder, pictures=SHEET_PICTURES)
    write_result(folder.result, make_result(work, trained, scored))


def make_result(work: Work, trained: Trained, scored: Scored) -> Result:
    """The measured numbers with their evidence."""
    bench, folder, adapter = work.bench, work.folder, trained.adapter
    recipe, job = bench.job.recipe, bench.job
    scores = score(scored.matrix, pictures=scored.pictures)
    payload = read_payload(folder.payload)
    metrics = {
        "mean_iou": scores.mean_iou,
        "pixel_accuracy": scores.pixel_accuracy,
        "mean_accuracy": scores.mean_accuracy,
        "frequency_weighted_iou": scores.frequency_weighted_iou,
        "classes": float(len(scores.iou) - len(scores.absent)),
        "train_loss": trained.history[-1]["loss"],
    }
    zeros = write_sparsity(folder.sparsity, adapter, cast(str, adapter.current))
    if zeros is not None:
        metrics["zeros"] = zeros
    shapes = [tuple(adapter.frozen[name].shape) for name in adapter.anatomy.weights]
    masked = count_masked(adapter, cast(str, adapter.current))
    commit, dirty = code_version()
    used = {
        "lr_used": trained.rate,
        "lr_trials": trained.trials,
        "pictures_trained_on": f"{len(bench.places)}; {bench.train.name} has {bench.train.completeness}",
        "pictures_evaluated": bench.evaluation.completeness,
        "pictures_in_both": len(set(bench.train.ids) & set(bench.evaluation.ids)),
    }
    return Result(
        benchmark="segmentation",
        task=TASK,
        task_version=TASK_VERSION,
        split=recipe.evaluate,
        method=job.method,
        recipe=cast(Any, {**asdict(recipe), **used}),
        seed=recipe.seed,
        metrics=metrics,
        counts=Counts(n=int(scored.matrix.sum()), correct=int(np.trace(scored.matrix))),
        bits={kind: 8 * count for kind, count in payload.bytes_by_kind.items()},
        parameter_ratio=parameter_ratio([bench.method], shapes=shapes, masked=masked),
        selected_on="last epoch",
        trained_on=recipe.trained_on,
        origin="measured",
        official_data=bench.train.official and bench.evaluation.official,
        code=Code(commit=commit, dirty=dirty),
        versions={
            "torch": str(torch.__version__),
            "numpy": np.__version__,
            "mask update": trained.environment.update,
        },
        device=describe_device(job.device),
        wall_s=round(work.watch.seconds, 1),
        fingerprints=Fingerprints(
            data=f"{bench.train.fingerprint}+{bench.evaluation.fingerprint}",
            backbone=bench.backbone.sha256,
            predictions=sha256_of(folder.root / "confusion.json"),
        ),
    )


def run(options: TrainOptions) -> int:
    """``piggyback segmentation train``."""
    job = Job(
        method=options.method,
        recipe=options.settings,
        data=options.data,
        backbone=options.backbone,
        out=options.out,
        device=pick_device(options.device),
        allow_overlap=options.allow_overlap,
        allow_other_environment=options.allow_other_environment,
        folder=options.folder,
    )
    with stop_on_signal() as stop, console.progress_bar() as bar:
        shown = bar.add_task(job.title, total=1.0)
        folder = train_task(job, stop=stop, on_step=lambda share: bar.update(shown, completed=share))
    result = load_result(folder.result)
    with advise(folder):
        matrix = read_matrix(folder.root / "confusion.json")
    warn_if_background(matrix)
    scores = score(matrix, pictures=len(open_bench(job).evaluation))
    if options.json:
        document = {"folder": str(folder.root), "result": result.model_dump(mode="json"), **scores.as_json()}
        console.print_json(document)
        return 0
    show(scores, title=f"{job.title}, {result.split}, {(result.recipe or {})['pictures_evaluated']} pictures")
    console.out.print(f"done: {one_line(folder.root)}", markup=False, soft_wrap=True)
    return 0
