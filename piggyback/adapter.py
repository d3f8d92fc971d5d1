"""One frozen network, many named tasks: the overlay.

The network keeps its own classes and its own leaf parameters; nothing is wrapped and no state-dict key
changes.  What the parameters *hold* is the effective weight of the current task, W_eff = f(W, theta); W and
theta live here, outside autograd.  ``docs/decisions.md`` says why.
"""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, cast

import torch
from torch import Tensor, nn

from piggyback.added_modules import fold_modules, hide_modules, layers_with_modules, show_modules
from piggyback.anatomy import Anatomy, dissect, like, persistent_tensors
from piggyback.fingerprint import fingerprint
from piggyback.methods.contract import AddsModules, Method, Prunes
from piggyback.optimizer import AdamRule, AdapterOptimizer, Rates, Rule
from piggyback.shell.errors import BadInput, NotTrainable, UnknownName
from piggyback.task_state import Norm, TaskState, begin_own, fresh_modules, start_weights
from piggyback.wrapping import refuse_if_wrapped


def attach(network: nn.Module, *, method: Method, head: str | None = None, norm: Norm = "fixed") -> "Adapter":
    """Freeze `network` as a backbone and get the adapter that puts tasks onto it.

    Args:
        network: any module with convolution or linear layers; the adapter changes what its parameters hold.
        method: what tasks do to the weights unless `add_task` says otherwise.
        head: the name of the slot that each task fills with a head of its own, such as ``fc``.
        norm: whether norm layers stay fixed (the paper's choice) or are trained for each task.

    Raises:
        BadInput: no such slot, nothing to adapt, or the network is wrapped for several processes already.
    """
    if isinstance(network, nn.parallel.DistributedDataParallel | nn.DataParallel):
        raise BadInput("attach the adapter and add its tasks first, then wrap the network in DistributedDataParallel")
    if layers_with_modules(network):
        raise BadInput("the network shows a task with modules behind layers: attach to a copy by adapter.merged(task)")
    return Adapter(network, method=method, head=head, norm=norm)


class Adapter:
    """Named tasks on one frozen network; made by `attach`.

    Attributes:
        network: the module given to `attach`, showing the current task.
        anatomy: the names of its parts.
        current: the name of the task that the network shows; None for the backbone itself.
        fingerprint: digest of the frozen weights, as payload files carry it.
    """

    def __init__(self, network: nn.Module, *, method: Method, head: str | None, norm: Norm) -> None:
        self.network = network
        self.method = method
        self.norm = norm
        self.head_slot = head
        self.anatomy: Anatomy = dissect(network, head=head)
        tensors = persistent_tensors(network)
        # clone() keeps strides, so W, theta and parameter can be walked as flat memory together
        self.frozen: dict[str, Tensor] = {name: tensors[name].detach().clone() for name in self.anatomy.backbone}
        self.fingerprint = fingerprint(self.frozen)
        self.base_head = network.get_submodule(head) if head is not None else None
        self.tasks: dict[str, TaskState] = {}
        self.current: str | None = None
        self._show(None)

    # -- tasks ------------------------------------------------------------------------------------------

    def add_task(
        self,
        name: str,
        *,
        head: nn.Module | None = None,
        method: Method | None = None,
        norm: Norm | None = None,
        after: str | None = None,
        begin: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Add a fresh task and switch to it; its logits are the backbone's under the new head.

        Args:
            name: unused so far.
            head: fills the head's slot; moved to the network's device and data type.
            method: instead of the adapter's own.
            norm: instead of the adapter's own.
            after: the task that this one builds on, for methods whose tasks do (PackNet's).
            begin: for a method that begins anew, the state dict of a freshly drawn network.

        Raises:
            BadInput: the name or the head is taken, the head does not fit the adapter, `after` or `begin` does
                not fit the method, or the network is wrapped in DistributedDataParallel.
        """
        method = method or self.method
        if name in self.tasks:
            raise BadInput(f"there is a task {name!r} already")
        if (head is None) != (self.head_slot is None):
            has = "no head slot" if self.head_slot is None else f"the head slot {self.head_slot!r}"
            raise BadInput(
                f"the adapter has {has}, so task {name!r} must come {'with' if self.head_slot else 'without'} a head"
            )
        taken = (self.base_head, *(task.head for task in self.tasks.values()))
        if head is not None and any(head is other for other in taken):
            raise BadInput(f"the head given for task {name!r} belongs to another task already: each needs its own")
        refuse_if_wrapped(self.network)
        state = TaskState(method=method, norm=norm or self.norm, head=head)
        if method.adapts == "weights":
            self.follow()
            weights = {weight: self.frozen[weight] for weight in self.anatomy.weights}
            state.trained = start_weights(method, weights, earlier=None if after is None else self.task(after))
        elif after is not None:
            raise BadInput(f"tasks of method {method.name!r} do not build on one another: leave `after` out")
        origin = begin_own(method, self.frozen, begin=begin)
        state.own = {part: origin[part].clone() for part in state.own_names(self.anatomy, self.network)}
        state.modules = fresh_modules(method, self.network, self.anatomy)
        self.tasks[name] = state
        self.switch(name)

    def task(self, name: str) -> TaskState:
        """The state of a task, up to date also when it is the current one.

        Raises:
            UnknownName: there is no such task.
        """
        if name not in self.tasks:
            raise UnknownName(name, known=self.tasks, kind="task")
        if name == self.current:
            self._stash()
        return self.tasks[name]

    def switch(self, name: str) -> None:
        """Let the network show a task: weights, norm layers and head, all at once.

        The weights are rebuilt from the stored ones, never divided out, so logits after A, B, A have the
        same bits.  Masks are written in place: compiled graphs stay valid (but not under inductor's
        ``freezing``, which bakes weights in).

        Raises:
            UnknownName: there is no such task.
        """
        state = self.task(name)
        if name != self.current:
            refuse_if_wrapped(self.network)
            self._stash()
        self.current = name
        self._show(state)

    def base(self) -> None:
        """Let the network show the backbone itself, with its own head."""
        if self.current is not None:
            refuse_if_wrapped(self.network)
            self._stash()
        self.current = None
        self._show(None)

    def merged(self, name: str) -> nn.Module:
        """A plain copy of the network as the task has it; it knows nothing of the adapter.

        Where the method adds modules, they are folded into the layers before them, which then all have biases.
        """
        before = self.current
        self.switch(name)
        plain = copy.deepcopy(self.network)
        method = self.tasks[name].method
        if isinstance(method, AddsModules):
            fold_modules(plain, method)
        for parameter in plain.parameters():
            parameter.requires_grad_(True)
            parameter.grad = None
        if before is None:
            self.base()
        else:
            self.switch(before)
        return plain

    def base_state_dict(self) -> dict[str, Tensor]:
        """The frozen weights under the network's names, with the backbone's own head.

        ``network.state_dict()`` holds the effective weights of the current task instead.
        """
        names = {id(tensor): name for name, tensor in persistent_tensors(self.network).items() if name in self.frozen}
        found = {  # a shared weight stands there once for each layer
            key: self.frozen[names[id(tensor)]].clone()
            for key, tensor in self.network.state_dict(keep_vars=True).items()
            if id(tensor) in names
        }
        if self.base_head is not None:
            found.update(
                {f"{self.head_slot}.{name}": t.detach().clone() for name, t in self.base_head.state_dict().items()}
            )
        return found

    # -- training ---------------------------------------------------------------------------------------

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
            for name in self.anatomy.norm_modules:
                self.network.get_submodule(name).eval()

    def eval(self) -> None:
        """Like ``network.eval()``."""
        self.train(False)

    def optimizer(
        self,
        *,
        mask_lr: float = 1e-4,
        head_lr: float = 1e-4,
        norm_lr: float | None = None,
        weight_lr: float | None = None,
        rule: Rule | None = None,
        head_rule: Rule | None = None,
        update: Literal["auto", "compiled", "eager"] = "auto",
    ) -> AdapterOptimizer:
        """A torch optimizer for the current task; wrap the network in DistributedDataParallel before or after.

        Args:
            mask_lr: for what a mask method trains, per weight.
            head_lr: for the head.
            norm_lr: for norm layers, when they are trained; `mask_lr` when None.
            weight_lr: for weights trained in place by ``finetune``; `mask_lr` when None.
            rule: Adam by default, as in the paper; its weight decay is never applied to masks.
            head_rule: for the head alone, when it differs.
            update: ``auto`` compiles the mask update, and says so in one line when that fails.

        Raises:
            NotTrainable: no task is current, or it was loaded from a payload and has no real masks.
        """
        if self.current is None:
            raise NotTrainable("the backbone itself is frozen: add a task before asking for an optimizer")
        state = self.tasks[self.current]
        if state.kept:
            raise NotTrainable(
                f"task {self.current!r} was loaded from a payload, which holds masks but not the real masks they "
                "came from; add a fresh task to train"
            )
        rates = Rates(
            mask=mask_lr,
            head=head_lr,
            norm=mask_lr if norm_lr is None else norm_lr,
            weight=mask_lr if weight_lr is None else weight_lr,
        )
        rule = rule or AdamRule()
        return AdapterOptimizer(self, rates=rates, rule=rule, head_rule=head_rule or rule, update=update)

    def prune(self, share: float) -> None:
        """Give back a share of what the current task owns of each weight, and show what is left.

        Raises:
            NotTrainable: no task is current.
            BadInput: tasks of its method give nothing back.
        """
        if self.current is None:
            raise NotTrainable("the backbone itself is frozen: add a task before pruning")
        name = self.current
        state = self.task(name)
        if not isinstance(state.method, Prunes):
            raise BadInput(f"tasks of method {state.method.name!r} give no weights back: there is nothing to prune")
        for weight, trained in state.trained.items():
            state.method.prune(trained, share=share, name=weight)
        self.switch(name)

    def check_modes(self) -> None:
        """Refuse to train with fixed norm layers in training mode: their statistics would move.

        Raises:
            NotTrainable: naming the first such layer.
        """
        if not self._norm_is_fixed():
            return
        for name in self.anatomy.norm_modules:
            module = self.network.get_submodule(name)
            if module.training and hasattr(module, "running_mean"):
                raise NotTrainable(
                    f"norm layer {name!r} is fixed but in training mode: call adapter.train(), not network.train()"
                )

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
        for part, tensor in saved["own"].items():
            state.own[part].copy_(tensor)
        if state.head is not None:
            state.head.load_state_dict(dict(saved["head"]))
        for layer, module in state.modules.items():
            parts = {key: saved["modules"][f"{layer}/{key}"] for key in module.state_dict()}
            module.load_state_dict(parts)
        if name == self.current:
            self._show(state)

    # -- files ------------------------------------------------------------------------------------------

    def save(self, path: str | Path, *, task: str, recipe: Mapping[str, object] | None = None) -> None:
        """Write what the task adds into a payload file (``docs/payload-format.md``)."""
        from piggyback.payload import save_task

        save_task(Path(path), self, task=task, recipe=recipe or {})

    def load(self, path: str | Path, *, task: str | None = None, head: nn.Module | None = None) -> str:
        """Add the task of a payload file and switch to it.

        Args:
            path: a file that `save` wrote for the same backbone.
            task: the name to give it; the file's own when None.
            head: to load the head's tensors into; needed only when it is not a linear layer.

        Returns:
            The task's name.

        Raises:
            BackboneMismatch: the payload was trained on other frozen weights.
            BadPayload: the file is damaged or does not fit.
        """
        from piggyback.loading import load_task

        return load_task(Path(path), self, task=task, head=head)

    def put_loaded(self, name: str, state: TaskState) -> None:
        """Take in a task that is complete already, under an unused name, and switch to it."""
        if name in self.tasks:
            raise BadInput(f"there is a task {name!r} already: give load() another name")
        refuse_if_wrapped(self.network)
        self.tasks[name] = state
        self.switch(name)

    # -- inside -----------------------------------------------------------------------------------------

    def _norm_is_fixed(self) -> bool:
        return self.current is None or self.tasks[self.current].norm_is_fixed

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
        tensors = persistent_tensors(self.network)
        own = state.own if state is not None else {}
        adapted = {*state.trained, *state.kept} if state is not None else set[str]()
        for name in self.anatomy.backbone:
            source = own.get(name, self.frozen[name])
            if state is not None and name in adapted:
                source = state.method.apply(self.frozen[name], state.kept_of(name))
            tensors[name].copy_(source)
        modules = state.modules if state is not None else {}
        show_modules(self.network, modules, like=tensors[self.anatomy.weights[0]])
        added = {id(parameter) for module in modules.values() for parameter in module.parameters()}
        for name, parameter in self.network.named_parameters():
            parameter.requires_grad_(name in own or name in adapted or id(parameter) in added)
            parameter.grad = None
        if self.head_slot is not None:
            head = cast(nn.Module, state.head if state is not None else self.base_head)
            reference = tensors[self.anatomy.weights[0]]
            self.network.set_submodule(self.head_slot, head.to(reference.device, reference.dtype))
            for parameter in head.parameters():
                parameter.requires_grad_(state is not None)
        self.train(self.network.training)  # which norm layers stay in evaluation mode is the task's choice

    @torch.no_grad()
    def follow(self) -> None:
        """Carry frozen weights and real masks to where ``network.to()`` has moved the parameters.

        Device and memory layout are followed.  The data type is not: frozen weights and real masks keep
        theirs, so that a network in half precision still comes from the exact backbone.
        """
        tensors = persistent_tensors(self.network)
        for name, frozen in self.frozen.items():
            target = tensors[name]
            if frozen.device == target.device and frozen.stride() == target.stride():
                continue
            self.frozen[name] = like(frozen, target)
            for state in self.tasks.values():
                for parts in (state.trained.get(name, {}), state.kept.get(name, {})):
                    for tensor in parts.values():
                        if tensor.shape == target.shape:
                            tensor.data = like(tensor, target)
                        else:
                            tensor.data = tensor.data.to(target.device)
        for state in self.tasks.values():
            for name, tensor in state.own.items():
                state.own[name] = tensor.to(tensors[name].device)
