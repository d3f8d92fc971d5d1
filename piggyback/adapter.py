"""The library's face: `attach` a network, add tasks, train, switch, save and load them."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from piggyback.added_modules import fold_modules, layers_with_modules
from piggyback.arguments import (
    check_folder,
    check_head,
    check_network,
    check_norm,
    check_task_name,
    find_method,
    unchanged_if_failing,
)
from piggyback.loading import load_task
from piggyback.methods.contract import AddsModules, Method, Prunes
from piggyback.numerics.rules import Rates, Rule, RuleName, find_rule
from piggyback.optimizer import AdapterOptimizer
from piggyback.overlay import Overlay
from piggyback.payload import save_task
from piggyback.shell.errors import BadInput, NotTrainable, shown
from piggyback.task_state import Norm, TaskState, begin_own, fresh_modules, start_weights

MethodGiven = Method | type[Method] | str


@torch.inference_mode(False)
def attach(network: nn.Module, *, method: MethodGiven, head: str | None = None, norm: Norm = "fixed") -> "Adapter":
    """Freeze `network` as a backbone and get the adapter that puts tasks onto it.

    Args:
        network: any module with convolution or linear layers; the adapter changes what its parameters hold.
        method: what tasks do to the weights unless `add_task` says otherwise; its class or its name means the one with
            default settings.
        head: the name of the slot that each task fills with a head of its own, such as ``fc``.
        norm: whether norm layers stay fixed (the paper's choice), have running statistics of each task's own, or are
            trained for each task.

    Raises:
        BadInput: no such slot, nothing to adapt, or the network is wrapped for several processes already; its weights
            are on the meta device, inference tensors, quantized or complex; `method` or `norm` is none.
        UnknownName: no method has that name.
    """
    check_network(network)
    method = find_method(method)
    check_norm(norm)
    if isinstance(network, nn.parallel.DistributedDataParallel | nn.DataParallel):
        raise BadInput("attach the adapter and add its tasks first, then wrap the network in DistributedDataParallel")
    if layers_with_modules(network):
        raise BadInput("the network shows a task with modules behind layers: attach to a copy by adapter.merged(task)")
    return Adapter(network, method=method, head=head, norm=norm)


class Adapter(Overlay):
    """Named tasks on one frozen network; made by `attach`.

    `Overlay` has the rest: ``network``, ``anatomy``, ``current``, ``fingerprint`` and ``tasks``; `task`, `switch` and
    `base`; `train` and `eval`; `base_state_dict`; `training_state` and `load_training_state`.

    Attributes:
        method: what tasks do to the weights unless `add_task` says otherwise.
        norm: what becomes of norm layers, likewise.
    """

    def __init__(self, network: nn.Module, *, method: Method, head: str | None, norm: Norm) -> None:
        super().__init__(network, head=head)
        self.method = method
        self.norm = norm

    # -- tasks ------------------------------------------------------------------------------------------

    @torch.inference_mode(False)  # tensors made in inference mode could never be trained
    def add_task(
        self,
        name: str,
        *,
        head: nn.Module | None = None,
        method: MethodGiven | None = None,
        norm: Norm | None = None,
        after: str | None = None,
        begin: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Add a fresh task and switch to it; its logits are the backbone's under the new head.

        Args:
            name: unused so far; 1 to 200 characters that print.
            head: fills the head's slot; it keeps its data type, and goes to the device of the head before it.
            method: instead of the adapter's own.
            norm: instead of the adapter's own.
            after: the task that this one builds on, for methods whose tasks build on one another.
            begin: for methods that start from random weights, the state dict of a freshly drawn network.

        Raises:
            BadInput: the name or the head is taken, the head does not fit the adapter, `after` or `begin` does
                not fit the method, or the network is wrapped in DistributedDataParallel.  Whatever is raised, adapter
                and network are as they were.
            UnknownName: no method or task has that name.
        """
        check_task_name(name)
        method = self.method if method is None else find_method(method)
        if norm is not None:
            check_norm(norm)
        if head is not None:
            check_head(head)
        self.look()
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
        self.put(name, state)

    @torch.inference_mode(False)
    def merged(self, name: str) -> nn.Module:
        """A plain copy of the network showing the task; it knows nothing of the adapter.

        Modules behind layers are folded into those layers, all of which then have biases.
        """
        before = self.current
        self.switch(name)
        try:
            plain = copy.deepcopy(self.network)
        finally:
            if before is None:
                self.base()
            else:
                self.switch(before)
        method = self.tasks[name].method
        if isinstance(method, AddsModules):
            fold_modules(plain, method)
        for parameter in plain.parameters():
            parameter.requires_grad_(parameter.is_floating_point() or parameter.is_complex())  # torch has no others
            parameter.grad = None
        return plain

    # -- training ---------------------------------------------------------------------------------------

    @torch.inference_mode(False)
    def optimizer(
        self,
        *,
        mask_lr: float = 1e-4,
        head_lr: float = 1e-4,
        norm_lr: float | None = None,
        weight_lr: float | None = None,
        rule: Rule | RuleName | None = None,
        head_rule: Rule | RuleName | None = None,
        update: Literal["auto", "compiled", "eager"] = "auto",
    ) -> AdapterOptimizer:
        """A torch optimizer for the current task; wrap the network in DistributedDataParallel before or after.

        Args:
            mask_lr: for what a mask method trains, per weight.
            head_lr: for the head.
            norm_lr: for norm layers, when they are trained; `mask_lr` when None.
            weight_lr: for weights that are trained in place (``finetune``); `mask_lr` when None.
            rule: ``adam`` (the default, as in the paper), ``sgd``, or a rule with settings of its own; its weight decay
                is never applied to masks.
            head_rule: for the head alone, when it differs.
            update: ``auto`` compiles the mask update, and says so in one line when that fails.

        Raises:
            NotTrainable: no task is current, or it was loaded from a payload and has no real masks.
            BadInput: a rate is negative or not finite, or `rule`, `head_rule` or `update` is none of those above.
            UnknownName: no rule has that name.
        """
        self._task_to_train(wish="asking for an optimizer")
        self.look()
        rates = Rates(
            mask=mask_lr,
            head=head_lr,
            norm=mask_lr if norm_lr is None else norm_lr,
            weight=mask_lr if weight_lr is None else weight_lr,
        )
        rule = find_rule("adam" if rule is None else rule)
        head_rule = rule if head_rule is None else find_rule(head_rule)
        if update not in ("auto", "compiled", "eager"):
            raise BadInput(f"update is 'auto', 'compiled' or 'eager', not {shown(update)}")
        return AdapterOptimizer(self, rates=rates, rule=rule, head_rule=head_rule, update=update)

    def prune(self, share: float) -> None:
        """Give back a share of what the current task owns of each weight, and show what is left.

        Raises:
            NotTrainable: no task is current, or it was loaded from a payload.
            BadInput: tasks of its method give nothing back.
        """
        name = self._task_to_train(wish="pruning")
        state = self.tasks[name]
        if not isinstance(state.method, Prunes):
            raise BadInput(f"tasks of method {state.method.name!r} give no weights back: there is nothing to prune")
        self.look()
        for weight, trained in state.trained.items():
            state.method.prune(trained, share=share, name=weight)
        self.restore()

    def _task_to_train(self, *, wish: str) -> str:
        """The current task's name, where it can be trained."""
        if self.current is None:
            raise NotTrainable(f"the backbone itself is frozen: add a task before {wish}")
        if self.tasks[self.current].kept:
            raise NotTrainable(
                f"task {self.current!r} was loaded from a payload, which holds masks but not the real masks they "
                "came from; add a fresh task to train"
            )
        return self.current

    # -- files ------------------------------------------------------------------------------------------

    def save(self, path: str | Path, *, task: str, recipe: Mapping[str, object] | None = None) -> None:
        """Write what the task adds into a payload file (``docs/payload-format.md``).

        Raises:
            NetworkChanged: something else has written into the network, so that the file would not be what was trained.
            Diverged: something the task keeps is not finite.
            BadInput: the folder of the file is not there, or the recipe cannot be written as JSON.
            UnknownName: there is no such task.
        """
        check_folder(Path(path))
        self.look()
        save_task(Path(path), self, task=task, recipe=recipe or {})

    @torch.inference_mode(False)
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
            BadInput: it cannot be read, or the name or the head is taken or none.  Whatever is raised, adapter, network
                and head are as they were.
        """
        if head is not None:
            check_head(head)
        with unchanged_if_failing(head):
            return load_task(Path(path), self, task=task, head=head)
