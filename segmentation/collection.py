"""Finished runs in a folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from leaderboard.result import Result, ResultError, read_result
from piggyback.shell.errors import BadInput, one_line
from piggyback.suite.training.run_folder import RunFolder

METRICS: Final = {"mean_iou", "pixel_accuracy", "mean_accuracy", "frequency_weighted_iou"}
ADDED: Final = {"lr_used", "lr_trials"}  # by a run to its recipe
ANEW: Final = "delete the file and the same run makes it anew"


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """A run folder with its result."""

    folder: RunFolder
    result: Result


def load_result(path: Path) -> Result:
    """Read a run's result.

    Raises:
        BadInput: it is missing, damaged, or says what cannot be.
    """
    try:
        return read_result(path)
    except ResultError as fault:  # leaderboard knows no error of ours
        raise BadInput(f"{one_line(fault)}; {ANEW}") from None


@contextmanager
def advise(folder: RunFolder) -> Iterator[None]:
    """Ends a message about another file of a finished run with how to have it made anew."""
    try:
        yield
    except BadInput as fault:
        raise BadInput(f"{fault}; delete {one_line(folder.result)} and the same run makes both anew") from None


def find_runs(runs: Path, *, method: str) -> list[FinishedRun]:
    """The finished runs of one method, by seed.

    Raises:
        BadInput: there are several of one seed, of different recipes or data; or a result lacks something.
    """
    found: dict[int, FinishedRun] = {}
    for path in sorted((runs / "runs").glob(f"*-{method}-seed*/result.json")):
        result = load_result(path)
        if (result.benchmark, result.method) != ("segmentation", method):  # two benchmarks may share a folder
            continue
        lacks = [*METRICS - result.metrics.keys(), *ADDED - (result.recipe or {}).keys()]
        if lacks:
            raise BadInput(f"{one_line(path)} lacks {', '.join(sorted(lacks))}: {ANEW}")
        seed = result.seed or 0
        if seed in found:
            first = found[seed].folder.root.name
            raise BadInput(
                f"{one_line(runs)} has two runs with {method}, seed {seed}: {first} and {path.parent.name}; "
                "keep each recipe's runs in a folder of its own"
            )
        found[seed] = FinishedRun(folder=RunFolder(path.parent), result=result)
    return [found[seed] for seed in sorted(found)]
