"""Other people's files of weights, read without running code in them, and backbone files of our own.

No file is unpickled: torch's ``weights_only`` reader builds tensors and plain containers and refuses everything
else.  A backbone file is safetensors with one metadata entry, ``piggyback_backbone``: a JSON object whose ``format``
says its version.  The rest of the entry is the benchmark's own.
"""

import json
import math
import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import torch
from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from safetensors.torch import save as encode_tensors
from torch import Tensor, nn

from piggyback.shell.errors import BadInput, one_line
from piggyback.shell.files import write_bytes
from piggyback.shell.strict_json import parse_json

FORMAT: Final = 1
ENTRY: Final = "piggyback_backbone"
HEAD_BYTES: Final = 1 << 22  # of a pickled module: the names of its parts come before the weights
COUNTER: Final = ".num_batches_tracked"
Header = TypeVar("Header", bound=BaseModel)


def is_safetensors(path: Path) -> bool:
    """Whether the file begins as safetensors does: eight bytes of length, then a JSON object."""
    with path.open("rb") as file:
        return file.read(9)[8:] == b"{"


def load_weights(path: Path, *, known: tuple[tuple[bytes, str], ...] = ()) -> dict[str, Any]:
    """The mapping that a torch or safetensors file holds.

    Args:
        path: the file.
        known: bytes that mark pickled modules which can be no backbone, each with what the module is.

    Raises:
        BadInput: it is missing, damaged, needs code to be loaded, or holds no state dict; or its tensors claim
            more than the file can hold.
    """
    where = one_line(path)
    if not path.is_file():
        found = "a folder" if path.is_dir() else "nothing"
        raise BadInput(f"{where} should be a checkpoint file, but there is {found}")
    saved = load_safetensors(path) if is_safetensors(path) else load_torch(path, known=known)
    return dict(saved) if isinstance(saved, Mapping) else {"": saved}


def load_safetensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file.

    Raises:
        BadInput: the file is damaged.
    """
    where = one_line(path)
    try:
        return load_file(path, device="cpu")
    except SafetensorError as fault:
        raise BadInput(f"{where} is a damaged safetensors file: {fault}; fetch or write it again") from None


def load_torch(path: Path, *, known: tuple[tuple[bytes, str], ...] = ()) -> object:
    """What torch's ``weights_only`` reader makes of a file; `known` as for `load_weights`.

    Raises:
        BadInput: it is no whole torch file, or holds objects that only code can build.
    """
    where = one_line(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns about older pickles and the like; the outcome counts
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as fault:
        blocked = re.search(r"Unsupported (?:global|class)\W+(?:GLOBAL )?([\w.]+)", str(fault))
        if blocked:
            raise BadInput(explain_pickle(path, blocked=blocked[1], known=known)) from None
        raise BadInput(f"{where} is not a torch file, or damaged: torch's reader refuses its content") from None
    except Exception as fault:  # torch's reader raises exceptions of any kind on bytes that are not its own
        kind = type(fault).__name__
        first = str(fault).partition("\n")[0][:120]
        raise BadInput(
            f"{where} is not a torch file, or was cut short ({kind}: {first}); fetch it again or pass a checkpoint"
            " that torch.save wrote"
        ) from None


def explain_pickle(path: Path, *, blocked: str, known: tuple[tuple[bytes, str], ...]) -> str:
    """The message for a file that holds more than tensors: what it is, and how to convert it."""
    where = one_line(path)
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    for mark, name in known:
        if mark in head:
            return f"{where} is {name}, pickled as a whole module; that network cannot be the backbone here"
    return (
        f"{where} holds objects of {blocked}, which only running that code could rebuild, so it is not loaded. If you"
        " trust the file, convert it once where its code lives, then import the result:\n"
        "    import torch\n"
        f"    saved = torch.load({path.name!r}, map_location='cpu', weights_only=False)\n"
        "    if isinstance(saved, dict):\n"
        "        saved = saved.get('net', saved.get('state_dict', saved))\n"
        "    state = saved.state_dict() if hasattr(saved, 'state_dict') else dict(saved)\n"
        f"    torch.save({{'state_dict': state}}, {path.stem + '_plain.pth'!r})"
    )


def find_state(saved: Mapping[str, Any], *, path: Path) -> dict[str, Tensor]:
    """The state dict of a file, bare or under ``state_dict`` or ``net``, with ``module.`` taken off its keys.

    Raises:
        BadInput: there is none, or it claims more weights than the file's bytes can be.
    """
    where = one_line(path)
    inner = next((saved[key] for key in ("state_dict", "net") if isinstance(saved.get(key), Mapping)), saved)
    alone = list(saved) == [""]  # as load_weights passes on what is no mapping
    if alone or not any(isinstance(value, Tensor) for value in inner.values()):
        kind = f"a {type(saved['']).__name__}" if alone else f"a {type(saved).__name__} without tensors"
        raise BadInput(f"{where} should hold a state dict, bare or under 'state_dict' or 'net'; it holds {kind}")
    state: dict[str, Tensor] = {}
    for key, value in inner.items():
        if not isinstance(key, str) or not isinstance(value, Tensor) or value.layout is not torch.strided:
            raise BadInput(f"{where}: the state dict's entry {str(key)[:80]!r} is no plain tensor with a name")
        state[key.removeprefix("module.")] = value
    total = sum(tensor.numel() for tensor in state.values())
    if total > path.stat().st_size:  # a tensor can claim any size by a stride of 0
        raise BadInput(f"{where} claims {total} weights, more than its {path.stat().st_size} bytes can hold")
    return state


def find_numbers(saved: Mapping[str, Any], *names: str) -> dict[str, float]:
    """The finite numbers that a file carries beside its weights under these names."""
    return {name: number for name in names if (number := as_number(saved.get(name))) is not None}


def as_number(value: object) -> float | None:
    """The finite number in a scalar or in a tensor of one element; None for anything else."""
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if math.isfinite(value) else None


def check_weights(state: Mapping[str, Tensor], *, network: nn.Module, kind: str, path: Path) -> dict[str, Tensor]:
    """The state dict as float32, in the network's order; missing counters of batches are 0.

    Args:
        state: tensors by the network's names.
        network: may be on torch's meta device.
        kind: what to call it in messages, such as ``WRN-28-4``.
        path: the file, for messages.

    Raises:
        BadInput: a weight is missing, unknown, of another shape, or not finite.
    """
    where = one_line(path)
    expected = network.state_dict()
    missing = [key for key in expected if key not in state and not key.endswith(COUNTER)]
    unknown = [key for key in state if key not in expected]
    wrong = [
        f"{key} is {tuple(state[key].shape)} instead of {tuple(shape.shape)}"
        for key, shape in expected.items()
        if key in state and state[key].shape != shape.shape
    ]
    for fault, keys in (("lacks", missing), ("has, beside its weights,", unknown), ("has a wrong shape:", wrong)):
        if keys:
            more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
            raise BadInput(f"{where} looks like a {kind} but {fault} {', '.join(map(one_line, keys[:3]))}{more}")
    weights: dict[str, Tensor] = {}
    for key in expected:
        if key.endswith(COUNTER):
            weights[key] = state[key].to(torch.int64) if key in state else torch.zeros((), dtype=torch.int64)
            continue
        if not state[key].is_floating_point():
            raise BadInput(f"{where}: {key} has the type {state[key].dtype}; weights are floating-point numbers")
        weights[key] = state[key].detach().to(torch.float32).contiguous()
        if not weights[key].isfinite().all():
            raise BadInput(f"{where}: {key} has weights that are not finite; the network diverged or is damaged")
        if key.endswith("running_var") and (weights[key] < 0).any():
            raise BadInput(f"{where}: {key} has negative variances; the file is damaged")
    return weights


def read_entry(path: Path, *, model: type[Header]) -> Header | None:
    """The metadata entry of a backbone file; None for any other safetensors file.

    Raises:
        BadInput: the entry is damaged, of another format version, or another benchmark's.
    """
    where = one_line(path)
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            text = (file.metadata() or {}).get(ENTRY)
    except Exception as fault:  # safetensors raises exceptions of its own, which differ between its versions
        raise BadInput(f"{where} is a damaged safetensors file: {fault}; fetch or write it again") from None
    if text is None:
        return None
    value = parse_json(text.encode(), name=f"the metadata of {where}")
    entry = value if isinstance(value, dict) else {}
    version = entry.get("format")
    if version != FORMAT:
        raise BadInput(f"{where} is a backbone file of format {version!r:.40}; this version reads format {FORMAT}")
    wanted = model.model_fields["architecture"].default if "architecture" in model.model_fields else None
    found = entry.get("architecture", wanted)
    if found != wanted:
        raise BadInput(
            f"{where} is another benchmark's backbone file: its network is a {found!r:.40}, not a {wanted!r}"
        )
    try:
        return model.model_validate_json(text)
    except ValidationError as fault:
        first = fault.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise BadInput(f"{where}: the metadata's {place} is wrong: {first['msg']}") from None


def write_backbone(
    path: Path, tensors: Mapping[str, Tensor], *, header: BaseModel | Mapping[str, Any], replace: bool = False
) -> bool:
    """Write a backbone file, whole or not at all; the same weights and header always give the same bytes.

    Args:
        path: its folder is made when missing.
        tensors: a state dict, on any device; floating-point ones are stored as float32.
        header: the metadata entry, whose ``format`` is `FORMAT`; of a mapping, the rest of it.
        replace: whether a different file may be overwritten.

    Returns:
        False when the file was there already, with the same bytes.

    Raises:
        BadInput: a different file is there and `replace` is not set.
    """
    where = one_line(path)
    stored = {
        key: (tensor.float() if tensor.is_floating_point() else tensor).detach().cpu().contiguous()
        for key, tensor in tensors.items()
    }
    entry = header.model_dump_json() if isinstance(header, BaseModel) else json.dumps({"format": FORMAT, **header})
    data = encode_tensors(stored, {ENTRY: entry})
    if path.exists():
        if path.is_file() and path.stat().st_size == len(data) and path.read_bytes() == data:
            return False
        if not replace or not path.is_file():
            raise BadInput(f"{where} exists and is something else; choose another --out, or --force to replace a file")
    write_bytes(path, data)
    return True
