"""One network, its adapter, and an account of what must be so: the laws that hold after every drawn call.

A call either succeeds, or raises an error of ours on one line and leaves everything as it was.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
import torch.nn.functional as F
from drawn_networks import WIDE, Plan, build, heads_of, inputs
from torch import Tensor, nn

import piggyback
from piggyback import Adapter
from piggyback.optimizer import AdapterOptimizer
from piggyback.shell.errors import NetworkChanged, PiggybackError

HEAD: Final = "the module in the head's slot"


class Broken(AssertionError):
    """A law does not hold."""


def bits(tensor: Tensor) -> Tensor:
    """The bytes of a tensor's values: NaN equals itself there, and -0 is not 0."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


def same(one: Tensor, other: Tensor) -> bool:
    alike = one.dtype == other.dtype and one.shape == other.shape
    return alike and torch.equal(bits(one), bits(other))


def move_network(network: nn.Module, moves: list[torch.dtype | torch.memory_format]) -> None:
    """Bring a network into the last data type and the last memory layout of several."""
    dtypes = [move for move in moves if isinstance(move, torch.dtype)]
    layouts = [move for move in moves if isinstance(move, torch.memory_format)]
    if dtypes:
        network.to(dtypes[-1])
    if layouts:
        network.to(memory_format=layouts[-1])


def outputs(network: nn.Module, batch: Tensor) -> Tensor:
    """Logits in evaluation mode, which leave the network as it is."""
    modes = {module: module.training for module in network.modules()}
    asking = [parameter for parameter in network.parameters() if parameter.requires_grad]
    network.eval()
    network.requires_grad_(False)  # torch's attention takes another kernel, of other bits, where a weight asks for one
    with torch.no_grad():
        found = network(batch)
    for parameter in asking:
        parameter.requires_grad_(True)
    for module, training in modes.items():
        module.training = training
    return found.reshape(len(found), -1)


@dataclass
class Session:
    """One network, its adapter, and what is known of both.

    Attributes:
        plan: of the network.
        folder: for files.
        before: what `Convert` did to the network before its weights became the backbone's.
        untied: whether a weight of several places was replaced in one, which no fresh copy of the network has.
        unshown: whether `Convert` has rounded what the adapter showed.
        moves: what it has done since, to be done to fresh copies as well.
        pending: tensors that others have written into, so that the network is no view of the task for the time being.
        rounded: those of them that only have been through a type of fewer digits.
        told: per task, its logits since the last call that may change them; None stands for the backbone.
        files: payloads saved so far, and the heads' kinds.
        outcomes: how often each call succeeded, or was refused and by which error.
    """

    plan: Plan
    folder: Path
    outcomes: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.network = build(self.plan)
        self.slots = heads_of(self.plan)
        self.heads_own = self.own_of_heads()
        self.original = {name: tensor.clone() for name, tensor in self.network.state_dict().items()}
        self.before: list[torch.dtype | torch.memory_format] = []
        self.moves: list[torch.dtype | torch.memory_format] = []
        self.told: dict[str | None, Tensor] = {}
        self.cached = self.caches()
        self.drifted = False
        self.unshown = False
        self.untied = False
        self.finished: set[str] = set()
        self.copied = False
        self.files: list[tuple[Path, str, str]] = []
        self.heads: dict[str, str] = {}
        self.optimizer: AdapterOptimizer | None = None
        self.adapter: Adapter | None = None
        self.pending: set[str] = set()
        self.rounded: set[str] = set()
        self.counted: set[str] = set()
        self.names: list[str] = []
        self.batches = 0

    # -- calls ------------------------------------------------------------------------------------------

    def ask(self, call: Callable[[], Any], *, what: str, compares: bool = False) -> Any:
        """Do a call of the library; the error where one of ours is raised, which must have changed nothing.

        Args:
            call: without arguments.
            what: its name, for counts and messages.
            compares: whether it must refuse to go on where somebody else has written into the network.
        """
        before = self.account()
        self.pending &= set(self.differences())
        try:
            found = call()
        except PiggybackError as fault:
            text = str(fault)
            if not text or "\n" in text:
                raise Broken(f"{what}: the message is not one line: {text!r}") from fault
            self.outcomes[f"{what}: {type(fault).__name__}"] += 1
            self.adopt()
            self.compare_account(before, what=what, fault=fault)
            if self.pending or isinstance(fault, NetworkChanged):
                self.restore()
            return fault
        if not self.adopt() and compares and (lost := self.pending - self.rounded):
            raise Broken(f"{what} went on although others had written into {sorted(lost)}")
        self.outcomes[f"{what}: done"] += 1
        self.unshown &= what in ("Save", "Optimizer", "Step", "FinishTask")  # all others show a task once more
        self.note_head()
        return found

    def note_head(self) -> None:
        """The head that the adapter has put into its slot."""
        if self.adapter is not None and HEAD not in self.pending:
            self.shown = self.slotted()

    def slotted(self) -> dict[str, nn.Module]:
        """What stands in the slots of heads."""
        slots = ("fc", "top.fc") if self.plan.head.startswith("two") else self.slots
        return {slot: self.network.get_submodule(slot) for slot in slots}

    def in_slot(self, name: str) -> bool:
        """Whether a tensor's name lies in a head's slot, under any of its names."""
        places = ("fc.", "top.fc.") if self.plan.head.startswith("two") else tuple(f"{slot}." for slot in self.slots)
        return name.startswith(places)

    def own_of_heads(self) -> set[str]:
        """Names of tensors that heads have for themselves, and do not share with the rest of the network."""
        tensors = self.network.state_dict(keep_vars=True)
        trunk = {id(tensor) for name, tensor in tensors.items() if not self.in_slot(name)}
        return {name for name, tensor in tensors.items() if self.in_slot(name) and id(tensor) not in trunk}

    def adopt(self) -> bool:
        """Whether weights that somebody loaded before the first task have become the backbone's, as they may."""
        if self.adapter is None or self.names or not self.pending or self.pending & set(self.differences()):
            return False
        base = self.adapter.base_state_dict()
        if all(same(base[name], tensor) for name, tensor in self.watched().items()):
            return False
        self.original = {name: tensor.clone() for name, tensor in base.items()}
        self.before, self.moves = [*self.before, *self.moves], []
        self.fingerprint = self.adapter.fingerprint
        self.pending.clear()
        self.told.clear()
        self.outcomes["weights adopted"] += 1
        return True

    def restore(self) -> None:
        """What a user is told to do after a foreign write."""
        self.adapter.restore()
        self.pending.clear()
        self.unshown = False
        self.note_head()

    def write(self, *, counted: bool) -> None:
        """Note that somebody else has written into the network, in a way that torch counts or not."""
        found = set(self.differences())
        self.counted &= found
        self.counted |= found - self.pending if counted else set()
        self.pending |= found
        self.forget(self.adapter.current)

    def account(self) -> dict[str, Any]:
        """What a refused call must leave as it is."""
        if self.adapter is None:
            tensors = {name: tensor.clone() for name, tensor in self.network.state_dict().items()}
            wants = {name: parameter.requires_grad for name, parameter in self.network.named_parameters()}
            return {"tensors": tensors, "wants": wants}
        tasks = self.adapter.tasks
        self.names = list(tasks)
        return {
            "names": list(tasks),
            "current": self.adapter.current,
            "parts": {
                f"{task} {weight} {key}": tensor.clone()
                for task, state in tasks.items()
                for weight in (*state.trained, *state.kept)
                for key, tensor in {**state.trained.get(weight, {}), **state.kept_of(weight)}.items()
            },
        }

    def compare_account(self, before: dict[str, Any], *, what: str, fault: PiggybackError) -> None:
        after = self.account()
        for key, value in before.items():
            if key in ("tensors", "parts"):
                wrong = [n for n, t in value.items() if n not in after[key] or not same(t, after[key][n])]
                if wrong or value.keys() != after[key].keys():
                    raise Broken(f"{what} was refused ({fault}), but changed {wrong or after[key].keys()}")
            elif after[key] != value:
                raise Broken(f"{what} was refused ({fault}), but {key} went from {value} to {after[key]}")

    def batch(self) -> tuple[Tensor, Tensor]:
        self.batches += 1
        targets = torch.randint(0, WIDE, (4,), generator=torch.Generator().manual_seed(self.batches))
        return inputs(self.plan, seed=self.batches, dtype=self.dtype()), targets

    def dtype(self) -> torch.dtype:
        named = self.network.named_parameters()
        return next(p.dtype for name, p in named if p.is_floating_point() and not self.in_slot(name))

    def backward(self) -> None:
        x, targets = self.batch()
        y = self.network(x)
        loss = F.cross_entropy(y.reshape(len(y), -1).float(), targets)
        if loss.requires_grad:
            loss.backward()

    def alike(self, one: Tensor, other: Tensor) -> bool:
        """Whether logits have the same bits; a weight of another layout may lose it, and torch takes another kernel."""
        gaps = "strided" in repr(self.plan) or "turned" in repr(self.plan)
        return same(one, other) or (gaps and torch.allclose(one, other, rtol=1e-2, atol=1e-3, equal_nan=True))

    def task_at(self, number: int) -> str | None:
        names = list(self.adapter.tasks)
        return names[number % len(names)] if names else None

    # -- laws -------------------------------------------------------------------------------------------

    def differences(self) -> list[str]:
        """Tensors of the network that are not what the current task makes of the frozen ones."""
        adapter = self.adapter
        if adapter is None:
            return []
        state = adapter.tasks[adapter.current] if adapter.current is not None else None
        tensors = self.network.state_dict(keep_vars=True)
        found = []
        for name, first in self.places.items():
            if state is not None and first in state.own:
                if adapter.current not in self.finished:
                    continue
                wanted = state.own[first]
            else:
                wanted = adapter.frozen[first]
            if state is not None and (first in state.trained or first in state.kept):
                wanted = state.method.apply(wanted, state.kept_of(first))
            if name not in tensors or not same(wanted.to(tensors[name].dtype), tensors[name]):
                found.append(name)
        if self.slotted() != self.shown:
            found.append(HEAD)
        return found

    def first_name(self) -> str:
        """The name of the first part of the network."""
        return next(name for name, module in self.network.named_modules() if module._parameters)

    def take(self, adapter: Adapter, *, said: dict[str, Any]) -> None:
        """Go on with an adapter, made with these arguments."""
        self.adapter, self.fingerprint, self.said = adapter, adapter.fingerprint, said
        self.note_head()
        self.places = self.find_places()

    def find_places(self) -> dict[str, str]:
        """For each name outside the head, the one under which the adapter has its tensor."""
        tensors = self.network.state_dict(keep_vars=True)
        firsts = {id(tensors[name]): name for name in self.adapter.anatomy.backbone}
        trunk = {name: id(tensor) for name, tensor in tensors.items() if not self.in_slot(name)}
        if missing := [name for name, found in trunk.items() if found not in firsts]:
            raise Broken(f"the adapter has none of {missing}")
        return {name: firsts[found] for name, found in trunk.items()}

    def head_to_fill(self) -> Any:
        """A head, or several, of which `load` cannot know how they are made."""
        heads = fresh_heads(self.slots, "two layers", seed=0)
        for head in heads.values() if isinstance(heads, dict) else (heads,):
            head.to(self.dtype())
        return heads

    def caches(self) -> dict[str, Tensor]:
        """Buffers that no state dict has."""
        kept = self.network.state_dict()
        return {name: buffer.clone() for name, buffer in self.network.named_buffers() if name not in kept}

    def drifts(self) -> bool:
        """Whether a buffer that no payload can hold has moved, which only steps refuse."""
        now = self.caches()
        self.drifted |= any(not same(now[name], tensor) for name, tensor in self.cached.items())
        return self.drifted

    def check(self, *, what: str) -> None:
        """The laws that hold after every call."""
        adapter = self.adapter
        wrong = self.differences()
        self.pending &= set(wrong)
        if wrong := set(wrong) - self.pending:
            raise Broken(f"after {what}: {wrong} of the network are not what {adapter.current!r} makes of the backbone")
        base = adapter.base_state_dict()
        if self.pending and base.keys() < self.original.keys():  # one of two tied weights was replaced
            return
        if base.keys() != self.original.keys():
            raise Broken(f"after {what}: the backbone's state dict has {list(base)}, not {list(self.original)}")
        wrong = [name for name, tensor in self.watched().items() if not same(tensor, base[name])]
        if wrong:
            raise Broken(f"after {what}: {wrong} of the backbone have other bits")
        if adapter.fingerprint != self.fingerprint:
            raise Broken(f"after {what}: another fingerprint")
        if self.pending or self.drifts() or self.unshown:
            return
        shown = outputs(self.network, inputs(self.plan, seed=0, dtype=self.dtype()))
        known = self.told.setdefault(adapter.current, shown)
        if not self.alike(known, shown):
            raise Broken(
                f"after {what}: the logits of {adapter.current!r} are others, by {(known - shown).abs().max()}"
            )

    def watched(self) -> dict[str, Tensor]:
        """The backbone as it was at the start; of the head only where `Convert` has not been at it."""
        if not self.moves:
            return self.original
        return {name: tensor for name, tensor in self.original.items() if name not in self.heads_own}

    def follow_head(self) -> None:
        """The backbone's own head is the user's to change while the network shows it."""
        if self.adapter.current is None and HEAD not in self.pending:
            for name, tensor in self.network.state_dict().items():
                if name in self.heads_own:
                    self.original[name] = tensor.clone()

    def forget(self, task: str | None) -> None:
        """The logits of a task may be others from now on."""
        self.told.pop(task, None)

    def fresh_network(self) -> nn.Module:
        """A copy of the network as it was before `attach`."""
        network = build(self.plan)
        move_network(network, self.before)
        network.load_state_dict(self.original)
        return network

    def check_file(self, path: Path, *, task: str, wanted: Tensor) -> None:
        """A saved task, loaded onto a fresh copy of the network, must give the same logits."""
        network = self.fresh_network()
        adapter = piggyback.attach(network, method=piggyback.Feature(), **self.said)
        move_network(network, self.moves)
        head = self.head_to_fill() if self.heads[task] == "two layers" else None
        adapter.load(path, head=head)
        found = outputs(network, inputs(self.plan, seed=0, dtype=self.dtype()))
        if not self.alike(found, wanted):
            raise Broken(f"task {task!r} saved and loaded has other logits, by {(found - wanted).abs().max()}")

    def finish(self) -> None:
        """What must hold of every task and of the backbone at the end."""
        adapter = self.adapter
        self.restore()
        for number, task in enumerate(list(adapter.tasks)):
            self.ask(lambda task=task: adapter.switch(task), what="Switch")
            self.check(what=f"switch to {task!r} at the end")
            path = self.folder / f"end{number}.safetensors"
            fault = self.ask(lambda path=path, task=task: adapter.save(path, task=task), what="Save", compares=True)
            if not isinstance(fault, PiggybackError) and not self.drifted and not self.untied:
                self.check_file(path, task=task, wanted=self.told[task])
        self.ask(adapter.base, what="Base")
        self.check(what="base at the end")
        network = self.fresh_network()
        move_network(network, self.moves)
        if self.drifted or self.untied:
            return
        found = self.told[None]
        wanted = outputs(network, inputs(self.plan, seed=0, dtype=self.dtype()))
        if not self.moves and not self.alike(found, wanted):
            raise Broken(f"the backbone shown has other logits, by {(found - wanted).abs().max()}")


# -- heads ----------------------------------------------------------------------------------------------


def fresh_head(kind: str, *, seed: int) -> nn.Module | None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return {
            "none": lambda: None,
            "linear": lambda: nn.Linear(WIDE, WIDE),
            "linear without bias": lambda: nn.Linear(WIDE, WIDE, bias=False),
            "two layers": lambda: nn.Sequential(nn.Linear(WIDE, 5), nn.BatchNorm1d(5), nn.Linear(5, WIDE)),
        }[kind]()


def fresh_heads(slots: tuple[str, ...], kind: str, *, seed: int) -> Any:
    """Heads as `add_task` and `load` want them: none, a module, or one for each slot."""
    if len(slots) < 2 or kind == "none":
        return fresh_head(kind, seed=seed)
    return {slot: fresh_head(kind, seed=seed + number) for number, slot in enumerate(slots)}


def say_slots(slots: tuple[str, ...]) -> Any:
    """The slots as `attach` wants them: none, a name, or several."""
    return slots if len(slots) > 1 else next(iter(slots), None)
