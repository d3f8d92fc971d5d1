"""Plain networks, trained in a folder of their own: how a benchmark makes its backbone."""

from collections.abc import Callable, Mapping
from pathlib import Path

from piggyback.shell.console import progress_bar
from piggyback.suite.training.checkpoints import Checkpoints, StopFlag
from piggyback.suite.training.loop import Batches, Learner, Schedule, Training
from piggyback.suite.training.run_folder import Watch, conduct, open_run


def train_network(  # noqa: PLR0913 -- a training has these parts
    learner: Learner,
    *,
    batches: Batches,
    plan: Schedule,
    seed: int,
    folder: Path,
    key: Mapping[str, object],
    goal: Path,
    write: Callable[[Path], None],
    stop: StopFlag | None,
) -> None:
    """Train a network, or go on after a stop, or find it done.

    Args:
        learner: what is trained, at its start.
        batches: of an epoch from a given batch on.
        plan: how long.
        seed: of torch's random numbers.
        folder: for checkpoints, state and numbers of each epoch.
        key: what the network depends on, as JSON; another one needs another folder.
        goal: the network's file; the training is done when it is there.
        write: writes it, called at the end.
        stop: asks for a checkpoint and an end; None: nothing does.

    Raises:
        BadInput: the folder is of another training, or another process is at work in it.
        Diverged: the loss is not finite.
        Requeue: a stop was asked for; the same call continues.
    """
    run, total = open_run(folder, key=key), plan.epochs * plan.steps

    def work(watch: Watch) -> None:
        with progress_bar() as bar:
            shown = bar.add_task(goal.stem, total=total)
            Training(
                learner=learner,
                batches=batches,
                plan=plan,
                seed=seed,
                checkpoints=Checkpoints(run.checkpoints),
                stop=stop,
                on_step=lambda step: bar.update(shown, completed=step),
                on_epoch=run.write_metrics,
                on_save=lambda step: watch.note(step / total),
            ).run()
        write(goal)

    conduct(run, work, proof=goal)
