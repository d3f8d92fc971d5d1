"""The library's face: `attach` a network, add tasks, train, switch, save and load them."""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

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
from piggyback.motion import tell_motion
from piggyback.network.added_modules import fold_modules, hook_layers, layers_with_modules, refuse_taken, unhook_layers
from piggyback.network.anatomy import Exclude, unwrap
from piggyback.network.coverage import (
    Coverage,
    reach,
    reached_by,
    refuse_nothing,
    refuse_nothing_free,
    survey,
    tell_left_out,
)
from piggyback.network.heads import HeadGiven, held_parts
from piggyback.network.task_state import (
    Norm,
    TaskState,
    begin_own,
    fresh_modules,
    refuse_diverged,
    refuse_final,
    start_weights,
    usual_norm,
)
from piggyback.network.wrapping import refuse_wrapped
from piggyback.numerics.rules import Rates, Rule, RuleName, find_rule
from piggyback.optimizer import AdapterOptimizer
from piggyback.overlay import Overlay
from piggyback.payload import save_task
from piggyback.shell.errors import BadInput, NotTrainable, shown

MethodGiven = Method | type[Method] | str


@torch.inference_mode(False)
def attach(
    network: nn.Module,
    *,
    method: MethodGiven,
    head: str | Sequence[str] | None = None,
    norm: Norm | None = None,
    exclude: Exclude | Sequence[Exclude] = (),
) -> "Adapter":
    """Freeze `network` as a backbone and get the adapter that puts tasks onto it.

    Masks go onto the weights of convolution and linear layers and of `torch.nn.MultiheadAttention`; `Adapter.coverage`
    says what is left out, and one line on standard error does where that is more than 2 % of the trunk.  Parameters
    that ask for no gradients (``requires_grad_(False)``) stay as they are in all tasks, unless that is so for the
    whole trunk.

    Args:
        network: any module with such layers; the adapter changes what its parameters hold.  What ``torch.compile`` has
            made of one is as good, and goes on showing the current task; names are the plain network's.
        method: what tasks do to the weights unless `add_task` says otherwise; its class or its name means the one with
            default settings.
        head: the name of the slot that each task fills with a head of its own, such as ``fc``, or the names of
            several, such as ``("fc", "AuxLogits.fc")``.
        norm: whether norm layers stay ``fixed`` (the paper's choice), have running ``statistics`` of each task's own,
            or are ``trained`` for each task.  When None, trained beside masks and added modules
            (``docs/results.md`` has why), and fixed with ``feature`` and ``packnet``.
        exclude: what no task may change: types of layers, and names of modules or parameters.

    Raises:
        BadInput: no such slot, nothing that the method could adapt, a layer that computes its weight from other
            parameters (weight norm, spectral norm, pruning), parameters that share memory; the network is wrapped,
            sharded or quantized already; its weights are on the meta device, inference tensors or complex; `method` or
            `norm` is none.
        UnknownName: no method has that name.
    """
    check_network(network)
    refuse_wrapped(network)
    method = find_method(method)
    if norm is not None:
        check_norm(norm)
    if layers_with_modules(network):
        raise BadInput("the network shows a task with modules behind layers: attach to a copy by adapter.merged(task)")
    return Adapter(network, method=method, head=head, norm=norm, exclude=exclude)


class Adapter(Overlay):
    """Named tasks on one frozen network; made by `attach`.

    `Overlay` has the rest: ``network``, ``anatomy``, ``current``, ``fingerprint`` and ``tasks``; `task`, `switch` and
    `base`; `train` and `eval`; `base_state_dict`; `training_state` and `load_training_state`.

    Attributes:
        method: what tasks do to the weights unless `add_task` says otherwise.
        norm: what becomes of norm layers, likewise; None for what is usual with a task's method.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        method: Method,
        head: str | Sequence[str] | None,
        norm: Norm | None,
        exclude: Exclude | Sequence[Exclude] = (),
    ) -> None:
        super().__init__(network, head=head, exclude=exclude)
        self.method = method
        self.norm = norm
        refuse_nothing(method, reach(method, self.network, self.anatomy), self.network)
        if isinstance(method, AddsModules):  # now, so that what is compiled before the first task stays valid
            with torch.random.fork_rng(devices=[]):  # modules are only asked for: random numbers stay as they were
                hooked = fresh_modules(method, self.network, self.anatomy)
            refuse_taken(self.network, hooked)
            hook_layers(unwrap(self.network.get_submodule(name)) for name in hooked)
        self.base()
        tell_left_out(method, self.coverage().shares)

    def __repr__(self) -> str:
        slots = ", ".join(self.head_slots) or "none"
        tasks = ", ".join(f"{name} (shown)" if name == self.current else name for name in self.tasks) or "none"
        return (
            f"{type(self).__name__}(\n  network: {type(self.network).__name__}, backbone {self.fingerprint[:12]}\n"
            f"  method: {self.method.name}, norm layers {self.norm or usual_norm(self.method)}\n"
            f"  head slots: {slots}\n  tasks: {tasks}\n"
            f"  coverage: {self.coverage()}\n)"
        )

    def coverage(self, task: str | None = None) -> Coverage:
        """What is masked, part of a norm layer or a head, or left as it is and why, parameter by parameter.

        Args:
            task: whose changes are meant; those of a fresh task by the adapter's own method when None.

        Raises:
            UnknownName: there is no such task.
        """
        if task is not None:
            state = self.task(task)
            return survey(self.network, self.anatomy, method=state.method, reached=reached_by(state))
        reached = reach(self.method, self.network, self.anatomy)
        return survey(self.network, self.anatomy, method=self.method, reached=reached)

    # -- tasks ------------------------------------------------------------------------------------------

    @torch.inference_mode(False)  # tensors made in inference mode could never be trained
    def add_task(
        self,
        name: str,
        *,
        head: HeadGiven | None = None,
        method: MethodGiven | None = None,
        norm: Norm | None = None,
        after: str | None = None,
        begin: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Add a fresh task and switch to it; its logits are the backbone's under the new head.

        Args:
            name: unused so far; 1 to 200 characters that print.
            head: fills the head's slot; where there are several, a mapping of each to its module.  It keeps its data
                type, and goes to the device of the head before it; parameters of it that ask for no gradients stay as
                they are, unless none asks for any.
            method: instead of the adapter's own.
            norm: instead of the adapter's own.
            after: the task that this one builds on, for methods whose tasks build on one another.
            begin: for methods that start from random weights, the state dict of a freshly drawn network.

        Raises:
            BadInput: the name or the head is taken, the head does not fit the adapter or shares parameters with the
                network, `after` or `begin` does not fit the method, the method finds nothing to adapt, or the network
                is wrapped in DistributedDataParallel.  Whatever is raised, adapter and network are as they were.
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
        filled = self.take_heads(head, task=name)
        state = TaskState(
            method=method, norm=norm or self.norm or usual_norm(method), head=filled, held=held_parts(filled)
        )
        if method.adapts == "weights":
            self.follow()
            weights = {weight: self.frozen[weight] for weight in self.anatomy.weights}
            state.trained = start_weights(method, weights, earlier=None if after is None else self.task(after))
        elif after is not None:
            raise BadInput(f"tasks of method {method.name!r} do not build on one another: leave `after` out")
        origin = begin_own(method, self.frozen, begin=begin)
        state.own = {part: origin[part].clone() for part in state.own_names(self.anatomy, self.network)}
        state.modules = fresh_modules(method, self.network, self.anatomy)
        refuse_taken(self.network, state.modules)
        refuse_nothing(method, reached_by(state), self.network)
        refuse_nothing_free(state, self.frozen)
        self.put(name, state)

    def remove_task(self, name: str) -> None:
        """Forget a task and all that it keeps; its optimizer refuses to step from then on.

        Where it is the current one, the network shows the backbone afterwards, and what was trained is given up.  The
        name and the head are free again; tasks that were added `after` it stay as they are.

        Raises:
            UnknownName: there is no such task.
            BadInput: the task is shown and the network is wrapped in DistributedDataParallel.
        """
        self.remove(name)

    @torch.inference_mode(False)
    def finish_task(self, name: str) -> None:
        """Keep of a task only what its payload holds: masks as bits, one per weight, in place of real masks.

        Logits and payload stay the same, bit for bit, and nothing of it moves any more, norm layers included; it can
        not be trained again.  What its optimizer holds, real masks too, goes with the optimizer.  Finishing a task
        twice does nothing; one that was loaded has bits already.

        Raises:
            UnknownName: there is no such task.
            Diverged: a real mask is not finite, which its bits would hide.
            NetworkChanged: something else has written into the network, which shows the task.
        """
        state = self.task(name)
        if name == self.current:
            self.look()
        refuse_diverged(state, done="finished")
        tell_motion(self, name)
        state.finish()
        if name == self.current:
            self._show(state)  # real masks may have been written to by hand; norm layers are fixed now

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
        unhook_layers(plain)
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
            NotTrainable: no task is current, or it is finished or was loaded, and has no real masks.
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
            NotTrainable: no task is current, or it is finished or was loaded from a payload.
            BadInput: tasks of its method give nothing back.
        """
        name = self._task_to_train(wish="pruning")
        state = self.tasks[name]
        if not isinstance(state.method, Prunes):
            raise BadInput(f"tasks of method {state.method.name!r} give no weights back: there is nothing to prune")
        self.look()
        pruned = {weight: {key: part.clone() for key, part in parts.items()} for weight, parts in state.trained.items()}
        for weight, parts in pruned.items():  # all of them, or none
            state.method.prune(parts, share=share, name=weight)
        for weight, parts in pruned.items():
            for key, part in parts.items():
                state.trained[weight][key].copy_(part)
        self.restore()

    def _task_to_train(self, *, wish: str) -> str:
        """The current task's name, where it can be trained."""
        if self.current is None:
            raise NotTrainable(f"the backbone itself is frozen: add a task before {wish}")
        refuse_final(self.current, self.tasks[self.current])
        return self.current

    # -- files ------------------------------------------------------------------------------------------

    def save(
        self, path: str | Path, *, task: str, recipe: Mapping[str, object] | None = None, final: bool = True
    ) -> None:
        """Write what the task adds into a payload file (``docs/payload-format.md``).

        Args:
            path: of the file.
            task: its name.
            recipe: how it was trained; the file carries it for people.
            final: whether its training is over.  Where that has changed fewer than 0.1 % of the mask values, one line
                on standard error says so, and why; once per task.

        Raises:
            NetworkChanged: something else has written into the network, so that the file would not be what was trained.
            Diverged: something the task keeps is not finite.
            BadInput: the folder of the file is not there, or the recipe cannot be written as JSON.
            UnknownName: there is no such task.
        """
        check_folder(Path(path))
        self.look()
        save_task(Path(path), self, task=task, recipe=recipe or {})
        if final:
            tell_motion(self, task)

    @torch.inference_mode(False)
    def load(self, path: str | Path, *, task: str | None = None, head: HeadGiven | None = None) -> str:
        """Add the task of a payload file and switch to it.

        Args:
            path: a file that `save` wrote for the same backbone.
            task: the name to give it; the file's own when None.
            head: to load the head's tensors into; needed only when it is not a linear layer.  Where there are several
                slots, a mapping of each such slot to its module.

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
