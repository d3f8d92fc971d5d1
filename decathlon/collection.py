"""Finished runs in a folder, and the submissions made of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from decathlon.backbone import load_backbone, predict
from decathlon.options import SubmitOptions
from decathlon.packed import open_split, read_manifest
from decathlon.submission import Predictions, check_complete, submission_entries, write_submission
from decathlon.tasks import BACKBONE_TASK, TASKS
from leaderboard.result import Result, ResultError, read_result
from piggyback import console
from piggyback.errors import BadInput
from piggyback.files import read_json, write_json
from piggyback.runs import RunFolder

SETUP: Final = "setup.json"  # where data and backbone of a folder of runs are
BACKBONE_PREDICTIONS: Final = "imagenet12-backbone.npz"


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


def write_setup(runs: Path, *, data: Path, backbone: Path, size: int) -> None:
    """Note where data and backbone are, and the pictures' side, for `submit`.

    Raises:
        BadInput: the folder was begun with others.
    """
    setup = {"data": str(data.resolve()), "backbone": str(backbone.resolve()), "size": size}
    path = runs / SETUP
    if path.exists() and read_json(path) != setup:
        raise BadInput(f"{path} says that these runs use other data, backbone or size: take another --out, not {runs}")
    write_json(path, setup)


def read_setup(runs: Path) -> tuple[Path, Path, int]:
    """Data folder, backbone file and side of the pictures of a folder of runs.

    Raises:
        BadInput: `decathlon run` did not write the folder.
    """
    path = runs / SETUP
    if not path.exists():
        raise BadInput(f"{runs} has no {SETUP}: give the --out folder of `piggyback decathlon run`")
    setup = read_json(path)
    if not isinstance(setup, dict) or setup.keys() != {"data", "backbone", "size"}:
        raise BadInput(f"{path} is damaged: run the same `piggyback decathlon run` again")
    return Path(setup["data"]), Path(setup["backbone"]), int(setup["size"])


def find_runs(runs: Path, *, method: str, seed: int) -> dict[str, FinishedRun]:
    """The finished runs of one method and seed, by task.

    Raises:
        BadInput: a task has several, of different recipes.
    """
    found: dict[str, FinishedRun] = {}
    for path in sorted((runs / "runs").glob(f"*-{method}-seed{seed}-*/result.json")):
        result = load_result(path)
        if result.method != method:
            continue
        if result.task in found:
            names = f"{found[result.task].folder.root.name} and {path.parent.name}"
            raise BadInput(
                f"{runs} has two runs of {result.task} with {method}, seed {seed}: {names}; "
                "keep each recipe's runs in a folder of its own"
            )
        found[result.task] = FinishedRun(folder=RunFolder(path.parent), result=result)
    return found


def predict_backbone_task(runs: Path, *, data: Path, backbone: Path, size: int) -> Predictions | None:
    """The backbone's own answers on imagenet12, computed once per folder; None when the data lacks that task."""
    path = runs / BACKBONE_PREDICTIONS
    if path.exists():
        return Predictions.load(path)
    if read_manifest(data, BACKBONE_TASK) is None:
        return None
    split = open_split(data, BACKBONE_TASK, "test")
    chosen = Predictions(
        task=BACKBONE_TASK, image_ids=split.image_ids, category_ids=predict(load_backbone(backbone), split, size=size)
    )
    chosen.save(path)
    return chosen


def collect(runs: Path, *, method: str, seed: int) -> dict[str, Predictions]:
    """Predictions of one method for all tasks there are, imagenet12 by the backbone's own head."""
    data, backbone, size = read_setup(runs)
    found = {
        task: Predictions.load(run.folder.predictions)
        for task, run in find_runs(runs, method=method, seed=seed).items()
    }
    own = predict_backbone_task(runs, data=data, backbone=backbone, size=size)
    if own is not None:
        found[BACKBONE_TASK] = own
    return found


def expected_ids(data: Path) -> Mapping[str, NDArray[np.int64]]:
    """Image ids of the test parts of all packed tasks."""
    return {task: open_split(data, task, "test").image_ids for task in TASKS if read_manifest(data, task) is not None}


def run(options: SubmitOptions) -> int:
    """``piggyback decathlon submit``."""
    data, _, _ = read_setup(options.runs)
    predictions = collect(options.runs, method=options.method, seed=options.seed)
    note = check_complete(predictions, expected_ids(data), partial=options.partial)
    entries = submission_entries(predictions)
    packed = write_submission(options.out, entries)
    report = {
        "file": str(options.out),
        "zip": str(packed),
        "entries": len(entries),
        "tasks": list(predictions),
        "note": note,
    }
    if options.json:
        console.print_json(report)
        return 0
    console.out.print(
        f"{len(entries):,} entries for {len(predictions)} tasks: {options.out} and {packed}", markup=False
    )
    if note is not None:
        console.out.print(note, markup=False)
    return 0
