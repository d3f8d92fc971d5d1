"""The update of parameters that are trained in place: head, norm layers, whole networks, modules behind layers.

Those in half precision have a float32 master in the optimizer's state.  It takes the step, with float32 moments, and
the parameter is rounded from it, since a step is smaller than what half precision can add.
"""

from collections.abc import Sequence
from typing import Any, Final, cast

import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.sgd import sgd

from piggyback.numerics.precision import HALF, wide

MASTER: Final = "master"
States = Sequence[dict[str, Any]]


def step_in_place(group: dict[str, Any], states: dict[Tensor, dict[str, Any]]) -> None:
    """Step all parameters of a group that have a gradient, with torch's own fused kernels."""
    parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
    if not parameters:
        return
    states_here = [states[parameter] for parameter in parameters]
    values, gradients = parameters, [cast(Tensor, parameter.grad) for parameter in parameters]
    half = any(parameter.dtype in HALF for parameter in parameters)
    if half:
        values = [find_master(parameter, state) for parameter, state in zip(parameters, states_here, strict=True)]
        gradients = [wide(gradient) for gradient in gradients]
    step = step_adam if group["rule"] == "AdamRule" else step_sgd
    step(group, values, gradients, states_here)
    if half:
        for parameter, value in zip(parameters, values, strict=True):
            if value is not parameter:
                parameter.copy_(value)


def find_master(parameter: Tensor, state: dict[str, Any]) -> Tensor:
    """What takes the step for a parameter: itself, or its float32 master if it is in half precision.

    Where the parameter is no longer what the master was rounded to, others have written into it, and are followed.
    """
    if parameter.dtype not in HALF:
        state.pop(MASTER, None)
        return parameter
    master = state.get(MASTER)
    if master is None:
        master = wide(parameter.detach())
    else:
        master = master.to(parameter.device)
        master = torch.where(master.to(parameter.dtype) == parameter, master, parameter.detach())
    state[MASTER] = torch.empty_like(parameter, dtype=torch.float32, requires_grad=False).copy_(master)
    return cast(Tensor, state[MASTER])


def prepare(states: States, values: Sequence[Tensor], *, moments: Sequence[str]) -> None:
    """Running averages of these names, zero where there are none yet, with their values' types and devices."""
    moved = bool(values) and any(  # by network.to(), and then all of them
        tensor.device != values[0].device for tensor in states[0].values() if isinstance(tensor, Tensor)
    )
    for state, value in zip(states, values, strict=True):
        known = state.get(moments[0])
        if known is None:
            state.update({key: torch.zeros_like(value, requires_grad=False) for key in moments})
        elif known.dtype is not value.dtype or moved:
            state.update({key: state[key].to(value.device, value.dtype) for key in moments})


def step_adam(group: dict[str, Any], values: list[Tensor], gradients: list[Tensor], states: States) -> None:
    """One step of Adam; weight decay is L2."""
    prepare(states, values, moments=("exp_avg", "exp_avg_sq"))
    for state, value in zip(states, values, strict=True):
        if "step" not in state:
            state["step"] = torch.zeros((), device=value.device)
    if states[0]["step"].device != values[0].device:  # fused kernels want it there
        for state, value in zip(states, values, strict=True):
            state["step"] = state["step"].to(value.device)
    adam(
        values,
        gradients,
        [state["exp_avg"] for state in states],
        [state["exp_avg_sq"] for state in states],
        [],
        [state["step"] for state in states],
        fused=all(value.is_floating_point() for value in values),
        amsgrad=False,
        beta1=group["betas"][0],
        beta2=group["betas"][1],
        lr=float(group["lr"]),
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        maximize=False,
    )


def step_sgd(group: dict[str, Any], values: list[Tensor], gradients: list[Tensor], states: States) -> None:
    """One step of stochastic gradient descent; weight decay is L2."""
    buffers: list[Tensor | None] = [None] * len(values)
    if group["momentum"]:  # the fused kernel wants all or none, and 0 m + g is g
        prepare(states, values, moments=("momentum_buffer",))
        buffers = [state["momentum_buffer"] for state in states]
    sgd(
        values,
        gradients,
        buffers,
        fused=all(value.is_floating_point() for value in values),
        weight_decay=group["weight_decay"],
        momentum=group["momentum"],
        lr=float(group["lr"]),
        dampening=0.0,
        nesterov=group["nesterov"],
        maximize=False,
    )
