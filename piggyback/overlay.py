"""Tasks laid over one frozen network, which shows one of them at a time.

The network keeps its own classes and its own leaf parameters; nothing is wrapped and no state-dict key changes.  What
the parameters *hold* is the effective weight of the current task, W_eff = f(W, theta); W and theta live here, outside
autograd.  ``docs/decisions.md`` says why.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from piggyback.masks.shelf import Shelf
from piggyback.network import task_state
from piggyback.network.added_modules import hide_modules, show_modules
from piggyback.network.anatomy import (
    Anatomy,
    Exclude,
    dissect,
    fingerprint,
    keeps_statistics,
    persistent_tensors,
    refuse_shared_memory,
    unwrap,
)
from piggyback.network.exchange import are_alike, exchange_weights
from piggyback.network.following import follow, is_elsewhere
from piggyback.network.heads import HeadGiven, by_slot, join_heads, refuse_other_heads, take_heads
from piggyback.network.showing import Shown, shows_weight
from piggyback.network.task_state import TaskState
from piggyback.network.view import (
    FLAGS,
    Flags,
    View,
    asking_for_none,
    frozen_by_user,
    kept_if_failing,
    refuse_if_shown,
)
from piggyback.network.wrapping import find_rebuilt, refuse_held, refuse_rebuilt, refuse_sharded, refuse_wrapped
from piggyback.numerics.memory import return_memory
from piggyback.numerics.precision import WideNorms, put_head
from piggyback.shell.errors import BadInput, NetworkChanged, NotTrainable, UnknownName


class Overlay:
    """The frozen weights of a network, the state of each task, and what the network shows.

    A new one has read the network and changed nothing of it; `base` takes it over.

    The tensors kept here are the truth, and the network's parameters a view of them.  Only this class and the current
    task's optimizer write into the network; its last section looks after what everybody else does to it.  Free to all
    are the head, what a task trains in place, and modules that it puts behind layers.

    Attributes:
        network: shows the current task; never a compiled wrapper, which goes on showing what the network in it shows.
        anatomy: the names of its parts.
        head_slots: where a task's head goes, or its heads; empty when there is no such place.
        frozen: parameters and buffers outside the heads, by name.
        fingerprint: their digest, as payload files carry it.
        base_head: the backbone's own head (of several slots a `piggyback.network.heads.Heads`).
        tasks: the states, by name; that of the current task may be behind the network (see `task`).
        current: the name of the task that the network shows; None for the backbone itself.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        head: str | Sequence[str] | None,
        exclude: Exclude | Sequence[Exclude] = (),
    ) -> None:
        self.network = network = unwrap(network)
        self.user_frozen = frozen_by_user(network)
        self._dissect = partial(dissect, head=head, exclude=exclude, frozen=self.user_frozen)
        self._freeze()
        refuse_if_shown(network)
        self.head_slots = tuple(self.anatomy.slots)
        self.base_head = join_heads({slot: unwrap(network.get_submodule(slot)) for slot in self.head_slots})
        self.base_trunk_type: torch.dtype | None = None  # as `TaskState.trunk_type`, for the backbone's own head
        self.wide_norms = WideNorms()
        self.tasks: dict[str, TaskState] = {}
        self.current: str | None = None
        self.shown = Shown()
        self.view = View(network)

    @property
    def head_slot(self) -> str | None:
        """The one head slot; None when there is none.

        Raises:
            BadInput: there are several.
        """
        if len(self.head_slots) > 1:
            raise BadInput(f"the network has the head slots {', '.join(self.head_slots)}: ask for head_slots")
        return self.head_slots[0] if self.head_slots else None

    @property
    def reference_name(self) -> str:
        """The part of the backbone on whose device, and in whose data type, tasks get their modules and heads."""
        anatomy = self.anatomy
        names = anatomy.weights or anatomy.maskable or anatomy.rest or anatomy.norm  # which may be float32 for a while
        return next((name for name in names if self.frozen[name].is_floating_point()), names[0])

    def _freeze(self) -> None:
        """Take what the network holds for the backbone's weights."""
        self.anatomy: Anatomy = self._dissect(self.network)  # load_state_dict(assign=True) unties tied weights
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
        refuse_held(self.network)
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
        if name != self.current:
            refuse_held(self.network)
            if self._exchange(name, state):
                return
        self.look()
        if name != self.current:
            self._stash()
        with self._all_or_nothing():
            self.current = name
            self._show(state)

    @torch.no_grad()
    def _exchange(self, name: str, state: TaskState) -> bool:
        """Show a finished task in the place of another, comparing its weights and writing them at once.

        Returns:
            False where that cannot be, or where something else has written into the network; nothing has changed then.

        Raises:
            NetworkChanged: the network has other parts than it had.
        """
        before = None if self.current is None else self.tasks[self.current]
        places, others = self.view.places, self._watched() - state.kept.keys()
        if before is None or not are_alike(before, state) or self.view.touched(places):
            return False
        if any(is_elsewhere(places[weight].tensor, self.frozen[weight]) for weight in state.kept):
            return False
        if not all(self._is_shown(other, before) for other in others):
            return False
        self._refuse_other_parts()
        with self._all_or_nothing():
            if not exchange_weights(places, self.frozen, before=before, after=state):
                return False
            for part, tensor in state.own.items():
                places[part].tensor.copy_(tensor)
            self.current = name
            self._put_heads(state, like=places[self.reference_name].tensor)
            self._set_gradients(state)
            self.view.remember(name)
            self.shown = Shown.of(state)
            self._set_modes(self.network.training)  # those of its head
        return True

    def remove(self, name: str) -> None:
        """Forget a task; where the network shows it, what it shows is given up and the backbone is shown."""
        if name not in self.tasks:
            raise UnknownName(name, known=self.tasks, kind="task")
        if name == self.current:
            refuse_held(self.network)
            self.current = None
            self._show(None)
        del self.tasks[name]
        return_memory()

    @torch.inference_mode(False)
    def base(self) -> None:
        """Let the network show the backbone itself, with its own head.

        Raises:
            NetworkChanged: something else has written into the network.
        """
        self.look()
        if self.current is not None:
            refuse_held(self.network)
            self._stash()
        with self._all_or_nothing():
            self.current = None
            self._show(None)

    @torch.inference_mode(False)
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
        self.view.put_back(self._watched())
        self._stash()
        self._show(None if self.current is None else self.tasks[self.current])

    def take_heads(self, head: HeadGiven | None, *, task: str) -> nn.Module | None:
        """What is given as a task's head, as one module, once it fits the slots and belongs to nobody else.

        Raises:
            BadInput: it does not, or it does.
        """
        taken = (self.base_head, *(state.head for state in self.tasks.values()))
        return take_heads(
            head, slots=self.head_slots, anatomy=self.anatomy, network=self.network, taken=taken, task=task
        )

    def _stash(self) -> None:
        """Bring what the current task trains in place from the network into its state."""
        own = self.tasks[self.current].own if self.current is not None else {}
        if isinstance(own, Shelf):  # nothing of a finished task moves
            return
        tensors = persistent_tensors(self.network) if own else {}
        for name in own:
            own[name] = tensors[name].detach().clone()

    @torch.no_grad()
    def _show(self, state: TaskState | None) -> None:
        """Write a task, or the backbone, into the network."""
        hide_modules(self.network)
        self._widen_norms(state)
        tensors = persistent_tensors(self.network)
        follow(tensors, frozen=self.frozen, tasks=self.tasks.values())
        own = state.own if state is not None else {}
        adapted = {*state.trained, *state.kept} if state is not None else set[str]()
        for name in self.anatomy.backbone:
            if state is not None and name in adapted:
                state.write(name, tensors[name], self.frozen[name])
            else:
                tensors[name].copy_(own.get(name, self.frozen[name]))
        modules = state.modules if state is not None else {}
        reference = tensors[self.reference_name]
        show_modules(self.network, modules, like=reference)
        self._put_heads(state, like=reference)
        self._set_gradients(state)
        self.view.remember(self.current)
        self.shown = Shown.of(state)
        self._set_modes(self.network.training)  # which norm layers stay in evaluation mode is the task's choice

    def _put_heads(self, state: TaskState | None, *, like: Tensor) -> None:
        """Put a task's heads, or the backbone's, into their slots."""
        known = self.base_trunk_type if state is None else state.trunk_type
        for slot, module in by_slot(self._head(), self.head_slots).items():
            for name in self.anatomy.slots[slot]:
                put_head(self.network, name, module, like=like, known=known)
        if state is None:
            self.base_trunk_type = like.dtype
        else:
            state.trunk_type = like.dtype

    def _set_gradients(self, state: TaskState | None) -> None:
        """Let the parameters ask for gradients that a task trains, and no others."""
        tensors = persistent_tensors(self.network)
        modules = state.modules.values() if state is not None else ()
        trained = {id(parameter) for module in modules for parameter in module.parameters()}
        if state is not None:
            trained |= {id(tensors[name]) for name in (*state.own, *state.trained, *state.kept)}
        if state is not None and state.head is not None:
            trained |= {id(p) for name, p in state.head.named_parameters() if name not in state.held}
        for parameter in self.network.parameters():
            parameter.requires_grad_(id(parameter) in trained and parameter.is_floating_point())
            parameter.grad = None
        FLAGS[self.network] = Flags(found=self.user_frozen, left=asking_for_none(self.network))

    def _widen_norms(self, state: TaskState | None) -> None:
        """Have norm layers in float32 where the task has running statistics of its own, and nowhere else."""
        own = {name.rpartition(".")[0] for name in state.own} if state is not None else set[str]()
        layers = (name for name in self.anatomy.norm_modules if name in own)
        wanted = [name for name in layers if keeps_statistics(self.network.get_submodule(name))]
        trunk = persistent_tensors(self.network)[self.reference_name].dtype
        self.wide_norms.set(self.network, wanted, trunk=trunk)

    # -- modes ------------------------------------------------------------------------------------------

    @torch.no_grad()
    def train(self, mode: bool = True) -> None:
        """Like ``network.train()``, but fixed norm layers stay in evaluation mode.

        Running statistics of fixed norm layers are put back, should a pass after ``network.train()`` have
        moved them.  Norm layers of a finished task are fixed too, as it has them.
        """
        self._set_modes(mode)
        if self._fixed_norm_modules():
            tensors = persistent_tensors(self.network)
            own = self.tasks[self.current].own if self.current is not None else {}
            for name in self.anatomy.norm:
                if name not in own:
                    tensors[name].copy_(self.frozen[name])
                elif isinstance(own, Shelf):  # a finished task has them as they are
                    tensors[name].copy_(own[name])
            self.view.accept(self.anatomy.norm)

    def _set_modes(self, mode: bool) -> None:
        self.network.train(mode)
        for name in self._fixed_norm_modules():
            self.network.get_submodule(name).eval()

    def eval(self) -> None:
        """Like ``network.eval()``."""
        self.train(False)

    def _fixed_norm_modules(self) -> tuple[str, ...]:
        """Norm layers that are the backbone's, statistics included, in what the network shows."""
        if self.current is None or self.tasks[self.current].norm_is_fixed:
            return self.anatomy.norm_modules
        return self.anatomy.left_norm_modules

    # -- state dicts ------------------------------------------------------------------------------------

    def base_state_dict(self) -> dict[str, Tensor]:
        """The frozen weights under the plain network's names, with the backbone's own head.

        ``network.state_dict()`` holds the effective weights of the current task instead.
        """
        tensors = persistent_tensors(self.network)
        names = {id(tensor): name for name, tensor in tensors.items() if name in self.frozen}
        found = {  # a weight that layers share stands there once for each of them
            name: self.frozen[names[id(tensor)]].clone() for name, tensor in tensors.items() if id(tensor) in names
        }
        for slot, head in by_slot(self.base_head, self.head_slots).items():
            for key, tensor in head.state_dict(keep_vars=True).items():
                shared = names.get(id(tensor))  # a tensor of the trunk, which may show a task just now
                values = tensor.detach() if shared is None else self.frozen[shared]
                found |= {f"{name}.{key}": values.clone() for name in self.anatomy.slots[slot]}
        return found

    def training_state(self, name: str) -> dict[str, dict[str, Tensor]]:
        """Everything a checkpoint needs of a task beside the optimizer's state (which has the real masks)."""
        return task_state.training_state(self.task(name))

    def load_training_state(self, name: str, saved: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Put back what `training_state` gave; load the optimizer's state afterwards.

        Raises:
            NotTrainable: the task is finished, or was loaded without its real masks.
            BadInput: the task has other parts for itself.
        """
        state = self.task(name)
        task_state.load_training_state(state, saved, name=name)
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
            self._refuse_other_parts()
            self._judge(touched)
        self.view.refuse_moved_caches()
        self.view.refuse_replaced(stepped)
        trained = self.tasks[cast(str, self.current)].trained
        if any(is_elsewhere(stepped[name], self.frozen[name]) for name in trained if name in stepped):
            self.follow()

    @torch.inference_mode(False)  # a backbone taken in inference mode could never be trained on
    def look(self) -> None:
        """Find out whether something else has written into the network since the adapter last did.

        Weights that were loaded before the first task are the backbone's from then on.

        Raises:
            NetworkChanged: something else has, and tasks would be lost or wrong.
        """
        if not self.tasks and self._find_rebuilt():
            refuse_sharded(self.network)
            refuse_wrapped(self.network)
            self._freeze()
            self._show(None)
            return
        self._refuse_other_parts()
        self._judge(sorted(self._watched()))

    def _refuse_other_parts(self) -> None:
        """Raise NetworkChanged if the network has other parameters, or another head, than the adapter left it."""
        refuse_sharded(self.network)
        refuse_rebuilt(self.network, self._find_rebuilt())
        refuse_other_heads(self.network, by_slot(self._head(), self.head_slots), slots=self.anatomy.slots)

    def _find_rebuilt(self) -> list[str]:
        return find_rebuilt(self.network, backbone=self.anatomy.backbone, heads=self.anatomy.head_names)

    def _head(self) -> nn.Module | None:
        """The head that the network should have in its slot."""
        return self.base_head if self.current is None else self.tasks[self.current].head

    def _watched(self) -> set[str]:
        """Names of the tensors in the network that the adapter alone may write to.

        What a task in training has for itself is not among them: there the network is the truth.
        """
        own = self.tasks[self.current].own if self.current is not None else {}
        return set(self.frozen) if isinstance(own, Shelf) else self.frozen.keys() - own.keys()

    @torch.no_grad()
    def _judge(self, names: Sequence[str]) -> None:
        """Compare tensors of the network with what they should hold, and accept those that do."""
        state = None if self.current is None else self.tasks[self.current]
        changed = [name for name in names if not self._is_shown(name, state)]
        if changed and not self.tasks:
            self._freeze()
            self._show(None)
        elif changed:
            raise NetworkChanged(self.view.explain(changed))
        else:
            self.view.accept(names)

    def _is_shown(self, name: str, state: TaskState | None) -> bool:
        """Whether a tensor of the network has the value that a task, or the backbone, gives it."""
        expected = self.frozen[name] if state is None else state.own.get(name, self.frozen[name])
        return shows_weight(self.view.places[name], expected, state=state, shown=self.shown)

    def note_step(self, *, compiled: bool) -> None:
        """Take what the optimizer's step wrote, perhaps by compiled code, for the adapter's own."""
        state = self.tasks[cast(str, self.current)]
        self.view.accept(state.trained)
        self.shown = Shown.of(state, rounded=self.shown.rounded or compiled)

    def check_modes(self) -> None:
        """Refuse to train with fixed norm layers in training mode: their statistics would move."""
        for name in self._fixed_norm_modules():
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
        follow(persistent_tensors(self.network), frozen=self.frozen, tasks=self.tasks.values())
