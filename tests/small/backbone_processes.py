"""One of two processes that train a backbone together: ``python backbone_processes.py DATA OUT PORT ...``, with the
variables that torchrun sets."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from breaks import StopAfter

from decathlon.backbone import pretraining
from decathlon.backbone.pretraining import Pretrained, pretrain
from decathlon.backbone.pretraining_recipe import PretrainRecipe
from decathlon.backbone.wrn import WideResNet, wide_resnet
from decathlon.release.packed import open_split
from decathlon.tasks import BACKBONE_TASK
from piggyback.data.labelled import PackedSplit
from piggyback.shell.errors import Requeue
from piggyback.suite.training import loop

SHORT = PretrainRecipe(depth=10, widen=1, epochs=2, batch_size=16, decay_epochs=(1,), size=8, lr=0.2)
"""Two epochs of four steps on the tests' 72 pictures."""


def splits(data: Path) -> tuple[PackedSplit, PackedSplit]:
    return open_split(data, BACKBONE_TASK, "train"), open_split(data, BACKBONE_TASK, "val")


def train_short(data: Path, folder: Path, **more: Any) -> Pretrained | None:
    return pretrain(*splits(data), recipe=SHORT, folder=folder, device="cpu", **more)


def train_watched(data: Path, folder: Path, *, norm: str) -> tuple[WideResNet, Pretrained | None]:
    """Train this process's share; returns its network too.

    Where norm layers are "fixed", which sums over pictures alone, the network is in float64 as well, so that
    any real difference stands out from rounding.
    """
    made: list[WideResNet] = []

    def make(*arguments: int, **keywords: int) -> WideResNet:
        network = wide_resnet(*arguments, **keywords)
        if norm == "fixed":
            for part in network.modules():
                if isinstance(part, torch.nn.BatchNorm2d):
                    part.eval()
                    part.train = lambda mode=True: None  # type: ignore[method-assign,assign,misc]
            network.double().register_forward_pre_hook(lambda module, inputs: (inputs[0].double(),))
        made.append(network)
        return network

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretraining, "wide_resnet", make)
        result = train_short(data, folder)
    return made[0], result


def stop_at_every_step(data: Path, folder: Path, *, ports: Iterator[str], rank: int) -> None:
    """The second process alone is asked to stop: the first time at the end of an epoch, as epochs are short, then
    after each step."""
    stops = 0
    while True:
        os.environ["MASTER_PORT"] = next(ports)
        try:
            train_short(data, folder, stop=StopAfter(1 if rank else 1_000))
        except Requeue:
            stops, loop.AGREE_EVERY = stops + 1, 1  # type: ignore[misc]
            continue
        assert stops == 1 + 4, stops
        return


def main(data: Path, out: Path, ports: Iterator[str]) -> None:
    rank = int(os.environ["RANK"])
    for norm in ("trained", "fixed"):
        os.environ["MASTER_PORT"] = next(ports)
        network, result = train_watched(data, out / norm, norm=norm)
        assert (result is None) == (rank != 0)
        torch.save(network.state_dict(), out / f"{norm}{rank}.pt")
    stop_at_every_step(data, out / "stopped", ports=ports, rank=rank)
    os.environ["MASTER_PORT"] = next(ports)
    with pytest.raises(Requeue):
        train_short(data, out / "fewer", stop=StopAfter(3))  # one process goes on with it
    os.environ["MASTER_PORT"] = next(ports)
    train_short(data, out / "more", allow_other_environment=True)  # one process has begun it


if __name__ == "__main__":
    torch.set_num_threads(1)
    given, written, *free = sys.argv[1:]
    main(Path(given), Path(written), iter(free))
