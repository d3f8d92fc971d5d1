"""Accuracy: the class that a network chooses for each picture, and the fraction chosen right."""

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
        network: returns logits (n, classes).
        batches: its inputs, produced while they are consumed.
        job: gives device and precision.
        split: name of the pictures' split, for the message.

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
    """Turn a flag for each picture, whether its class was chosen right, into accuracy and error with their counts."""
    accuracy = int(right.sum()) / len(right)
    return Measured(
        split=split,
        metrics={"accuracy": accuracy, "error": 1 - accuracy},
        counts=Counts(n=len(right), correct=int(right.sum())),
        evidence=evidence,
        official=official,
    )
