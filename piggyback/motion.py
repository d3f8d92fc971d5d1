"""How far training has moved a task's masks, and a line for people where it hardly has.

All bits of a fresh mask are those of the backbone.  A step of Adam moves a real mask by about its learning rate at most
(Kingma and Ba, 2015, section 2.1), so that a short training can end before the first of them has reached the threshold:
the task is then its head, and its norm layers where they are trained, and nothing says so.
"""

import math
from dataclasses import dataclass
from typing import Final

import torch

from piggyback.methods.contract import HasMasks
from piggyback.numerics.precision import wide
from piggyback.overlay import Overlay
from piggyback.shell.console import notice

FEW: Final = 1e-3  # share of mask values; masks that change less of a network are taken for masks that do nothing
REAL: Final = "mask_real"


@dataclass(frozen=True, kw_only=True)
class Motion:
    """What has become of the masks of a task in training.

    Attributes:
        values: of all masks.
        changed: those with another bit than in a fresh task; of ternary masks those that are not 1.
        furthest: the most that a real mask has moved.
        distance: from a real mask's start to the threshold.
    """

    values: int
    changed: int
    furthest: float
    distance: float

    @property
    def share(self) -> float:
        """The part of all values that has changed, in [0, 1]."""
        return self.changed / max(1, self.values)


@torch.no_grad()
def measure_motion(overlay: Overlay, task: str) -> Motion | None:
    """Compare a task's real masks and bits with those of a fresh task; one weight at a time is held twice.

    Returns:
        None where the task has no real masks: its method has none, or they were given up for bits.
    """
    state = overlay.task(task)
    method = state.method
    if not isinstance(method, HasMasks):
        return None
    values = changed = 0
    furthest = 0.0
    for name, trained in state.trained.items():
        fresh = method.start(wide(overlay.frozen[name]))
        before, now = method.keep(fresh), method.keep(trained)
        other = [now[key] != bit for key, bit in before.items() if bit.dtype == torch.bool]
        if other and REAL in trained:
            values += other[0].numel()
            changed += int(torch.stack(other).any(dim=0).sum())
            furthest = max(furthest, float((trained[REAL] - fresh[REAL]).abs().max()))
    if not values:
        return None
    return Motion(values=values, changed=changed, furthest=furthest, distance=method.init - method.threshold)


def tell_motion(overlay: Overlay, task: str) -> None:
    """Say once, on standard error, that a training is over and has changed almost no mask value, and why."""
    state = overlay.task(task)
    if not state.steps or state.told:
        return
    motion = measure_motion(overlay, task)
    if motion is None or motion.share >= FEW:
        return
    state.told = True
    needed = math.ceil(state.steps * motion.distance / motion.furthest) if motion.furthest else 0
    pace = f" (at this pace the first changes after some {needed})" if needed > state.steps else ""
    notice(
        f"note: {motion.changed:,} of {motion.values:,} mask values of task {task!r} have changed in {state.steps} "
        f"steps, so its masks do next to nothing: real masks have moved by at most {motion.furthest:.2g}, and the "
        f"threshold is {motion.distance:.2g} away. Take more steps{pace}, or a higher rate for masks (mask_lr; in a "
        "recipe, lr)"
    )
