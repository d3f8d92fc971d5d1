"""What a network with a task says of pictures."""

from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from decathlon.batches import evaluation_batches
from decathlon.bench import Bench
from piggyback.data.labelled import PackedSplit
from piggyback.device import autocast
from piggyback.shell.errors import Diverged

EVALUATION_BATCH: Final = 100


def predict(bench: Bench, network: nn.Module, split: PackedSplit) -> NDArray[np.int64]:
    """The most likely class of each picture of a split, as places in its categories, int64 (n).

    Raises:
        Diverged: a logit is not finite.
    """
    network.eval()
    found = []
    batches = evaluation_batches(split, augmentation=bench.augmentation(training=False), batch_size=EVALUATION_BATCH)
    with torch.inference_mode(), autocast(bench.job.device, precision=bench.job.recipe.precision):
        for batch in batches:
            logits = network(bench.inputs(batch.pixels))
            if not torch.isfinite(logits).all():
                raise Diverged(f"logits for {split.task} {split.split} are not finite: the training diverged")
            found.append(logits.argmax(1).cpu())
    return torch.cat(found).numpy()


def measure(bench: Bench, network: nn.Module, split: PackedSplit) -> float:
    """Accuracy on a labelled split, a fraction in [0, 1]."""
    return float((predict(bench, network, split) == split.labels).mean())
