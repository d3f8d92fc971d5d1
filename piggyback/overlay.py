"""Tasks laid over one frozen network, which shows one of them at a time.

The network keeps its own classes and its own leaf parameters; nothing is wrapped and no state-dict key changes.  What
the parameters *hold* is the effective weight of the current task, W_eff = f(W, theta); W and theta live here, outside
autograd.  ``docs/decisions.md`` says why.
"""

import gc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn

from piggyback.added_modules import hide_modules, show_modules
from piggyback.anatomy import (
    Anatomy,
    dissect,
    fingerprint,
    keeps_statistics,
    like,
    persistent_tensors,
    refuse_shared_memory,
)
from piggyback.numerics.precision import WideNorms, put_head, wide
from piggyback.shell.errors import BadInput, NetworkChanged, NotTrainable, UnknownName
from piggyback.task_state import TaskState
from piggyback.view import View, count_writes, holds, kept_if_failing, refuse_if_shown


class Overlay:
    """The frozen weights of a network, the state of each task, and what the network shows.

    The tensors kept here are the truth, and the network's parameters a view of them.  Only this class and the current
    task's optimizer write into the network; its last section looks after what everybody else does to it.  Free to all
    are the head, what a task trains in place, and modules that it puts behind layers.

    Attributes:
        network: shows the current task.
        anatomy: the names of its parts.
        head_slot: where a task's head goes; None when there is no such place.
        frozen: parameters and buffers outside the head, by name.
        fingerprint: their digest, as payload files carry it.
        base_head: the backbone's own head.
        tasks: the states, by name; that of the current task may be behind the network (see `task`).
        current: the name of the task that the network shows; None for the backbone itself.
    """

    def __init__(self, network: nn.Module, *, head: str | None) -> None:
        self.network = network
        self.head_slot = head
        self.anatomy: Anatomy = dissect(network, head=head)
        refuse_if_shown(network)
        self._freeze()
        self.base_head = network.get_submodule(head) if head is not None else None
        self.base_trunk_type: torch.dtype | None = None  # as `TaskState.trunk_type`, for the backbone's own head
        self.wide_norms = WideNorms()
        self.tasks: dict[str, TaskState] = {}
        self.current: str | None = None
        self.rounded = False  # compiled updates have written what the network shows
        self.written: dict[str, int] = {}  # by weight, how often its real mask had been written to by then
        self.view = View(network)
        self._show(None)

    def _freeze(self) -> None:
        """Take what the network holds for the backbone's weights."""
        tensors = persistent_tensors(self.network)
        refuse_shared_memory(tensors)
        # clone() keeps strides, so W, theta and parameter can be walked as flat memory together
        self.frozen: dict[str, Tensor] = {name: tensors[name].detach().clone() for name in self.anatomy.backbone}
        self.fingerprint = fingerprint(self.frozen)

    # -- tasks ------------------------------------------------------------------------------------------

    def task(self, name: str) -> TaskState:
        """The state of a task, up to date also when it is the current one.

        Raises:
            UnknownName: there is no such task.
            BadInput: the name is no text.
        """
        if not isinstance(name, str):
            raise BadInput(f"a task is asked for by its name, a text, not by a {type(name).__name__}")
        if name not in self.tasks:
            raise UnknownName(name, known=self.tasks, kind="task")
        if name == self.current:
            self._stash()
        return self.tasks[name]

    def put(self, name: str, state: TaskState) -> None:
        """Take in a complete task under an unused name and switch to it; if that fails, all is as it was."""
        refuse_if_wrapped(self.network)
        with self._all_or_nothing():
            self.tasks[name] = state
            self.switch(name)

    @contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        """Put tasks and network back as they were if the block raises anything, an interrupt included."""
        current, tasks = self.current, dict(self.tasks)
        with kept_if_failing(self.network):
            try:
                yield
            except BaseException:
                self.tasks.clear()
                self.tasks.update(tasks)
                self.current = current
                self._show(None if current is None else tasks[current])
                raise

    @torch.inference_mode(False)
    def switch(self, name: str) -> None:
        """Let the network show a task: weights, norm layers and head, all at once.

        The weights are rebuilt from the stored ones, never divided out, so logits after A, B, A have the
        same bits.  Masks are written in place: compiled graphs stay valid (but not under inductor's
        ``freezing``, which bakes weights in).

        Raises:
            UnknownName: there is no such task.
            NetworkChanged: something else has written into the network.
        """
        state = self.task(name)
        self.look()
        if name != self.current:
            refuse_if_wrapped(self.network)
            self._stash()
        with self._all_or_nothing():
            self.current = name
            self._show(state)

    @torch.inference_mode(False)
    def base(self) -> None:
        """Let the network show the backbone itself, with its own head.

        Raises:
            NetworkChanged: something else has written into the network.
        """
        self.look()
        if self.current is not None:
            refuse_if_wrapped(self.network)
            self._stash()
        with self._all_or_nothing():
            self.current = None
            self._show(None)

    def restore(self) -> None:
        """Let the network show once more what it showed, over whatever others have written into it.

        Raises:
            NetworkChanged: parameters are gone or have another shape, so that there is nothing to write into.
        """
        tensors = persistent_tensors(self.network)
        for name, frozen in self.frozen.items():
            if name not in tensors or tensors[name].shape != frozen.shape:
                raise NetworkChanged(
                    f"the network has no tensor {name!r} of shape {tuple(frozen.shape)} any more: build it again, "
                    "attach to the new one and load the payloads there"
                )
        self._stash()
        self._show(None if self.current is None else self.tasks[self.current])

    def _stash(self) -> None:
        """Bring what the current task trains in place from the network into its state."""
        if self.current is None:
            return
        own = self.tasks[self.current].own
        tensors = persistent_tensors(self.network) if own else {}
        for name in own:
            own[name] = tensors[name].detach().clone()

    @torch.no_grad()
    def _show(self, state: TaskState | None) -> None:
        """Write a task, or the backbone, into the network."""
        self.follow()
        hide_modules(self.network)
        self._widen_norms(state)
        tensors = persistent_tensors(self.network)
        own = state.own if state is not None else {}
        adapted = {*state.trained, *state.kept} if state is not None else set[str]()
        for name in self.anatomy.backbone:
            source = own.get(name, self.frozen[name])
            if state is not None and name in adapted:
                source = state.method.apply(wide(self.frozen[name]), state.kept_of(name))
            tensors[name].copy_(source)
        modules = state.modules if state is not None else {}
        show_modules(self.network, modules, like=tensors[self.anatomy.weights[0]])
        added = {id(parameter) for module in modules.values() for parameter in module.parameters()}
        for name, parameter in self.network.named_parameters():
            wanted = name in own or name in adapted or id(parameter) in added
            parameter.requires_grad_(wanted and parameter.is_floating_point())
            parameter.grad = None
        if self.head_slot is not None:
            head = cast(nn.Module, self._head())
            reference = tensors[self.anatomy.weights[0]]
            known = self.base_trunk_type if state is None else state.trunk_type
            put_head(self.network, self.head_slot, head, like=reference, known=known)
            if state is None:
                self.base_trunk_type = reference.dtype
            else:
                state.trunk_type = reference.dtype
            for parameter in head.parameters():
                parameter.requires_grad_(state is not None)
        self.rounded = False
        self.view.remember(self.current)
        self.written = {name: writes_to(state, name) for name in state.trained} if state is not None else {}
        self.train(self.network.training)  # which norm layers stay in evaluation mode is the task's choice

    def _widen_norms(self, state: TaskState | None) -> None:
        """Have norm layers in float32 where the task has running statistics of its own, and nowhere else."""
        own = {name.rpartition(".")[0] for name in state.own} if state is not None else set[str]()
        layers = (name for name in self.anatomy.norm_modules if name in own)
        wanted = [name for name in layers if keeps_statistics(self.network.get_submodule(name))]
        trunk = self.network.get_parameter(self.anatomy.weights[0]).dtype
        self.wide_norms.set(self.network, wanted, trunk=trunk)

    # -- modes ------------------------------------------------------------------------------------------

    @torch.no_grad()
    def train(self, mode: bool = True) -> None:
        """Like ``network.train()``, but fixed norm layers stay in evaluation mode.

        Running statistics of fixed norm layers are put back, should a pass after ``network.train()`` have
        moved them.
        """
        self.network.train(mode)
        if self._norm_is_fixed():
            tensors = persistent_tensors(self.network)
            for name in self.anatomy.norm:
                tensors[name].copy_(self.frozen[name])
            self.view.accept(self.anatomy.norm)
            for name in self.anatomy.norm_modules:
                self.network.get_submodule(name).eval()

    def eval(self) -> None:
        """Like ``network.eval()``."""
        self.train(False)

    def _norm_is_fixed(self) -> bool:
        return self.current is None or self.tasks[self.current].norm_is_fixed

    # -- state dicts ------------------------------------------------------------------------------------

    def base_state_dict(self) -> dict[str, Tensor]:
        """The frozen weights under the network's names, with the backbone's own head.

        ``network.state_dict()`` holds the effective weights of the current task instead.
        """
        names = {id(tensor): name for name, tensor in persistent_tensors(self.network).items() if name in self.frozen}
        found = {  # a weight that layers share stands there once for each of them
            key: self.frozen[names[id(tensor)]].clone()
            for key, tensor in self.network.state_dict(keep_vars=True).items()
            if id(tensor) in names
        }
        if self.base_head is not None:
            found.update(
                {f"{self.head_slot}.{name}": t.detach().clone() for name, t in self.base_head.state_dict().items()}
            )
        return found

    def training_state(self, name: str) -> dict[str, dict[str, Tensor]]:
        """Everything a checkpoint needs of a task beside the optimizer's state (which has the real masks)."""
        state = self.task(name)
        head = state.head.state_dict() if state.head is not None else {}
        modules = {
            f"{layer}/{part}": tensor
            for layer, module in state.modules.items()
            for part, tensor in module.state_dict().items()
        }
        return {"own": dict(state.own), "head": dict(head), "modules": modules}

    def load_training_state(self, name: str, saved: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Put back what `training_state` gave; load the optimizer's state afterwards."""
        state = self.task(name)
        if other := saved["own"].keys() ^ state.own.keys():
            raise BadInput(
                f"the training state and task {name!r} do not both have {min(other)!r} for themselves: add the task as "
                "before, and the same groups to its optimizer"
            )
        for part, tensor in saved["own"].items():
            state.own[part].copy_(tensor)
        if state.head is not None:
            state.head.load_state_dict(dict(saved["head"]))
        for layer, module in state.modules.items():
            parts = {key: saved["modules"][f"{layer}/{key}"] for key in module.state_dict()}
            module.load_state_dict(parts)
        if name == self.current:
            self._show(state)

    # -- what others do to the network ------------------------------------------------------------------

    def check_before_step(self, stepped: Mapping[str, Tensor], *, number: int) -> None:
        """Look at what has become of the network since the last step, before an optimizer writes into it.

        Args:
            stepped: the network's parameters that the optimizer has, by name.
            number: of the step, from 1.  What torch's counters do not tell is looked for in steps 1, 2, 4, 8 and so on,
                which costs nothing in the long run and finds a second optimizer before much is trained.

        Raises:
            NotTrainable: a fixed norm layer is in training mode.
            NetworkChanged: something else has written into the network.
        """
        self.check_modes()
        if self.wide_norms.are_narrow():
            self._widen_norms(self.tasks[cast(str, self.current)])
        if number & (number - 1) == 0:
            self.look()
        elif touched := self.view.touched(self._watched()):
            self._judge(touched)
        self.view.refuse_moved_caches()
        for name, parameter in stepped.items():
            place = self.view.places.get(name)
            if place is None or place.now is not parameter:
                raise NetworkChanged(
                    f"{name!r} is another tensor than when the optimizer was made, which would train one that the "
                    "network does not use: fill the head's slot by add_task(head=...) alone, or make a new optimizer"
                )
        trained = self.tasks[cast(str, self.current)].trained
        if any(is_elsewhere(stepped[name], self.frozen[name]) for name in trained if name in stepped):
            self.follow()

    def look(self) -> None:
        """Find out whether something else has written into the network since the adapter last did.

        Weights that were loaded before the first task are the backbone's from then on.

        Raises:
            NetworkChanged: something else has, and tasks would be lost or wrong.
        """
        self._judge(sorted(self._watched()))
        if self.head_slot is not None and self.network.get_submodule(self.head_slot) is not self._head():
            raise NetworkChanged(
                f"the slot {self.head_slot!r} has another head than the adapter put there, which no payload would "
                "hold: give each task its head by add_task(head=...). adapter.restore() puts back the one of before"
            )

    def _head(self) -> nn.Module | None:
        """The head that the network should have in its slot."""
        return self.base_head if self.current is None else self.tasks[self.current].head

    def _watched(self) -> set[str]:
        """Names of the tensors in the network that the adapter alone may write to."""
        own = self.tasks[self.current].own if self.current is not None else {}
        return self.frozen.keys() - own.keys()

    @torch.no_grad()
    def _judge(self, names: Sequence[str]) -> None:
        """Compare tensors of the network with what they should hold, and accept those that do."""
        state = None if self.current is None else self.tasks[self.current]
        changed = [name for name in names if not self._holds(name, state)]
        if changed and not self.tasks:
            self._freeze()
            self._show(None)
        elif changed:
            raise NetworkChanged(
                f"{self.view.explain(changed[0])}{f' ({len(changed)} tensors in all)' if len(changed) > 1 else ''}. "
                "The network only shows what the adapter keeps, so the change would be lost: train with "
                "adapter.optimizer(), load weights before the first task, and keep buffers from moving. "
                "adapter.restore() puts back what the network showed"
            )
        else:
            self.view.accept(names)

    def _holds(self, name: str, state: TaskState | None) -> bool:
        """Whether a tensor of the network has the value that the current state gives it."""
        place = self.view.places[name]
        tensor = place.now
        if tensor is None or (isinstance(tensor, nn.Parameter) and tensor is not place.tensor):
            return False  # an optimizer would go on with the one that was there
        frozen = self.frozen[name].to(tensor.device)
        if state is None or not (name in state.trained or name in state.kept):
            return holds(tensor, frozen, rounded=False)
        if writes_to(state, name) != self.written.get(name, 0) and not place.is_written:
            return True  # it is the real mask that has been written to by hand, and the network is yet to show it
        kept = {key: part.to(tensor.device) for key, part in state.kept_of(name).items()}
        return holds(tensor, state.method.apply(wide(frozen), kept), rounded=self.rounded)

    def note_step(self, *, compiled: bool) -> None:
        """Take what the optimizer's step wrote, perhaps by compiled code, for the adapter's own."""
        state = self.tasks[cast(str, self.current)]
        self.rounded |= compiled
        self.view.accept(state.trained)
        self.written = {name: writes_to(state, name) for name in state.trained}

    def check_modes(self) -> None:
        """Refuse to train with fixed norm layers in training mode: their statistics would move."""
        if not self._norm_is_fixed():
            return
        for name in self.anatomy.norm_modules:
            module = self.network.get_submodule(name)
            if module.training and keeps_statistics(module):
                raise NotTrainable(
                    f"norm layer {name!r} is fixed but in training mode: call adapter.train(), not network.train()"
                )

    @torch.no_grad()
    def follow(self) -> None:
        """Carry frozen weights and real masks to where ``network.to()`` has moved the parameters.

        Device and memory layout are followed.  The data type is not: frozen weights and real masks keep
        theirs, so that a network in half precision still comes from the exact backbone.
        """
        tensors = persistent_tensors(self.network)
        for name, frozen in self.frozen.items():
            target = tensors[name]
            if not is_elsewhere(target, frozen):
                continue
            self.frozen[name] = like(frozen, target)
            for state in self.tasks.values():
                for parts in (state.trained.get(name, {}), state.kept.get(name, {})):
                    for tensor in parts.values():
                        # .data: optimizers and checkpoints hold the tensor itself, which must stay the same object
                        if tensor.shape == target.shape:
                            tensor.data = like(tensor, target)
                        else:
                            tensor.data = tensor.data.to(target.device)
        for state in self.tasks.values():
            for name, tensor in state.own.items():
                state.own[name] = tensor.to(tensors[name].device)


def writes_to(state: TaskState, name: str) -> int:
    """How often the tensors in training of a weight have been written to, as torch counts it."""
    return sum(count_writes(tensor) or 0 for tensor in state.trained.get(name, {}).values())


def is_elsewhere(tensor: Tensor, other: Tensor) -> bool:
    """Whether two tensors differ in device or memory layout."""
    return tensor.device != other.device or tensor.stride() != other.stride()


def refuse_if_wrapped(network: nn.Module) -> None:
    """Tasks bring parameters of their own, which a DistributedDataParallel made earlier would never synchronise.

    Raises:
        BadInput: some DistributedDataParallel holds the network.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return
    wrapper = nn.parallel.DistributedDataParallel
    for holder in gc.get_objects():  # torch keeps no trace of the wrapper on the module it wraps
        # type(), not isinstance(): the latter asks proxies for their __class__, and some warn when touched
        if issubclass(type(holder), wrapper) and holder.module is network:
            raise BadInput("the network is wrapped in DistributedDataParallel: add and switch tasks before wrapping it")
