"""Trials of learning rates: short trainings, of which the best on held-out pictures is chosen."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from piggyback.shell.console import notice
from piggyback.shell.errors import BadInput, Diverged, one_line
from piggyback.shell.files import write_json
from piggyback.shell.strict_json import read_json
from piggyback.suite.training.loop import Batches, Record


def choose_rate(
    grid: Sequence[float], *, file: Path, metric: str, title: str, measure: Callable[[float, int], tuple[int, float]]
) -> tuple[float, list[Record]]:
    """The learning rate whose trial gave the highest number; ties go to the lower rate.

    Args:
        grid: rates to try, at least one.
        file: record of the trials; those that an earlier process finished are not repeated.
        metric: name of the number in the records, such as ``val_accuracy``.
        title: the run's, for notices.
        measure: called with a rate and the trial's number, from 1; returns the steps trained and the metric.

    Returns:
        The rate, and a record of each trial: ``lr``, ``steps`` and the metric; the last two are None where it
        diverged.

    Raises:
        BadInput: the file is damaged.
        Diverged: every rate did.
    """
    trials = read_trials(file, grid=grid, metric=metric)
    for number, rate in enumerate(grid[len(trials) :], start=len(trials) + 1):
        steps: int | None
        value: float | None
        try:
            steps, value = measure(rate, number)
        except Diverged as fault:
            notice(f"{title}: learning rate {rate:g} was tried and diverged ({fault})")
            steps, value = None, None
        trials.append({"lr": rate, "steps": steps, metric: value})
        write_json(file, trials)
    good = [trial for trial in trials if trial[metric] is not None]
    if not good:
        raise Diverged(f"{title}: every learning rate of {tuple(grid)} diverged")
    best = max(good, key=lambda trial: (trial[metric], -trial["lr"]))
    return float(best["lr"]), trials


def read_trials(file: Path, *, grid: Sequence[float], metric: str) -> list[Record]:
    """The trials that an earlier process finished.

    Raises:
        BadInput: the file is damaged.
    """
    if not file.exists():
        return []
    advice = "delete it, and the learning rates are tried again"
    try:
        trials = read_json(file)
    except BadInput as fault:
        raise BadInput(f"{fault}: {advice}") from None
    if not isinstance(trials, list) or not all(is_trial(trial, metric=metric) for trial in trials):
        raise BadInput(f"{one_line(file)} is damaged: {advice}")
    if [trial["lr"] for trial in trials] != list(grid[: len(trials)]):
        raise BadInput(f"{one_line(file)} has other learning rates than the recipe: delete it to try them again")
    return cast(list[Record], trials)


def is_trial(value: object, *, metric: str) -> bool:
    if not isinstance(value, dict) or value.keys() != {"lr", "steps", metric}:
        return False
    tried = value["steps"] is not None or value[metric] is not None
    return all(type(value[name]) in (int, float) for name in (("lr", "steps", metric) if tried else ("lr",)))


def cut_batches(batches: Batches, *, epoch: int, total: int) -> Batches:
    """Batches of a short training as one epoch, although it may span several epochs of the pictures.

    Args:
        batches: of each epoch.
        epoch: batches in an epoch of the pictures.
        total: batches in the short training.
    """

    def cut(_: int, start: int) -> Iterator[Any]:
        first, skipped = divmod(start, epoch)
        epochs = (batches(number, skipped if number == first else 0) for number in itertools.count(first))
        return itertools.islice(itertools.chain.from_iterable(epochs), total - start)

    return cut
