"""Reads the WRN checkpoints that people own, and names those that are of another network.

The keys are those of the DAN code (github.com/rosenfeldamir/incremental_learning), which most wide
residual networks for PyTorch share: ``conv1``, ``block{1-3}.layer.{i}.{bn1,conv1,bn2,conv2}``,
``block{k}.layer.0.convShortcut``, ``bn1``, ``fc``.  The patterns of the others were read in the
repositories named in `FOREIGN`.  A file is never unpickled: torch's ``weights_only`` reader builds tensors
and plain containers and refuses everything else.
"""

import math
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from decathlon.wrn import WIDTHS, WideResNet
from piggyback.errors import BadInput
from piggyback.files import sha256_of

NOTES: Final = ("epoch", "val_top1", "best_acc", "cur_acc")  # numbers that a checkpoint may carry along
HEAD_BYTES: Final = 1 << 22  # of a pickled module; the names of its parts stand before the weights
COUNTER: Final = ".num_batches_tracked"

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
    """The weights of a wide residual network with what its file says of itself.

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
    """What the shapes of a state dict say about its wide residual network."""

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
    if not path.is_file():
        found = "a folder" if path.is_dir() else "nothing"
        raise BadInput(f"{path} should be a checkpoint file, but there is {found}")
    saved = load_safetensors(path) if is_safetensors(path) else load_torch(path)
    state, notes = find_state(saved, path=path)
    total = sum(tensor.numel() for tensor in state.values())
    if total > path.stat().st_size:  # a tensor can claim any size by a stride of 0
        raise BadInput(f"{path} claims {total} weights, more than its {path.stat().st_size} bytes can hold")
    refuse_foreign(state, path=path)
    layout = infer_layout(state, path=path)
    weights = check_weights(state, layout=layout, path=path)
    return Checkpoint(
        path=path,
        weights=weights,
        depth=layout.depth,
        widen=layout.widen,
        classes=layout.classes,
        notes=notes,
        sha256=sha256_of(path),
    )


def is_safetensors(path: Path) -> bool:
    """Whether the file begins as safetensors does: eight bytes of length, then a JSON object."""
    with path.open("rb") as file:
        return file.read(9)[8:] == b"{"


def load_safetensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file.

    Raises:
        BadInput: the file is damaged.
    """
    try:
        return load_file(path, device="cpu")
    except SafetensorError as fault:
        raise BadInput(f"{path} is a damaged safetensors file: {fault}; fetch or write it again") from None


def load_torch(path: Path) -> object:
    """What torch's ``weights_only`` reader makes of a file.

    Raises:
        BadInput: it is no whole torch file, or holds objects that only code can build.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as fault:
        blocked = re.search(r"Unsupported (?:global|class)\W+(?:GLOBAL )?([\w.]+)", str(fault))
        if blocked:
            raise BadInput(explain_pickle(path, blocked=blocked[1])) from None
        raise BadInput(f"{path} is not a torch file, or damaged: torch's reader refuses its content") from None
    except Exception as fault:  # on bytes that are not torch's its reader raises whatever comes
        kind = type(fault).__name__
        first = str(fault).partition("\n")[0][:120]
        raise BadInput(
            f"{path} is not a torch file, or was cut short ({kind}: {first}); fetch it again or pass a checkpoint"
            " that torch.save wrote"
        ) from None


def explain_pickle(path: Path, *, blocked: str) -> str:
    """The message for a file that holds more than tensors: what it is and how to make it plain."""
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    known = next((name for mark, name in PICKLED if mark in head), None)
    if known:
        return (
            f"{path} is {known}, pickled as a whole module; that network is not the WRN-28-4 of these experiments"
            " and cannot be its backbone"
        )
    return (
        f"{path} holds objects of {blocked}, which only running that code could rebuild, so it is not loaded. If you"
        " trust the file, convert it once where its code lives, then import the result:\n"
        "    import torch\n"
        f"    saved = torch.load({path.name!r}, map_location='cpu', weights_only=False)\n"
        "    if isinstance(saved, dict):\n"
        "        saved = saved.get('net', saved.get('state_dict', saved))\n"
        "    state = saved.state_dict() if hasattr(saved, 'state_dict') else dict(saved)\n"
        f"    torch.save({{'state_dict': state}}, {path.stem + '_plain.pth'!r})"
    )


def find_state(saved: object, *, path: Path) -> tuple[dict[str, Tensor], dict[str, float]]:
    """The state dict in what a file holds, its keys without ``module.``, and the file's notes."""
    notes: dict[str, float] = {}
    if isinstance(saved, Mapping):
        notes = {name: number for name in NOTES if (number := as_number(saved.get(name))) is not None}
        inner = next((saved[key] for key in ("state_dict", "net") if isinstance(saved.get(key), Mapping)), None)
        saved = saved if inner is None else inner
    if not isinstance(saved, Mapping) or not any(isinstance(value, Tensor) for value in saved.values()):
        kind = f"a {type(saved).__name__}" + (" without tensors" if isinstance(saved, Mapping) else "")
        raise BadInput(f"{path} should hold a state dict, bare or under 'state_dict' or 'net'; it holds {kind}")
    state: dict[str, Tensor] = {}
    for key, value in saved.items():
        if not isinstance(key, str) or not isinstance(value, Tensor) or value.layout is not torch.strided:
            raise BadInput(f"{path}: the state dict's entry {str(key)[:80]!r} is no plain tensor with a name")
        state[key.removeprefix("module.")] = value
    return state, notes


def as_number(value: object) -> float | None:
    """A finite number, out of a scalar or a tensor of one element; None for anything else."""
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if math.isfinite(value) else None


def refuse_foreign(state: Mapping[str, Tensor], *, path: Path) -> None:
    """Raise `BadInput` for a state dict that is not a pre-activation WRN's, by name when it is known."""
    if "block1.layer.0.conv1.weight" in state:
        return
    for pattern, name in FOREIGN:
        if any(re.search(pattern, key) for key in state):
            raise BadInput(
                f"{path} is {name}; that network is not the pre-activation WRN-28-4 of these experiments and cannot"
                " be its backbone"
            )
    first = ", ".join(list(state)[:4])
    raise BadInput(
        f"{path} is of an unknown network: its keys begin {first}; a WRN-28-4 has conv1, block1.layer.0.conv1, ...,"
        " bn1, fc"
    )


def infer_layout(state: Mapping[str, Tensor], *, path: Path) -> Layout:
    """Depth, width and classes of the WRN with these weights.

    Raises:
        BadInput: the shapes say none.
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


def check_weights(state: Mapping[str, Tensor], *, layout: Layout, path: Path) -> dict[str, Tensor]:
    """The state dict as float32, in the network's order; counters of batches that are missing are 0.

    Raises:
        BadInput: a weight is missing, too many, of another shape, or not finite.
    """
    with torch.device("meta"):
        network = WideResNet(layout.depth, layout.widen, classes=layout.classes)
    expected = network.state_dict()
    missing = [key for key in expected if key not in state and not key.endswith(COUNTER)]
    unknown = [key for key in state if key not in expected]
    wrong = [
        f"{key} is {tuple(state[key].shape)} instead of {tuple(shape.shape)}"
        for key, shape in expected.items()
        if key in state and state[key].shape != shape.shape
    ]
    kind = f"WRN-{layout.depth}-{layout.widen}"
    for fault, keys in (("lacks", missing), ("has, beside its weights,", unknown), ("has a wrong shape:", wrong)):
        if keys:
            more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
            raise BadInput(f"{path} looks like a {kind} but {fault} {', '.join(keys[:3])}{more}")
    weights: dict[str, Tensor] = {}
    for key in expected:
        if key.endswith(COUNTER):
            weights[key] = state[key].to(torch.int64) if key in state else torch.zeros((), dtype=torch.int64)
            continue
        if not state[key].is_floating_point():
            raise BadInput(f"{path}: {key} has the type {state[key].dtype}; weights are floating-point numbers")
        weights[key] = state[key].detach().to(torch.float32).contiguous()
        if not weights[key].isfinite().all():
            raise BadInput(f"{path}: {key} has weights that are not finite; this network diverged or is damaged")
        if key.endswith("running_var") and (weights[key] < 0).any():
            raise BadInput(f"{path}: {key} has negative variances; the file is damaged")
    return weights
