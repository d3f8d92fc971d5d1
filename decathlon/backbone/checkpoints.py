"""Reads the WRN checkpoints that people own, and names those that are of another network.

The keys are those of the DAN code (github.com/rosenfeldamir/incremental_learning), which most wide
residual networks for PyTorch share: ``conv1``, ``block{1-3}.layer.{i}.{bn1,conv1,bn2,conv2}``,
``block{k}.layer.0.convShortcut``, ``bn1``, ``fc``.  The patterns of the others were read in the
repositories named in `FOREIGN`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from decathlon.backbone.wrn import WIDTHS, WideResNet
from piggyback.shell.errors import BadInput
from piggyback.shell.files import sha256_of
from piggyback.weight_files import check_weights, find_numbers, find_state, load_weights

NOTES: Final = ("epoch", "val_top1", "best_acc", "cur_acc")  # numbers that a checkpoint may carry along

RESIDUAL_ADAPTERS: Final = "the ResNet-26 of residual_adapters (github.com/srebuffi/residual_adapters)"
SPOTTUNE: Final = "the ResNet-26 of SpotTune (github.com/gyhui14/spottune)"

# In this order: the first pattern that some key matches decides.
FOREIGN: Final = (
    (r"(^|\.)pre_layers_conv\.", RESIDUAL_ADAPTERS),
    (r"^(parallel_)?blocks\.\d+\.\d+\.conv2\.1\.", SPOTTUNE),
    (r"^layers\.\d+\.conv1\.|^ends_bn\.", "the wide ResNet-26 of NetTailor (github.com/pedro-morgado/nettailor)"),
    (r"^end_bn\.|^cls_fn\.", "the ResNet-26 of URL (github.com/VICO-UoE/UniversalRepresentations)"),
    (r"^layer4\.", "a torchvision-style ResNet of four stages"),
    (r"^encoder_att\.|^layer1\.0\.conv1\.bias$", "MTAN's WRN with biased convolutions (github.com/lorenmt/mtan)"),
    (
        r"^layer\d\.\d+\.downsample\.",
        "the post-activation WRN of fcdl94 (github.com/fcdl94/Multi-Domain-Learning)",
    ),
    (r"^features\.\d+\.", "a VGG-style network"),
)
PICKLED: Final = ((b"pre_layers_conv", RESIDUAL_ADAPTERS), (b"parallel_blocks", SPOTTUNE))


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The weights of a wide residual network, and the numbers that its file carries along.

    Attributes:
        weights: float32 tensors (and int64 counters of batches) by key, complete, finite, of right shapes.
        depth, widen, classes: inferred from the shapes.
        notes: those of `NOTES` that the file has.
        sha256: of the file.
    """

    path: Path
    weights: dict[str, Tensor]
    depth: int
    widen: int
    classes: int
    notes: dict[str, float]
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Size of a wide residual network, as the shapes of its state dict show it."""

    depth: int
    widen: int
    classes: int


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The weights of a WRN checkpoint by key, float32 on the CPU.

    Accepts a state dict, bare or under ``state_dict`` or ``net``, its keys with or without ``module.``,
    saved by torch or as safetensors.

    Raises:
        BadInput: the file is missing, damaged, needs code to be loaded, is of another network (named where
            it is a known one), or its weights have wrong shapes or are not finite.
    """
    return open_checkpoint(path).weights


def open_checkpoint(path: Path) -> Checkpoint:
    """As `read_checkpoint`, with depth, width and the numbers that the file carries along."""
    saved = load_weights(path, known=PICKLED)
    state, notes = find_state(saved, path=path), find_numbers(saved, *NOTES)
    refuse_foreign(state, path=path)
    layout = infer_layout(state, path=path)
    weights = check_layout(state, layout=layout, path=path)
    return Checkpoint(
        path=path,
        weights=weights,
        depth=layout.depth,
        widen=layout.widen,
        classes=layout.classes,
        notes=notes,
        sha256=sha256_of(path),
    )


def refuse_foreign(state: Mapping[str, Tensor], *, path: Path) -> None:
    """Raise `BadInput` for a state dict that is not a pre-activation WRN's, by name when it is known."""
    if "block1.layer.0.conv1.weight" in state:
        return
    for pattern, name in FOREIGN:
        if any(re.search(pattern, key) for key in state):
            raise BadInput(
                f"{path} is {name}; the decathlon needs the pre-activation WRN-28-4 (keys conv1, block1.layer.0.conv1,"
                " ..., bn1, fc)"
            )
    first = ", ".join(list(state)[:4])
    raise BadInput(
        f"{path} is of an unknown network: its keys begin with {first}; a WRN-28-4 has conv1,"
        " block1.layer.0.conv1, ..., bn1, fc"
    )


def infer_layout(state: Mapping[str, Tensor], *, path: Path) -> Layout:
    """Depth, width and classes of the WRN with these weights.

    Raises:
        BadInput: the shapes are those of no WRN.
    """
    blocks = sum(re.fullmatch(r"block1\.layer\.\d+\.conv1\.weight", key) is not None for key in state)
    first, head = state["block1.layer.0.conv1.weight"], state.get("fc.weight")
    if head is None or head.ndim != 2 or head.shape[0] < 1:
        found = "is missing" if head is None else f"has shape {tuple(head.shape)}"
        raise BadInput(f"{path}: fc.weight {found}; imagenet12 needs the backbone's own head, (classes, width)")
    widen, rest = divmod(first.shape[0] if first.ndim == 4 else 0, WIDTHS[0])
    if rest or widen < 1:
        raise BadInput(
            f"{path}: block1.layer.0.conv1.weight has shape {tuple(first.shape)}, but a WRN's first group has"
            f" a multiple of {WIDTHS[0]} channels"
        )
    return Layout(depth=6 * blocks + 4, widen=widen, classes=head.shape[0])


def check_layout(state: Mapping[str, Tensor], *, layout: Layout, path: Path) -> dict[str, Tensor]:
    """The state dict as float32 in the network's order; raises `BadInput` as `check_weights` does."""
    with torch.device("meta"):
        network = WideResNet(layout.depth, layout.widen, classes=layout.classes)
    return check_weights(state, network=network, kind=f"WRN-{layout.depth}-{layout.widen}", path=path)
