"""Finished runs in a folder, and the submissions made of them."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, cast

import numpy as np
import torch
from numpy.typing import NDArray

from decathlon.backbone.backbone_file import predict
from decathlon.bench import cached_backbone
from decathlon.benchmark import BENCHMARK
from decathlon.challenge.submission import Predictions, check_complete, submission_entries, write_submission
from decathlon.options import OwnReport, SubmitOptions
from decathlon.recipes import Recipe
from decathlon.release.packed import open_split, read_manifest
from decathlon.tasks import BACKBONE_TASK, TASKS
from leaderboard.result import BACKBONE_METHOD
from piggyback.methods.registry import named_method
from piggyback.shell import console
from piggyback.shell.errors import BadInput
from piggyback.shell.files import write_json
from piggyback.shell.strict_json import read_json
from piggyback.suite import results
from piggyback.suite.bench import Job, open_bench
from piggyback.suite.networks.foundation import GROUNDS
from piggyback.suite.networks.making import NETWORK_FILE
from piggyback.suite.results import FinishedRun
from piggyback.suite.training.run_folder import RunFolder

SETUP: Final = "setup.json"


@dataclass(frozen=True, kw_only=True)
class Setup:
    """Data, backbone and side of the pictures: the same for all runs of a folder, and read by `submit`."""

    data: Path
    backbone: Path
    size: int


def write_setup(runs: Path, setup: Setup) -> None:
    """Record the setup of a folder of runs.

    Raises:
        BadInput: the folder was begun with something else.
    """
    path = runs / SETUP
    if path.exists() and read_setup(runs) != resolved(setup):
        raise BadInput(f"{path} states other data, backbone or size: take another --out than {runs}")
    note_setup(runs, setup)


def note_setup(runs: Path, setup: Setup) -> None:
    """Record the setup of a folder of runs, unless one is recorded already."""
    if not (runs / SETUP).exists():
        found = resolved(setup)
        write_json(runs / SETUP, {"data": str(found.data), "backbone": str(found.backbone), "size": found.size})


def resolved(setup: Setup) -> Setup:
    """The same with absolute paths."""
    return replace(setup, data=setup.data.resolve(), backbone=setup.backbone.resolve())


def read_setup(runs: Path) -> Setup:
    """The setup that `write_setup` recorded.

    Raises:
        BadInput: `decathlon run` did not write the folder, or its file is damaged.
    """
    path = runs / SETUP
    if not path.exists():
        raise BadInput(f"{runs} has no {SETUP}: give the --out folder of `piggyback decathlon run`")
    match read_json(path):
        case {"data": str(data), "backbone": str(backbone), "size": int(size), **rest} if not rest:
            return Setup(data=Path(data), backbone=Path(backbone), size=size)
        case _:
            raise BadInput(f"{path} is damaged: delete it and run the same `piggyback decathlon run` again")


def find_runs(runs: Path, *, method: str, seed: int) -> dict[str, FinishedRun]:
    """The finished runs of one method and seed, by task.

    Raises:
        BadInput: a task has several, of different recipes.
    """
    found = results.find_runs(runs, benchmark=BENCHMARK, method=method, seeds=(seed,))
    return {task: run for (task, _), run in found.items()}


def begin(jobs: Sequence[Job], *, strict: bool) -> None:
    """Check that jobs of one folder can be trained, and record their setup.

    Args:
        jobs: of one data folder, one backbone and one size.
        strict: whether the folder must have been begun with the same.

    Raises:
        BadInput: tasks are not packed, labels are missing, or the folder was begun with something else.
    """
    first, own = jobs[0], jobs[0].own
    missing = [task for task in dict.fromkeys(job.task for job in jobs) if read_manifest(first.data, task) is None]
    if len(missing) > 1:  # one alone has a message of its own
        raise BadInput(
            f"{', '.join(missing)} are not packed in {first.data}: run `piggyback decathlon prepare`, "
            "or name others in --tasks"
        )
    if isinstance(own, OwnReport) and own.labels is not None and not own.labels.exists():  # opened at the end only
        raise BadInput(f"there are no labels in {own.labels}; leave --labels out to report val accuracies only")
    for job in jobs:
        open_bench(job)
    setup = Setup(data=first.data, backbone=first.backbone, size=cast(Recipe, first.recipe).size)
    if strict:
        write_setup(first.out, setup)
    else:
        note_setup(first.out, setup)


@dataclass(frozen=True, kw_only=True)
class BackboneRun:
    """A network's own answers on the backbone's task.

    Attributes:
        backbone: the network file's sha256.
        predictions: for the test part.
    """

    folder: RunFolder
    backbone: str
    predictions: Predictions


def predict_backbone_task(
    runs: Path, setup: Setup, *, method: str = BACKBONE_METHOD, seed: int = 0, device: torch.device | None = None
) -> BackboneRun | None:
    """The answers of a method's frozen network on imagenet12, kept in the folder.

    Args:
        runs: folder that keeps the answers.
        setup: of the runs.
        method, seed: whose network; without a method, the backbone itself.
        device: to predict on; None for the first GPU, or the processor.

    Returns:
        None when the data lacks that task, or the network does not do it.
    """
    path = find_network(runs, setup, method=method, seed=seed)
    if path is None or read_manifest(setup.data, BACKBONE_TASK) is None:
        return None
    split = open_split(setup.data, BACKBONE_TASK, "test")
    network = cached_backbone(path)
    named = hashlib.sha256(f"{network.sha256} {split.fingerprint} {setup.size}".encode()).hexdigest()[:10]
    label = BACKBONE_METHOD if path == setup.backbone else f"{method}-seed{seed}"
    folder = RunFolder(runs / f"{BACKBONE_TASK}-{label}-{named}")
    if not folder.predictions.exists():
        categories = predict(network, split, size=setup.size, device=device)
        Predictions(task=BACKBONE_TASK, image_ids=split.image_ids, category_ids=categories).save(folder.predictions)
    return BackboneRun(folder=folder, backbone=network.sha256, predictions=Predictions.load(folder.predictions))


def find_network(runs: Path, setup: Setup, *, method: str, seed: int) -> Path | None:
    """The network file that does the backbone's task for a method.

    Returns:
        None for joint methods, which learn that task or do not do it, and before a pruned network is made.

    Raises:
        BadInput: there are several pruned ones.
    """
    stands_on = "backbone" if method == BACKBONE_METHOD else named_method(method).stands_on
    if stands_on == "joint":
        return None
    if stands_on == "backbone":
        return setup.backbone
    found = sorted((runs / GROUNDS).glob(f"{method}-seed{seed}-*/{NETWORK_FILE}"))
    if len(found) > 1:
        raise BadInput(
            f"{runs / GROUNDS} has {len(found)} networks of {method} with seed {seed}, so it is unclear which one does "
            f"{BACKBONE_TASK}: keep each recipe's runs in a folder of its own"
        )
    return found[0] if found else None


def collect(runs: Path, *, method: str, seed: int, device: torch.device | None = None) -> dict[str, Predictions]:
    """Predictions of one method for all tasks there are, imagenet12 by its frozen network's own head.

    Args:
        runs: folder that `decathlon run` wrote.
        method, seed: of the runs.
        device: for the backbone's own; None for the first GPU, or the processor.

    Raises:
        BadInput: the folder is another one, or something in it is damaged.
    """
    setup = read_setup(runs)
    if not setup.data.is_dir():
        raise BadInput(f"{runs} was trained on {setup.data}, which is not there: correct the path in {runs / SETUP}")
    found = {
        task: Predictions.load(run.folder.predictions)
        for task, run in find_runs(runs, method=method, seed=seed).items()
    }
    if BACKBONE_TASK not in found:
        own = predict_backbone_task(runs, setup, method=method, seed=seed, device=device)
        if own is not None:
            found[BACKBONE_TASK] = own.predictions
    return found


def expected_ids(data: Path) -> Mapping[str, NDArray[np.int64]]:
    """Image ids of the test parts of all packed tasks."""
    return {task: open_split(data, task, "test").image_ids for task in TASKS if read_manifest(data, task) is not None}


def run(options: SubmitOptions) -> int:
    named_method(options.method)
    predictions = collect(options.runs, method=options.method, seed=options.seed)
    expected = expected_ids(read_setup(options.runs).data)
    note = check_complete(predictions, expected, partial=options.partial)
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
    for line in (f"{len(entries):,} entries for {len(predictions)} tasks: {options.out} and {packed}", note):
        if line is not None:
            console.out.print(line, markup=False, soft_wrap=True)
    return 0
