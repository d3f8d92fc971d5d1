"""The network of methods that prune: the backbone gives back its smallest weights and is trained on without them.

Source: the authors' code of PackNet (arunmallya/packnet): half of each layer is pruned, then 10 epochs on the
backbone's own task train the rest, norm layers and biases with it.  Our backbone has no biases.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from decathlon.backbone.backbone_file import save_backbone
from decathlon.backbone.wrn import WideResNet
from decathlon.batches import Augmentation, epoch_length, normalise, training_batches
from decathlon.bench import BACKBONE_FILE, HEAD, Bench
from decathlon.release.packed import open_split, read_manifest
from decathlon.tasks import BACKBONE_TASK
from piggyback.adapter import Adapter, attach
from piggyback.data.labelled import PackedSplit
from piggyback.methods.contract import Prunes
from piggyback.shell.errors import BadInput
from piggyback.suite.loop import Plan, Training
from piggyback.suite.run_folder import Checkpoints, RunFolder, StopFlag, Watch


def prune_backbone(
    bench: Bench, *, folder: RunFolder, watch: Watch, stop: StopFlag | None, on_step: Callable[[float], None]
) -> None:
    """Prune, train on imagenet12, and write the network as a backbone file.

    Raises:
        BadInput: imagenet12 is not packed, or the backbone's head is not of its classes.
    """
    job, recipe, backbone = bench.job, bench.job.recipe, bench.backbone
    method = cast(Prunes, bench.method)  # as every method on a pruned network
    if read_manifest(job.data, BACKBONE_TASK) is None:
        raise BadInput(
            f"{job.method} prunes the backbone on its own task, but {BACKBONE_TASK} is not packed in {job.data}"
        )
    split = open_split(job.data, BACKBONE_TASK, "train")
    if split.classes != backbone.classes:
        raise BadInput(f"{backbone.path} tells {backbone.classes} classes apart, but the data has {split.classes}")
    network = copy.deepcopy(backbone.network)
    network.to(device=job.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    adapter = attach(network, method=method.first(recipe.first_prune), head=HEAD, norm="trained")
    adapter.add_task(BACKBONE_TASK, head=copy.deepcopy(network.fc))
    training = replace(make_training(bench, adapter, split=split), stop=stop)
    total = training.plan.epochs * training.plan.steps
    history = replace(
        training,
        checkpoints=Checkpoints(folder.checkpoints),
        on_step=lambda step: on_step(step / total),
        on_save=lambda step: watch.note(step / total),
        on_epoch=folder.write_metrics,
    ).run()
    source = {"made": "pruned", "share": recipe.first_prune, "backbone": backbone.sha256, "loss": history[-1]["loss"]}
    pruned = cast(WideResNet, adapter.merged(BACKBONE_TASK)).cpu().eval()
    path = folder.root / BACKBONE_FILE
    save_backbone(path, pruned, mean=backbone.mean, std=backbone.std, source=source, replace=True)


def make_training(bench: Bench, adapter: Adapter, *, split: PackedSplit) -> Training:
    """The loop over imagenet12's train part, by the recipe's fields for it."""
    job, recipe, backbone = bench.job, bench.job.recipe, bench.backbone
    slower = None if recipe.norm_lr is None else recipe.norm_lr * recipe.first_lr_factor
    plain = replace(bench, job=replace(job, recipe=replace(recipe, head_lr_factor=1.0, norm_lr=slower)))  # an old head

    def batches(epoch: int, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        augmentation = Augmentation(size=recipe.size, view="crop", flip=recipe.flip)
        for batch in training_batches(
            split, augmentation=augmentation, batch_size=recipe.batch_size, seed=recipe.seed, epoch=epoch, start=start
        ):
            pixels = normalise(batch.pixels.to(job.device), mean=backbone.mean, std=backbone.std)
            yield pixels, batch.labels.to(job.device)

    return Training(
        adapter=adapter,
        optimizer=plain.make_optimizer(adapter, rate=recipe.lr * recipe.first_lr_factor),
        batches=batches,
        loss=cross_entropy,
        plan=Plan(
            epochs=recipe.first_epochs,
            steps=epoch_length(len(split), batch_size=recipe.batch_size),
            schedule=recipe.schedule,
            decay_after=0.5,  # 5 of 10 epochs
            decay_factor=recipe.decay_factor,
            precision=recipe.precision,
        ),
        seed=recipe.seed,
        allow_other_environment=job.allow_other_environment,
    )
