"""Finished runs in a folder."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from leaderboard.result import Result, read_result
from piggyback.shell.errors import BadInput, ResultError, one_line
from piggyback.suite.benchmark import Benchmark
from piggyback.suite.training.run_folder import RunFolder

ADDED: Final = {"lr_used", "lr_trials"}  # by a run to its recipe
AGAIN: Final = "delete the file and the same run makes it again"


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """A run folder with its result."""

    folder: RunFolder
    result: Result

    @property
    def seed(self) -> int:
        return self.result.seed or 0

    @property
    def recipe(self) -> Mapping[str, Any]:
        """The settings trained with, and what the run noted beside them."""
        return self.result.recipe or {}


def load_result(path: Path) -> Result:
    """Read a run's result.

    Raises:
        BadInput: the file is missing, damaged, or contradicts itself.
    """
    try:
        return read_result(path)
    except ResultError as fault:
        raise BadInput(f"{one_line(fault)}; {AGAIN}") from None


@contextmanager
def advise(folder: RunFolder) -> Iterator[None]:
    """Add to a message about another file of a finished run how to have that file made again."""
    try:
        yield
    except BadInput as fault:
        raise BadInput(f"{fault}; delete {one_line(folder.result)} and the same run makes both again") from None


def find_runs(
    runs: Path, *, benchmark: Benchmark, method: str, seeds: Collection[int] | None = None
) -> dict[tuple[str, int], FinishedRun]:
    """The finished runs of one method by task and seed, sorted by task and then seed.

    Args:
        runs: the folder that ``--out`` named.
        benchmark: several benchmarks may share a folder.
        method: its name.
        seeds: only these; all when None.

    Raises:
        BadInput: two runs of one task and seed differ in recipe or data, or a result lacks an entry.
    """
    found: dict[tuple[str, int], FinishedRun] = {}
    patterns = ("*",) if seeds is None else tuple(f"{seed}-*" for seed in seeds)
    paths = (path for one in patterns for path in (runs / "runs").glob(f"*-{method}-seed{one}/result.json"))
    for path in sorted(paths):
        result = load_result(path)
        place = (result.task, result.seed or 0)
        if (result.benchmark, result.method) != (benchmark.name, method) or (seeds and place[1] not in seeds):
            continue
        measured = {metric.name for metric in benchmark.metrics}
        lacks = [*measured - result.metrics.keys(), *ADDED - (result.recipe or {}).keys()]
        if lacks:
            raise BadInput(f"{one_line(path)} lacks {', '.join(sorted(lacks))}: {AGAIN}")
        if place in found:
            first, task = found[place].folder.root.name, f" of {result.task}" if benchmark.several else ""
            raise BadInput(
                f"{one_line(runs)} has two runs{task} with {method}, seed {place[1]}: {first} and {path.parent.name}; "
                "keep each recipe's runs in a folder of its own"
            )
        found[place] = FinishedRun(folder=RunFolder(path.parent), result=result)
    order = (*benchmark.tasks, *(() if benchmark.backbone_task is None else (benchmark.backbone_task,)))
    places = {task: place for place, task in enumerate(order)}
    return dict(sorted(found.items(), key=lambda item: (places.get(item[0][0], len(places)), item[0][1])))
