"""Methods by name: ours, and those of installed packages."""

from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import EntryPoint
from types import MappingProxyType
from typing import Any, Final, cast

from piggyback.methods.contract import HasMasks, Method, keeps_contract
from piggyback.methods.table import GROUP, TABLE, known_methods, offered_methods
from piggyback.shell.errors import BadInput, UnknownName


def load_method(point: EntryPoint) -> Method:
    """The method at an entry point, with its default settings.

    Raises:
        BadInput: it cannot be loaded, or does not keep the contract.
    """
    try:
        made: object = point.load()()
    except Exception as fault:  # whatever another package raises; reported, not swallowed
        raise BadInput(f"method {point.name!r} of {point.value} cannot be loaded: {fault}") from fault
    if not isinstance(made, Method) or made.name != point.name or not keeps_contract(made):
        raise BadInput(f"{point.value} is no method called {point.name!r}: see docs/adding-a-method.md")
    return made


METHODS: Final[Mapping[str, Method]] = MappingProxyType(
    {name: load_method(EntryPoint(name, row.home, GROUP)) for name, row in TABLE.items()}
)


def named_method(name: str) -> Method:
    """The method of that name with its default settings: one of ours, or one of an installed package.

    Raises:
        UnknownName: naming the nearest one.
        BadInput: a package offers it, but it cannot be loaded or does not keep the contract.
    """
    if name in METHODS:
        return METHODS[name]
    offered = offered_methods()
    if name not in offered:
        raise UnknownName(name, known=known_methods(), kind="method")
    return load_method(offered[name])


def set_masks(method: Method, *, threshold: float, init: float) -> Method:
    """The method with these settings, where it has masks."""
    if isinstance(method, HasMasks):
        return cast(Method, replace(cast(Any, method), threshold=threshold, init=init))
    return method
