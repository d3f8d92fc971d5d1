"""What the recipes of all benchmarks share: finding one by name, identifying a run, reading one back."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from piggyback.shell.errors import BadInput, PiggybackError, UnknownName

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

R = TypeVar("R")
D = TypeVar("D", bound="DataclassInstance")


def find_recipe(name: str, *, recipes: Mapping[str, R]) -> R:
    """The recipe of that name.

    Raises:
        UnknownName: naming the nearest one.
    """
    try:
        return recipes[name]
    except KeyError:
        raise UnknownName(name, known=recipes, kind="recipe") from None


def recipe_named_in(arguments: Sequence[str], *, recipes: Mapping[str, R], default: str) -> R:
    """The recipe that ``--recipe`` names among arguments not parsed yet; the last one, as the parser takes it."""
    name = default
    for position, argument in enumerate(arguments):
        if argument.startswith("--recipe="):
            name = argument.partition("=")[2]
        elif argument == "--recipe" and position + 1 < len(arguments):
            name = arguments[position + 1]
    return find_recipe(name, recipes=recipes)


def run_id(key: "DataclassInstance") -> str:
    """Ten hexadecimal digits that identify a run by everything its numbers depend on."""
    text = json.dumps(asdict(key), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def read_recipe(values: Mapping[str, Any], *, kind: type[R], name: str) -> R:
    """The recipe that a result was measured with.

    Args:
        values: of the result's recipe; what a run adds to it is passed over.
        kind: the recipe's class.
        name: of the file, for messages.

    Raises:
        BadInput: it is none of that class.
    """
    known = {entry.name for entry in fields(kind)}  # type: ignore[arg-type]  # a dataclass, all of them
    chosen = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items() if key in known}
    hints = get_type_hints(kind)
    for key, value in chosen.items():
        if get_origin(hints[key]) is Literal and value not in get_args(hints[key]):
            raise BadInput(f"{name} has no such recipe: {key} is {value!r:.40}, not one of {get_args(hints[key])}")
    try:
        return kind(**chosen)
    except (PiggybackError, TypeError, ValueError) as fault:  # the latter of comparing a text with a number and such
        raise BadInput(f"{name} has no such recipe: {fault}") from None


def as_flags(settings: Mapping[str, Any], *, start: object | None = None) -> list[str]:
    """Settings of a recipe as flags of the console command, in a fixed order.

    Args:
        settings: fields by name.
        start: the recipe that the flags change; what it has already gets no flag, as a switch that is on can only
            be turned off on the command line.
    """
    flags: list[str] = []
    for name, value in sorted(settings.items()):
        flag = name.replace("_", "-")
        several = isinstance(value, list | tuple)
        if start is not None and getattr(start, name, None) == (tuple(value) if several else value):
            continue
        if isinstance(value, bool):
            flags.append(f"--{flag}" if value else f"--no-{flag}")
        elif several:
            flags += [f"--{flag}", *(str(one) for one in value)]
        else:
            flags += [f"--{flag}", str(value)]
    return flags


def change_recipe(recipe: D, settings: Mapping[str, Any], *, name: str) -> D:
    """A recipe with other settings, such as those of a sweep's file.

    Args:
        recipe: a frozen dataclass.
        settings: fields by name; lists become tuples.
        name: of the file or table, for messages.

    Raises:
        BadInput: a field is not known, or its value is of another type or out of its range.
    """
    known = {entry.name for entry in fields(recipe)}
    for key, value in settings.items():
        if key not in known:
            raise UnknownName(key, known=known, kind=f"setting of the recipe in {name}")
        usual = getattr(recipe, key)
        number = isinstance(usual, int | float) and not isinstance(usual, bool)
        fits = isinstance(value, int | float) if number else usual is None or isinstance(value, type(usual) | list)
        if not fits or (isinstance(value, bool) and not isinstance(usual, bool)):
            raise BadInput(f"{name}: {key} must be of the kind of {usual!r}, not {value!r:.60}")
    return replace(recipe, **{key: tuple(v) if isinstance(v, list) else v for key, v in settings.items()})
