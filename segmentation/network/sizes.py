"""Sizes of what a task adds to the network, in weights and bytes.

For VGG-16 (computed from its shapes, and what the paper's section 6 reports as 17 MB and 7.5 MB): 134,248,128 masked
weights are 16.78 MB at one bit each; the new layers are 7.57 MB with a full learned deconvolution, and 0.344 MB with
the fixed one, which is not stored.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import nn

from piggyback.network.anatomy import dissect
from piggyback.shell import console
from segmentation.bench import HEAD
from segmentation.network.backbone_file import load_backbone
from segmentation.network.fcn import VGG16, FCN32s, make_head
from segmentation.options import SizesOptions
from segmentation.recipes import FCNRecipe
from segmentation.voc import CLASSES

BYTES: Final = 4  # of a float32


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Counts of parameters.

    Attributes:
        masked: weights of the backbone, one bit each per task.
        rest: other parameters of the backbone, which stay as they are: biases.
        new: parameters that the task trains from scratch, by layer.
    """

    masked: int
    rest: int
    new: Mapping[str, int]

    @property
    def mask_bytes(self) -> int:
        """Bytes of the masks, before any compression."""
        return -(-self.masked // 8)

    @property
    def new_bytes(self) -> int:
        return BYTES * sum(self.new.values())


def measure_sizes(network: FCN32s, head: nn.Module) -> Sizes:
    """Sizes by counting parameters; the tensors may be on torch's meta device."""
    anatomy = dissect(network, head=HEAD)
    counts = {name: parameter.numel() for name, parameter in network.named_parameters()}
    new: dict[str, int] = {}
    for name, parameter in head.named_parameters():
        layer = name.rpartition(".")[0].removeprefix("hidden.")
        new[layer] = new.get(layer, 0) + parameter.numel()
    return Sizes(
        masked=sum(counts[name] for name in anatomy.weights),
        rest=sum(counts[name] for name in anatomy.norm + anatomy.rest),
        new=new,
    )


def sizes_of(recipe: FCNRecipe, network: FCN32s) -> Sizes:
    with torch.device("meta"):
        head = make_head(network, classes=len(CLASSES), deconvolution=recipe.deconvolution)
    return measure_sizes(network, head)


def run(options: SizesOptions) -> int:
    recipe = options.settings
    if options.backbone is None:
        with torch.device("meta"):
            network = FCN32s(VGG16, margin=recipe.margin)
    else:
        backbone = load_backbone(options.backbone)
        network = backbone.build(margin=recipe.margin, dropout=recipe.dropout, new_hidden=recipe.new_hidden)
    sizes = sizes_of(recipe, network)
    if options.json:
        report = {"masked_weights": sizes.masked, "mask_bytes": sizes.mask_bytes, "frozen_rest": sizes.rest}
        console.print_json({**report, "new_layers": dict(sizes.new), "new_bytes": sizes.new_bytes})
        return 0
    rows: list[tuple[str, ...]] = [
        ("masked weights, 1 bit each", f"{sizes.masked:,}", megabytes(sizes.mask_bytes)),
        ("other parameters of the backbone, frozen", f"{sizes.rest:,}", megabytes(0)),
        *((f"new: {layer}", f"{count:,}", megabytes(BYTES * count)) for layer, count in sizes.new.items()),
        ("new layers together", f"{sum(sizes.new.values()):,}", megabytes(sizes.new_bytes)),
        ("the task", "", megabytes(sizes.mask_bytes + sizes.new_bytes)),
    ]
    random = [layer for layer in ("fc6", "fc7") if layer in sizes.new]
    note = f"{' and '.join(random)} are not in the backbone: they start at random and are trained in full"
    fixed = "the deconvolution is fixed, so it is not stored"
    notes = ([note] if random else []) + ([fixed] if recipe.deconvolution == "fixed" else [])
    console.table("what a task adds", "", "parameters", "MB", rows=rows, caption="; ".join(notes) or None)
    return 0


def megabytes(count: int) -> str:
    """10^6 bytes, as the paper counts."""
    return f"{count / 1e6:.3f}"
