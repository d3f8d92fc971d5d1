"""A torch optimizer that steps real masks and writes effective weights.

One step: pull the gradient that backward left on each adapted parameter back to what the method trains,
step that, write the new effective weight into the parameter.  Everything else (head, norm layers, weights
trained in place) takes torch's own steps.  Real masks and moments are float32 also where the network is not.
"""

import math
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Final, Literal, cast

import torch
from torch import Tensor, nn

from piggyback.network.anatomy import is_in, persistent_tensors
from piggyback.network.following import is_elsewhere
from piggyback.network.task_state import TaskState, refuse_final
from piggyback.network.wrapping import refuse_held
from piggyback.numerics.memory import keep_freed_memory
from piggyback.numerics.plain_update import step_in_place
from piggyback.numerics.precision import wide
from piggyback.numerics.rules import RULES, Rates, Rule, check_number
from piggyback.numerics.update import Coefficients, MaskUpdate
from piggyback.overlay import Overlay
from piggyback.shell.errors import BadInput, Diverged, NotTrainable

FIRST: Final = ".exp_avg"
SECOND: Final = ".exp_avg_sq"
OTHER_FORMS: Final = ("amsgrad", "dampening", "decoupled_weight_decay", "differentiable", "maximize")  # torch's words


class AdapterOptimizer(torch.optim.Optimizer):
    """Steps the current task of an adapter; made by `Adapter.optimizer`.

    To schedulers, GradScaler and checkpoints it is an ordinary optimizer: its groups hold the network's own
    parameters, and its state dict has, for each adapted weight, the real mask beside the moments.
    ``clip_grad_norm_`` on those parameters acts on the gradients of the *effective weights*, before they are
    pulled back to the masks.  Each group's ``role`` says what its parameters are: ``mask``, ``module``, ``weight``,
    ``norm`` or ``head``.  ``defaults`` has the rule's settings where all groups step by one rule; with two, schedulers
    that cycle the momentum refuse (``cycle_momentum=False``).
    """

    def __init__(
        self,
        overlay: Overlay,
        *,
        rates: Rates,
        rule: Rule,
        head_rule: Rule,
        update: Literal["auto", "compiled", "eager"],
    ) -> None:
        self.made = False
        self.overlay = overlay
        self.task_name = cast(str, overlay.current)
        self.task = overlay.tasks[self.task_name]
        self.parameters, self.names = self._find_parameters()
        state = self.task
        groups = [
            group | {"rule": type(group_rule).__name__} | asdict(group_rule)
            for group, group_rule in self._groups(overlay, state, rates, rule, head_rule)
            if group["params"]
        ]
        if not groups:
            raise NotTrainable(f"task {self.task_name!r} has nothing to train: neither a head nor weights of its own")
        one_rule = len({frozenset(group.keys() - {"params", "lr", "role"}) for group in groups}) == 1
        self.rule = rule
        super().__init__(groups, {"lr": rates.weight} | (asdict(rule) if one_rule else {}))
        self.made = True
        self.mask_update = MaskUpdate(state.method, mode=update)
        self.steps = 0  # since it was made
        self.reset()
        keep_freed_memory()

    def _find_parameters(self) -> tuple[dict[str, nn.Parameter], dict[Tensor, str]]:
        """The network's parameters by name, and for each the name that stands for all its names."""
        tensors = persistent_tensors(self.overlay.network)
        parameters = {name: tensor for name, tensor in tensors.items() if isinstance(tensor, nn.Parameter)}
        first = [name for name in (*self.task.own, *self.task.trained) if name in parameters]
        return parameters, {parameters[name]: name for name in (*parameters, *first)}

    def _groups(
        self, overlay: Overlay, state: TaskState, rates: Rates, rule: Rule, head_rule: Rule
    ) -> list[tuple[dict[str, Any], Rule]]:
        norm = set(overlay.anatomy.norm)
        own = [name for name in state.own if name in self.parameters]
        head = list(state.head.parameters()) if state.head is not None else []
        modules = [parameter for module in state.modules.values() for parameter in module.parameters()]
        pick = self.parameters.__getitem__
        return [
            ({"role": "mask", "lr": rates.mask, "params": [pick(name) for name in state.trained]}, rule),
            ({"role": "module", "lr": rates.mask, "params": modules}, rule),
            ({"role": "weight", "lr": rates.weight, "params": [pick(n) for n in own if n not in norm]}, rule),
            ({"role": "norm", "lr": rates.norm, "params": [pick(n) for n in own if n in norm]}, rule),
            ({"role": "head", "lr": rates.head, "params": head}, head_rule),
        ]

    def __getstate__(self) -> dict[str, Any]:
        """Also what torch leaves out of its optimizers' copies: a copy or a pickle comes with its own adapter."""
        # what begins with "_" is torch's, which makes it anew; schedulers put a ``step`` of theirs there
        own = {key: value for key, value in self.__dict__.items() if not key.startswith("_") and key != "step"}
        fresh = MaskUpdate(self.mask_update.method, mode=self.mask_update.mode)  # compiled code is no data
        return {**own, "mask_update": fresh}

    def reset(self) -> None:
        """Forget moments and counts of steps, as a new optimizer would; what is trained stays as it is."""
        self.state.clear()
        trained = self.task.trained
        for group in self.param_groups:
            if group["role"] == "mask":
                for parameter in group["params"]:
                    self._prepare(parameter, trained[self.names[parameter]], group)

    def _prepare(self, parameter: Tensor, trained: dict[str, Tensor], group: dict[str, Any]) -> None:
        """Moments for a weight's trained tensors; the real mask itself stands beside them."""
        state = self.state[parameter]
        state["step"] = torch.tensor(0.0)
        for key, tensor in trained.items():
            state[key] = tensor
            if not tensor.is_floating_point():  # not trained, such as the owner of a weight
                continue
            state[key + FIRST] = torch.zeros_like(tensor)
            if group["rule"] == "AdamRule":
                state[key + SECOND] = torch.zeros_like(tensor)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Train more of the network in place, such as its biases: the task has them for itself from now on.

        They are saved with the task.  Their rate is that of weights trained in place unless the group says otherwise,
        their rule that of all groups but the head's.

        Args:
            param_group: as for torch's optimizers; ``role`` is set here.

        Raises:
            BadInput: a parameter is masked, trained already, of a fixed norm layer or of another network; or the group
                asks for a form of the rule that is not there.
            NotTrainable: the network shows another task.
        """
        if not self.made:
            super().add_param_group(param_group)
            return
        params = param_group["params"]
        params = [params] if isinstance(params, Tensor) else list(params)
        group = {"lr": self.defaults["lr"], "rule": type(self.rule).__name__, **asdict(self.rule), **param_group}
        group |= {"role": "weight", "params": params}
        self._check_shown()
        refuse_held(self.overlay.network)
        self._check_settings(group)
        tensors = [param[1] if isinstance(param, tuple) else param for param in params]
        self.parameters, names = self._find_parameters()
        for tensor in tensors:
            self._check_addable(tensor, names.get(tensor))
        super().add_param_group(group)
        self.names = names
        own = cast(dict[str, Tensor], self.task.own)  # no Shelf, as the task is in training
        for tensor in tensors:
            tensor.requires_grad_(True)
            if not is_in(names[tensor], self.overlay.anatomy.head_names):
                own[names[tensor]] = tensor.detach().clone()

    @staticmethod
    def _check_settings(group: dict[str, Any]) -> None:
        if found := next((key for key in OTHER_FORMS if group.get(key)), None):
            raise BadInput(f"the rules here have no {found}: leave it out of the group")
        rules = {kind.__name__: kind for kind in RULES.values()}
        if group["rule"] not in rules:
            raise BadInput(f"the rule of a group is one of {', '.join(rules)}, not {group['rule']!r}")
        check_number("lr", group["lr"])
        kind = rules[group["rule"]]
        kind(**{key: group[key] for key in kind.__dataclass_fields__ if key in group})

    def _check_addable(self, tensor: Any, name: str | None) -> None:
        """Refuse a parameter that cannot be trained in place."""
        state, anatomy = self.task, self.overlay.anatomy
        if name is None:
            found = f"one of shape {tuple(tensor.shape)}" if isinstance(tensor, Tensor) else type(tensor).__name__
            raise BadInput(f"the optimizer takes parameters of the adapter's network, and {found} is none of them")
        if name in state.trained:
            raise BadInput(f"{name!r} is masked by method {state.method.name!r}: it cannot be trained in place as well")
        for group in self.param_groups:
            if any(tensor is parameter for parameter in group["params"]):
                raise BadInput(f"{name!r} is trained already, with the role {group['role']!r}")
        if name in anatomy.norm and state.norm_is_fixed:
            raise BadInput(f"{name!r} belongs to a fixed norm layer: add the task with norm='trained'")

    def update_form(self) -> Literal["compiled", "eager", "none"]:
        """The form of the mask update, ``none`` without masks; the bits of a run depend on it.

        The first call may take a while: only compiling shows whether a compiler works.
        """
        for group in self.param_groups:
            if group["role"] == "mask":
                if group["rule"] != "AdamRule":
                    return "eager"
                return self.mask_update.settle(self.overlay.frozen[self.names[group["params"][0]]])
        return "none"

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore moments and real masks exactly, and write the effective weights they stand for.

        Raises:
            BadInput: it is the state of another kind of optimizer, or of another task's.
        """
        self._check_task()
        given: list[dict[str, Any]] = []

        def look(_: object, final: dict[str, Any]) -> None:
            self._check_state(final)
            given.append(final)

        hooks = (  # around those of others: after all that may change the dict, before all that look at the outcome
            self.register_load_state_dict_pre_hook(look),
            self.register_load_state_dict_post_hook(lambda _: self._take_over(given[0]), prepend=True),
        )
        try:
            super().load_state_dict(state_dict)
        finally:
            for hook in hooks:
                hook.remove()

    def _check_state(self, state_dict: dict[str, Any]) -> None:
        """Refuse a state that is not of such an optimizer; numbers of groups and parameters are torch's to check."""
        trained = self.task.trained
        for group, saved in zip(self.param_groups, state_dict["param_groups"], strict=False):
            if saved.get("role") != group["role"]:
                raise BadInput(
                    f"the optimizer state has a group of role {saved.get('role')!r} where the task has one of role "
                    f"{group['role']!r}: load the state of an optimizer of the same task and method"
                )
            if group["role"] != "mask":
                continue
            for parameter, number in zip(group["params"], saved["params"], strict=False):
                name = self.names[parameter]
                parts = state_dict["state"].get(number, {})
                for key, tensor in ({"step": None} | trained[name]).items():
                    if key not in parts or (tensor is not None and parts[key].shape != tensor.shape):
                        raise BadInput(f"the optimizer state has no {key!r} for {name!r}: it is of another task")

    def _take_over(self, state_dict: dict[str, Any]) -> None:
        """What torch's copies have lost: they are of the parameters' data type, and counts of steps on no device."""
        trained = self.task.trained
        for group, saved in zip(self.param_groups, state_dict["param_groups"], strict=True):
            for parameter, number in zip(group["params"], saved["params"], strict=True):
                state = self.state.get(parameter, {})
                if group["role"] == "mask":
                    self._restore(trained[self.names[parameter]], state, state_dict["state"][number])
                    continue
                for key, value in state.items():
                    if isinstance(value, Tensor):
                        saved_value = state_dict["state"][number][key]
                        state[key] = saved_value.detach().clone().to(parameter.device)
        counted = (int(state["step"]) for state in self.state.values() if "step" in state)
        self.task.steps = max(counted, default=0)
        if self.overlay.current == self.task_name:
            self.overlay.restore()

    @staticmethod
    @torch.no_grad()
    def _restore(trained: dict[str, Tensor], state: dict[str, Any], saved: dict[str, Any]) -> None:
        """Real masks and moments as saved: the copies that torch made have the parameter's data type."""
        state["step"] = saved["step"].detach().clone().cpu()
        for key, tensor in trained.items():
            tensor.copy_(saved[key])
            state[key] = tensor
            for moment in (key + FIRST, key + SECOND):
                if moment in saved:
                    state[moment] = torch.empty_like(tensor).copy_(saved[moment])

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update of everything that has a gradient.

        Raises:
            NotTrainable: the task is finished or removed, the network shows another, or fixed norm layers are in
                training mode.
            NetworkChanged: something else has written into the network.
            Diverged: a gradient is not finite; nothing was stepped.
        """
        loss = None
        if closure is not None:
            if not callable(closure):
                raise BadInput(
                    f"step() takes a function that computes the loss, or nothing, not {type(closure).__name__}"
                )
            with torch.enable_grad():
                loss = closure()
        self._check_task()
        self._check_shown()
        self.steps += 1
        self.overlay.check_before_step(self._named(), number=self.steps)
        self._refuse_non_finite()
        for group in self.param_groups:
            if group["role"] == "mask":
                self._step_masks(group)
            else:
                step_in_place(group, self.state)
        self.task.steps += 1
        self.overlay.note_step(compiled=self.mask_update.kernel is not None)
        return loss

    def _check_shown(self) -> None:
        if self.overlay.current != self.task_name:
            raise NotTrainable(
                f"this optimizer trains task {self.task_name!r}, but the network shows "
                f"{self.overlay.current or 'the backbone'!r}: call adapter.switch({self.task_name!r}) first"
            )

    def _refuse_non_finite(self) -> None:
        """Raise Diverged unless all gradients are finite: one NaN would switch its weights off for ever."""
        parameters = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        if not parameters:
            return
        # a sum is finite where all values are, and is the cheapest look at them
        sums = torch.stack([wide(cast(Tensor, p.grad)).sum().double() for p in parameters])
        if not (finite := torch.isfinite(sums)).all():
            first = parameters[int((~finite).nonzero()[0])]
            names = {id(parameter): name for name, parameter in self.overlay.network.named_parameters()}
            raise Diverged(
                f"the gradient of {names.get(id(first), 'a parameter')!r} is not finite: nothing was stepped. Look for "
                "a NaN in the batch or the loss, lower the learning rate, or leave the batch out after zero_grad()"
            )

    def _named(self) -> dict[str, Tensor]:
        """All parameters to be stepped, by their names in the network."""
        return {self.names[parameter]: parameter for group in self.param_groups for parameter in group["params"]}

    def _check_task(self) -> None:
        """Refuse to go on with a task that is finished or removed."""
        if self.overlay.tasks.get(self.task_name) is not self.task:
            raise NotTrainable(
                f"this optimizer trains task {self.task_name!r}, which was removed: add a fresh task and ask for its "
                "optimizer"
            )
        refuse_final(self.task_name, self.task)

    def _step_masks(self, group: dict[str, Any]) -> None:
        for parameter in group["params"]:
            if parameter.grad is None:
                continue
            name = self.names[parameter]
            trained = self.task.trained[name]
            state = self.state[parameter]
            state["step"] += 1
            for key, tensor in trained.items():
                for moment in (key + FIRST, key + SECOND):
                    if moment in state and is_elsewhere(state[moment], tensor):  # network.to() has moved the weight
                        state[moment] = torch.empty_like(tensor).copy_(state[moment])
            first = {key: state[key + FIRST] for key in trained if key + FIRST in state}
            weight = self.overlay.frozen[name]
            if group["rule"] == "AdamRule":
                second = {key: state[key + SECOND] for key in first}
                coefficients = adam_coefficients(group, int(state["step"].item()))
                self.mask_update.adam(parameter, weight, trained, first, second, coefficients)
            else:
                pulled = self.mask_update.pull_back(parameter, weight, trained)
                for key, gradient in pulled.items():
                    first[key].mul_(group["momentum"]).add_(gradient)
                    direction = gradient.add(first[key], alpha=group["momentum"]) if group["nesterov"] else first[key]
                    trained[key].sub_(direction, alpha=float(group["lr"]))
                self.mask_update.write(parameter, weight, trained)


def adam_coefficients(group: dict[str, Any], step: int) -> Coefficients:
    """The scalars of one Adam step, in double precision as torch computes them."""
    beta1, beta2 = group["betas"]
    return Coefficients(
        step_size=float(group["lr"]) / (1 - beta1**step),
        correction=math.sqrt(1 - beta2**step),
        beta1=beta1,
        beta2=beta2,
        eps=group["eps"],
    )
