"""Heads of a network with several slots, as one module.

A network such as Inception has a second head that helps training (``AuxLogits.fc``).  Each task brings a module for
every slot; the rest of the library sees one module with all their parameters.
"""

from collections.abc import Iterable, Mapping, Sequence

from torch import nn

from piggyback.network.anatomy import Anatomy, persistent_tensors, plain_name, unwrap
from piggyback.shell.errors import BadInput, NetworkChanged

HeadGiven = nn.Module | Mapping[str, nn.Module]


class Heads(nn.Module):
    """One module for each of several slots; it never stands in a network itself.

    Args:
        modules: by the names of the slots.
    """

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.slots = tuple(modules)
        for number, module in enumerate(modules.values()):
            self.add_module(str(number), module)  # names of slots may have dots, those of children not


def join_heads(modules: Mapping[str, nn.Module]) -> nn.Module | None:
    """The modules of all slots as one: None without slots, of one slot the module itself, else `Heads`."""
    if len(modules) > 1:
        return Heads(modules)
    return next(iter(modules.values()), None)


def by_slot(head: nn.Module | None, slots: Sequence[str]) -> dict[str, nn.Module]:
    """The module of each slot; undoes `join_heads`."""
    if isinstance(head, Heads):
        return {slot: head.get_submodule(str(number)) for number, slot in enumerate(head.slots)}
    return {} if head is None else {slots[0]: head}


def take_heads(
    head: HeadGiven | None,
    *,
    slots: Sequence[str],
    anatomy: Anatomy,
    network: nn.Module,
    taken: Iterable[nn.Module | None],
    task: str,
) -> nn.Module | None:
    """What a user gives as a task's head, checked, as one module.

    Args:
        head: a module, or one for each slot by its name.
        slots: of the network.
        anatomy: its parts, with whose parameters the head must have none in common.
        network: itself.
        taken: the heads of the backbone and of other tasks.
        task: the name, for messages.

    Raises:
        BadInput: modules for other slots than there are, or one that another task, or the trunk, has already.
    """
    given = {slots[0]: head} if isinstance(head, nn.Module) and slots else head or {}
    if isinstance(given, nn.Module) or not slots or not given:
        if not slots and head is None:
            return None
        has = f"the head slot{'s' * (len(slots) > 1)} {', '.join(map(repr, slots))}" if slots else "no head slot"
        raise BadInput(f"the adapter has {has}, so task {task!r} must come {'with' if slots else 'without'} a head")
    modules = {plain_name(slot, slots): unwrap(module) for slot, module in given.items()}
    if modules.keys() != set(slots):
        raise BadInput(
            f"task {task!r} has a head for {', '.join(sorted(modules))}, but the slots are {', '.join(slots)}: give "
            "head={slot: module, ...} with a module for each"
        )
    others = {id(part) for one in taken if one is not None for part in (*one.modules(), *one.parameters())}
    tensors = persistent_tensors(network)
    trunk = {id(tensors[name]): name for name in anatomy.backbone}
    for module in modules.values():
        shared = [(name, trunk[id(p)]) for name, p in module.named_parameters() if id(p) in trunk]
        if shared:
            raise BadInput(
                f"the head given for task {task!r} shares its {shared[0][0]!r} with {shared[0][1]!r} of the network, "
                "which is frozen: give it a copy"
            )
        if any(tensor.is_inference() for tensor in module.parameters()):
            raise BadInput(f"the head given for task {task!r} was made in torch.inference_mode(): make it outside")
        if not others.isdisjoint(map(id, (*module.modules(), *module.parameters()))):
            raise BadInput(f"the head given for task {task!r} belongs to another task already: each needs its own")
    return join_heads({slot: modules[slot] for slot in slots})


def refuse_other_heads(
    network: nn.Module, heads: Mapping[str, nn.Module], *, slots: Mapping[str, Sequence[str]]
) -> None:
    """Raise NetworkChanged unless the network has these heads in its slots, under all names of the slots."""
    for slot, head in heads.items():
        for name in slots[slot]:
            if unwrap(network.get_submodule(name)) is not head:
                raise NetworkChanged(
                    f"the slot {name!r} has another head than the adapter put there, which no payload would hold: "
                    "give each task its head by add_task(head=...). adapter.restore() puts back the one of before"
                )


def held_parts(head: nn.Module | None) -> frozenset[str]:
    """Parameters of a head that the user froze and that stay so; where all are frozen, none is meant."""
    flags = {name: parameter.requires_grad for name, parameter in head.named_parameters()} if head is not None else {}
    return frozenset(name for name, flag in flags.items() if not flag) if any(flags.values()) else frozenset()
