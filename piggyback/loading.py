"""Loading a payload file's task onto a network; everything is checked before anything changes."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from piggyback.arguments import check_task_name
from piggyback.masks.shelf import Shelf
from piggyback.network.anatomy import join, like, persistent_tensors
from piggyback.network.heads import HeadGiven, by_slot, held_parts
from piggyback.network.task_state import TaskState, fresh_modules, pack_kept
from piggyback.numerics.precision import wide, wide_type
from piggyback.overlay import Overlay
from piggyback.payload import Payload, read_payload
from piggyback.shell.errors import BackboneMismatch, BadInput, BadPayload


def load_task(path: Path, overlay: Overlay, *, task: str | None, head: HeadGiven | None) -> str:
    """Add a payload's task to an overlay and switch to it; see `Adapter.load`."""
    payload = read_payload(path)
    name = payload.task if task is None else task
    check_task_name(name, advice=": give load() another by task=...")
    if name in overlay.tasks:
        raise BadInput(f"there is a task {name!r} already: give load() another name")
    overlay.look()
    if payload.fingerprint != overlay.fingerprint:
        raise BackboneMismatch(
            f"{path} belongs to the backbone {payload.fingerprint[:12]}, but this network's frozen weights are "
            f"{overlay.fingerprint[:12]}: masks mean nothing on other weights; load the backbone it was trained on, "
            "and attach it with the same head slot"
        )
    refuse_other_weights(payload, overlay, path=path)
    filled = loaded_heads(payload, overlay, head=head, path=path, task=name)
    state = TaskState(method=payload.method, norm=payload.norm, head=filled, held=held_parts(filled))
    refuse_other_own(payload, state, overlay, path=path)
    refuse_other_parts(payload.own, {part: overlay.frozen[part] for part in payload.own}, name=str(path), types=False)
    state.own = {part: tensor.to(overlay.frozen[part].device) for part, tensor in payload.own.items()}
    kept = {
        weight: {key: placed(tensor, overlay.frozen[weight]) for key, tensor in parts.items()}
        for weight, parts in payload.kept.items()
    }
    state.kept = pack_kept(kept)
    state.own = Shelf(state.own) if state.kept else state.own
    state.modules = loaded_modules(payload, overlay, path=path)
    overlay.put(name, state)
    return name


def loaded_heads(
    payload: Payload, overlay: Overlay, *, head: HeadGiven | None, path: Path, task: str
) -> nn.Module | None:
    """The payload's heads, in the modules given, or else in linear layers.

    Raises:
        BadPayload: the payload has heads for other slots, or they do not fit the modules.
        BadInput: a module is missing for a head that is not one linear layer.
    """
    slots = overlay.head_slots
    if not slots and (head is not None or payload.head):
        raise BadPayload(f"{path} comes with a head, but the adapter has no head slot: attach(..., head=...)")
    if (payload.heads or len(slots) > 1) and set(payload.heads) != set(slots):
        found = f"heads for the slots {', '.join(payload.heads)}" if payload.heads else "one head"
        raise BadPayload(f"{path} has {found}, the adapter the slots {', '.join(slots)}: attach the network alike")
    stored = {slot: payload.head_of(slot) for slot in slots}
    if isinstance(head, nn.Module) and len(slots) > 1:
        raise BadInput(f"give load() a mapping of the slots {', '.join(slots)} to modules, not one module")
    given = {slots[0]: head} if isinstance(head, nn.Module) else dict(head or {})
    linear = {slot: linear_head(parts, name=str(path)) for slot, parts in stored.items() if slot not in given}
    filled = overlay.take_heads({**given, **linear} if slots else None, task=task)
    for slot, module in by_slot(filled, slots).items():
        try:
            module.load_state_dict(dict(stored[slot]))
        except RuntimeError as fault:  # torch's word for a state dict that does not fit
            raise BadPayload(f"{path} does not fit the head given: {' '.join(str(fault).split())}") from None
    return filled


def refuse_other_weights(payload: Payload, overlay: Overlay, *, path: Path) -> None:
    """Raise BadPayload unless the payload holds, for each weight of the network, what its method keeps of it."""
    method, frozen = payload.method, overlay.frozen
    try:
        adapted = overlay.anatomy.weights if method.adapts == "weights" else ()
        started = {name: method.start(wide(frozen[name])) for name in adapted}
        expected = {name: method.keep(parts) for name, parts in started.items() if parts}
    except (OverflowError, RuntimeError) as fault:  # a setting too large for the weights' type
        raise BadPayload(f"{path} has impossible settings of method {method.name!r}: {fault}") from None
    missing = sorted(expected.keys() - payload.kept.keys())
    wrong = [name for name in payload.kept if name not in expected]
    wrong += [name for name in missing if not payload.may_lack({name})]
    if wrong:
        here = overlay.anatomy.left.get(wrong[0])
        why = f"here it is {here}" if here else "was it saved with another head slot?"
        raise BadPayload(f"{path} and the network disagree about the weight {wrong[0]!r}: {why}")
    for name, parts in payload.kept.items():
        refuse_other_parts(parts, expected[name], name=f"{path}: {name!r}")
    for name, shape in payload.shapes.items():
        if name not in overlay.anatomy.maskable or shape != tuple(frozen[name].shape):
            raise BadPayload(f"{path}: the network has no weight {name!r} of shape {shape}")


def refuse_other_own(payload: Payload, state: TaskState, overlay: Overlay, *, path: Path) -> None:
    """Raise BadPayload unless the payload has all parts that such a task has for itself, and beside them no others than
    parameters that could be added to its optimizer.
    """
    needed = set(state.own_names(overlay.anatomy, overlay.network))
    fixed = set(overlay.anatomy.norm) if state.norm_is_fixed else set[str]()
    tensors = persistent_tensors(overlay.network)
    parameters = {name for name in overlay.frozen if isinstance(tensors[name], nn.Parameter)}
    possible = needed | (parameters - fixed - payload.kept.keys() - overlay.anatomy.left.keys())
    if not payload.own.keys() <= possible or not payload.may_lack(needed - payload.own.keys()):
        raise BadPayload(f"{path} has other norm layers or weights of its own than a task on this network would have")


def placed(tensor: Tensor, target: Tensor) -> Tensor:
    """A stored part on the device of its weight, and in the weight's memory layout where it has the same shape.

    Numbers in half precision, as earlier versions kept of such networks, become float32.
    """
    tensor = wide(tensor)
    return like(tensor, target) if tensor.shape == target.shape else tensor.to(target.device)


def loaded_modules(payload: Payload, overlay: Overlay, *, path: Path) -> dict[str, nn.Module]:
    """The payload's modules behind layers.

    Raises:
        BadPayload: the method would put other modules behind the layers of this network.
    """
    modules = fresh_modules(payload.method, overlay.network, overlay.anatomy)
    lacking = {join(layer, "weight") for layer in modules if layer not in payload.modules}
    if not payload.modules.keys() <= modules.keys() or not payload.may_lack(lacking):
        raise BadPayload(f"{path} has modules behind other layers than the network has")
    modules = {name: module for name, module in modules.items() if name in payload.modules}
    for name, module in modules.items():
        refuse_other_parts(payload.modules[name], module.state_dict(), name=f"{path}: {name!r}", types=False)
        types = [part.dtype for part in payload.modules[name].values() if part.is_floating_point()]
        module.to(wide_type(types[0] if types else torch.float32)).load_state_dict(payload.modules[name])
    return modules


def refuse_other_parts(
    found: Mapping[str, Tensor], expected: Mapping[str, Tensor], *, name: str, types: bool = True
) -> None:
    """Raise BadPayload unless both have the same keys, shapes and, where `types` is set, data types.

    Half precision passes for float32, which is what it is made into.
    """
    if found.keys() != expected.keys():
        raise BadPayload(f"{name} has the parts {sorted(found)}, not {sorted(expected)}")
    for key, tensor in found.items():
        wanted = expected[key]
        if tensor.shape != wanted.shape or (types and wide_type(tensor.dtype) != wanted.dtype):
            here = f"{tuple(tensor.shape)} of {tensor.dtype}"
            raise BadPayload(f"{name}: {key!r} has shape {here}, not {tuple(wanted.shape)} of {wanted.dtype}")


def linear_head(tensors: Mapping[str, Tensor], *, name: str) -> nn.Linear:
    """A linear layer of the stored shape and data type."""
    weight = tensors.get("weight")
    if weight is None or weight.ndim != 2 or not tensors.keys() <= {"weight", "bias"}:
        raise BadInput(f"the head in {name} is not one linear layer: give load() a head module to fill")
    return nn.Linear(weight.shape[1], weight.shape[0], bias="bias" in tensors, dtype=weight.dtype)
