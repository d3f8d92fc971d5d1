"""What users give to the library, checked where it comes in: a mistake must not wait for the end of a training."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import is_lazy

from piggyback.methods.contract import Method, keeps_contract
from piggyback.methods.registry import named_method
from piggyback.methods.table import known_methods
from piggyback.network.task_state import Norm
from piggyback.shell.errors import BadInput, one_line, shown

LONGEST_NAME: Final = 200  # characters of a task's name, which stands in payloads, messages and tables
TYPES: Final = (torch.float32, torch.float64, torch.bfloat16, torch.float16)  # of weights that a task can adapt


def find_method(method: object) -> Method:
    """A method from itself, its class or its name, with its default settings.

    Raises:
        UnknownName: there is no method of that name.
        BadInput: it is something else, or does not keep the contract.
    """
    if isinstance(method, str):
        return named_method(method)
    if isinstance(method, type):
        kind = method
        try:
            method = kind()
        except TypeError as fault:
            raise BadInput(f"method {kind.__name__} cannot be made without settings ({fault}): give one") from None
    if not isinstance(method, Method):
        known = ", ".join(known_methods())
        raise BadInput(f"a method is piggyback.Binary(...) or the like, or a name, not {shown(method)}; names: {known}")
    if not keeps_contract(method):
        raise BadInput(
            f"method {type(method).__name__} does not keep the contract of methods: see docs/adding-a-method.md"
        )
    return method


def check_norm(norm: object) -> None:
    """Refuse a word for norm layers that there is not.

    Raises:
        BadInput: naming all of them.
    """
    if norm not in get_args(Norm):
        raise BadInput(f"norm is one of {', '.join(map(repr, get_args(Norm)))}, not {shown(repr(norm))}")


def check_task_name(name: object, *, advice: str = "") -> None:
    """Refuse what could not stand in a file's header, in a line of a message or in a table.

    Raises:
        BadInput: it is no text, blank, too long, or has characters that do not print.
    """
    if isinstance(name, str) and name.strip() and name.isprintable() and len(name) <= LONGEST_NAME:
        return
    found = f"{shown(repr(name), longest=60)}{f' of {len(name)}' if isinstance(name, str) else ''}"
    raise BadInput(f"a task's name is 1 to {LONGEST_NAME} characters of text that print, not {found}{advice}")


def check_network(network: object) -> None:
    """Refuse a network that tasks could not be put onto, as it is.

    Raises:
        BadInput: it is no module; its tensors hold no values, or cannot be trained; or the layers to adapt have other
            than floating-point weights.
    """
    if not isinstance(network, nn.Module):
        raise BadInput(f"the network must be a torch.nn.Module, not {describe(network)}")
    refuse_valueless(network, whose="the network's")
    for name, module in network.named_modules():
        if isinstance(module, _ConvNd | nn.Linear | nn.MultiheadAttention):
            for key, weight in module.named_parameters(prefix=name, recurse=False):
                if not is_adaptable(weight):
                    kind = str(weight.dtype if weight.layout is torch.strided else weight.layout)
                    advice = BEFORE_QUANTIZING if not weight.is_complex() else "complex layers cannot be masked"
                    raise BadInput(f"{key!r} is {kind.removeprefix('torch.')}, no floating-point weight: {advice}")


BEFORE_QUANTIZING: Final = "attach to the network as it was before, and quantize what adapter.merged(task) gives"


def is_adaptable(weight: Tensor) -> bool:
    """Whether masks and steps mean something on a weight's type."""
    return weight.dtype in TYPES and weight.layout is torch.strided


def check_head(head: object) -> None:
    """Refuse a head, or one in a mapping of heads, that could not be trained.

    Raises:
        BadInput: it is no module, or its tensors hold no values.
    """
    for module in head.values() if isinstance(head, Mapping) else (head,):
        if not isinstance(module, nn.Module):
            raise BadInput(f"a head must be a torch.nn.Module, such as nn.Linear(512, 10), not {describe(module)}")
        refuse_valueless(module, whose="the head's")


def refuse_valueless(module: nn.Module, *, whose: str) -> None:
    """Raise BadInput for the first tensor that holds no values, or none that could be trained."""
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if is_lazy(tensor):
            raise BadInput(f"{whose} {name!r} has no shape yet: run one batch through the lazy layer first")
        if tensor.is_meta:
            raise BadInput(
                f"{whose} {name!r} is on the meta device and holds no values: call to_empty(device=...) and load the "
                "weights first"
            )
        if tensor.is_inference():
            raise BadInput(
                f"{whose} {name!r} was made under torch.inference_mode, so that torch can train nothing of it: build "
                "or load it outside"
            )


def check_folder(path: Path) -> None:
    """Refuse a path for a new file whose folder is not there.

    Raises:
        BadInput: naming the folder.
    """
    if not path.parent.is_dir():
        raise BadInput(f"there is no folder {one_line(path.parent)} to save into: make it first, or give another path")
    if path.is_dir():
        raise BadInput(f"{one_line(path)} is a folder: give the path of a file in it")


def describe(value: object) -> str:
    """What was given instead of an object of some class."""
    return f"the class {value.__name__} itself" if isinstance(value, type) else f"a {type(value).__name__}"


@contextmanager
def unchanged_if_failing(head: Any) -> Iterator[None]:
    """Put the tensors of a user's head, or of several, back as they were if the block raises."""
    heads: list[nn.Module] = [] if head is None else list(head.values()) if isinstance(head, Mapping) else [head]
    before = [{key: tensor.clone() for key, tensor in module.state_dict().items()} for module in heads]
    try:
        yield
    except BaseException:
        for module, state in zip(heads, before, strict=True):
            module.load_state_dict(state)
        raise
