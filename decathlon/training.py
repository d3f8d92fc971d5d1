"""One run: one task, one method, one recipe, from packed pictures to payload, predictions and result."""

import copy
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from decathlon.backbone import Backbone, load_backbone
from decathlon.batches import Augmentation, evaluation_batches, normalise, training_batches
from decathlon.channels import measure_statistics
from decathlon.collection import load_result
from decathlon.options import TrainOptions
from decathlon.packed import PackedSplit, join, open_split
from decathlon.recipes import Recipe, RunKey
from decathlon.submission import Predictions
from decathlon.tasks import BACKBONE_TASK, find_task
from leaderboard.result import Code, Counts, Fingerprints, Result, write_result
from piggyback import console
from piggyback.adapter import Adapter, attach
from piggyback.budget import measure_sparsity, parameter_ratio
from piggyback.device import autocast, describe_device, pick_device
from piggyback.errors import BadInput, Diverged
from piggyback.files import read_json, sha256_of, write_json
from piggyback.methods import Method, named_method
from piggyback.optimizer import AdamRule, AdapterOptimizer, Rule, SGDRule
from piggyback.payload import read_payload
from piggyback.runs import Checkpoints, Environment, RunFolder, StopFlag, code_version, open_run, stop_on_signal
from piggyback.training import Plan, Training

TASK_VERSION: Final = 1
EVALUATION_BATCH: Final = 100
TASKS_ADDED: Final = 9  # the parameter ratio counts nine tasks beside the backbone's own
HEAD: Final = "fc"


@dataclass(frozen=True, kw_only=True)
class Job:
    """What to train.

    Attributes:
        task, method, recipe: as their names say.
        data: folder of packed tasks.
        backbone: backbone file.
        out: folder under which the run's folder is made.
        device: to train on.
        allow_other_environment: continue a checkpoint although its bits cannot be kept.
    """

    task: str
    method: str
    recipe: Recipe
    data: Path
    backbone: Path
    out: Path
    device: torch.device
    allow_other_environment: bool = False


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A job with its pictures and its backbone opened."""

    job: Job
    backbone: Backbone
    train: PackedSplit
    val: PackedSplit
    test: PackedSplit
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @property
    def key(self) -> RunKey:
        """What identifies the run."""
        return RunKey(
            task=self.job.task,
            method=self.job.method,
            recipe=self.job.recipe,
            data=self.train.fingerprint,
            backbone=self.backbone.sha256,
        )

    @property
    def method(self) -> Method:
        """The method with the recipe's settings."""
        method = named_method(self.job.method)
        if method.adapts != "weights":
            return method
        return cast(Method, replace(cast(Any, method), threshold=self.job.recipe.threshold, init=self.job.recipe.init))

    def augmentation(self, *, training: bool) -> Augmentation:
        """How pictures are brought to the network."""
        recipe, task = self.job.recipe, find_task(self.job.task)
        flip = training and recipe.flip and task.mirrored
        return Augmentation(size=recipe.size, view=recipe.view(task.name), flip=flip)

    def make_adapter(self) -> Adapter:
        """The frozen backbone with the fresh task on it; the same seed gives the same head for every method."""
        network = copy.deepcopy(self.backbone.network)
        network.to(device=self.job.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        recipe = self.job.recipe
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            head = nn.Linear(network.fc.in_features, self.train.classes)
        # "feature" is the head alone by definition; the recipe's choice is about methods that change weights
        norm = recipe.norm if self.method.adapts == "weights" else "fixed"
        adapter = attach(network, method=self.method, head=HEAD, norm=norm)
        adapter.add_task(self.job.task, head=head)
        return adapter

    def make_optimizer(self, adapter: Adapter, *, rate: float) -> AdapterOptimizer:
        """The optimizer at a base learning rate."""
        recipe = self.job.recipe
        rule = AdamRule(weight_decay=recipe.weight_decay)
        head_rule: Rule = rule if recipe.head_rule == "adam" else SGDRule(weight_decay=recipe.weight_decay)
        return adapter.optimizer(
            mask_lr=rate,
            head_lr=rate * recipe.head_lr_factor,
            norm_lr=recipe.norm_lr,
            rule=rule,
            head_rule=head_rule,
            update=recipe.update,
        )

    def inputs(self, pixels: Tensor) -> Tensor:
        """Normalised pictures on the device."""
        return normalise(pixels.to(self.job.device, non_blocking=True), mean=self.mean, std=self.std)

    def batches(self, split: PackedSplit, epoch: int, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Training batches of an epoch from the `start`-th on."""
        recipe = self.job.recipe
        augmentation = self.augmentation(training=True)
        for batch in training_batches(
            split, augmentation=augmentation, batch_size=recipe.batch_size, seed=recipe.seed, epoch=epoch, start=start
        ):
            yield self.inputs(batch.pixels), batch.labels.to(self.job.device)

    def environment(self) -> Environment:
        """What the bits depend on."""
        return Environment.here(self.job.device, update=self.job.recipe.update)


def open_bench(job: Job) -> Bench:
    """Open everything a job needs.

    Raises:
        BadInput: data or backbone are missing, or the task is the backbone's own.
        UnknownName: there is no such task or method.
    """
    find_task(job.task)
    named_method(job.method)
    if job.task == BACKBONE_TASK:
        raise BadInput(f"{BACKBONE_TASK} is the backbone's own task: see `piggyback decathlon backbone`")
    train, val, test = (open_split(job.data, job.task, split) for split in ("train", "val", "test"))
    backbone = cached_backbone(job.backbone)
    mean, std = backbone.mean, backbone.std
    if job.recipe.normalise == "official-task":
        mean, std = find_task(job.task).mean, find_task(job.task).std
    elif job.recipe.normalise == "own-train":
        measured = measure_statistics(train)
        mean, std = measured.mean, measured.std
    return Bench(job=job, backbone=backbone, train=train, val=val, test=test, mean=mean, std=std)


@lru_cache(maxsize=2)
def cached_backbone(path: Path) -> Backbone:
    """A backbone file, read once per process; its network is never trained itself."""
    return load_backbone(path)


def train_task(
    job: Job, *, stop: StopFlag | None = None, on_step: Callable[[float], None] = lambda share: None
) -> RunFolder:
    """Do a run, or go on with it, or find it done.

    Args:
        job: what to train.
        stop: asks for a checkpoint and an end.
        on_step: told the share of the final training that is done.

    Raises:
        BadInput: data or backbone are missing or do not fit.
        Diverged: the loss is not finite.
        Requeue: a stop was asked for.
    """
    bench = open_bench(job)
    folder = open_run(job.out / "runs" / bench.key.folder_name, key=asdict(bench.key))
    if folder.result.exists():
        return folder
    begun = time.monotonic()
    folder.write_status("running", progress=0.0)
    try:
        rate, trials = choose_rate(bench, folder)
        adapter, history = train_final(bench, folder, rate=rate, stop=stop, on_step=on_step)
        finish(bench, folder, adapter=adapter, history=history, rate=rate, trials=trials, begun=begun)
    except (BadInput, Diverged) as fault:
        folder.write_status("failed", message=str(fault))
        raise
    except BaseException:  # interrupted, asked to stop, or a fault of ours: it can be continued
        folder.write_status("requeue")
        raise
    folder.write_status("done", progress=1.0)
    Checkpoints(folder.checkpoints).clear()
    return folder


def choose_rate(bench: Bench, folder: RunFolder) -> tuple[float, list[dict[str, Any]]]:
    """The learning rate whose short training is best on val; ties go to the lower one.

    Trials train on train, from the same start and with the same pictures for every rate and method.

    Returns:
        The rate, and a record of each trial: ``lr``, ``steps``, ``val_accuracy`` (None where it diverged).
    """
    recipe = bench.job.recipe
    if not recipe.lr_grid:
        return recipe.lr, []
    trials = cast(list[dict[str, Any]], read_json(folder.trials)) if folder.trials.exists() else []
    steps_an_epoch = -(-len(bench.train) // recipe.batch_size)
    steps = max(1, round(recipe.trial_share * recipe.epochs_for(len(bench.train)) * steps_an_epoch))

    def batches(_: int, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        epochs = (bench.batches(bench.train, epoch, 0) for epoch in itertools.count())
        return itertools.islice(itertools.chain.from_iterable(epochs), start, steps)

    for rate in recipe.lr_grid[len(trials) :]:
        adapter = bench.make_adapter()
        plan = Plan(
            epochs=1,
            steps=steps,
            decay_after=recipe.decay_after,
            decay_factor=recipe.decay_factor,
            precision=recipe.precision,
        )
        accuracy: float | None
        try:
            fit(bench, adapter, plan=plan, batches=batches, rate=rate)
            accuracy = measure(bench, adapter.network, bench.val)
        except Diverged as fault:
            console.notice(
                f"{bench.job.task} {bench.job.method}: learning rate {rate:g} was tried and diverged ({fault})"
            )
            accuracy = None
        trials.append({"lr": rate, "steps": steps, "val_accuracy": accuracy})
        write_json(folder.trials, trials)
    good = [trial for trial in trials if trial["val_accuracy"] is not None]
    if not good:
        raise Diverged(f"every learning rate of {recipe.lr_grid} diverged on {bench.job.task}")
    best = max(good, key=lambda trial: (trial["val_accuracy"], -trial["lr"]))
    return float(best["lr"]), trials


def train_final(
    bench: Bench, folder: RunFolder, *, rate: float, stop: StopFlag | None, on_step: Callable[[float], None]
) -> tuple[Adapter, list[dict[str, Any]]]:
    """The training that counts; leaves the payload and returns the adapter that shows its state."""
    recipe = bench.job.recipe
    pictures = join(bench.train, bench.val) if recipe.trained_on == "train+val" else bench.train
    epochs = recipe.epochs_for(len(pictures))
    plan = Plan(
        epochs=epochs,
        steps=-(-len(pictures) // recipe.batch_size),
        decay_after=recipe.decay_after,
        decay_factor=recipe.decay_factor,
        precision=recipe.precision,
    )
    adapter = bench.make_adapter()

    def look(history: list[dict[str, Any]]) -> None:
        if recipe.selected_on == "val":
            best = max((line["val_accuracy"] for line in history[:-1]), default=-1.0)
            history[-1]["val_accuracy"] = measure(bench, adapter.network, bench.val)
            if history[-1]["val_accuracy"] > best:
                save_payload(bench, folder, adapter)
        folder.write_metrics(history)
        folder.write_status("running", progress=len(history) / epochs, loss=history[-1]["loss"])

    history = fit(
        bench,
        adapter,
        plan=plan,
        batches=lambda epoch, start: bench.batches(pictures, epoch, start),
        rate=rate,
        checkpoints=Checkpoints(folder.checkpoints),
        stop=stop,
        on_step=lambda step: on_step(step / (plan.epochs * plan.steps)),
        on_epoch=look,
    )
    if recipe.selected_on == "val":
        adapter.load(folder.payload, task=f"{bench.job.task} as selected")
    else:
        save_payload(bench, folder, adapter)
    return adapter, history


def fit(bench: Bench, adapter: Adapter, *, plan: Plan, rate: float, **rest: Any) -> list[dict[str, Any]]:
    """Run the loop with the bench's optimizer and seed."""
    torch.manual_seed(bench.job.recipe.seed)
    if bench.job.device.type == "cuda":
        torch.backends.cudnn.deterministic = True
    training = Training(
        adapter=adapter,
        optimizer=bench.make_optimizer(adapter, rate=rate),
        loss=cross_entropy,
        plan=plan,
        environment=bench.environment(),
        allow_other_environment=bench.job.allow_other_environment,
        **rest,
    )
    return training.run()


def save_payload(bench: Bench, folder: RunFolder, adapter: Adapter) -> None:
    """Write what the task adds."""
    adapter.save(folder.payload, task=bench.job.task, recipe=asdict(bench.job.recipe))


def predict(bench: Bench, network: nn.Module, split: PackedSplit) -> NDArray[np.int64]:
    """The most likely class of each picture of a split, as places in its categories, int64 (n)."""
    network.eval()
    found = []
    batches = evaluation_batches(split, augmentation=bench.augmentation(training=False), batch_size=EVALUATION_BATCH)
    with torch.inference_mode(), autocast(bench.job.device, precision=bench.job.recipe.precision):
        for batch in batches:
            logits = network(bench.inputs(batch.pixels))
            if not torch.isfinite(logits).all():
                raise Diverged(f"logits for {split.task} {split.split} are not finite: the training diverged")
            found.append(logits.argmax(1).cpu())
    return torch.cat(found).numpy()


def measure(bench: Bench, network: nn.Module, split: PackedSplit) -> float:
    """Accuracy on a labelled split, a fraction in [0, 1]."""
    return float((predict(bench, network, split) == split.labels).mean())


def finish(
    bench: Bench,
    folder: RunFolder,
    *,
    adapter: Adapter,
    history: list[dict[str, Any]],
    rate: float,
    trials: list[dict[str, Any]],
    begun: float,
) -> None:
    """Predict the test part without its labels, measure val, and write the result last."""
    recipe, job = bench.job.recipe, bench.job
    places = predict(bench, adapter.network, bench.test)
    chosen = Predictions(task=job.task, image_ids=bench.test.image_ids, category_ids=bench.test.category_ids[places])
    chosen.save(folder.predictions)
    correct = int((predict(bench, adapter.network, bench.val) == bench.val.labels).sum())
    accuracy = correct / len(bench.val)
    payload = read_payload(folder.payload)
    weights = [adapter.frozen[name].numel() for name in adapter.anatomy.weights]
    metrics = {"accuracy": accuracy, "error": 1 - accuracy, "train_loss": history[-1]["loss"]}
    if payload.masks:
        metrics["zeros"] = measure_sparsity(adapter, cast(str, adapter.current)).total
    commit, dirty = code_version()
    result = Result(
        benchmark="decathlon",
        task=job.task,
        task_version=TASK_VERSION,
        split="val",
        method=job.method,
        recipe=cast(Any, {**asdict(recipe), "lr_used": rate, "lr_trials": trials}),
        seed=recipe.seed,
        metrics=metrics,
        counts=Counts(n=len(bench.val), correct=correct),
        bits={kind: 8 * count for kind, count in payload.bytes_by_kind.items()},
        parameter_ratio=parameter_ratio([bench.method] * TASKS_ADDED, weights=weights),
        selected_on=recipe.selected_on,
        trained_on=recipe.trained_on,
        origin="measured",
        official_data=bench.train.official,
        code=Code(commit=commit, dirty=dirty),
        versions={"torch": torch.__version__, "numpy": np.__version__},
        device=describe_device(job.device),
        wall_s=round(time.monotonic() - begun, 1),
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
    )
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
