"""The backbone file: a wide residual network with what is needed to feed it, as safetensors.

The file holds the state dict in float32 and one metadata entry, ``piggyback_backbone``, a JSON object::

    {"format": 1, "architecture": "wrn", "depth": 28, "widen": 4, "classes": 1000,
     "normalise": {"mean": [r, g, b], "std": [r, g, b]}, "source": {...}}

``normalise`` is of RGB in [0, 1]; ``source`` is free: where the weights come from.  The same weights, source
and statistics always give the same bytes, so the file's SHA-256 is the backbone's id.
"""

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from decathlon.backbone.checkpoints import Layout, check_layout, open_checkpoint
from decathlon.backbone.wrn import WideResNet
from decathlon.batches import Augmentation, evaluation_batches, normalise
from decathlon.tasks import BACKBONE_TASK, TASKS
from piggyback.data.labelled import PackedSplit
from piggyback.device import autocast, pick_device
from piggyback.shell.console import progress_bar
from piggyback.shell.errors import BadInput
from piggyback.shell.files import sha256_of
from piggyback.weight_files import FORMAT, is_safetensors, load_safetensors, read_entry, write_backbone

Triple = tuple[float, float, float]
Share = Annotated[float, Field(allow_inf_nan=False)]
Spread = Annotated[float, Field(allow_inf_nan=False, gt=0)]


class Normalise(BaseModel):
    """Channel statistics of RGB in [0, 1]."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    mean: tuple[Share, Share, Share]
    std: tuple[Spread, Spread, Spread]


class Header(BaseModel):
    """The metadata entry of a backbone file."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    format: Literal[1] = FORMAT
    architecture: Literal["wrn"] = "wrn"
    depth: Annotated[int, Field(ge=10, le=10_000)]
    widen: Annotated[int, Field(ge=1, le=1_000)]
    classes: Annotated[int, Field(ge=1)]
    normalise: Normalise
    source: dict[str, Any] = {}


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """A pretrained network with what is needed to feed it.

    Attributes:
        network: on the CPU, in evaluation mode.
        mean, std: of RGB in [0, 1], as the network was trained with.
        classes: of its own head.
        sha256: of the file; the backbone's id.
        source: where the weights come from, as the file says.
    """

    network: WideResNet
    mean: Triple
    std: Triple
    classes: int
    sha256: str
    path: Path
    source: Mapping[str, object]


def load_backbone(path: Path) -> Backbone:
    """Load a backbone file, or a published checkpoint directly.

    A checkpoint does not say how its pictures were normalised; ImageNet's mean and standard deviation are
    taken, as its training on the Decathlon's imagenet12 did.

    Raises:
        BadInput: the file is neither, or damaged; see `read_checkpoint`.
    """
    if path.is_file() and is_safetensors(path) and (header := read_entry(path, model=Header)) is not None:
        layout = Layout(depth=header.depth, widen=header.widen, classes=header.classes)
        try:
            weights = check_layout(load_safetensors(path), layout=layout, path=path)
        except ValueError as fault:  # of a depth that no network has
            raise BadInput(f"{path}: {fault}") from None
        mean, std, source = header.normalise.mean, header.normalise.std, header.source
        sha256 = sha256_of(path)
    else:
        checkpoint = open_checkpoint(path)
        layout = Layout(depth=checkpoint.depth, widen=checkpoint.widen, classes=checkpoint.classes)
        weights, sha256 = checkpoint.weights, checkpoint.sha256
        mean, std = TASKS[BACKBONE_TASK].mean, TASKS[BACKBONE_TASK].std
        source = {"file": path.name, "sha256": sha256, **checkpoint.notes}
    return Backbone(
        network=build_network(weights, layout=layout),
        mean=mean,
        std=std,
        classes=layout.classes,
        sha256=sha256,
        path=path,
        source=source,
    )


def build_network(weights: Mapping[str, Tensor], *, layout: Layout) -> WideResNet:
    """The network that holds these weights, in evaluation mode; draws no random numbers."""
    with torch.device("meta"):
        network = WideResNet(layout.depth, layout.widen, classes=layout.classes)
    network.load_state_dict(dict(weights), strict=True, assign=True)
    for parameter in network.parameters():
        parameter.requires_grad_(True)  # `assign` takes it from the tensors, which are plain
    return network.eval()


def save_backbone(
    path: Path,
    network: WideResNet,
    *,
    mean: Triple,
    std: Triple,
    source: Mapping[str, object],
    replace: bool = False,
) -> bool:
    """Write a backbone file, whole or not at all.

    Args:
        path: its folder is made when missing.
        network: on any device.
        mean, std: of RGB in [0, 1], as the network was trained with.
        source: where the weights come from; JSON.
        replace: whether a different file may be overwritten.

    Returns:
        False if the file has these bytes already.

    Raises:
        BadInput: a different file is there and `replace` is not set.
    """
    header = Header(
        depth=network.depth,
        widen=network.widen,
        classes=network.fc.out_features,
        normalise=Normalise(mean=mean, std=std),
        source=dict(source),
    )
    return write_backbone(path, network.state_dict(), header=header, replace=replace)


def rank_classes(
    backbone: Backbone,
    split: PackedSplit,
    *,
    top: int = 1,
    size: int = 64,
    batch_size: int = 100,
    device: torch.device | None = None,
) -> NDArray[np.int64]:
    """The most likely classes of each picture by the backbone's own head, best first.

    Args:
        backbone: its class i is the i-th category of the data in ascending order of the ids; its network
            must hold its own weights, no task's.  It is not moved or changed.
        split: n pictures of imagenet12.
        top: how many to return, at most as many as there are classes.
        size: side of the centre crop, pixels.
        batch_size: pictures per step.
        device: None for the first GPU, or the processor.

    Returns:
        ``(n, top)`` class indices, in the order of the split.

    Raises:
        BadInput: the head's class count is not the data's.
    """
    found = len(split.category_ids)
    if found != backbone.classes:
        raise BadInput(
            f"{backbone.path} has a head of {backbone.classes} classes, but the data has {found} categories; take the"
            " backbone that was trained on these data"
        )
    device = pick_device() if device is None else device
    network = deepcopy(backbone.network).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    with progress_bar() as shown:
        step = shown.add_task("predict", total=len(split.image_ids))
        parts = []
        for chosen in top_classes(network, split, backbone=backbone, top=top, size=size, batch_size=batch_size):
            parts.append(chosen)
            shown.advance(step, len(chosen))
    return np.concatenate(parts) if parts else np.zeros((0, top), np.int64)


def top_classes(
    network: WideResNet, split: PackedSplit, *, backbone: Backbone, top: int, size: int, batch_size: int
) -> Iterator[NDArray[np.int64]]:
    """Per batch, `top` class indices for each picture; equal logits fall to the lower class."""
    device = network.fc.weight.device
    augmentation = Augmentation(size=size, view="crop", flip=False)
    network.eval()
    for batch in evaluation_batches(split, augmentation=augmentation, batch_size=batch_size):
        pixels = normalise(batch.pixels.to(device), mean=backbone.mean, std=backbone.std)
        with torch.inference_mode(), autocast(device):
            logits = network(pixels)
        order = torch.sort(logits.float(), dim=1, descending=True, stable=True).indices
        yield order[:, :top].cpu().numpy()


def predict(
    backbone: Backbone,
    split: PackedSplit,
    *,
    size: int = 64,
    batch_size: int = 100,
    device: torch.device | None = None,
) -> NDArray[np.int64]:
    """The category id of each picture by the backbone's own head, ``(n,)``, in the order of the split.

    The arguments and the error are those of `rank_classes`.
    """
    best = rank_classes(backbone, split, size=size, batch_size=batch_size, device=device)[:, 0]
    return np.asarray(split.category_ids, dtype=np.int64)[best]
