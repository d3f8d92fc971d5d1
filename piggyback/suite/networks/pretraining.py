"""Plain networks trained by a recipe, each in its own folder: how a benchmark makes its backbone."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from piggyback.shell.console import progress_bar
from piggyback.shell.errors import BadInput
from piggyback.suite.bench import make_plan
from piggyback.suite.recipe import Recipe, SequenceRecipe, settings_of
from piggyback.suite.training.checkpoints import Checkpoints, StopFlag, stop_on_signal
from piggyback.suite.training.learners import Criterion, NetworkLearner
from piggyback.suite.training.loop import Batches, Training
from piggyback.suite.training.run_folder import RunFolder, Watch, conduct, open_run
from piggyback.weight_files import write_backbone

USED: Final = {
    *("epochs", "min_steps", "batch_size", "accumulate", "precision", "seed"),
    *("schedule", "decay_after", "decay_again", "decay_factor", "rule", "lr", "weight_decay"),
}


@dataclass(frozen=True, kw_only=True)
class Pretraining:
    """A training of a whole network.

    Attributes:
        network: initialised, on the device to train on.
        recipe: of the suite's fields those in `USED` count; the others must have their defaults.
        batches: batches of an epoch, from a given one on.
        count: batches in an epoch.
        criterion: the loss of outputs and targets, a mean over the batch.
        data: what else the network depends on, as JSON.
        goal: the network's file, written last.
        folder: for checkpoints, state and the numbers of each epoch; by default the folder of `goal`.
        write: writes `goal`, given recipe and `data`; by default the whole network is written with these.
        stop: set to ask for a checkpoint and an end; by default SIGTERM and SIGUSR2 ask for it.
    """

    network: nn.Module
    recipe: Recipe
    batches: Batches
    count: int
    criterion: Criterion
    data: Mapping[str, Any]
    goal: Path
    folder: Path | None = None
    write: Callable[[Mapping[str, Any]], None] | None = None
    stop: StopFlag | None = None

    @property
    def source(self) -> dict[str, Any]:
        """Everything that the network depends on."""
        return {"recipe": settings_of(self.recipe), **self.data}

    def run(self) -> None:
        """Train from the start or from the checkpoint; a finished network is left alone.

        Raises:
            BadInput: the recipe sets what does not count here, the folder belongs to another training, or another
                process is working in it.
            Diverged: the loss is not finite.
            Requeue: a stop was requested; the same call continues.
        """
        refuse_unused(self.recipe)
        folder = open_run(self.folder or self.goal.parent, key=self.source)
        conduct(folder, lambda watch: self._work(folder, watch), proof=self.goal)

    def _work(self, folder: RunFolder, watch: Watch) -> None:
        recipe = self.recipe
        steps = -(-self.count // recipe.accumulate)
        plan = make_plan(recipe, epochs=recipe.epochs_for(self.count), steps=steps)
        total = plan.epochs * plan.steps
        learner = NetworkLearner(
            network=self.network,
            optimizer=make_optimizer(self.network, recipe=recipe),
            criterion=self.criterion,
            precision=recipe.precision,
        )
        with ExitStack() as opened:
            bar = opened.enter_context(progress_bar())
            shown = bar.add_task(self.goal.stem, total=total)
            Training(
                learner=learner,
                batches=self.batches,
                plan=plan,
                seed=recipe.seed,
                checkpoints=Checkpoints(folder.checkpoints),
                stop=self.stop or opened.enter_context(stop_on_signal()),
                on_step=lambda step: bar.update(shown, completed=step),
                on_epoch=folder.write_metrics,
                on_save=lambda step: watch.note(step / total),
            ).run()
        if self.write is not None:
            self.write(self.source)
        else:
            write_backbone(self.goal, self.network.state_dict(), header={"source": self.source}, replace=True)


def refuse_unused(recipe: Recipe) -> None:
    """Raise BadInput where a recipe sets a field that only tasks on a frozen network have."""
    suites = {entry.name for entry in fields(SequenceRecipe)} - USED
    for entry in fields(recipe):
        value = getattr(recipe, entry.name)
        if entry.name in suites and value != entry.default:
            advice = f"leave it at {entry.default!r}, not {value!r}"
            raise BadInput(f"{entry.name} means nothing where a whole network is trained: {advice}")


def make_optimizer(network: nn.Module, *, recipe: Recipe) -> torch.optim.Optimizer:
    if recipe.rule == "adam":
        return torch.optim.Adam(network.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
    return torch.optim.SGD(network.parameters(), lr=recipe.lr, momentum=0.9, weight_decay=recipe.weight_decay)
