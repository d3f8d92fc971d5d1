"""The cost of tasks: the paper's parameter ratio, and the true bytes.

Source: paper section 6.  With n backbone weights of 32 bits and T tasks of b bits per weight, the ratio is
(32 n + T b n) / (32 n).  It leaves out heads, norm layers and biases; the true bytes leave out nothing.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from piggyback.methods.contract import Method
from piggyback.network.anatomy import join
from piggyback.network.coverage import reached_by
from piggyback.overlay import Overlay
from piggyback.payload import Payload
from piggyback.shell.files import write_json

WEIGHT_BITS = 32


@dataclass(frozen=True, kw_only=True)
class Sparsity:
    """Share of mask values that are zero.

    Attributes:
        layers: per weight name, in the order of the network.
        sizes: likewise, the number of mask values.
        total: over all mask values.
    """

    layers: Mapping[str, float]
    sizes: Mapping[str, int]
    total: float


def parameter_ratio(
    methods: Sequence[Method],
    *,
    shapes: Sequence[tuple[int, ...]],
    masked: Sequence[int] | None = None,
    reached: Sequence[bool] | None = None,
) -> float:
    """The bits of the backbone and all tasks, divided by those of the backbone, by the paper's convention.

    Args:
        methods: one per task added to the backbone's own.
        shapes: of the backbone's convolution and linear weights.
        masked: per weight, the mask values that are off in each task, for methods whose size depends on it; none
            when not given.
        reached: per weight, whether the tasks have anything there: a shape does not tell whether a layer is of a kind
            that a method works on, nor whether it was left out; all of them when not given.

    >>> from piggyback.methods.binary import Binary
    >>> from piggyback.methods.packnet import PackNet
    >>> parameter_ratio([Binary()] * 9, shapes=[(10, 100)])
    1.28125
    >>> parameter_ratio([PackNet()] * 9, shapes=[(10, 100)])
    1.125
    """
    backbone = WEIGHT_BITS * sum(math.prod(shape) for shape in shapes)
    added = sum(
        method.bits(shape, tasks=tasks, masked=off)
        for method, tasks in Counter(methods).items()
        for shape, off, there in zip(shapes, masked or [0] * len(shapes), reached or [True] * len(shapes), strict=True)
        if there
    )
    return (backbone + added) / backbone


def ratio_with(payloads: Sequence[Payload], *, backbone_bytes: int) -> dict[str, float]:
    """The bytes of the backbone and all payloads, divided by those of the backbone, counting ever more kinds.

    Args:
        payloads: of all tasks.
        backbone_bytes: of the frozen network without a head.

    Returns:
        ``masks`` (masks, numbers and weights as coded), ``masks + norm``, ``masks + norm + heads`` and ``files``
        (whole files with their headers).
    """
    added = 0
    ratios = {}
    steps = {
        "masks": ("mask", "value", "weight"),
        "masks + norm": ("norm",),
        "masks + norm + heads": ("head",),
        "files": ("header",),
    }
    for label, kinds in steps.items():
        added += sum(payload.bytes_by_kind[kind] for payload in payloads for kind in kinds)
        ratios[label] = (backbone_bytes + added) / backbone_bytes
    return ratios


def ratio_of_task(adapter: Overlay, task: str, *, count: int) -> float:
    """The parameter ratio of so many tasks like one of an adapter, over all weights that could be masked."""
    state = adapter.task(task)
    names = adapter.anatomy.maskable
    there = reached_by(state)
    masks = [state.kept_of(name).get("mask") for name in names]
    return parameter_ratio(
        [state.method] * count,
        shapes=[tuple(adapter.frozen[name].shape) for name in names],
        masked=[0 if mask is None else mask.numel() - int(mask.sum()) for mask in masks],
        reached=[name in there for name in names],
    )


def ratio_of_payload(payload: Payload, *, count: int) -> float:
    """The same of the task in a payload file."""
    there = {*payload.kept, *(join(layer, "weight") for layer in payload.modules)}
    shapes = payload.shapes or {"": (1,)}  # without such parts it depends on no shape
    return parameter_ratio(
        [payload.method] * count,
        shapes=list(shapes.values()),
        masked=[payload.masks[name].zeros if name in payload.masks else 0 for name in shapes],
        reached=[name in there or not payload.shapes for name in shapes],
    )


def measure_sparsity(adapter: Overlay, task: str) -> Sparsity:
    """The share of each weight that the task masks out (the paper's table 6 and figure 3)."""
    state = adapter.task(task)
    zeros: dict[str, int] = {}
    sizes: dict[str, int] = {}
    for name in adapter.anatomy.weights:
        mask = state.kept_of(name).get("mask")
        if mask is not None:
            sizes[name] = mask.numel()
            zeros[name] = mask.numel() - int(mask.sum())
    layers = {name: zeros[name] / sizes[name] for name in sizes}
    return Sparsity(layers=layers, sizes=sizes, total=sum(zeros.values()) / max(1, sum(sizes.values())))


def write_sparsity(path: Path, adapter: Overlay, task: str) -> float | None:
    """Write what `measure_sparsity` finds, by layer in the order of the network, for pages and plots.

    Returns:
        The share over all mask values; None where the task has no masks, and nothing is written.
    """
    found = measure_sparsity(adapter, task)
    if not found.layers:
        return None
    # the file's "weights" are mask values, which with KSM are fewer than weights: one per kernel
    layers = [{"name": name, "zeros": zeros, "weights": found.sizes[name]} for name, zeros in found.layers.items()]
    write_json(path, {"layers": layers})
    return found.total
