"""The backbone file: a VGG-style network with the convention by which it is fed, as safetensors.

The file's metadata entry, ``piggyback_backbone``, is a JSON object::

    {"format": 1, "architecture": "vgg", "channels": [[64, 64], ...], "hidden": 4096,
     "normalise": {"order": "rgb", "range": 1, "mean": [...], "std": [...]}, "source": {...}}

``hidden`` is null where the file has convolutions only; fc6 and fc7 are then new layers of the task.  How pictures
are normalised belongs to the weights, so the file says it: a network trained on BGR in 0..255 that is fed RGB in
0..1 still runs, and is just worse (wkentaro/pytorch-fcn#52).
"""

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from piggyback.shell.errors import BadInput, UnknownName, one_line
from piggyback.shell.files import sha256_of
from piggyback.weight_files import (
    FORMAT,
    check_weights,
    find_state,
    is_safetensors,
    load_safetensors,
    load_weights,
    read_entry,
    write_backbone,
)
from segmentation.network.fcn import FC6_KERNEL, FCN32s, Margin, shape_of

Finite = Annotated[float, Field(allow_inf_nan=False)]
Spread = Annotated[float, Field(allow_inf_nan=False, gt=0)]
Width = Annotated[int, Field(ge=1, le=65_536)]
Stage = Annotated[tuple[Width, ...], Field(min_length=1, max_length=100)]

HIDDEN: Final = {"classifier.0": "hidden.fc6", "classifier.3": "hidden.fc7"}  # torchvision's name and ours
OWN_HEAD: Final = "classifier.6."  # scores ImageNet's classes, which no task here has


class Normalise(BaseModel):
    """Form of the input: channels ordered, scaled to [0, range], then (x - mean) / std per channel of that order."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    order: Literal["rgb", "bgr"]
    range: Literal[1, 255]
    mean: tuple[Finite, Finite, Finite]
    std: tuple[Spread, Spread, Spread]


CONVENTIONS: Final[Mapping[str, Normalise]] = MappingProxyType(
    {
        # torchvision's transforms for its VGG16_Weights.IMAGENET1K_V1
        "torchvision": Normalise(order="rgb", range=1, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
        # The mean pixel that comes with the published VGG-16 (gist.github.com/ksimonyan/211839e770f7b538e2d8);
        # FCN's net.py takes another one, (104.007, 116.669, 122.679), which differs by one level at most.
        "caffe": Normalise(order="bgr", range=255, mean=(103.939, 116.779, 123.68), std=(1.0, 1.0, 1.0)),
    }
)


class Header(BaseModel):
    """The metadata entry of a backbone file."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    format: Literal[1] = FORMAT
    architecture: Literal["vgg"] = "vgg"
    channels: Annotated[tuple[Stage, ...], Field(min_length=5, max_length=5)]
    hidden: Width | None
    normalise: Normalise
    source: dict[str, Any] = {}


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """Pretrained weights with what is needed to feed them.

    Attributes:
        header: widths and convention.
        weights: float32, by the names of `FCN32s`.
        sha256: of the file; the backbone's id.
    """

    header: Header
    weights: Mapping[str, Tensor]
    sha256: str
    path: Path

    def build(self, *, margin: Margin, dropout: float, new_hidden: int) -> FCN32s:
        """The network with its own copies of the weights and no head yet.

        Args:
            margin: the paddings.
            dropout: after fc6 and fc7.
            new_hidden: width of fc6 and fc7 where the backbone has none.
        """
        hidden = self.header.hidden
        shape = shape_of(self.header.channels, hidden=hidden or new_hidden)
        with torch.device("meta"):
            network = FCN32s(shape, hidden=hidden is not None, margin=margin, dropout=dropout)
        network.load_state_dict({name: tensor.clone() for name, tensor in self.weights.items()}, assign=True)
        return network

    def feed(self, pictures: Tensor) -> Tensor:
        """The network's input ``(n, 3, h, w)``, float32, from RGB pixels ``(n, h, w, 3)``, uint8, where they are."""
        normalise = self.header.normalise
        mean, std = (torch.tensor(part, device=pictures.device) for part in (normalise.mean, normalise.std))
        scaled = pictures.float().mul_(normalise.range / 255)
        ordered = scaled.flip(-1) if normalise.order == "bgr" else scaled
        return ordered.sub_(mean).div_(std).permute(0, 3, 1, 2)  # channels_last, as the convolutions like it


def load_backbone(path: Path) -> Backbone:
    """Read a backbone file.

    Raises:
        BadInput: it is missing, damaged, or weights of another form: then the message says how to import them.
    """
    if not path.is_file():
        found = "a folder" if path.is_dir() else "nothing"
        raise BadInput(f"{one_line(path)} should be a backbone file, but there is {found}")
    header = read_entry(path, model=Header) if is_safetensors(path) else None
    if header is None:
        raise BadInput(
            f"{one_line(path)} does not say how its network is to be fed: "
            f"`piggyback segmentation backbone import {one_line(shlex.quote(str(path)))} --convention torchvision "
            "--out vgg16.safetensors` "
            "(or --convention caffe) makes a backbone file of it"
        )
    weights = check_against(load_safetensors(path), header=header, path=path)
    return Backbone(header=header, weights=weights, sha256=sha256_of(path), path=path)


@lru_cache(maxsize=2)
def cached_backbone(path: Path) -> Backbone:
    """A backbone file, read once per process."""
    return load_backbone(path)


def import_backbone(path: Path, *, convention: str, out: Path, force: bool = False) -> Header:
    """Make a backbone file of a VGG's weights, such as torchvision's ``vgg16-397923af.pth``.

    Keys are torchvision's: ``features.N``, and ``classifier.0`` and ``classifier.3`` (fc6 and fc7, as linear layers
    or as convolutions already) unless the file has convolutions only.

    Args:
        path: the weights; see `load_weights`.
        convention: a name of `CONVENTIONS`: what the weights were trained with.  No file says it of itself.
        out: the file to write.
        force: overwrite another one.

    Raises:
        BadInput: the file is damaged, or of another network.
        UnknownName: there is no such convention.
    """
    if convention not in CONVENTIONS:
        raise UnknownName(convention, known=CONVENTIONS, kind="convention")
    if out.resolve() == path.resolve():
        raise BadInput(f"{one_line(out)} is the file of weights itself; choose another --out")
    state = find_state(load_weights(path), path=path)
    if is_safetensors(path) and read_entry(path, model=Header) is not None:
        raise BadInput(f"{one_line(path)} is a backbone file already, and says how it is fed; use it as it is")
    channels = infer_channels(state, path=path)
    named = {name_of(key): tensor for key, tensor in state.items() if not key.startswith(OWN_HEAD)}
    hidden = None
    for name, kernel in (("hidden.fc7.weight", 1), ("hidden.fc6.weight", FC6_KERNEL)):
        if name in named:
            named[name] = as_convolution(named[name], kernel=kernel, path=path)
            hidden = named[name].shape[0]
    source = {"file": path.name, "sha256": sha256_of(path), "convention": convention}
    header = Header(channels=channels, hidden=hidden, normalise=CONVENTIONS[convention], source=source)
    write_backbone(out, check_against(named, header=header, path=path), header=header, replace=force)
    return header


def name_of(key: str) -> str:
    """The name in `FCN32s` for one of torchvision's."""
    layer, _, part = key.rpartition(".")
    return f"{HIDDEN[layer]}.{part}" if layer in HIDDEN else key


def as_convolution(weight: Tensor, *, kernel: int, path: Path) -> Tensor:
    """A linear layer's weight ``(out, in * kernel^2)`` as a convolution's ``(out, in, kernel, kernel)``."""
    if weight.ndim == 2 and weight.numel() and weight.shape[1] % kernel**2 == 0:
        return weight.reshape(weight.shape[0], weight.shape[1] // kernel**2, kernel, kernel)
    if weight.ndim == 4 and weight.numel() and weight.shape[2:] == (kernel, kernel):
        return weight
    shape = tuple(weight.shape)
    raise BadInput(f"{one_line(path)}: a hidden layer of shape {shape} is not a fully connected layer of a VGG")


def infer_channels(state: Mapping[str, Tensor], *, path: Path) -> tuple[tuple[int, ...], ...]:
    """Widths of the convolutions by stage: between two of a stage is a ReLU, between two stages a pooling too.

    Raises:
        BadInput: these are not the convolutions of a plain VGG.
    """
    found = {
        int(match[1]): tensor
        for key, tensor in state.items()
        if (match := re.fullmatch(r"features\.(\d{1,3})\.weight", key)) and tensor.ndim == 4
    }
    if any(re.fullmatch(r"features\.\d+\.running_mean", key) for key in state):
        reason = "FCN-32s is built on the plain VGG-16 (vgg16, not vgg16_bn)"
        raise BadInput(f"{one_line(path)} has batch normalisation; {reason}")
    stages: list[list[int]] = []
    before: int | None = None
    for place in sorted(found):
        if before is None or place - before == 3:
            stages.append([])
        elif place - before != 2:
            break
        stages[-1].append(found[place].shape[0])
        before = place
    hollow = not all(tensor.numel() for tensor in found.values())
    if len(stages) != 5 or sum(map(len, stages)) != len(found) or 0 not in found or hollow:
        first = ", ".join(map(one_line, list(state)[:4]))
        raise BadInput(
            f"{one_line(path)} is not a VGG of five stages in torchvision's names (features.0, features.2, "
            f"features.5, ...): its keys begin with {first}"
        )
    return tuple(tuple(stage) for stage in stages)


def check_against(state: Mapping[str, Tensor], *, header: Header, path: Path) -> dict[str, Tensor]:
    """The weights as float32 in the network's order; raises `BadInput` as `check_weights` does."""
    with torch.device("meta"):
        shape = shape_of(header.channels, hidden=header.hidden or 1)
        network = FCN32s(shape, hidden=header.hidden is not None)
    count = sum(map(len, header.channels)) + (3 if header.hidden is not None else 0)
    return check_weights(state, network=network, kind=f"VGG of {count} layers", path=path)
