"""A small VGG for the demo and for tests, trained to tell single drawn things apart.

It is to the drawn scenes what ImageNet's VGG-16 is to VOC's: it has seen single things in other colours, and no scene.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from piggyback.shell.console import notice, out
from piggyback.suite.bench import seeded
from piggyback.suite.networks.pretraining import Pretraining
from piggyback.suite.recipe import Recipe
from piggyback.suite.training.checkpoints import StopFlag, stop_on_signal
from piggyback.suite.training.loop import Pair
from piggyback.weight_files import write_backbone
from segmentation.drawn.release import write_release
from segmentation.drawn.scenes import LABELS, draw_thing
from segmentation.network.backbone_file import CONVENTIONS, Backbone, Header
from segmentation.network.fcn import FCN32s, Shape
from segmentation.options import DrawOptions

SMALL: Final = Shape(channels=((16,), (32,), (64, 64), (96, 96), (128, 128)), hidden=128)
SIDE: Final = 64
BATCH: Final = 32
RATE: Final = 1e-3


class Pupil(nn.Module):
    """A small VGG under a linear layer that tells the things apart."""

    def __init__(self, network: FCN32s, classifier: nn.Linear) -> None:
        super().__init__()
        self.network, self.classifier = network, classifier

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits ``(n, things)``."""
        seen: Tensor = self.classifier(self.network.hidden(self.network.features(inputs)).mean((2, 3)))
        return seen


def train_backbone(
    path: Path, *, pictures: int = 60, epochs: int = 12, seed: int = 0, stop: StopFlag | None = None
) -> None:
    """Draw things, train on them, and write the backbone file; an existing one is kept.

    Args:
        path: the file; the folder of the training lies beside it.
        pictures: of each thing.
        epochs: over all of them; the learning rate, Adam's 1e-3, falls to a tenth for the last quarter.
        seed: of pictures, start and order.
        stop: asks for a checkpoint and an end.

    Raises:
        Diverged: the loss is not finite.
        Requeue: a stop was asked for; the same call continues.
    """
    if path.exists():
        return
    normalise = CONVENTIONS["torchvision"]
    header = Header(channels=SMALL.channels, hidden=SMALL.hidden, normalise=normalise, source={"drawn": seed})
    pupil = start(seed)
    fed = Backbone(header=header, weights={}, sha256="", path=path)
    inputs, targets = draw_things(pictures, seed=seed)

    def batches(epoch: int, first: int) -> Iterator[Pair]:
        order = torch.Generator().manual_seed(seed)
        shuffled = [torch.randperm(len(inputs), generator=order) for _ in range(epoch + 1)][-1]
        for rows in torch.split(shuffled, BATCH)[first:]:
            yield fed.feed(inputs[rows]), targets[rows]

    def write(source: Mapping[str, Any]) -> None:
        with torch.inference_mode():
            right = pupil(fed.feed(inputs)).argmax(1) == targets
        notice(f"small VGG: {right.double().mean():.1%} of the things it was trained on are right")
        write_backbone(path, pupil.network.state_dict(), header=header)

    Pretraining(
        network=pupil,
        recipe=Recipe(
            epochs=epochs,
            decay_after=round(0.75 * epochs) / epochs,
            batch_size=BATCH,
            lr=RATE,
            precision="fp32",
            seed=seed,
        ),
        batches=batches,
        count=-(-len(inputs) // BATCH),
        criterion=cross_entropy,
        goal=path,
        data={"pictures": pictures},
        folder=path.with_name(f"{path.stem}-training"),
        write=write,
        stop=stop,
    ).run()


def start(seed: int) -> Pupil:
    """An untrained pupil: by He's rule, without dropout."""
    with seeded(seed):
        network, classifier = FCN32s(SMALL, margin="same", dropout=0.0), nn.Linear(SMALL.hidden, len(LABELS))
        for module in network.modules():
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)
    return Pupil(network.to(memory_format=torch.channels_last), classifier)


def draw_things(count: int, *, seed: int) -> tuple[Tensor, Tensor]:
    """`count` pictures of each thing, uint8 (n, side, side, 3), and their places in `LABELS`, int64 (n)."""
    drawn = [draw_thing(label, number=number, side=SIDE, seed=seed) for number in range(count) for label in LABELS]
    return torch.from_numpy(np.stack(drawn)), torch.arange(len(LABELS)).repeat(count)


def run(options: DrawOptions) -> int:
    with stop_on_signal() as stop:
        write_release(options.out / "release")
        train_backbone(options.out / "backbone.safetensors", stop=stop)
    out.print(f"scenes in {options.out / 'release'}, a VGG in {options.out / 'backbone.safetensors'}", markup=False)
    return 0
