"""Finished runs in a folder."""

from dataclasses import dataclass
from pathlib import Path

from leaderboard.result import Result, ResultError, read_result
from piggyback.errors import BadInput
from piggyback.runs import RunFolder


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
        raise BadInput(f"{fault}; delete the file and the same run makes it anew") from None


def find_runs(runs: Path, *, method: str) -> list[FinishedRun]:
    """The finished runs of one method, by seed.

    Raises:
        BadInput: there are several of one seed, of different recipes or data.
    """
    found: dict[int, FinishedRun] = {}
    for path in sorted((runs / "runs").glob(f"*-{method}-seed*/result.json")):
        result = load_result(path)
        if result.method != method:
            continue
        seed = result.seed or 0
        if seed in found:
            first = found[seed].folder.root.name
            raise BadInput(
                f"{runs} has two runs with {method}, seed {seed}: {first} and {path.parent.name}; "
                "keep each recipe's runs in a folder of its own"
            )
        found[seed] = FinishedRun(folder=RunFolder(path.parent), result=result)
    return [found[seed] for seed in sorted(found)]
