"""Records of the test part: accuracies of scored submissions, as result files beside each run's own.

A run measures itself on val and never sees test labels.  Where those are known afterwards, ``test-result.json`` lies
beside its ``result.json``: the same run with the test part's counts, for the leaderboard.
"""

from pathlib import Path
from typing import Final

import numpy as np
import torch

from decathlon.challenge.collection import find_network, find_runs, predict_backbone_task, read_setup
from decathlon.challenge.scoring import ScoreReport, TaskScore
from decathlon.release.packed import open_split
from decathlon.tasks import BACKBONE_TASK, TASK_VERSION
from leaderboard.result import BACKBONE_METHOD, Code, Counts, Fingerprints, Result, write_result
from piggyback.device import describe_device
from piggyback.methods.registry import named_method
from piggyback.shell.console import notice
from piggyback.shell.errors import one_line
from piggyback.shell.files import sha256_of
from piggyback.suite.training.run_folder import RunFolder, code_version

NAME: Final = "test-result.json"


def write_test_records(runs: Path, *, method: str, seed: int, report: ScoreReport, device: torch.device) -> None:
    """Write records of one method's runs, and of the backbone (predicting on `device`), for the scored tasks."""
    found = find_runs(runs, method=method, seed=seed)
    for task, run in found.items():
        if task in report.tasks:
            counted = as_metrics(report.tasks[task])
            kept = {name: value for name, value in run.result.metrics.items() if name == "zeros"}
            counts = Counts(n=report.tasks[task].n, correct=report.tasks[task].correct)
            record = run.result.model_copy(update={"split": "test", "metrics": {**counted, **kept}, "counts": counts})
            write_result(run.folder.root / NAME, record)
    if BACKBONE_TASK not in report.tasks or BACKBONE_TASK in found:
        return
    scored = report.tasks[BACKBONE_TASK]
    if named_method(method).stands_on == "backbone":
        write_backbone_record(runs, scored=scored, official=report.official, device=device)
    elif found:
        any_run = next(iter(found.values())).result
        write_network_record(runs, of=any_run, scored=scored, official=report.official, device=device)


def as_metrics(scored: TaskScore) -> dict[str, float]:
    """Accuracy and error, fractions in [0, 1]."""
    return {"accuracy": scored.accuracy, "error": scored.error}


def write_network_record(runs: Path, *, of: Result, scored: TaskScore, official: bool, device: torch.device) -> None:
    """Write a method's result on the backbone's task: that of the network which its tasks share.

    Args:
        runs: folder that `decathlon run` wrote.
        of: a result of the method, with the seed and the recipe that the network was made by.
        scored: on the test part.
        official: whether the labels are the organisers'.
        device: that the network predicted on.
    """
    setup, seed = read_setup(runs), of.seed or 0
    network = find_network(runs, setup, method=of.method, seed=seed)
    found = predict_backbone_task(runs, setup, method=of.method, seed=seed, device=device)
    if network is None or found is None or of.fingerprints is None:
        return
    ground = RunFolder(network.parent)
    seconds = ground.read_status().get("seconds")  # of the network's own training
    if not isinstance(seconds, int | float):
        notice(f"note: {one_line(ground.status)} does not say how long it took, so {BACKBONE_TASK} gets no record")
        return
    split = open_split(setup.data, BACKBONE_TASK, "test")
    update = {
        "task": BACKBONE_TASK,
        "split": "test",
        "metrics": as_metrics(scored),
        "counts": Counts(n=scored.n, correct=scored.correct),
        "bits": {},
        "wall_s": float(seconds),
        "official_data": official and split.official,
        "fingerprints": Fingerprints(
            data=split.fingerprint, backbone=of.fingerprints.backbone, predictions=sha256_of(found.folder.predictions)
        ),
    }
    write_result(found.folder.result, of.model_copy(update=update))


def write_backbone_record(runs: Path, *, scored: TaskScore, official: bool, device: torch.device) -> None:
    """Write the frozen network's own accuracy, which every mask method shares, beside its predictions."""
    setup = read_setup(runs)
    found = predict_backbone_task(runs, setup, device=device)
    if found is None:
        return
    commit, dirty = code_version()
    split = open_split(setup.data, BACKBONE_TASK, "test")
    record = Result(
        benchmark="decathlon",
        task=BACKBONE_TASK,
        task_version=TASK_VERSION,
        split="test",
        method=BACKBONE_METHOD,
        recipe={"size": setup.size},
        metrics=as_metrics(scored),
        counts=Counts(n=scored.n, correct=scored.correct),
        parameter_ratio=1.0,
        origin="measured",
        official_data=official and split.official,
        code=Code(commit=commit, dirty=dirty),
        versions={"torch": str(torch.__version__), "numpy": np.__version__},
        device=describe_device(device),
        fingerprints=Fingerprints(
            data=split.fingerprint, backbone=found.backbone, predictions=sha256_of(found.folder.predictions)
        ),
    )
    write_result(found.folder.result, record)
