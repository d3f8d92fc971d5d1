"""Classification, measured: the class chosen for each picture, and the share of right ones."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from leaderboard.result import Counts
from piggyback.device import autocast
from piggyback.shell.errors import Diverged
from piggyback.suite.bench import Job, Measured


def choose_classes(network: nn.Module, batches: Iterable[Tensor], *, job: Job, split: str) -> NDArray[np.int64]:
    """The most likely class of each picture, int64 (n).

    Args:
        network: gives logits (n, classes).
        batches: its inputs; made while they are used.
        job: has device and precision.
        split: that the pictures are of.

    Raises:
        Diverged: a logit is not finite.
    """
    network.eval()
    found = []
    with torch.inference_mode(), autocast(job.device, precision=job.recipe.precision):
        for inputs in batches:
            logits = network(inputs.to(job.device))
            if not torch.isfinite(logits).all():
                raise Diverged(f"logits for {job.task} {split} are not finite: the training diverged")
            found.append(logits.argmax(1).cpu())
    return torch.cat(found).numpy()


def measure_accuracy(right: NDArray[np.bool_], *, split: str, evidence: Path, official: bool) -> Measured:
    """Accuracy and error with their counts, of which pictures are right; `Measured` has the rest."""
    accuracy = int(right.sum()) / len(right)
    return Measured(
        split=split,
        metrics={"accuracy": accuracy, "error": 1 - accuracy},
        counts=Counts(n=len(right), correct=int(right.sum())),
        evidence=evidence,
        official=official,
    )
