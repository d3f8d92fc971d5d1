"""Loading a payload file's task onto a network; everything is checked before anything changes."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from piggyback.anatomy import like
from piggyback.arguments import check_task_name
from piggyback.numerics.precision import wide, wide_type
from piggyback.overlay import Overlay
from piggyback.payload import Payload, read_payload
from piggyback.shell.errors import BackboneMismatch, BadInput, BadPayload
from piggyback.task_state import TaskState, fresh_modules


def load_task(path: Path, overlay: Overlay, *, task: str | None, head: nn.Module | None) -> str:
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
    if head is None and overlay.head_slot is not None:
        head = linear_head(payload.head, name=str(path))
    if overlay.head_slot is None and (head is not None or payload.head):
        raise BadPayload(f"{path} comes with a head, but the adapter has no head slot: attach(..., head=...)")
    if head is not None:
        try:
            head.load_state_dict(dict(payload.head))
        except RuntimeError as fault:  # torch's word for a state dict that does not fit
            raise BadPayload(f"{path} does not fit the head given: {' '.join(str(fault).split())}") from None
    state = TaskState(method=payload.method, norm=payload.norm, head=head)
    refuse_other_own(payload, state, overlay, path=path)
    refuse_other_parts(payload.own, {part: overlay.frozen[part] for part in payload.own}, name=str(path), types=False)
    state.own = {part: tensor.to(overlay.frozen[part].device) for part, tensor in payload.own.items()}
    state.kept = {
        weight: {key: placed(tensor, overlay.frozen[weight]) for key, tensor in parts.items()}
        for weight, parts in payload.kept.items()
    }
    state.modules = loaded_modules(payload, overlay, path=path)
    overlay.put(name, state)
    return name


def refuse_other_weights(payload: Payload, overlay: Overlay, *, path: Path) -> None:
    """Raise BadPayload unless the payload holds, for each weight of the network, what its method keeps of it."""
    method, frozen = payload.method, overlay.frozen
    try:
        adapted = overlay.anatomy.weights if method.adapts == "weights" else ()
        started = {name: method.start(wide(frozen[name])) for name in adapted}
        expected = {name: method.keep(parts) for name, parts in started.items() if parts}
    except (OverflowError, RuntimeError) as fault:  # a setting too large for the weights' type
        raise BadPayload(f"{path} has impossible settings of method {method.name!r}: {fault}") from None
    wrong = [name for name in payload.kept if name not in expected] + sorted(expected.keys() - payload.kept.keys())
    if wrong:
        raise BadPayload(
            f"{path} and the network disagree about the weight {wrong[0]!r}: was it saved with another head slot?"
        )
    for name, parts in payload.kept.items():
        refuse_other_parts(parts, expected[name], name=f"{path}: {name!r}")
    for name, shape in payload.shapes.items():
        if name not in overlay.anatomy.weights or shape != tuple(frozen[name].shape):
            raise BadPayload(f"{path}: the network has no weight {name!r} of shape {shape}")


def refuse_other_own(payload: Payload, state: TaskState, overlay: Overlay, *, path: Path) -> None:
    """Raise BadPayload unless the payload has all parts that such a task has for itself, and beside them no others than
    parameters that could be added to its optimizer.
    """
    needed = set(state.own_names(overlay.anatomy, overlay.network))
    fixed = set(overlay.anatomy.norm) if state.norm_is_fixed else set[str]()
    parameters = {name for name, _ in overlay.network.named_parameters()}
    possible = needed | ((parameters & overlay.frozen.keys()) - fixed - payload.kept.keys())
    if not needed <= payload.own.keys() <= possible:
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
    if modules.keys() != payload.modules.keys():
        raise BadPayload(f"{path} has modules behind other layers than the network has")
    for name, module in modules.items():
        refuse_other_parts(payload.modules[name], module.state_dict(), name=f"{path}: {name!r}", types=False)
        module.to(wide_type(overlay.frozen[overlay.anatomy.weights[0]].dtype)).load_state_dict(payload.modules[name])
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
