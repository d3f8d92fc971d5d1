"""The public calls of which hypothesis draws sequences, and what must be so of each."""

import copy
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from drawn_networks import WIDE, Short, build, inputs
from drawn_session import (
    HEAD,
    Broken,
    Session,
    fresh_head,
    fresh_heads,
    move_network,
    outputs,
    same,
    say_slots,
)
from torch import nn
from torch.nn.utils import parametrize

import piggyback
from piggyback import METHODS, Adapter
from piggyback.shell.errors import NotTrainable, PiggybackError


class Call(Short):
    """A public call, or a few that belong together."""

    def run(self, session: Session) -> None:
        raise NotImplementedError


@dataclass(frozen=True, repr=False)
class Attach(Call):
    """The first call of all; `method` and `norm` are the adapter's own, `exclude` what is left out.

    Where it is refused, another is made that leaves out what computes its weights, and one with masks.
    """

    method: str
    norm: str = "fixed"
    exclude: str = "nothing"

    def run(self, session: Session) -> None:
        made_up = tuple(name for name, module in session.network.named_modules() if is_made_up(module))
        if self.exclude == "nothing":
            tries = [{}, {"exclude": made_up}, {"exclude": made_up, "method": METHODS["piggyback"]}]
        else:
            left = {"types": (nn.Linear, nn.Conv2d), "nobody": ("nobody",), "a name": (session.first_name(),)}
            tries = [{"exclude": (*left[self.exclude], *made_up)}]
        for options in tries:
            said = {"method": METHODS[self.method], "norm": self.norm, "head": say_slots(session.slots), **options}
            found = session.ask(lambda said=said: piggyback.attach(session.network, **said), what="Attach")
            if isinstance(found, Adapter):
                session.take(found, said={key: said[key] for key in ("head", "exclude") if key in said})
                return


def is_made_up(module: nn.Module) -> bool:
    """Whether a layer computes its weight before each forward pass."""
    return parametrize.is_parametrized(module) or bool(module._forward_pre_hooks)


@dataclass(frozen=True, repr=False)
class AddTask(Call):
    """A fresh task, well said or not."""

    method: str | None = None
    norm: str | None = None
    head: str = "linear"
    after: int | None = None
    name: str = "task"
    taken: bool = False
    begin: str = "fitting"

    def run(self, session: Session) -> None:
        adapter = session.adapter
        name = self.name
        if not self.taken:
            while name in adapter.tasks:
                name += "+"
        method = METHODS[self.method] if self.method is not None else adapter.method
        kind = self.head if session.slots else "none"
        options: dict[str, Any] = {"head": fresh_heads(session.slots, kind, seed=len(adapter.tasks))}
        if self.method is not None:
            options["method"] = method
        if self.norm is not None:
            options["norm"] = self.norm
        if self.after is not None and adapter.tasks:
            options["after"] = session.task_at(self.after)
        if (method.adapts == "anew") == (self.begin == "fitting"):
            options["begin"] = build(session.plan, seed=7).state_dict()
        elif self.begin == "of nothing":
            options["begin"] = {}
        found = session.ask(lambda: adapter.add_task(name, **options), what=f"AddTask {method.name}", compares=True)
        if not isinstance(found, PiggybackError):
            session.heads[name] = kind
            session.forget(name)


@dataclass(frozen=True, repr=False)
class Train(Call):
    """Steps on random batches, with a new optimizer or the one at hand."""

    rule: str = "adam"
    steps: int = 1
    rate: float = 1e-2
    anew: bool = True
    mode: str = "adapter"

    def run(self, session: Session) -> None:
        adapter = session.adapter
        if self.mode == "adapter":
            adapter.train()
        elif self.mode == "network":
            session.network.train()
        if self.anew or session.optimizer is None:
            rule = {"adam": piggyback.AdamRule(), "sgd": piggyback.SGDRule()}[self.rule]
            rates = {"mask_lr": self.rate, "head_lr": self.rate}
            found = session.ask(lambda: adapter.optimizer(**rates, rule=rule, update="eager"), what="Optimizer")
            if isinstance(found, PiggybackError):
                return
            session.optimizer = found
        session.forget(adapter.current)
        for _ in range(self.steps):
            session.optimizer.zero_grad()
            session.backward()
            session.write(counted=False)  # a pass in training mode moves statistics
            number = session.optimizer.steps + 1  # the library looks at values in steps 1, 2, 4, 8 and so on
            compares = number & (number - 1) == 0 or bool(session.pending & session.counted)
            drifts = session.drifts()
            learns = head_learns(session, rate=self.rate)
            if isinstance(session.ask(session.optimizer.step, what="Step", compares=compares), PiggybackError):
                return
            if drifts and not session.moves:
                raise Broken("a step went on although a buffer moves that no payload can hold")
            learns()
        masks = (
            kept["mask"]
            for kept in map(adapter.tasks[adapter.current].kept_of, adapter.anatomy.weights)
            if "mask" in kept
        )
        session.outcomes["masks moved"] += any(not mask.all() for mask in masks)


def head_learns(session: Session, *, rate: float) -> Callable[[], None]:
    """A look, after a step, whether it has trained the head that the network has."""
    if rate < 1e-2 or session.dtype() not in (torch.float32, torch.float64):
        return lambda: None
    parameters = [parameter for head in session.slotted().values() for parameter in head.parameters()]
    before = [parameter.detach().clone() for parameter in parameters]
    moving = [p.grad is not None and float(p.grad.abs().max()) > 1e-2 for p in parameters]

    def look() -> None:
        if any(
            moves and same(was, parameter) for moves, was, parameter in zip(moving, before, parameters, strict=True)
        ):
            raise Broken("a step left the head as it was, although it has gradients")

    return look


@dataclass(frozen=True, repr=False)
class Switch(Call):
    task: int

    def run(self, session: Session) -> None:
        name = session.task_at(self.task) or "nobody"
        session.ask(lambda: session.adapter.switch(name), what="Switch", compares=True)


@dataclass(frozen=True, repr=False)
class Base(Call):
    def run(self, session: Session) -> None:
        session.ask(session.adapter.base, what="Base", compares=True)


@dataclass(frozen=True, repr=False)
class Save(Call):
    task: int = 0
    to: str = "file"
    recipe: str = "plain"

    def run(self, session: Session) -> None:
        name = session.task_at(self.task) or "nobody"
        path = (
            session.folder
            / {
                "file": f"{len(session.files)}.safetensors",
                "no folder": "nowhere/file.safetensors",
                "a folder": ".",
            }[self.to]
        )
        recipe = {"plain": {"epochs": 3}, "no JSON": {"epochs": object()}, "NaN": {"epochs": float("nan")}}[self.recipe]
        found = session.ask(lambda: session.adapter.save(path, task=name, recipe=recipe), what="Save", compares=True)
        if not isinstance(found, PiggybackError):
            session.files.append((path, name, session.heads[name]))


@dataclass(frozen=True, repr=False)
class Load(Call):
    """A file saved earlier, onto the same adapter under another name; or something else."""

    file: int = 0
    what: str = "file"
    taken: bool = False

    def run(self, session: Session) -> None:
        if not session.files:
            Save(self.file).run(session)
        if not session.files:
            return
        path, name, kind = session.files[self.file % len(session.files)]
        if not self.taken:
            while name in session.adapter.tasks:
                name += " again"
        if self.what == "damaged":
            data = path.read_bytes()
            path = session.folder / "damaged"
            path.write_bytes(data[:-3] if self.file else data[:20] + b"x" + data[21:])
        elif self.what != "file":
            path = session.folder / self.what
        head = session.head_to_fill() if kind == "two layers" else None
        if self.what == "other head":
            path, head = session.files[0][0], nn.Linear(WIDE + 1, WIDE)
        found = session.ask(lambda: session.adapter.load(path, task=name, head=head), what="Load", compares=True)
        if not isinstance(found, PiggybackError):
            session.heads[name] = kind
            session.forget(name)


@dataclass(frozen=True, repr=False)
class Merged(Call):
    task: int

    def run(self, session: Session) -> None:
        adapter, name = session.adapter, session.task_at(self.task) or "nobody"
        current = adapter.current
        found = session.ask(lambda: adapter.merged(name), what="Merged", compares=True)
        if isinstance(found, PiggybackError):
            return
        if adapter.current != current:
            raise Broken(f"merged({name!r}) left the network at {adapter.current!r}, not {current!r}")
        session.ask(lambda: adapter.switch(name), what="Switch")
        x = inputs(session.plan, seed=0, dtype=session.dtype())
        wanted, merged = outputs(session.network, x), outputs(found, x)
        exact = adapter.tasks[name].method.merge == "exact"
        if exact and not session.alike(wanted, merged):
            raise Broken(f"the merged network of {name!r} has other logits, by {(wanted - merged).abs().max()}")
        if not exact and wanted.dtype in (torch.float32, torch.float64):
            torch.testing.assert_close(merged, wanted, rtol=1e-5, atol=1e-5, equal_nan=True)


@dataclass(frozen=True, repr=False)
class Copy(Call):
    """Goes on with a copy of the adapter and its network."""

    how: str

    def run(self, session: Session) -> None:
        adapter = session.adapter
        if "same memory" in repr(session.plan):  # which no copy of torch's has
            return
        try:
            pickle.dumps(session.network) if self.how == "pickle" else copy.deepcopy(session.network)
        except (RuntimeError, pickle.PicklingError):  # torch's old parametrizations, and pickles of the new ones
            return
        copied = copy.deepcopy(adapter) if self.how == "deepcopy" else pickle.loads(pickle.dumps(adapter))
        session.adapter, session.network, session.optimizer = copied, copied.network, None
        if HEAD not in session.pending:  # else a head that was put in by hand was copied with the network
            session.shown = session.slotted()
        session.copied = True
        with torch.no_grad():  # the copy must not hang on the original
            for tensor in adapter.network.state_dict().values():
                if tensor.is_floating_point() and 0 not in tensor.stride():
                    tensor.fill_(7.0)


@dataclass(frozen=True, repr=False)
class Mode(Call):
    who: str = "adapter"
    training: bool = True

    def run(self, session: Session) -> None:
        target = session.adapter if self.who == "adapter" else session.network
        target.train(self.training)


@dataclass(frozen=True, repr=False)
class Forward(Call):
    """A pass in whatever mode the network is in; in training it may move statistics of the task's own."""

    def run(self, session: Session) -> None:
        with torch.no_grad():
            session.network(session.batch()[0])
        session.write(counted=False)


@dataclass(frozen=True, repr=False)
class Resume(Call):
    """A checkpoint of the current task, taken and put back at once; or that of another task, put there."""

    other: int | None = None

    def run(self, session: Session) -> None:
        adapter, name = session.adapter, session.adapter.current
        if name is None:
            return
        source = name if self.other is None else session.task_at(self.other)
        if source != name:
            session.forget(name)
        saved = copy.deepcopy(adapter.training_state(source))
        session.ask(lambda: adapter.load_training_state(name, saved), what="Resume")
        if session.optimizer is not None and session.optimizer.task_name == name:
            state = copy.deepcopy(session.optimizer.state_dict())
            session.ask(lambda: session.optimizer.load_state_dict(state), what="Resume optimizer")


@dataclass(frozen=True, repr=False)
class RemoveTask(Call):
    task: int = 0

    def run(self, session: Session) -> None:
        name = session.task_at(self.task) or "nobody"
        found = session.ask(lambda: session.adapter.remove_task(name), what="RemoveTask")
        if isinstance(found, PiggybackError):
            return
        if name in session.adapter.tasks or session.adapter.current == name:
            raise Broken(f"the task {name!r} is still there")
        session.forget(name)
        session.finished.discard(name)


@dataclass(frozen=True, repr=False)
class FinishTask(Call):
    """The logits stay; nothing is left to train from."""

    task: int = 0

    def run(self, session: Session) -> None:
        name = session.task_at(self.task) or "nobody"
        found = session.ask(lambda: session.adapter.finish_task(name), what="FinishTask")
        if isinstance(found, PiggybackError):
            return
        session.finished.add(name)
        if session.adapter.current == name:
            refused = session.ask(session.adapter.optimizer, what="Optimizer of a finished task")
            if not isinstance(refused, NotTrainable):
                raise Broken(f"the task {name!r} is finished, but has an optimizer")


@dataclass(frozen=True, repr=False)
class Prune(Call):
    share: float

    def run(self, session: Session) -> None:
        session.forget(session.adapter.current)
        session.ask(lambda: session.adapter.prune(self.share), what="Prune")


@dataclass(frozen=True, repr=False)
class Convert(Call):
    """Another data type or memory layout for the network."""

    to: torch.dtype | torch.memory_format

    def run(self, session: Session) -> None:
        ground = session.plan.ground
        if self.to == torch.channels_last and ground != "pictures":
            return
        session.drifts()
        move_network(session.network, [self.to])
        session.cached = session.caches()
        session.moves.append(self.to)
        session.unshown = True
        session.told.clear()
        if isinstance(self.to, torch.dtype):
            session.optimizer = None  # torch's own want to be made anew then, too
        session.rounded = set(session.differences()) - session.pending
        session.pending |= session.rounded


@dataclass(frozen=True, repr=False)
class Inference(Call):
    """Another call, in torch's inference mode."""

    call: Call

    def run(self, session: Session) -> None:
        with torch.inference_mode():
            self.call.run(session)


@dataclass(frozen=True, repr=False)
class Foreign(Call):
    """Somebody else writes into the network."""

    how: str
    at: int

    def run(self, session: Session) -> None:
        network, adapter = session.network, session.adapter
        tensors = network.state_dict(keep_vars=True)
        name = list(tensors)[self.at % len(tensors)]
        if self.how == "head":
            for slot in session.slots[:1] if session.adapter.tasks else ():
                network.set_submodule(slot, fresh_head("linear", seed=11))
        elif self.how == "optimizer":
            asking = [parameter for parameter in network.parameters() if parameter.requires_grad]
            if asking:
                session.backward()
                torch.optim.SGD(asking, lr=0.1).step()
        elif self.how == "load_state_dict":
            other = build(session.plan, seed=5).state_dict()
            fitting = {key: t for key, t in other.items() if key in tensors and tensors[key].shape == t.shape}
            network.load_state_dict(fitting, strict=False)
        elif self.how == "requires_grad_":
            for parameter in network.parameters():
                if parameter.is_floating_point():
                    parameter.requires_grad_(True)
        else:
            shared = sum(one is tensors[name] for one in tensors.values()) > 1
            if self.how == "replace" and shared and not adapter.tasks:
                return  # before the first task it would be another network, of which the account knows nothing
            session.untied |= self.how == "replace" and shared  # no fresh copy of the network is untied like this
            write_tensor(network, name, how=self.how)
        session.write(counted=self.how in ("optimizer", "load_state_dict", "replace", "copy_"))
        session.follow_head()


@torch.no_grad()
def write_tensor(network: nn.Module, name: str, *, how: str) -> None:
    tensor = network.state_dict(keep_vars=True)[name]
    new = torch.ones_like(tensor.contiguous()) if tensor.dtype == torch.bool else tensor.detach() + 1
    place, _, last = name.rpartition(".")
    module = network.get_submodule(place)
    if how == "replace" and last in module._parameters:
        module._parameters[last] = nn.Parameter(new, requires_grad=tensor.requires_grad)
    elif how == "replace":
        module._buffers[last] = new
    elif how == "data":
        tensor.data = new
    elif 0 in tensor.stride() and tensor.numel() > 1:
        return  # torch writes into no such tensor
    elif how == "copy_":
        tensor.copy_(new)
    elif how == "data.copy_":
        tensor.data.copy_(new)
    elif how == "nan" and tensor.is_floating_point():
        tensor.data.fill_(float("nan"))


@dataclass(frozen=True, repr=False)
class AttachAgain(Call):
    """A second adapter on the same network, and a task of its own."""

    def run(self, session: Session) -> None:
        adapter, network = session.adapter, session.network
        own = session.slotted()
        options = {"method": piggyback.Binary(), "head": say_slots(session.slots)}
        again = session.ask(lambda: piggyback.attach(network, **options), what="AttachAgain")
        if isinstance(again, PiggybackError):
            return
        if adapter.current is not None:
            raise Broken(f"a second attach takes the weights of {adapter.current!r} for a backbone")
        again.add_task("theirs", head=fresh_heads(session.slots, "linear" if session.slots else "none", seed=9))
        for slot, head in own.items():
            network.set_submodule(slot, head)
        session.write(counted=True)
