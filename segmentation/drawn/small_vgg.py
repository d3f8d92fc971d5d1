"""A small VGG for the demo and for tests, trained to tell single drawn things apart.

It is to the drawn scenes what ImageNet's VGG-16 is to VOC's: it has seen single things in other colours, and no scene.
"""

from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from piggyback.shell.console import notice, out, progress_bar
from piggyback.shell.errors import Diverged
from piggyback.weight_files import write_backbone
from segmentation.backbone import CONVENTIONS, Backbone, Header
from segmentation.drawn.release import write_release
from segmentation.drawn.scenes import LABELS, draw_thing
from segmentation.fcn import FCN32s, Shape
from segmentation.options import DrawOptions

SMALL: Final = Shape(channels=((16,), (32,), (64, 64), (96, 96), (128, 128)), hidden=128)
SIDE: Final = 64
BATCH: Final = 32
RATE: Final = 1e-3


def train_backbone(path: Path, *, pictures: int = 60, epochs: int = 12, seed: int = 0) -> None:
    """Draw things, train on them, and write the backbone file; one that is there stays.

    Args:
        path: the file.
        pictures: of each thing.
        epochs: over all of them; the learning rate, Adam's 1e-3, falls to a tenth for the last quarter.
        seed: of pictures, start and order.

    Raises:
        Diverged: the loss is not finite.
    """
    if path.exists():
        return
    normalise = CONVENTIONS["torchvision"]
    header = Header(channels=SMALL.channels, hidden=SMALL.hidden, normalise=normalise, source={"drawn": seed})
    network, classifier = start(seed)
    fed = Backbone(header=header, weights={}, sha256="", path=path)
    inputs, targets = draw_things(pictures, seed=seed)
    optimizer = torch.optim.Adam([*network.parameters(), *classifier.parameters()], lr=RATE)
    order = torch.Generator().manual_seed(seed)
    right = 0.0
    with progress_bar() as bar:
        shown = bar.add_task("small VGG", total=epochs)
        for epoch in range(epochs):
            if epoch == round(0.75 * epochs):
                optimizer.param_groups[0]["lr"] = RATE / 10
            right = 0.0
            for rows in torch.split(torch.randperm(len(inputs), generator=order), BATCH):
                logits = classifier(network.hidden(network.features(fed.feed(inputs[rows]))).mean((2, 3)))
                loss = cross_entropy(logits, targets[rows])
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                right += float((logits.argmax(1) == targets[rows]).sum())
            if not torch.isfinite(loss):
                raise Diverged(f"the drawn backbone's loss is not finite in epoch {epoch + 1}")
            bar.advance(shown)
    notice(f"small VGG: {right / len(inputs):.1%} of the things it was trained on are right")
    write_backbone(path, network.state_dict(), header=header)


def start(seed: int) -> tuple[FCN32s, nn.Linear]:
    """A fresh small VGG by He's rule, without dropout, and a classifier on top."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network, classifier = FCN32s(SMALL, margin="same", dropout=0.0), nn.Linear(SMALL.hidden, len(LABELS))
        for module in network.modules():
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)
    return network.to(memory_format=torch.channels_last).train(), classifier


def draw_things(count: int, *, seed: int) -> tuple[Tensor, Tensor]:
    """`count` pictures of each thing, uint8 (n, side, side, 3), and their places in `LABELS`, int64 (n)."""
    drawn = [draw_thing(label, number=number, side=SIDE, seed=seed) for number in range(count) for label in LABELS]
    return torch.from_numpy(np.stack(drawn)), torch.arange(len(LABELS)).repeat(count)


def run(options: DrawOptions) -> int:
    """``piggyback segmentation draw``."""
    write_release(options.out / "release")
    train_backbone(options.out / "backbone.safetensors")
    out.print(f"scenes in {options.out / 'release'}, a VGG in {options.out / 'backbone.safetensors'}", markup=False)
    return 0
