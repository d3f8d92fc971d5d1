"""How much of a network a task changes, parameter by parameter, and why the rest is left as it is.

The trunk is every parameter outside the heads; buffers are not counted.
"""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

import torch
from torch import Tensor, nn

from piggyback.methods.contract import Method, Prunes
from piggyback.network.anatomy import Anatomy, is_in, join, maskable_of, persistent_tensors, walk
from piggyback.network.task_state import TaskState, fresh_modules
from piggyback.shell.console import notice
from piggyback.shell.errors import BadInput, BadPayload

Kind = Literal["masked", "module", "trained", "norm", "head", "frozen"]
REACHED: Final = ("masked", "module", "trained")
MUCH: Final = 0.02  # of the trunk; where more is left out, attach says so


@dataclass(frozen=True, kw_only=True)
class Part:
    """One parameter.

    Attributes:
        name: qualified; of a shared parameter the one that stands for all.
        module: the name of the module that it belongs to.
        layer: that module's type, such as ``Conv2d``.
        kind: ``masked``: a task has a mask or the like on it; ``module``: a task puts a module behind its layer;
            ``trained``: a task has the parameter for itself; ``norm``: of a norm layer, whose fate `norm` decides;
            ``head``; or ``frozen``.
        reason: why it is frozen; empty for the other kinds.
        size: number of values.
    """

    name: str
    module: str
    layer: str
    kind: Kind
    reason: str
    size: int


@dataclass(frozen=True, kw_only=True)
class Shares:
    """The numbers of a coverage, as payload files carry them: values of the trunk's parameters.

    Attributes:
        trunk: all of them.
        masked: those that a task changes by masks or the like, by modules behind their layers, or by training them.
        norm: those of norm layers, unless they are among the masked ones.
        left_out: by reason, those that no task of the method changes; most first.
    """

    trunk: int
    masked: int
    norm: int
    left_out: Mapping[str, int]

    @property
    def masked_share(self) -> float:
        """Share of the trunk's parameters that a task changes, norm layers and biases in the whole; in [0, 1]."""
        return self.masked / max(1, self.trunk)

    @property
    def left_out_share(self) -> float:
        """Share of the trunk's parameters that are neither changed nor in norm layers; in [0, 1]."""
        return sum(self.left_out.values()) / max(1, self.trunk)

    def __str__(self) -> str:
        words = [f"{self.masked_share:.2%} of the trunk masked", f"{self.norm / max(1, self.trunk):.2%} in norm layers"]
        left = ", ".join(f"{reason} {count:,}" for reason, count in self.left_out.items())
        return ", ".join([*words, f"{self.left_out_share:.2%} left out"]) + (f" ({left})" if left else "")


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """What a task changes of a network.

    Attributes:
        parts: every parameter, in the order of the network.
    """

    parts: tuple[Part, ...]

    @property
    def shares(self) -> Shares:
        """The numbers alone."""
        sizes = Counter[str]()
        left = Counter[str]()
        for part in self.parts:
            sizes["masked" if part.kind in REACHED else part.kind] += part.size
            if part.kind == "frozen":
                left[part.reason] += part.size
        ordered = dict(sorted(left.items(), key=lambda item: (-item[1], item[0])))
        trunk = sizes.total() - sizes["head"]
        return Shares(trunk=trunk, masked=sizes["masked"], norm=sizes["norm"], left_out=ordered)

    @property
    def masked_share(self) -> float:
        """As `Shares.masked_share`."""
        return self.shares.masked_share

    @property
    def left_out(self) -> Mapping[str, int]:
        """As `Shares.left_out`."""
        return self.shares.left_out

    @property
    def modules(self) -> dict[str, tuple[Part, ...]]:
        """The parts of each module that has parameters of its own, by the module's name."""
        found: dict[str, list[Part]] = {}
        for part in self.parts:
            found.setdefault(part.module, []).append(part)
        return {name: tuple(parts) for name, parts in found.items()}

    def __str__(self) -> str:
        return str(self.shares)


def survey(network: nn.Module, anatomy: Anatomy, *, method: Method, reached: Collection[str]) -> Coverage:
    """The coverage of tasks by a method that change the parameters called `reached`."""
    trunk = set(anatomy.backbone)
    owners = dict(walk(network))
    parts: dict[int, Part] = {}
    for name, tensor in persistent_tensors(network).items():
        in_head = is_in(name, anatomy.head_names)
        if not isinstance(tensor, nn.Parameter) or not (name in trunk or (in_head and id(tensor) not in parts)):
            continue
        module, _, key = name.rpartition(".")
        if module not in owners or key not in owners[module]._parameters:
            continue
        kind, reason = kind_of(name, owners[module], anatomy, method, reached)
        parts[id(tensor)] = Part(
            name=name, module=module, layer=type(owners[module]).__name__, kind=kind, reason=reason, size=tensor.numel()
        )
    return Coverage(parts=tuple(parts.values()))


def kind_of(
    name: str, owner: nn.Module, anatomy: Anatomy, method: Method, reached: Collection[str]
) -> tuple[Kind, str]:
    """What becomes of one parameter of the trunk, and why if nothing does."""
    if name not in anatomy.backbone:
        return "head", ""
    if name in reached and not (name in anatomy.norm and method.adapts not in ("everything", "anew")):
        return ("module" if method.adapts == "modules" else "masked" if method.adapts == "weights" else "trained"), ""
    if name in anatomy.left:
        return "frozen", anatomy.left[name]
    if name in anatomy.norm:
        return "norm", ""
    if name in anatomy.weights:
        return "frozen", f"not reached by {method.name}"
    return "frozen", why_not_masked(name.rpartition(".")[2], owner)


def why_not_masked(key: str, owner: nn.Module) -> str:
    """The kind of a parameter on which no mask method works."""
    if isinstance(owner, nn.Embedding | nn.EmbeddingBag):
        return "embedding"
    if maskable_of(owner) and "bias" in key:
        return "bias"
    if owner._modules:  # no layer: a network, or a block of one
        return "bare parameter"
    return f"{type(owner).__name__} layer"


def reach(method: Method, network: nn.Module, anatomy: Anatomy) -> frozenset[str]:
    """Names of the parameters and buffers that a fresh task by a method changes, whatever its `norm`."""
    if method.adapts == "weights":
        tensors = persistent_tensors(network)
        shapes = {name: tuple(tensors[name].shape) for name in anatomy.weights}
        started = {shape: starts(method, shape) for shape in set(shapes.values())}
        return frozenset(name for name, shape in shapes.items() if started[shape])
    if method.adapts == "modules":
        with torch.random.fork_rng(devices=[]):  # modules may draw their first weights
            return frozenset(join(layer, "weight") for layer in fresh_modules(method, network, anatomy))
    names = {"norm": anatomy.norm, "everything": anatomy.backbone, "anew": anatomy.backbone}.get(method.adapts, ())
    return frozenset(name for name in names if name not in anatomy.left)


def reached_by(state: TaskState) -> frozenset[str]:
    """Names of the parameters and buffers that a task does change."""
    layers = (join(layer, "weight") for layer in state.modules)
    return frozenset([*state.trained, *state.kept, *state.own, *layers])


def starts(method: Method, shape: tuple[int, ...]) -> bool:
    """Whether a method has anything to train for a weight of that shape."""
    try:
        return bool(method.start(torch.empty(shape, device="meta")))
    except Exception:  # whatever a method of another package raises on a tensor without values
        return bool(method.start(torch.zeros(shape, device="cpu")))


def refuse_nothing(method: Method, reached: Collection[str], network: nn.Module) -> None:
    """Refuse a method that would train nothing of a network but its head.

    Raises:
        BadInput: naming the layers that the network has.
    """
    if reached or method.adapts == "head" or (method.adapts == "norm" and method.stands_on == "joint"):
        return  # the head alone is meant, or the network was trained on the tasks together
    counts = Counter(type(m).__name__ for _, m in walk(network) if not m._modules and any(True for _ in m.parameters()))
    layers = ", ".join(f"{count} {name}" for name, count in counts.most_common(5)) or "no layers with parameters"
    wants = {
        "weights": "weights of layers",
        "modules": "layers to put modules behind",
        "norm": "norm layers",
    }.get(method.adapts, "parameters")
    raise BadInput(
        f"method {method.name!r} finds no {wants} that it could work on outside the head, so there is nothing to "
        f"adapt; the network has {layers}: choose another method, or 'feature' to train the head alone"
    )


def describe_coverage(network: nn.Module, anatomy: Anatomy, state: TaskState) -> dict[str, object]:
    """The entry of a payload's header: the shares, and the names of what the task was to leave as it is."""
    without = sorted(anatomy.left)
    shares = survey(network, anatomy, method=state.method, reached=reached_by(state)).shares
    return {**asdict(shares), **({"without": without} if without else {})}


def stored_shares(header: Mapping[str, Any]) -> Shares | None:
    """What such an entry says, most of what is left out first; None where an older header has none.

    Raises:
        BadPayload: it is not what it must be, or its numbers do not add up.
    """
    if "coverage" not in header:
        return None
    entry = header["coverage"]
    if not isinstance(entry, dict) or not isinstance(entry.get("left_out"), dict):
        raise BadPayload("header entry 'coverage' must be an object with an object 'left_out'")
    counts = [entry.get("trunk"), entry.get("masked"), entry.get("norm"), *entry["left_out"].values()]
    if not all(type(count) is int and count >= 0 for count in counts) or counts[0] != sum(counts[1:]):
        raise BadPayload("header entry 'coverage' must have whole numbers, of which 'trunk' is the sum of the others")
    left = dict(sorted(entry["left_out"].items(), key=lambda item: (-item[1], item[0])))
    return Shares(trunk=entry["trunk"], masked=entry["masked"], norm=entry["norm"], left_out=left)


def refuse_nothing_free(state: TaskState, frozen: Mapping[str, Tensor]) -> None:
    """Refuse a fresh task none of whose numbers any gradient could move.

    Raises:
        BadInput: so it is: the task could train its head alone.
    """
    for name, trained in state.trained.items():
        weight = frozen[name]
        if any(
            bool(pulled.any()) for pulled in state.method.pull_back(torch.ones_like(weight), weight, trained).values()
        ):
            return
    if not state.trained:
        return
    why = "all weights are zero"
    if isinstance(state.method, Prunes):
        why = "no weight is free, as those are that are zero; prune the network before its first task (the recipe's "
        why += "first_prune)"
    raise BadInput(f"method {state.method.name!r} finds nothing to train outside the head: {why}")


def tell_left_out(method: Method, shares: Shares) -> None:
    """One line where much of the trunk is left out of a method that works on weights."""
    if method.adapts != "weights" or shares.left_out_share <= MUCH:
        return
    reason, count = next(iter(shares.left_out.items()))
    notice(
        f"piggyback: tasks leave {shares.left_out_share:.1%} of the trunk's parameters as they are, most of it "
        f"{reason!r} ({count / shares.trunk:.1%}); adapter.coverage() lists them"
    )
