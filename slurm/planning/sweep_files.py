"""Sweep files: what to run, as TOML."""

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from piggyback.shell.errors import BadInput, SweepError, reading
from piggyback.shell.files import read_file

EXAMPLES: Final = Path(__file__).parent.parent / "examples"
"""What `sweep new` writes: sweeps and the profiles file; the repository's folder ``sweeps`` has the same files."""
MAX_BYTES: Final = 1 << 20  # the longest of the examples has 5 KB


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """What to run.

    Attributes:
        name: also names its jobs.
        out: folder for everything that it makes; absolute.
        root: folder of the sweep's file, to which relative paths refer; absolute.
        page: whether to end with a page of the results.
        benchmarks: one mapping each: ``name`` (the benchmark's), ``methods``, ``seeds``, ``recipe``, ``settings`` and
            what else the benchmark knows, such as ``tasks``, ``data`` and ``backbone``.  In the file, a table
            ``[defaults.NAME]`` has what all parts of that benchmark have in common.
    """

    name: str
    out: Path
    root: Path
    benchmarks: tuple[Mapping[str, Any], ...]
    page: bool = True


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        SweepError: it is missing or not TOML.
    """
    try:
        with reading(path, what="TOML file"):  # tomllib lets out RecursionError too, and ValueError of long numbers
            return tomllib.loads(read_file(path, limit=MAX_BYTES).decode())
    except BadInput as fault:
        raise SweepError(str(fault)) from None


def read_sweep(path: Path) -> Sweep:
    """Read a sweep's file.

    Relative folders in it refer to the file's own folder, so that every verb finds the sweep from everywhere.  They
    are made absolute without following links, which may differ from node to node.

    Raises:
        SweepError: it is missing or damaged, or lacks a required field.
    """
    value = read_toml(path)
    unknown = sorted(value.keys() - {"name", "out", "page", "defaults", "benchmark"})
    if unknown:
        raise SweepError(
            f"{path}: unknown field {unknown[0]!r} at the top; known: name, out, page, [defaults.NAME] and"
            " [[benchmark]] tables"
        )
    name, out = value.get("name"), value.get("out")
    if not isinstance(name, str) or not isinstance(out, str) or not name or not out:
        raise SweepError(f"{path} must have a name and an out folder, both texts")
    page = value.get("page", True)
    if not isinstance(page, bool):
        raise SweepError(f"{path}: page must be true or false, not {page!r:.60}")
    parts = tuple(read_parts(value, path=path))
    root = Path(os.path.abspath(path)).parent
    return Sweep(name=name, out=Path(os.path.abspath(root / out)), root=root, benchmarks=parts, page=page)


def read_parts(value: Mapping[str, Any], *, path: Path) -> list[Mapping[str, Any]]:
    """Read the [[benchmark]] tables of a sweep's file, each completed by its benchmark's defaults.

    A part's own field replaces the default; tables, such as settings, are joined field by field.

    Raises:
        SweepError: there are none, or one is wrong.
    """
    parts, defaults = value.get("benchmark"), value.get("defaults", {})
    if not isinstance(parts, list) or not parts or not all(isinstance(part, dict) for part in parts):
        raise SweepError(f"{path} must have a [[benchmark]] table for each benchmark")
    if not isinstance(defaults, dict) or not all(isinstance(one, dict) for one in defaults.values()):
        raise SweepError(f"{path}: defaults must be tables by the names of benchmarks, [defaults.NAME]")
    for part in parts:
        if not isinstance(part.get("name"), str):
            raise SweepError(f'{path}: each [[benchmark]] table must have a name: name = "NAME"')
    for table in (*parts, *defaults.values()):
        if own := sorted(table.keys() & {"out", "root"}):
            raise SweepError(f"{path}: {own[0]!r} stands at the top, not in a [[benchmark]] or [defaults.NAME] table")
    if idle := sorted(defaults.keys() - {part["name"] for part in parts}):
        raise SweepError(f"{path}: [defaults.{idle[0]}] is of no use: no [[benchmark]] table has this name")
    return [join(defaults.get(part["name"], {}), part) for part in parts]


def join(defaults: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Join the fields of both; `own` wins, except that two tables are joined in the same way."""
    tables = {key for key in defaults.keys() & own.keys() if isinstance(defaults[key], dict)}
    joined = {key: defaults[key] | own[key] for key in tables if isinstance(own[key], dict)}
    return {**defaults, **own, **joined}
