"""Results as a store gives them, made by hand."""

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from decathlon.challenge.points import BASELINE_ERRORS
from leaderboard.result import Code, Counts, Fingerprints, Result
from leaderboard.store.reading import StoredResult

sys.path.insert(0, str(Path(__file__).parent))  # drawn_board.py, for the page's tests with and without a browser

StoredMaker = Callable[..., StoredResult]
BACKBONE = "b" * 64


@pytest.fixture
def make_stored() -> StoredMaker:
    """Makes a stored result; the names are those of `Result`, and some short ones."""

    def make(
        task: str = "svhn",
        *,
        method: str = "piggyback",
        seed: int = 0,
        correct: int = 900,
        n: int = 1000,
        official: bool = True,
        backbone: str | None = BACKBONE,
        data: str = "",
        predictions: str | None = None,
        attempt: str = "0",
        root: Path = Path(),
        **more: Any,
    ) -> StoredResult:
        values: dict[str, Any] = {
            "benchmark": "decathlon",
            "task": task,
            "task_version": 1,
            "split": "test",
            "method": method,
            "recipe": {"epochs": 60, "seed": seed, "lr_used": 1e-4 * (seed + 1), "lr_trials": [[1e-4, 0.5]]},
            "seed": seed,
            "metrics": {"accuracy": correct / n},
            "counts": Counts(n=n, correct=correct),
            "parameter_ratio": 1.28,
            "selected_on": "last epoch",
            "trained_on": "train",
            "origin": "measured",
            "official_data": official,
            "code": Code(commit=None, dirty=None),
            "versions": {},
            "device": "a processor",
            "wall_s": 1.0,
            "fingerprints": Fingerprints(data=data or f"data of {task}", backbone=backbone, predictions=predictions),
        }
        result = Result(**(values | more))
        place = f"{result.benchmark}/{result.task}/{method}/seed{seed}-{result.split}-{attempt}"
        return StoredResult(root=root, place=place, run=place, result=result, files=())

    return make


@pytest.fixture
def make_ten(make_stored: StoredMaker) -> Callable[..., list[StoredResult]]:
    """Makes results of all ten tasks for some seeds."""

    def make(*, seeds: Iterable[int] = (0,), without: Iterable[str] = (), **more: Any) -> list[StoredResult]:
        return [
            make_stored(task, seed=seed, **more) for task in BASELINE_ERRORS if task not in without for seed in seeds
        ]

    return make
