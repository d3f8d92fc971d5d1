"""PackNet's first pruning: the smallest weights of the backbone are freed, and the rest is trained on without them.

Source: the authors' code (arunmallya/packnet): half of each layer is pruned, then 10 epochs on the backbone's own task
train the rest, including norm layers and biases.
"""

from dataclasses import replace
from typing import Final, cast

import torch

from piggyback.adapter import attach
from piggyback.methods.contract import Prunes
from piggyback.shell.errors import BadInput
from piggyback.suite.bench import (
    Bench,
    backbone_digest,
    make_optimizer,
    make_plan,
    method_of,
    open_own_task,
    save_network,
    steps_of,
)
from piggyback.suite.networks.making import NETWORK_FILE, Making
from piggyback.suite.recipe import SequenceRecipe
from piggyback.suite.training.checkpoints import Checkpoints
from piggyback.suite.training.learners import TaskLearner
from piggyback.suite.training.loop import Training

DECAY_AFTER: Final = 0.5  # 5 of 10 epochs


def prune_backbone(bench: Bench, making: Making) -> None:
    """Prune, train on the backbone's own pictures, and write the network as a file of the backbone's format.

    Raises:
        BadInput: those pictures are missing, or the backbone's head does not fit their classes.
    """
    job, recipe, method = bench.job, bench.job.recipe, method_of(bench.job)
    if not isinstance(recipe, SequenceRecipe) or not isinstance(method, Prunes):
        raise BadInput(f"{job.benchmark} cannot prune its backbone, which {job.method} needs")
    slower = None if recipe.norm_lr is None else recipe.norm_lr * recipe.first_lr_factor
    old_head = replace(recipe, head_lr_factor=1.0, norm_lr=slower)  # it is trained on, like everything else
    own = open_own_task(bench, old_head)
    network = own.build_network(job.backbone)
    network.to(device=job.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    adapter = attach(network, method=method.first(recipe.first_prune), head=own.head, norm="trained")
    adapter.add_task(own.job.task, head=own.make_head(network))
    plan = replace(
        make_plan(recipe, epochs=recipe.first_epochs, steps=steps_of(own, "train")),
        decay_after=DECAY_AFTER,
        decay_again=None,
    )
    total = plan.epochs * plan.steps
    history = Training(
        learner=TaskLearner(
            adapter=adapter,
            optimizer=make_optimizer(old_head, adapter, rate=recipe.lr * recipe.first_lr_factor),
            criterion=own.loss,
            precision=recipe.precision,
        ),
        batches=lambda epoch, start: own.batches("train", epoch, start),
        plan=plan,
        seed=recipe.seed,
        checkpoints=Checkpoints(making.folder.checkpoints),
        stop=making.stop,
        allow_other_environment=job.allow_other_environment,
        on_step=lambda step: making.on_step(step / total),
        on_save=lambda step: making.watch.note(step / total),
        on_epoch=making.folder.write_metrics,
    ).run()
    made = {"made": "pruned", "share": recipe.first_prune}
    source = {**made, "backbone": backbone_digest(job.backbone), "loss": history[-1]["loss"]}
    pruned = adapter.merged(cast(str, adapter.current)).cpu().eval()
    save_network(bench, making.folder.root / NETWORK_FILE, pruned, source)
