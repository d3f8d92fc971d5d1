"""A benchmark's part of a sweep's file, read field by field.

The spec is that part with ``out``, the sweep's folder, and ``root``, from which relative paths count.  What is planned
has the fields that ``slurm.planning.planned_run.PlannedRun`` documents.  Nothing here loads torch.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from piggyback.methods.table import known_methods
from piggyback.shell.errors import BadInput, UnknownName
from piggyback.suite.recipe import as_flags, change_recipe, find_recipe, read_recipe

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


Planned = dict[str, Any]
R = TypeVar("R", bound="DataclassInstance")
V = TypeVar("V")
LABEL: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")


def take(spec: Mapping[str, Any], name: str, kind: type | tuple[type, ...], *, default: Any) -> Any:
    """A field of a spec.

    Raises:
        BadInput: it has another type, or is missing and `default` is None.
    """
    value = spec.get(name, default)
    if value is None:
        raise BadInput(f"the sweep's file must give {name}")
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise BadInput(f"the sweep's {name} cannot be {value!r:.60}")
    return value


def refuse_unknown(spec: Mapping[str, Any], *, known: Sequence[str]) -> None:
    """Raise BadInput for a field that no plan reads, since a misspelt one would go unnoticed."""
    unknown = sorted(spec.keys() - {*known, "name", "label", "out", "root"})
    if unknown:
        raise BadInput(f"the sweep's file has an unknown field, {unknown[0]!r}; known: {', '.join(sorted(known))}")


def take_label(spec: Mapping[str, Any], *, benchmark: str) -> str:
    """The label that tells this part from others of the same benchmark; it names the part's folder and steps."""
    label = str(take(spec, "label", str, default=benchmark))
    if LABEL.fullmatch(label) is None:
        raise BadInput(f"the sweep's label must be lowercase letters, digits and dashes, not {label!r:.60}")
    return label


@dataclass(frozen=True, kw_only=True)
class Place:
    """A file or folder that a spec names.

    Attributes:
        path: absolute.
        identity: tells it from others, and is the same for a sweep that was copied with its file.
    """

    path: Path
    identity: str


def take_place(spec: Mapping[str, Any], name: str) -> Place:
    """A path of a spec; a relative one counts from the spec's ``root``, or from the working directory without one.

    Raises:
        BadInput: it is missing or not text.
    """
    text = str(take(spec, name, str, default=None))
    path = os.path.abspath(os.path.join(str(spec.get("root", "")), text))
    out = os.path.abspath(os.path.join(str(spec.get("root", "")), str(spec.get("out", ""))))
    return Place(path=Path(path), identity=text if os.path.isabs(text) else os.path.relpath(path, out))


def take_methods(spec: Mapping[str, Any]) -> list[str]:
    """The methods of a spec, each once; ``piggyback`` if it names none.

    Raises:
        BadInput, UnknownName: one of them is unknown.
    """
    methods = take(spec, "methods", list, default=["piggyback"])
    known = known_methods()
    for method in methods:
        if method not in known:
            raise UnknownName(str(method), known=known, kind="method")
    return refuse_empty(methods, name="methods")


def take_seeds(spec: Mapping[str, Any]) -> list[int]:
    """The seeds of a spec, each once; 0 if it names none.

    Raises:
        BadInput: one of them is not a whole number from 0.
    """
    seeds = take(spec, "seeds", list, default=[0])
    for seed in seeds:
        if type(seed) is not int or not 0 <= seed < 1 << 63:
            raise BadInput(f"the sweep's seeds must be whole numbers from 0, not {seed!r:.60}")
    return refuse_empty(seeds, name="seeds")


def refuse_empty(values: Sequence[V], *, name: str) -> list[V]:
    """The values, each once.

    Raises:
        BadInput: there are none.
    """
    if not values:
        raise BadInput(f"the sweep's {name} are empty: nothing would run")
    return list(dict.fromkeys(values))


def take_recipe(spec: Mapping[str, Any], *, recipes: Mapping[str, R], default: str, place: str) -> tuple[list[str], R]:
    """A recipe, and the flags of the console command that name and change it.

    Args:
        spec: ``recipe``, a name, and ``settings``.
        recipes: by name.
        default: name of the recipe if none is given.
        place: where the settings are, for messages.

    Raises:
        BadInput, UnknownName: the recipe or a setting is unknown.
    """
    name = str(take(spec, "recipe", str, default=default))
    settings, base = dict(take(spec, "settings", dict, default={})), find_recipe(name, recipes=recipes)
    for key, value in settings.items():
        if type(getattr(base, key, None)) is int and isinstance(value, float):
            raise BadInput(f"{place}: {key} must be a whole number, not {value!r}")
    try:
        recipe = change_recipe(base, settings, name=place)
    except (TypeError, ValueError) as fault:  # of comparing a text in a list with a number, and such
        raise BadInput(f"{place}: {fault}") from None
    flags = ["--recipe", name, *as_flags(settings, start=base)]
    return flags, read_recipe(asdict(recipe), kind=type(recipe), name=place)


def take_run_recipe(spec: Mapping[str, Any], *, recipes: Mapping[str, R], default: str) -> tuple[list[str], R]:
    """As `take_recipe`, for runs, whose seeds are given beside the settings.

    Raises:
        BadInput, UnknownName: the recipe or a setting is unknown.
    """
    if "seed" in take(spec, "settings", dict, default={}):
        raise BadInput("the sweep's settings have a seed: give seeds = [...] beside them instead")
    return take_recipe(spec, recipes=recipes, default=default, place="the sweep's settings")


def short_id(*parts: object) -> str:
    """Ten hexadecimal digits of everything that tells a run from others."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:10]


def planned_run(  # noqa: PLR0913 -- the fields of a planned run
    run: str,
    *,
    title: str,
    kind: str,
    argv: Sequence[object],
    folder: Path,
    proof: Path | None = None,
    needs: Sequence[str] = (),
    after: str = "done",
    cost: str = "",
    inputs: Sequence[Path] = (),
) -> Planned:
    return {
        "id": run,
        "title": title,
        "kind": kind,
        "argv": [str(word) for word in argv],
        "folder": str(folder),
        "proof": None if proof is None else str(proof),
        "needs": list(needs),
        "after": after,
        "cost": cost,
        "inputs": [str(path) for path in inputs],
    }
