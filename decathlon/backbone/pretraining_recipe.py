"""How a backbone is trained from scratch, as data; imports nothing heavy."""

from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from piggyback.shell.errors import BadInput

DEFAULT_PRESET: Final = "paper"
REFERENCE_BATCH: Final = 128  # the batch that `PretrainRecipe.lr` is stated for


@dataclass(frozen=True, kw_only=True)
class PretrainRecipe:
    """Training of a wide residual network on imagenet12 by SGD with momentum.

    The learning rate is ``lr * batch_size / 128``, multiplied by `decay` after each of `decay_epochs`.

    Attributes:
        depth: 6 n + 4.
        widen: factor on the widths 16, 32, 64.
        epochs: passes over the train part; the weights after the last one are kept.
        batch_size: pictures per step, over all processes together.
        lr: learning rate for a batch of 128.
        momentum: of SGD.
        nesterov: whether momentum is Nesterov's.
        weight_decay: on all weights, batch norm's too.
        decay_epochs: numbers of epochs after which the learning rate falls.
        decay: the factor by which it falls.
        size: side of the crop, pixels; random in training, central in evaluation.
        flip: whether pictures are mirrored at random in training.
        seed: of the first weights, the order of the pictures and the crops.
    """

    depth: int = 28
    widen: int = 4
    epochs: int = 50
    batch_size: int = 64
    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    decay_epochs: tuple[int, ...] = (25,)
    decay: float = 0.1
    size: int = 64
    flip: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if self.depth < 10 or (self.depth - 4) % 6:
            raise BadInput(f"depth is {self.depth}; a wide residual network has 6 n + 4: 10, 16, 22, 28, ...")
        for name in ("widen", "epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise BadInput(f"{name} is {getattr(self, name)}; at least 1 is needed")
        if not 0 < self.lr < float("inf"):
            raise BadInput(f"lr is {self.lr}; a positive number is needed")
        if self.size < 8:
            raise BadInput(f"size is {self.size}; the network needs pictures of 8 pixels or more")

    @property
    def full_rate(self) -> float:
        """The learning rate of the first epoch, by the batch's size."""
        return self.lr * self.batch_size / REFERENCE_BATCH

    def decay_in(self, epoch: int) -> float:
        """The factor on the learning rate in an epoch; epochs count from 0."""
        falls = sum(epoch >= mark for mark in self.decay_epochs)
        return float(self.decay**falls)


# "paper" is what the DAN paper's code states for the WRN-28-4 that Piggyback takes over: batches of 64,
# 50 epochs, a tenth of the learning rate every 25.  It used the YellowFin optimizer, which tunes momentum
# and learning rate itself; SGD with its usual settings is used here instead.
PRESETS: Final = MappingProxyType(
    {
        "paper": PretrainRecipe(),
        "smoke": PretrainRecipe(depth=10, widen=1, epochs=2, batch_size=32, decay_epochs=(1,)),
    }
)
