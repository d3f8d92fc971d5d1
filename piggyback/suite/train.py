"""One run: one task, one method, one recipe, from packed data to payload, evidence and result."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch

from leaderboard.result import Code, Coverage, Fingerprints, Result, write_result
from piggyback.adapter import Adapter
from piggyback.budget import ratio_of_task, write_sparsity
from piggyback.device import describe_device, pick_device
from piggyback.methods.contract import Prunes
from piggyback.motion import tell_motion
from piggyback.payload import read_payload
from piggyback.shell import console
from piggyback.shell.cli import load
from piggyback.shell.errors import Diverged, one_line
from piggyback.shell.files import sha256_of
from piggyback.suite.bench import (
    Bench,
    Finish,
    Job,
    Measured,
    backbone_digest,
    benchmark_of,
    data_fingerprint,
    key_of,
    make_adapter,
    make_optimizer,
    make_plan,
    method_of,
    open_bench,
    root_of,
    steps_of,
)
from piggyback.suite.benchmark import Benchmark
from piggyback.suite.networks.foundation import find_foundation, foundation_folder, make_foundation
from piggyback.suite.networks.joint import take_joint
from piggyback.suite.ordering import sequence_of
from piggyback.suite.recipe import SequenceRecipe, settings_of
from piggyback.suite.results import FinishedRun, load_result
from piggyback.suite.training.checkpoints import Checkpoints, Environment, StopFlag, stop_on_signal
from piggyback.suite.training.learners import TaskLearner
from piggyback.suite.training.loop import Batches, Plan, Record, Training
from piggyback.suite.training.rate_trials import choose_rate, cut_batches
from piggyback.suite.training.run_folder import RunFolder, Watch, code_version, conduct, open_run


@dataclass(frozen=True, kw_only=True)
class Work:
    """A run in progress in this process.

    Attributes:
        watch: keeps ``status.json`` up to date.
        stop: set when the run is asked to write a checkpoint and end.
        on_step: called with the fraction of the final training completed.
    """

    bench: Bench
    folder: RunFolder
    watch: Watch
    stop: StopFlag | None
    on_step: Callable[[float], None]

    @property
    def job(self) -> Job:
        return self.bench.job


@dataclass(frozen=True, kw_only=True)
class Trained:
    """Outcome of the final training.

    Attributes:
        adapter: shows the task as the payload has it.
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
    """Do a run from the start or from its checkpoint; a finished one is left alone.

    Args:
        job: what to train.
        stop: set to ask for a checkpoint and an end.
        on_step: called with the fraction of the final training completed.

    Raises:
        BadInput: data or backbone are missing or do not fit, or another process is working on the run.
        Diverged: the loss is not finite.
        Requeue: a stop was requested.
    """
    bench = open_bench(job)
    folder = open_run(root_of(bench), key=key_of(bench))

    def do(watch: Watch) -> None:
        work = Work(bench=bench, folder=folder, watch=watch, stop=stop, on_step=on_step)
        joint = method_of(job).stands_on == "joint"
        finish(work, take_trained(work) if joint else train_final(work, *find_rate(work)))

    if not folder.result.exists():
        make_foundation(bench, stop=stop)
    conduct(folder, do)
    return folder


def find_rate(work: Work) -> tuple[float, list[Record]]:
    """The learning rate to train with, and the records of those tried.

    Trials never train on val; each starts from the same weights and sees the same pictures, for every rate and method.
    """
    recipe = work.job.recipe
    if not recipe.lr_grid:
        return recipe.lr, []
    return choose_rate(
        recipe.lr_grid,
        file=work.folder.trials,
        metric=benchmark_of(work.bench).trial_metric,
        title=work.job.title,
        measure=lambda rate, number: try_rate(work, rate=rate, number=number),
    )


def try_rate(work: Work, *, rate: float, number: int) -> tuple[int, float]:
    """Run one trial; returns its steps and the benchmark's first metric on val."""
    bench, recipe = work.bench, work.job.recipe
    work.watch.say("running", stage=f"trying learning rate {rate:g}, {number} of {len(recipe.lr_grid)}")
    count = bench.count_batches("train")
    steps = max(1, round(recipe.trial_share * recipe.epochs_for(count) * steps_of(bench, "train")))
    batches = cut_batches(
        lambda epoch, start: bench.batches("train", epoch, start), epoch=count, total=steps * recipe.accumulate
    )
    checkpoints = Checkpoints(work.folder.checkpoints / f"trial-{number}")
    learner = make_learner(work, rate=rate)
    try:
        make_training(
            work,
            learner,
            plan=make_plan(recipe, epochs=1, steps=steps),
            batches=batches,
            checkpoints=checkpoints,
        ).run()
        value = bench.measure(learner.adapter.network)
    except Diverged:
        checkpoints.clear()
        raise
    checkpoints.clear()
    return steps, value


def make_learner(work: Work, *, rate: float) -> TaskLearner:
    adapter = make_adapter(work.bench, network=find_foundation(work.bench))
    return TaskLearner(
        adapter=adapter,
        optimizer=make_optimizer(work.job.recipe, adapter, rate=rate),
        criterion=work.bench.loss,
        precision=work.job.recipe.precision,
    )


def make_training(
    work: Work, learner: TaskLearner, *, plan: Plan, batches: Batches, checkpoints: Checkpoints
) -> Training:
    return Training(
        learner=learner,
        batches=batches,
        plan=plan,
        seed=work.job.recipe.seed,
        checkpoints=checkpoints,
        stop=work.stop,
        allow_other_environment=work.job.allow_other_environment,
    )


def train_final(work: Work, rate: float, trials: list[Record]) -> Trained:
    """Train with the chosen rate and save the payload; the returned adapter shows the task as saved."""
    bench, recipe, metric = work.bench, work.job.recipe, benchmark_of(work.bench).trial_metric
    epochs = recipe.epochs_for(bench.count_batches(recipe.trained_on))
    plan = make_plan(recipe, epochs=epochs, steps=steps_of(bench, recipe.trained_on))
    learner = make_learner(work, rate=rate)
    adapter, total = learner.adapter, plan.epochs * plan.steps
    prune_at = find_pruning(bench, total=total)

    def advance(step: int) -> None:
        if step == prune_at and isinstance(recipe, SequenceRecipe):
            adapter.prune(recipe.prune)
            learner.optimizer.reset()  # PackNet's code goes on with a new one
        work.on_step(step / total)

    def look(history: list[Record]) -> None:
        # a task that gave nothing back yet would leave later ones no weights
        if recipe.selected_on == "val" and len(history) * plan.steps >= prune_at:
            best = max((line[metric] for line in history[:-1] if metric in line), default=-1.0)
            history[-1][metric] = bench.measure(adapter.network)
            if history[-1][metric] > best:  # of equally good epochs the first
                save_payload(work, adapter, final=False)
        work.folder.write_metrics(history)
        work.watch.progress = len(history) / epochs
        work.watch.say("running", stage="training", loss=history[-1]["loss"])

    training = replace(
        make_training(
            work,
            learner,
            plan=plan,
            batches=lambda epoch, start: bench.batches(recipe.trained_on, epoch, start),
            checkpoints=Checkpoints(work.folder.checkpoints),
        ),
        on_step=advance,
        on_epoch=look,
        on_save=lambda step: work.watch.note(step / total),
    )
    history = training.run()
    if recipe.selected_on == "val":
        tell_motion(adapter, work.job.task)
        head = bench.make_head(adapter.network)
        adapter.load(work.folder.payload, task=f"{work.job.task} as selected", head=head)
    else:
        save_payload(work, adapter, final=True)
    return Trained(adapter=adapter, history=history, rate=rate, trials=trials, environment=training.environment)


def find_pruning(bench: Bench, *, total: int) -> int:
    """Number of steps after which the task prunes its weights; 0 for never: a sequence's last task keeps them all."""
    recipe = bench.job.recipe
    if not isinstance(method_of(bench.job), Prunes) or not isinstance(recipe, SequenceRecipe):
        return 0
    if bench.job.task == sequence_of(benchmark_of(bench), recipe)[-1]:
        return 0
    return max(1, total - max(1, round(recipe.retrain * total)))


def take_trained(work: Work) -> Trained:
    """Outcome of the joint training for this task."""
    folder = foundation_folder(work.bench)
    adapter, record = take_joint(work.bench, folder=folder, payload=work.folder.payload)
    loss = record["loss"][work.job.task]
    history: list[Record] = [{"epoch": 1, "loss": loss, "lr": record["lr_used"], "seconds": 0.0}]
    work.folder.write_metrics(history)
    environment = Environment.here(work.job.device, update="none")
    return Trained(
        adapter=adapter,
        history=history,
        rate=record["lr_used"],
        trials=record["lr_trials"],
        environment=environment,
    )


def save_payload(work: Work, adapter: Adapter, *, final: bool) -> None:
    adapter.save(work.folder.payload, task=work.job.task, recipe=settings_of(work.job.recipe), final=final)


def finish(work: Work, trained: Trained) -> None:
    """Let the bench predict and measure, then write the result, last of all."""
    measured = work.bench.finish(
        Finish(
            network=trained.adapter.network,
            folder=work.folder,
            environment=trained.environment,
            stop=work.stop,
            say=lambda stage: work.watch.say("running", stage=stage),
        )
    )
    write_result(work.folder.result, make_result(work, trained, measured))


def make_result(work: Work, trained: Trained, measured: Measured) -> Result:
    bench, job, adapter, benchmark = work.bench, work.job, trained.adapter, benchmark_of(work.bench)
    current = cast(str, adapter.current)
    shares = adapter.coverage(current).shares
    payload = read_payload(work.folder.payload)
    metrics = {**measured.metrics, "train_loss": trained.history[-1]["loss"]}
    zeros = write_sparsity(work.folder.sparsity, adapter, current)
    if zeros is not None:
        metrics["zeros"] = zeros
    commit, dirty = code_version()
    used = {"lr_used": trained.rate, "lr_trials": trained.trials, **measured.noted}
    return Result(
        benchmark=job.benchmark,
        task=job.task,
        task_version=benchmark.version,
        split=measured.split,
        method=job.method,
        recipe=cast(Any, {**settings_of(job.recipe), **used}),
        seed=job.recipe.seed,
        metrics=metrics,
        counts=measured.counts,
        bits={kind: 8 * count for kind, count in payload.bytes_by_kind.items()},
        parameter_ratio=ratio_of_task(adapter, current, count=len(benchmark.tasks)),
        coverage=Coverage(masked_share=shares.masked_share, left_out=dict(shares.left_out)),
        selected_on=job.recipe.selected_on,
        trained_on=job.recipe.trained_on,
        origin="measured",
        official_data=measured.official,
        code=Code(commit=commit, dirty=dirty),
        versions={
            "torch": str(torch.__version__),
            "numpy": np.__version__,
            "mask update": trained.environment.update,
        },
        device=describe_device(job.device),
        wall_s=round(work.watch.seconds, 1),
        fingerprints=Fingerprints(
            data=data_fingerprint(bench),
            backbone=backbone_digest(job.backbone),
            predictions=sha256_of(measured.evidence),
        ),
    )


def run(benchmark: Benchmark, options: Any) -> int:
    """``piggyback <benchmark> train``."""
    job = Job(
        benchmark=benchmark.name,
        task=getattr(options, "task", benchmark.tasks[0]),
        method=options.method,
        recipe=options.settings,
        data=options.data,
        backbone=options.backbone,
        out=options.out,
        device=pick_device(options.device),
        allow_other_environment=options.allow_other_environment,
        folder=options.folder,
        after=getattr(options, "after", None),
        ground=getattr(options, "ground", None),
        own=getattr(options, "own", None),
    )
    open_bench(job)
    if benchmark.begin is not None:
        load(benchmark.begin)([job], strict=False)
    with stop_on_signal() as stop, console.progress_bar() as bar:
        shown = bar.add_task(job.title, total=1.0)
        folder = train_task(job, stop=stop, on_step=lambda share: bar.update(shown, completed=share))
    finished = FinishedRun(folder=folder, result=load_result(folder.result))
    more = {} if benchmark.detail is None else load(benchmark.detail)(finished, job, json=options.json)
    if options.json:
        document = {"folder": str(folder.root), "result": finished.result.model_dump(mode="json"), **more}
        console.print_json(document)
        return 0
    if benchmark.detail is None:
        rows: list[tuple[str, ...]] = [(name, f"{value:.4f}") for name, value in finished.result.metrics.items()]
        console.table(f"{job.title}, {finished.result.split}", "metric", "value", rows=rows)
    console.out.print(f"done: {one_line(folder.root)}", markup=False, soft_wrap=True)
    return 0
