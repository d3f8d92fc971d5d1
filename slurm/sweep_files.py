"""Sweeps and cluster profiles, as TOML files."""

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final, get_args

from slurm.errors import SweepError
from slurm.planned import Kind

EXAMPLES: Final = Path(__file__).parent / "examples"
"""What `sweep new` writes: sweeps and the profiles file; the repository's folder ``sweeps`` has the same files."""
PROFILES: Final = "profiles"
"""Name of the one among them that is no sweep."""


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """What to run.

    Attributes:
        name: of the sweep; names its jobs.
        out: folder for everything that it makes; absolute.
        root: folder from which relative paths count, that of the sweep's file; absolute.
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


@dataclass(frozen=True, kw_only=True)
class Profile:
    """How a cluster is asked for a job's resources; every field is an sbatch option unless said otherwise.

    Attributes:
        partition, account, qos, constraint, mail_user, mail_type: as sbatch takes them.
        minutes: time limit.
        memory_gb, cpus: of each process.  A job has one; a backbone's training has one per GPU and node.
        gpus: of each node.
        gpu_type: such as ``a100``; any when empty.
        nodes: of a backbone's training; all other jobs have one.
        parallel: array elements at the same time.
        array: elements of one array at most; the cluster's MaxArraySize is looked up when 0.
        signal_s: seconds before the time limit at which a job is told to stop.
        setup: shell lines before the job's command.
        additional: other sbatch options; true is a bare flag, false takes one away that would be there.
        kinds: what is different for jobs of a kind (`slurm.planned.Kind`); in the file a table within the profile's,
            such as ``[profile.gpu.backbone]``.
    """

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    mail_user: str | None = None
    mail_type: str | None = None
    minutes: int = 240
    memory_gb: int = 16
    cpus: int = 4
    gpus: int = 0
    gpu_type: str = ""
    nodes: int = 1
    parallel: int = 32
    array: int = 0
    signal_s: int = 120
    setup: tuple[str, ...] = ()
    additional: Mapping[str, Any] = field(default_factory=dict)
    kinds: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def of_kind(self, kind: str) -> "Profile":
        """The profile for jobs of a kind."""
        own = replace(self, **self.kinds.get(kind, {}), kinds={})
        return own if kind == "backbone" else replace(own, nodes=1)

    def processes(self, kind: str) -> int:
        """How many processes a job of a kind has on each of its nodes."""
        return max(1, self.gpus) if kind == "backbone" else 1


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file.

    Raises:
        SweepError: it is missing or no TOML.
    """
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except OSError as fault:
        raise SweepError(f"cannot read {path}: {fault.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as fault:
        raise SweepError(f"{path} is no TOML: {fault}") from None


def read_sweep(path: Path) -> Sweep:
    """A sweep's file.

    Relative folders in it count from the file's own folder, so that every verb finds the sweep from everywhere.  They
    are made absolute without following links, which may differ from node to node.

    Raises:
        SweepError: it is missing, damaged, or lacks what a sweep must have.
    """
    value = read_toml(path)
    unknown = sorted(value.keys() - {"name", "out", "page", "defaults", "benchmark"})
    if unknown:
        raise SweepError(
            f"{path}: {unknown[0]!r} means nothing at the top; known: name, out, page, [defaults.NAME] and"
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
    """The [[benchmark]] tables of a sweep's file, each with what it leaves to its benchmark's defaults.

    A part's own field takes the place of the default; tables, such as settings, are joined field by field.

    Raises:
        SweepError: there is none, or one cannot be.
    """
    parts, defaults = value.get("benchmark"), value.get("defaults", {})
    if not isinstance(parts, list) or not parts or not all(isinstance(part, dict) for part in parts):
        raise SweepError(f"{path} must have a [[benchmark]] table for each benchmark")
    if not isinstance(defaults, dict) or not all(isinstance(one, dict) for one in defaults.values()):
        raise SweepError(f"{path}: defaults must be tables by the names of benchmarks, such as [defaults.decathlon]")
    for part in parts:
        if not isinstance(part.get("name"), str):
            raise SweepError(f'{path}: each [[benchmark]] table must have a name, such as "decathlon"')
    for table in (*parts, *defaults.values()):
        if own := sorted(table.keys() & {"out", "root"}):
            raise SweepError(f"{path}: {own[0]!r} stands at the top, not in a [[benchmark]] or [defaults.NAME] table")
    if idle := sorted(defaults.keys() - {part["name"] for part in parts}):
        raise SweepError(f"{path}: [defaults.{idle[0]}] is of no use: no [[benchmark]] table has this name")
    return [join(defaults.get(part["name"], {}), part) for part in parts]


def join(defaults: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of both, the own ones first; of two tables the fields of both likewise."""
    tables = {key for key in defaults.keys() & own.keys() if isinstance(defaults[key], dict)}
    joined = {key: defaults[key] | own[key] for key in tables if isinstance(own[key], dict)}
    return {**defaults, **own, **joined}


def find_profile(name: str | None, *, file: Path | None, beside: Path | None = None) -> Profile:
    """The profile that a user means.

    Args:
        name: of the profile; ``default`` when not given.
        file: of profiles; without one, ``profiles.toml`` here, or where `beside` lies.
        beside: the sweep's file or folder.

    Returns:
        The profile; one of defaults where nothing was named and there is no such file.

    Raises:
        SweepError: as `read_profile`.
    """
    usual = f"{PROFILES}.toml"
    places = [file] if file is not None else [Path(usual), *([beside.parent / usual] if beside is not None else [])]
    found = next((place for place in places if place.exists()), None)
    if found is None and name is None and file is None:
        return Profile()
    return read_profile(found or places[0], name=name or "default")


def read_profile(path: Path, *, name: str) -> Profile:
    """One ``[profile.NAME]`` of a profiles file.

    Raises:
        SweepError: there is none of that name, or it has a field that is not known, of another type or out of range.
    """
    profiles = read_toml(path).get("profile")
    if not isinstance(profiles, dict) or not isinstance(profiles.get(name), dict):
        known = ", ".join(sorted(profiles)) if isinstance(profiles, dict) else "no profile"
        raise SweepError(f"{path} has no [profile.{name}]; it has {known}")
    value, place = dict(profiles[name]), f"{path}: [profile.{name}"
    kinds = {kind: value.pop(kind) for kind in get_args(Kind) if kind in value}
    for kind, own in kinds.items():
        if not isinstance(own, dict):
            raise SweepError(f"{place}] {kind} must be a table of what is different for such jobs, not {own!r:.60}")
    checked = {kind: check_fields(own, place=f"{place}.{kind}]") for kind, own in kinds.items()}
    return Profile(**check_fields(value, place=f"{place}]"), kinds=checked)


def check_fields(given: Mapping[str, Any], *, place: str) -> dict[str, Any]:
    """Fields of a profile as they were read, when they can be.

    Raises:
        SweepError: one is not known, of another type or out of range.
    """
    for key, value in given.items():
        check_field(key, value, place=place)
    return {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}


def check_field(key: str, given: object, *, place: str) -> None:
    """Refuse a field of a profile that is not known, or whose value cannot be.

    Raises:
        SweepError: with what it must be.
    """
    names = [entry.name for entry in fields(Profile) if entry.name != "kinds"]
    if key not in names:
        raise SweepError(f"{place} has {key!r}, which is not known; known: {', '.join(names)}")
    usual = getattr(Profile(), key)
    kind, word = {int: (int, "a whole number"), tuple: (list, "a list of shell lines"), Mapping: (dict, "a table")}.get(
        Mapping if key == "additional" else type(usual), (str, "a text")
    )
    if not isinstance(given, kind) or isinstance(given, bool):
        raise SweepError(f"{place} {key} must be {word}, not {given!r:.60}")
    if isinstance(given, list) and not all(isinstance(line, str) for line in given):
        raise SweepError(f"{place} {key} must be {word}, not {given!r:.60}")
    if isinstance(given, int) and given < (0 if usual == 0 else 1):
        raise SweepError(f"{place} {key} must be at least {0 if usual == 0 else 1}, not {given}")
    if isinstance(given, str) and ("\n" in given or not given.strip()) and key != "gpu_type":
        raise SweepError(f"{place} {key} must be one line of text, not {given!r:.60}")
