"""Where to compute, and in which precision."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch

from piggyback.shell.errors import BadInput


def pick_device(name: str | None = None) -> torch.device:
    """The named device, or the first GPU, or the processor.

    Raises:
        BadInput: torch knows no such device, or it is not there.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name is None:
        return torch.device("cuda" if gpus else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise BadInput(f"no device is called {name!r}: take cpu, cuda or, for one of several GPUs, cuda:1") from None
    if device.type == "cuda" and (device.index or 0) >= gpus:
        raise BadInput(f"there is no device {name!r}: torch sees {gpus or 'no'} GPU{'' if gpus == 1 else 's'} here")
    if device.type not in ("cpu", "cuda"):  # torch knows a dozen names that no build can compute on
        try:
            torch.zeros((), device=device).item()
        except (RuntimeError, AssertionError, ImportError):
            raise BadInput(f"torch cannot compute on {name!r} here: take cpu or cuda") from None
    return device


def prefers_bf16(device: torch.device) -> bool:
    """Whether bfloat16 is to be taken where the user does not say: on GPUs that compute in it.

    Not on processors.  Those without the instructions are slower in it, and those with them get weight gradients from
    torch 2.14.1 that were never written, NaN or any number, where a convolution's kernel reaches places that are all
    padding (7x7 with padding 3 on a map of 2x2; ``docs/decisions.md``).
    """
    return device.type == "cuda" and bool(torch.cuda.is_bf16_supported(including_emulation=False))


def processor_facts() -> dict[str, Any]:
    """What torch knows of the processor; nothing from a torch that does not report it."""
    ask = getattr(torch.cpu, "get_capabilities", None)
    return cast(dict[str, Any], ask()) if ask is not None else {}


def autocast(device: torch.device, *, precision: str = "auto") -> AbstractContextManager[object]:
    """The context of a forward pass.

    Args:
        device: where the network is.
        precision: ``auto`` (bf16 on GPUs that have it), ``bf16`` or ``fp32``.
    """
    if precision == "bf16" or (precision == "auto" and prefers_bf16(device)):
        return torch.autocast(device.type, torch.bfloat16)
    return nullcontext()


def describe_device(device: torch.device) -> str:
    """The name of the processor or GPU; for a processor also the number of torch's threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return device.type
    return f"{processor_facts().get('cpu_name', 'CPU')}, {torch.get_num_threads()} threads"
