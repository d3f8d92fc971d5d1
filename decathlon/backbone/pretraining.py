"""Trains a backbone from scratch on imagenet12, in one process or in several.

Started by torchrun, on one machine or more, or by anything that sets the same variables::

    torchrun --nproc-per-node 4 -m piggyback decathlon backbone train --data D --out B

Each takes its share of every batch, and gradients are averaged, so the number of processes changes nothing
but rounding and batch norm: that sees the share of its own process only.  Its running statistics are averaged
over the processes at the end of each epoch.  The folder must be one that all processes see; only the first
process writes::

    recipe.json  status.json  metrics.jsonl  checkpoints/  backbone.safetensors (last; then the run is done)
"""

import inspect
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from decathlon.backbone.backbone_file import Header, save_backbone
from decathlon.backbone.pretraining_recipe import PretrainRecipe
from decathlon.backbone.wrn import WideResNet, wide_resnet
from decathlon.batches import Augmentation, Batch, epoch_length, evaluation_batches, normalise, training_batches
from decathlon.tasks import BACKBONE_TASK, TASKS
from piggyback.data.labelled import PackedSplit
from piggyback.device import autocast
from piggyback.shell.console import notice
from piggyback.shell.errors import BadInput
from piggyback.shell.strict_json import read_json
from piggyback.suite.training.checkpoints import Checkpoints, StopFlag
from piggyback.suite.training.loop import Record, Training
from piggyback.suite.training.processes import Place, average_statistics, join_processes
from piggyback.suite.training.run_folder import RunFolder, Watch, conduct, open_run
from piggyback.weight_files import is_safetensors, read_entry

ROW: Final = ("epoch", "lr", "loss", "val_top1")
"""What the backbone file keeps of each epoch, in this order: no times, so the same run gives the same file."""

Row = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """A finished run.

    Attributes:
        path: the backbone file.
        history: per epoch ``epoch`` (from 1), ``lr``, ``loss``, ``val_top1``.
        trained: False when the run was done already.
    """

    path: Path
    history: list[Row]
    trained: bool


@dataclass(frozen=True, kw_only=True)
class Falls:
    """The recipe's schedule: the learning rate falls at the end of some epochs."""

    recipe: PretrainRecipe
    steps: int
    accumulate: int = 1
    checkpoint_s: float = 120.0

    @property
    def epochs(self) -> int:
        return self.recipe.epochs

    def decay(self, step: int) -> float:
        """The factor on the learning rate in a step; steps count from 0 through all epochs."""
        return self.recipe.decay_in(step // self.steps)


@dataclass(frozen=True, kw_only=True)
class BackboneLearner:
    """A network trained from scratch, by this process and maybe others.

    Attributes:
        model: `network`, wrapped where several processes train it.
        place: this process among those that train it.
        share: rows of each batch that this process takes.
    """

    network: WideResNet
    model: nn.Module
    optimizer: torch.optim.SGD
    place: Place
    share: slice
    update: str = "none"
    parts: tuple[str, ...] = ("",)

    @property
    def device(self) -> torch.device:
        return self.place.device

    def begin(self) -> None:
        self.model.train()

    def loss(self, batch: Batch) -> tuple[int, Tensor]:
        """Cross-entropy of this process's share."""
        pixels = network_input(batch.pixels[self.share], place=self.place)
        labels = batch.labels[self.share].to(self.device, non_blocking=True)
        with autocast(self.device):
            return 0, F.cross_entropy(self.model(pixels), labels)

    def state(self) -> dict[str, Any]:
        """The weights, and batch norm's statistics of every process: they differ until an epoch ends."""
        statistics = [one.cpu() for one in self.place.gather(self.statistics())]
        return {"network": self.network.state_dict(), "statistics": statistics}

    def load(self, state: dict[str, Any]) -> None:
        """Put back the weights, and this process's own statistics if there are as many processes as there were."""
        self.network.load_state_dict(state["network"])
        if len(state["statistics"]) != self.place.world:
            return
        flat = state["statistics"][self.place.rank].to(self.device)
        for buffer, values in zip(self.buffers(), flat.split([b.numel() for b in self.buffers()]), strict=True):
            buffer.copy_(values.view_as(buffer))

    def buffers(self) -> list[Tensor]:
        """Batch norm's running statistics."""
        return [buffer for buffer in self.network.buffers() if buffer.is_floating_point()]

    def statistics(self) -> Tensor:
        """`buffers` as one vector."""
        return torch.cat([buffer.flatten() for buffer in self.buffers()])


def pretrain(
    train: PackedSplit,
    val: PackedSplit,
    *,
    recipe: PretrainRecipe,
    folder: Path,
    device: str | None = None,
    allow_other_environment: bool = False,
    stop: StopFlag | None = None,
) -> Pretrained | None:
    """Train a backbone, or continue where the folder's newest whole checkpoint ends.

    On processors the same torch build, processor, threads and number of processes give the same bits, also
    after any number of interruptions.  The weights after the last epoch are kept; val is measured, nothing
    is chosen by it, and test is not touched.

    Args:
        train, val: of one pack; val is measured after each epoch.
        recipe: the settings.
        folder: the run's, on a disk that all processes see.
        device: such as ``cpu``; None for a GPU, or the processor.
        allow_other_environment: continue although torch, processor, threads or number of processes changed.
        stop: asks for a checkpoint and an end within a few steps.

    Returns:
        The finished run in the first process, None in others.

    Raises:
        BadInput: data and recipe do not fit, or the folder is another run's.
        Diverged: the loss is not finite.
        Requeue: a stop was asked for, in any of the processes; the same call continues.
    """
    identity = {"recipe": json.loads(json.dumps(asdict(recipe))), "data": train.fingerprint}
    goal, run = folder / "backbone.safetensors", RunFolder(folder)
    with join_processes(device) as place:
        check_sizes(train, val, recipe=recipe, place=place)
        finished = find_finished(goal, identity=identity)
        if finished is None:
            refuse_other_run(run, identity=identity)
        place.wait()  # until all have read the folder that the first process writes into
        if finished is not None:
            return finished if place.rank == 0 else None
        history = list[Record]()

        def work(watch: Watch | None) -> None:
            training = make_training(train, val, recipe=recipe, place=place, run=run, watch=watch, stop=stop)
            if allow_other_environment:
                training = replace(training, allow_other_environment=True)
            history.extend(training.run())
            if watch is not None:
                write_result(goal, cast(BackboneLearner, training.learner).network, identity=identity, history=history)

        if place.rank == 0:
            conduct(open_run(folder, key=identity), work, proof=goal)
        else:
            work(None)
        place.wait()
        return Pretrained(path=goal, history=rows_of(history), trained=True) if place.rank == 0 else None


def check_sizes(train: PackedSplit, val: PackedSplit, *, recipe: PretrainRecipe, place: Place) -> None:
    """Raise `BadInput` where batches cannot be made or shared out."""
    if recipe.batch_size % place.world:
        raise BadInput(f"{place.world} processes cannot share a batch of {recipe.batch_size}; change --batch-size")
    if len(train) < recipe.batch_size:
        raise BadInput(f"the train part has {len(train)} pictures, less than one batch of {recipe.batch_size}")
    if len(val) == 0 or train.fingerprint != val.fingerprint:
        raise BadInput("train and val must be of one pack, with pictures in both")


def refuse_other_run(run: RunFolder, *, identity: dict[str, Any]) -> None:
    """Raise BadInput where the folder holds the run of another recipe or other data; every process looks."""
    if run.key.exists() and read_json(run.key) != identity:
        raise BadInput(f"{run.root} holds the run of another recipe or other data; choose another --out")


def make_learner(classes: int, *, recipe: PretrainRecipe, place: Place) -> BackboneLearner:
    """A fresh network and optimizer, the same in every process."""
    network = wide_resnet(recipe.depth, recipe.widen, classes=classes, seed=recipe.seed)
    network = network.to(place.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    model: nn.Module = network
    if place.world > 1:
        ids = [place.device.index] if place.device.type == "cuda" else None
        # Statistics are averaged at the end of an epoch; the default throws away all but the first process's.
        known = inspect.signature(nn.parallel.DistributedDataParallel).parameters
        name = (
            "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
        )  # before torch had the former
        keywords: dict[str, Any] = {name: False}
        model = nn.parallel.DistributedDataParallel(network, device_ids=ids, **keywords)
    optimizer = torch.optim.SGD(
        network.parameters(),
        lr=recipe.full_rate,
        momentum=recipe.momentum,
        nesterov=recipe.nesterov,
        weight_decay=recipe.weight_decay,
    )
    share = recipe.batch_size // place.world
    mine = slice(place.rank * share, (place.rank + 1) * share)
    return BackboneLearner(network=network, model=model, optimizer=optimizer, place=place, share=mine)


def make_training(
    train: PackedSplit,
    val: PackedSplit,
    *,
    recipe: PretrainRecipe,
    place: Place,
    run: RunFolder,
    watch: Watch | None,
    stop: StopFlag | None,
) -> Training:
    """The loop; `watch` is None in all processes but the first, which alone reports progress."""
    learner = make_learner(train.classes, recipe=recipe, place=place)
    plan = Falls(recipe=recipe, steps=epoch_length(len(train), batch_size=recipe.batch_size, drop_last=True))
    total = plan.epochs * plan.steps

    def end_epoch(history: list[Record]) -> None:
        average_statistics(learner.network, place=place)
        history[-1]["val_top1"] = measure(learner.network, val, recipe=recipe, place=place)
        if watch is None:
            return
        run.write_metrics(history)
        epoch, last = len(history), history[-1]
        watch.progress = epoch / plan.epochs
        watch.say("running", epoch=epoch, epochs=plan.epochs)
        notice(
            f"epoch {epoch} of {plan.epochs}: loss {last['loss']:.4f}, val top-1 {last['val_top1']:.4f}, "
            f"{last['seconds']:.0f} s"
        )

    return Training(
        learner=learner,
        batches=lambda epoch, start: training_batches(  # the last pictures that fill no batch are left out
            train,
            augmentation=Augmentation(size=recipe.size, view="crop", flip=recipe.flip),
            batch_size=recipe.batch_size,
            seed=recipe.seed,
            epoch=epoch,
            start=start,
            drop_last=True,
        ),
        plan=plan,
        seed=recipe.seed,
        checkpoints=Checkpoints(run.checkpoints),
        stop=stop,
        place=place,
        on_epoch=end_epoch,
        on_save=(lambda step: None) if watch is None else (lambda step: watch.note(step / total)),
    )


def network_input(pixels: Tensor, *, place: Place) -> Tensor:
    """The pictures on the device, normalised by imagenet12's official statistics."""
    task = TASKS[BACKBONE_TASK]
    return normalise(pixels.to(place.device, non_blocking=True), mean=task.mean, std=task.std)


def measure(network: WideResNet, split: PackedSplit, *, recipe: PretrainRecipe, place: Place) -> float:
    """Top-1 accuracy on the centre crops of a split; the processes take its batches in turn."""
    network.eval()
    right = torch.zeros((), dtype=torch.int64, device=place.device)
    augmentation = Augmentation(size=recipe.size, view="crop", flip=False)
    for number, batch in enumerate(evaluation_batches(split, augmentation=augmentation, batch_size=recipe.batch_size)):
        if number % place.world != place.rank:
            continue
        with torch.inference_mode(), autocast(place.device):
            best = network(network_input(batch.pixels, place=place)).argmax(dim=1)
        right += (best == batch.labels.to(place.device)).sum()
    return int(place.sum(right).item()) / len(split)


def write_result(goal: Path, network: WideResNet, *, identity: dict[str, Any], history: list[Record]) -> None:
    """Write the backbone file, last: it says that the run is finished."""
    task = TASKS[BACKBONE_TASK]
    version = torch.__version__ + ""  # a plain string: torch's own class is a subclass
    source = {**identity, "selected": "last epoch", "torch": version, "history": rows_of(history)}
    save_backbone(goal, network, mean=task.mean, std=task.std, source=source, replace=True)


def rows_of(history: list[Record]) -> list[Row]:
    """The loop's records, reduced to what the backbone file keeps."""
    return [{name: record[name] for name in ROW} for record in history]


def find_finished(goal: Path, *, identity: dict[str, Any]) -> Pretrained | None:
    """The run that the folder already holds the result of.

    Raises:
        BadInput: the result there is another run's.
    """
    if not goal.exists():
        return None
    header = read_entry(goal, model=Header) if is_safetensors(goal) else None
    source = {} if header is None else header.source
    if any(source.get(name) != value for name, value in identity.items()):
        raise BadInput(f"{goal} is of another recipe or other data; choose another --out")
    return Pretrained(path=goal, history=cast(list[Row], source["history"]), trained=False)
