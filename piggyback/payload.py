"""Payload files: what one task adds to a backbone, written, read and checked.

A safetensors file with one metadata entry; ``docs/payload-format.md`` is its specification.
"""

import hashlib
import json
import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, cast, get_args

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from piggyback.masks.bits import Stream, decode, encode
from piggyback.methods.contract import Method, StoresSome
from piggyback.methods.registry import named_method
from piggyback.network.anatomy import PROJECTIONS
from piggyback.network.coverage import Shares, describe_coverage, stored_shares
from piggyback.network.heads import by_slot
from piggyback.network.task_state import Norm, TaskState, refuse_diverged
from piggyback.numerics.precision import refuse_non_finite
from piggyback.overlay import Overlay
from piggyback.shell.errors import BadInput, BadPayload
from piggyback.shell.files import write_bytes
from piggyback.shell.strict_json import parse_json

FORMAT: Final = 1
KEY: Final = "piggyback"  # the one metadata entry
BLANK: Final = "0" * 64  # stands for the digest while the digest is computed
CLASS_WIDE: Final = {"name", "adapts", "stands_on", "merge"}  # fields that are no settings
DIGEST: Final = '\\"sha256\\": \\"'  # before the digest, with escapes: JSON text inside JSON text
MOST_DIMENSIONS: Final = 8
FEW: Final = 1 << 30  # mask values that any file may declare; more than that only a file that is large itself
KINDS: Final = {  # of bytes, by what a tensor's name begins with
    **{"mask": "mask", "value": "value", "module": "value"},
    **{"norm": "norm", "weight": "weight", "head": "head"},
}


@dataclass(frozen=True, kw_only=True)
class Payload:
    """A payload file's content.

    Attributes:
        method: with the settings that the task was trained with.
        fingerprint: of the backbone.
        recipe: how the task was trained; for people, nothing here reads it.
        norm: whether norm layers belong to the task.
        kept: per weight name, what the method keeps of it.
        own: parameters and buffers that the task has for itself.
        head: the head's state dict; of several slots, each name after its slot and a slash.
        heads: the slots, where there are several.
        coverage: how much of the network the task changes; None in files from before it was written down.
        without: parts of the network that the task was to leave as they are.
        modules: per layer name, the state dict of the module behind it.
        bytes_by_kind: of the file: ``mask`` (bits), ``value`` (a method's other numbers), ``norm``, ``weight``,
            ``head`` and ``header``.
        masks: per weight name, its shape, zeros and bytes.
        shapes: of the weights that the task adapts, and of those like them that it was to leave.
    """

    method: Method
    task: str
    fingerprint: str
    recipe: Mapping[str, object]
    norm: Norm
    kept: Mapping[str, dict[str, Tensor]]
    own: Mapping[str, Tensor]
    head: Mapping[str, Tensor]
    heads: tuple[str, ...] = ()
    coverage: Shares | None = None
    without: frozenset[str] = frozenset()
    modules: Mapping[str, dict[str, Tensor]]
    bytes_by_kind: Mapping[str, int]
    masks: Mapping[str, "StoredMask"]
    shapes: Mapping[str, tuple[int, ...]]

    def head_of(self, slot: str) -> dict[str, Tensor]:
        """The state dict of the head in one slot."""
        if not self.heads:
            return dict(self.head)
        return {name.removeprefix(f"{slot}/"): t for name, t in self.head.items() if name.startswith(f"{slot}/")}

    def may_lack(self, names: Collection[str]) -> bool:
        """Whether the task may leave so named parts of a network as they are although others of its method do not.

        It was told so, or it is from the time when attention's projections were not masked.
        """
        old = self.coverage is None
        return all(name in self.without or (old and name.rpartition(".")[2] in PROJECTIONS) for name in names)


@dataclass(frozen=True, kw_only=True)
class StoredMask:
    """One weight's mask in a payload, by its size."""

    shape: tuple[int, ...]
    zeros: int
    bytes: int

    @property
    def weights(self) -> int:
        """Number of mask values."""
        return math.prod(self.shape)


def save_task(path: Path, overlay: Overlay, *, task: str, recipe: Mapping[str, object]) -> None:
    """Write a task of an overlay, whole or not at all.

    Raises:
        Diverged: something the task keeps, or a real mask, is not finite.
        BadInput: the recipe, or a method's setting, cannot be written as JSON.
    """
    state = overlay.task(task)
    refuse_diverged(state, done="saved")
    tensors: dict[str, Tensor] = {}
    streams: dict[str, dict[str, object]] = {}
    for name in overlay.anatomy.weights:
        kept = state.kept_of(name)
        some = state.method.stored(kept) if kept and isinstance(state.method, StoresSome) else {}
        for key, tensor in kept.items():
            if tensor.dtype == torch.bool:
                stream = encode(tensor.detach().cpu().contiguous().numpy())
                tensors[f"mask/{key}/{name}"] = torch.from_numpy(np.frombuffer(stream.data, np.uint8).copy())
                ones = int(tensor.sum())
                streams[f"{key}/{name}"] = {"shape": list(tensor.shape), "coding": stream.coding, "ones": ones}
            else:
                tensors[f"value/{key}/{name}"] = plain(tensor[some[key]] if key in some else tensor)
    shapes = {name: list(overlay.frozen[name].shape) for name in overlay.anatomy.maskable}
    for layer, module in state.modules.items():
        for key, tensor in module.state_dict().items():
            tensors[f"module/{key}/{layer}"] = plain(tensor)
    norm = set(overlay.anatomy.norm)
    for name, tensor in state.own.items():
        tensors[f"{'norm' if name in norm else 'weight'}/{name}"] = plain(tensor)
    several = len(overlay.head_slots) > 1
    for slot, head in by_slot(state.head, overlay.head_slots).items():
        place = f"head/{slot}/" if several else "head/"
        tensors.update({f"{place}{name}": plain(tensor) for name, tensor in head.state_dict().items()})
    refuse_non_finite(tensors)
    header = {
        "format": FORMAT,
        "method": {"name": state.method.name, **method_settings(state.method)},
        "task": task,
        "norm": state.norm,
        "backbone": overlay.fingerprint,
        "recipe": dict(recipe),
        "masks": streams,
        **({} if tells_shapes(state, shapes) else {"shapes": shapes}),
        **({"heads": list(overlay.head_slots)} if several else {}),
        "coverage": describe_coverage(overlay.network, overlay.anatomy, state),
        "sha256": BLANK,
    }
    try:
        text = json.dumps(header, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as fault:
        raise BadInput(f"task {task!r}: its recipe or settings cannot be written as JSON: {fault}") from None
    write_bytes(path, seal(save_tensors(tensors, metadata={KEY: text})))


def tells_shapes(state: TaskState, shapes: Mapping[str, list[int]]) -> bool:
    """Whether the stored parts have the shapes of all weights that the task adapts, so that the header need not."""
    if state.method.adapts not in ("weights", "modules"):
        return True
    return all(shape in [list(part.shape) for part in state.kept_of(name).values()] for name, shape in shapes.items())


def plain(tensor: Tensor) -> Tensor:
    """The tensor as safetensors wants it: on the processor, contiguous, sharing no memory."""
    return tensor.detach().cpu().contiguous().clone()


def method_settings(method: Method) -> dict[str, object]:
    """The settings of a method, without what its class fixes."""
    return {key: value for key, value in asdict(cast(Any, method)).items() if key not in CLASS_WIDE}


def seal(data: bytes) -> bytes:
    """Put the digest of the whole file, computed with zeros in its place, into the header."""
    digest = hashlib.sha256(data).hexdigest()
    header = data[: 8 + int.from_bytes(data[:8], "little")]
    # the last one: the recipe, which comes earlier, may have such an entry with 64 zeros too
    place = header.rindex(f"{DIGEST}{BLANK}".encode()) + len(DIGEST)
    return data[:place] + digest.encode() + data[place + len(digest) :]


def read_payload(path: str | Path) -> Payload:
    """Read a payload file and check it; any flipped byte and any truncation is found.

    Raises:
        BadInput: the file cannot be read.
        BadPayload: it is damaged, of another version or not a payload.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as fault:
        raise BadInput(f"cannot read {path}: {fault.strerror}") from None
    try:
        header = check(data)
        check_header(header, most=max(FEW, 1024 * len(data)))
        tensors = load_tensors(data)
        return assemble(header, tensors, header_bytes=len(data) - sum(t.nbytes for t in tensors.values()))
    except SafetensorError as fault:
        raise BadPayload(f"{path} is not a whole safetensors file: {fault}") from None
    except BadPayload as fault:
        raise BadPayload(f"{path}: {fault}") from None


def check(data: bytes) -> dict[str, Any]:
    """The header of a payload's bytes, once their digest is found right."""
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > len(data) - 8:
        raise BadPayload("the file is truncated, or not a payload")
    try:
        outer = cast(dict[str, Any], parse_json(data[8 : 8 + length], name="the header"))
        header = cast(
            dict[str, Any],
            parse_json(outer["__metadata__"][KEY].encode(), name="the header's metadata", largest=1 << 64),
        )
        digest = header["sha256"]
        version = header["format"]
        blanked = data[: 8 + length].replace(digest.encode(), BLANK.encode(), 1) + data[8 + length :]
    except (KeyError, TypeError, AttributeError, UnicodeEncodeError):
        raise BadPayload("not a payload file: it lacks our header") from None
    except BadInput as fault:
        raise BadPayload(f"damaged: {fault}") from None
    if version != FORMAT:
        raise BadPayload(f"payload format {version!r}, but this program reads {FORMAT}: use a matching piggyback-bench")
    if hashlib.sha256(blanked).hexdigest() != digest:
        raise BadPayload("damaged: the digest of its bytes is not the one that its header states")
    return header


def check_header(header: Mapping[str, Any], *, most: int) -> None:
    """Refuse a header whose digest is right but whose entries are not what they must be.

    Args:
        header: the JSON object of the one metadata entry.
        most: mask values that it may declare in all.
    """
    wanted = {"method": dict, "task": str, "norm": str, "backbone": str, "recipe": dict, "masks": dict}
    for key, kind in wanted.items():
        if not isinstance(header.get(key), kind):
            raise BadPayload(f"header entry {key!r} must be {'an object' if kind is dict else 'a text'}")
    if not isinstance(header["method"].get("name"), str):
        raise BadPayload("header entry 'method' must have a 'name'")
    if header["norm"] not in get_args(Norm):
        raise BadPayload(f"header entry 'norm' must be one of {', '.join(get_args(Norm))}")
    shapes = header.get("shapes", {})
    if not isinstance(shapes, dict) or not all(is_shape(shape) for shape in shapes.values()):
        raise BadPayload("header entry 'shapes' must map weight names to lists of whole numbers")
    for name, entry in header["masks"].items():
        if not isinstance(entry, dict) or not is_shape(entry.get("shape")):
            raise BadPayload(f"header entry 'masks' must give {name!r} a 'shape', a list of whole numbers")
        if type(entry.get("ones")) is not int or not isinstance(entry.get("coding"), str):
            raise BadPayload(f"header entry 'masks' must give {name!r} the number of 'ones' and the name of a 'coding'")
    check_coverage(header)
    total = sum(math.prod(entry["shape"]) for entry in header["masks"].values())
    if total > most:
        raise BadPayload(f"the header declares {total} mask values, but a file of this size holds at most {most}")


def check_coverage(header: Mapping[str, Any]) -> None:
    """Refuse what a header says of head slots and of coverage, where it says anything impossible."""
    heads = header.get("heads", [])
    if not isinstance(heads, list) or not all(isinstance(slot, str) for slot in heads):
        raise BadPayload("header entry 'heads' must be a list of the names of slots")
    stored_shares(header)
    without = header.get("coverage", {}).get("without", [])
    if not isinstance(without, list) or not all(isinstance(name, str) for name in without):
        raise BadPayload("'without' in header entry 'coverage' must be a list of names")


def is_shape(value: object) -> bool:
    """Whether a value from a header is the shape of a tensor."""
    return isinstance(value, list) and len(value) <= MOST_DIMENSIONS and all(type(n) is int and n >= 0 for n in value)


def assemble(header: dict[str, Any], tensors: Mapping[str, Tensor], *, header_bytes: int) -> Payload:
    """A payload from its parts, each checked."""
    bytes_by_kind = dict.fromkeys(dict.fromkeys(KINDS.values()), 0)
    kept: dict[str, dict[str, Tensor]] = {}
    masks: dict[str, StoredMask] = {}
    rest: dict[str, dict[str, Tensor]] = {"norm": {}, "weight": {}, "head": {}}
    modules: dict[str, dict[str, Tensor]] = {}
    for label, tensor in tensors.items():
        kind, _, name = label.partition("/")
        if kind not in KINDS:
            raise BadPayload(f"unknown part {label!r}")
        bytes_by_kind[KINDS[kind]] += tensor.nbytes
        if kind in rest:
            rest[kind][name] = tensor
            continue
        key, _, weight = name.partition("/")
        if kind == "module":
            modules.setdefault(weight, {})[key] = tensor
            continue
        if key in kept.get(weight, {}):
            raise BadPayload(f"{key!r} of {weight!r} is stored twice")
        if kind == "value":
            kept.setdefault(weight, {})[key] = tensor
            continue
        mask = read_mask(header["masks"].get(name), tensor, name=name)
        kept.setdefault(weight, {})[key] = mask
        if key == "mask":
            zeros = mask.numel() - int(mask.sum())
            masks[weight] = StoredMask(shape=tuple(mask.shape), zeros=zeros, bytes=tensor.nbytes)
    method = stored_method(header["method"])
    return Payload(
        method=method,
        task=header["task"],
        fingerprint=header["backbone"],
        recipe=header["recipe"],
        norm=header["norm"],
        kept={weight: spread(parts, method, name=weight) for weight, parts in kept.items()},
        own={**rest["norm"], **rest["weight"]},
        head=rest["head"],
        heads=tuple(header.get("heads", ())),
        coverage=stored_shares(header),
        without=frozenset(header.get("coverage", {}).get("without", ())),
        modules=modules,
        bytes_by_kind={**bytes_by_kind, "header": header_bytes},
        masks=masks,
        shapes=find_shapes(header, kept),
    )


def read_mask(entry: Mapping[str, Any] | None, stored: Tensor, *, name: str) -> Tensor:
    """A boolean tensor from its bytes, as the header describes them."""
    if entry is None:
        raise BadPayload(f"the header does not describe mask {name!r}")
    if stored.dtype != torch.uint8:
        raise BadPayload(f"mask {name!r} must be stored as bytes, not as {stored.dtype}")
    values = decode(Stream(entry["coding"], stored.numpy().tobytes()), count=math.prod(entry["shape"]))
    found = int(np.count_nonzero(values))
    if found != entry["ones"]:
        raise BadPayload(f"mask {name!r} has {found} ones, but its header states {entry['ones']}")
    return torch.from_numpy(values).reshape(entry["shape"])


def find_shapes(header: Mapping[str, Any], kept: Mapping[str, Mapping[str, Tensor]]) -> dict[str, tuple[int, ...]]:
    """The weights' shapes: from the header, or else from the stored parts, of which masks count before numbers."""
    shapes = {name: tuple(shape) for name, shape in header.get("shapes", {}).items()}
    for weight, parts in kept.items():
        likeliest = max(parts.values(), key=lambda part: (part.dtype == torch.bool, part.numel()))
        shapes.setdefault(weight, tuple(likeliest.shape))
    for weight, shape in shapes.items():
        if not shape or not all(shape):
            raise BadPayload(f"the weight {weight!r} cannot have the shape {list(shape)}")
    return shapes


def spread(parts: dict[str, Tensor], method: Method, *, name: str) -> dict[str, Tensor]:
    """The parts of one weight in full shape, also those of which only some values are stored."""
    if not isinstance(method, StoresSome):
        return parts
    try:
        places = method.stored(parts)
    except (KeyError, RuntimeError, TypeError) as fault:  # masks are missing, or of different shapes
        raise BadPayload(f"the masks of {name!r} do not fit method {method.name!r}: {fault}") from None
    full = dict(parts)
    for key, where in places.items():
        values = parts.get(key)
        count = int(where.sum())
        if values is None or values.shape != (count,):
            found = "is missing" if values is None else f"has the shape {list(values.shape)}"
            raise BadPayload(f"{key!r} of {name!r} {found}, but its masks call for {count} values")
        full[key] = torch.zeros(where.shape, dtype=values.dtype)
        full[key][where] = values
    return full


def stored_method(settings: Mapping[str, Any]) -> Method:
    """The method that a header names, with its settings."""
    default = named_method(settings["name"])
    known = method_settings(default).keys()
    given = {key: value for key, value in settings.items() if key != "name"}
    if unknown := given.keys() - known:
        raise BadPayload(f"method {default.name!r} has no setting {sorted(unknown)[0]!r}")
    try:
        method = type(default)(**given)
        hash(method)  # no list may be among the settings
        return method
    except (TypeError, ValueError) as fault:
        raise BadPayload(f"the settings of method {default.name!r} are wrong: {fault}") from None
