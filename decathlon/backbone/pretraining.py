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
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from decathlon.backbone.backbone_file import Header, save_backbone
from decathlon.backbone.pretraining_recipe import PretrainRecipe
from decathlon.backbone.processes import Place, agree, average_statistics, join_processes, sum_over
from decathlon.backbone.wrn import WideResNet, wide_resnet
from decathlon.batches import Augmentation, epoch_length, evaluation_batches, normalise, training_batches
from decathlon.tasks import BACKBONE_TASK, TASKS
from piggyback.data.labelled import PackedSplit
from piggyback.device import autocast, describe_device
from piggyback.shell.console import notice, progress_bar
from piggyback.shell.errors import BadInput, Diverged, Requeue
from piggyback.shell.files import write_json
from piggyback.suite.run_folder import Checkpoints, RunFolder, State, StopFlag
from piggyback.weight_files import is_safetensors, read_entry

CHECK_EVERY: Final = 20  # steps between looks at the loss and for signals, which make the device wait

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


@dataclass(kw_only=True)
class Training:
    """What changes while a backbone is trained; `model` is `network`, in several processes wrapped.

    `identity` does not change: recipe and data, as JSON.
    """

    identity: dict[str, Any]
    network: WideResNet
    model: nn.Module
    optimizer: torch.optim.SGD
    history: list[Row]


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
        train: to learn from.
        val: measured after each epoch.
        recipe: the settings.
        folder: the run's.
        device: such as ``cpu``; None for a GPU, or the processor.
        allow_other_environment: continue although torch, processor, threads or number of processes are others.
        stop: asks for an end within a few steps; what was learnt since the last epoch's end is lost.

    Returns:
        The finished run in the first process, None in others.

    Raises:
        BadInput: data and recipe do not fit, or the folder is another run's.
        Diverged: the loss is not finite.
        Requeue: a stop was asked for, in any of the processes; the same call continues.
    """
    identity = {"recipe": json.loads(json.dumps(asdict(recipe))), "data": train.fingerprint}
    with join_processes(device) as place:
        check_sizes(train, val, recipe=recipe, place=place)
        goal = folder / "backbone.safetensors"
        finished = find_finished(goal, identity=identity)
        training = None if finished else begin(train.classes, recipe=recipe, place=place, identity=identity)
        if training is not None:
            resume(training, folder, place=place, any_environment=allow_other_environment)
        if place.world > 1:
            dist.barrier()  # all have read the folder before the first process writes into it
        if training is not None:
            try:
                run_epochs(training, train, val, recipe=recipe, place=place, folder=folder, stop=stop)
            except (Requeue, Diverged) as end:
                if place.rank == 0:
                    state: State = "requeue" if isinstance(end, Requeue) else "failed"
                    say(RunFolder(folder), state, epoch=len(training.history), recipe=recipe)
                raise
            finished = Pretrained(path=goal, history=without_seconds(training.history), trained=True)
            if place.rank == 0:
                write_result(goal, training)
                say(RunFolder(folder), "done", epoch=recipe.epochs, recipe=recipe)
        if place.world > 1:
            dist.barrier()
        return finished if place.rank == 0 else None


def check_sizes(train: PackedSplit, val: PackedSplit, *, recipe: PretrainRecipe, place: Place) -> None:
    """Raise `BadInput` where batches cannot be made or shared out."""
    if recipe.batch_size % place.world:
        raise BadInput(f"{place.world} processes cannot share a batch of {recipe.batch_size}; change --batch-size")
    if len(train) < recipe.batch_size:
        raise BadInput(f"the train part has {len(train)} pictures, less than one batch of {recipe.batch_size}")
    if len(val) == 0 or train.fingerprint != val.fingerprint:
        raise BadInput("train and val must be of one pack, with pictures in both")


def begin(classes: int, *, recipe: PretrainRecipe, place: Place, identity: dict[str, Any]) -> Training:
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
        lr=recipe.rate(0),
        momentum=recipe.momentum,
        nesterov=recipe.nesterov,
        weight_decay=recipe.weight_decay,
    )
    return Training(identity=identity, network=network, model=model, optimizer=optimizer, history=[])


def resume(training: Training, folder: Path, *, place: Place, any_environment: bool) -> None:
    """Continue from the folder's newest whole checkpoint, if there is one.

    Raises:
        BadInput: it is of another run, or of other surroundings and `any_environment` is not set.
    """
    state = Checkpoints(RunFolder(folder).checkpoints).load()
    if state is None:
        return
    if state["identity"] != training.identity:
        raise BadInput(f"{folder} holds the run of another recipe or other data; choose another --out")
    now = surroundings(place)
    then = state["surroundings"]
    changed = [f"{name} was {then[name]}, is {now[name]}" for name in now if then[name] != now[name]]
    if changed and not any_environment:
        raise BadInput(
            f"the run in {folder} began elsewhere: {'; '.join(changed)}. Its result would not be reproducible;"
            " --allow-other-environment continues all the same"
        )
    training.network.load_state_dict(state["network"])
    training.optimizer.load_state_dict(state["optimizer"])
    training.history[:] = state["history"]


def surroundings(place: Place) -> dict[str, Any]:
    """What, beside recipe and data, decides the bits of the result."""
    return {"torch": torch.__version__ + "", "device": describe_device(place.device), "processes": place.world}


def run_epochs(
    training: Training,
    train: PackedSplit,
    val: PackedSplit,
    *,
    recipe: PretrainRecipe,
    place: Place,
    folder: Path,
    stop: StopFlag | None,
) -> None:
    """Train the epochs that are left; after each, measure on val and write a checkpoint."""
    run = RunFolder(folder)
    if place.rank == 0:
        write_json(run.key, training.identity)
        say(run, "running", epoch=len(training.history), recipe=recipe)
    for epoch in range(len(training.history), recipe.epochs):
        began = time.monotonic()
        rate = recipe.rate(epoch)
        for group in training.optimizer.param_groups:
            group["lr"] = rate
        loss = train_epoch(training, train, recipe=recipe, epoch=epoch, place=place, stop=stop)
        average_statistics(training.network, place=place)
        top1 = measure(training.network, val, recipe=recipe, place=place)
        seconds = round(time.monotonic() - began, 1)
        training.history.append({"epoch": epoch + 1, "lr": rate, "loss": loss, "val_top1": top1, "seconds": seconds})
        if place.rank:
            continue
        state = {
            "identity": training.identity,
            "surroundings": surroundings(place),
            "network": training.network.state_dict(),
            "optimizer": training.optimizer.state_dict(),
            "history": training.history,
        }
        Checkpoints(run.checkpoints).save(state, step=epoch + 1)
        run.write_metrics(training.history)
        say(run, "running", epoch=epoch + 1, recipe=recipe)
        notice(f"epoch {epoch + 1} of {recipe.epochs}: loss {loss:.4f}, val top-1 {top1:.4f}, {seconds:.0f} s")


def say(run: RunFolder, state: State, *, epoch: int, recipe: PretrainRecipe) -> None:
    """Write ``status.json`` with the epochs that are done, which is what a checkpoint holds."""
    run.write_status(state, epoch=epoch, epochs=recipe.epochs, progress=epoch / recipe.epochs)


def train_epoch(
    training: Training,
    split: PackedSplit,
    *,
    recipe: PretrainRecipe,
    epoch: int,
    place: Place,
    stop: StopFlag | None,
) -> float:
    """One pass over the train part; the last pictures of the order that fill no batch are left out.

    Returns:
        The mean loss over all processes.

    Raises:
        Diverged: the loss is not finite.
        Requeue: a stop was asked for.
    """
    share = recipe.batch_size // place.world
    mine = slice(place.rank * share, (place.rank + 1) * share)
    steps = epoch_length(len(split), batch_size=recipe.batch_size, drop_last=True)
    total = torch.zeros((), dtype=torch.float64, device=place.device)
    mean = float("nan")
    training.model.train()
    batches = training_batches(
        split,
        augmentation=Augmentation(size=recipe.size, view="crop", flip=recipe.flip),
        batch_size=recipe.batch_size,
        seed=recipe.seed,
        epoch=epoch,
        drop_last=True,
    )
    with progress_bar() as shown:
        bar = shown.add_task(f"epoch {epoch + 1} of {recipe.epochs}", total=steps, visible=place.rank == 0)
        for step, batch in enumerate(batches, start=1):
            pixels = network_input(batch.pixels[mine], place=place)
            labels = batch.labels[mine].to(place.device, non_blocking=True)
            with autocast(place.device):
                loss = F.cross_entropy(training.model(pixels), labels)
            training.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            training.optimizer.step()
            total += loss.detach()
            if step % CHECK_EVERY == 0 or step == steps:
                mean = agree(total, place=place, stop=stop) / step
                if not math.isfinite(mean):
                    where = f"epoch {epoch + 1}, step {step}"
                    raise Diverged(f"the loss is {mean} in {where}: try a lower lr than {recipe.lr}")
            shown.advance(bar)
    return mean


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
    return int(sum_over(right, place=place).item()) / len(split)


def write_result(goal: Path, training: Training) -> None:
    """Write the backbone file; it holds no times, so the same run gives the same file."""
    task = TASKS[BACKBONE_TASK]
    history = without_seconds(training.history)
    source = {**training.identity, "selected": "last epoch", "torch": torch.__version__ + "", "history": history}
    save_backbone(goal, training.network, mean=task.mean, std=task.std, source=source, replace=True)


def without_seconds(history: list[Row]) -> list[Row]:
    """The rows without their wall-clock times."""
    return [{name: value for name, value in row.items() if name != "seconds"} for row in history]


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
