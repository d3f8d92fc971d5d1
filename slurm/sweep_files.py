"""Sweeps and cluster profiles, as TOML files."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final

from slurm.errors import SweepError

EXAMPLES: Final = Path(__file__).parent / "examples"


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """What to run.

    Attributes:
        name: of the sweep; names its jobs.
        out: folder for everything that it makes.
        benchmarks: one mapping each: ``benchmark`` (its name), ``methods``, ``seeds``, ``recipe``, ``settings`` and
            what else the benchmark knows, such as ``tasks``, ``data`` and ``backbone``.
    """

    name: str
    out: Path
    benchmarks: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, kw_only=True)
class Profile:
    """How a cluster is asked for a job's resources; every field is an sbatch option unless said otherwise.

    Attributes:
        partition, account, qos, constraint, mail_user, mail_type: as sbatch takes them.
        minutes: time limit.
        memory_gb, cpus, gpus: per job.
        gpu_type: such as ``a100``; any when empty.
        nodes: of a backbone's training; all other jobs have one.
        parallel: array elements at the same time.
        array: elements of one array at most; the cluster's MaxArraySize is looked up when 0.
        signal_s: seconds before the time limit at which a job is told to stop.
        setup: shell lines before the job's command.
        additional: other sbatch options.
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
    """A sweep's file; relative folders in it count from where the command is typed.

    Raises:
        SweepError: it is missing, damaged, or lacks what a sweep must have.
    """
    value = read_toml(path)
    unknown = sorted(value.keys() - {"name", "out", "benchmark"})
    if unknown:
        raise SweepError(f"{path}: {unknown[0]!r} means nothing at the top; known: name, out and [[benchmark]] tables")
    name, out, parts = value.get("name"), value.get("out"), value.get("benchmark")
    if not isinstance(name, str) or not isinstance(out, str) or not name or not out:
        raise SweepError(f"{path} must have a name and an out folder, both texts")
    if not isinstance(parts, list) or not parts or not all(isinstance(part, dict) for part in parts):
        raise SweepError(f"{path} must have a [[benchmark]] table for each benchmark")
    for part in parts:
        if not isinstance(part.get("name"), str):
            raise SweepError(f'{path}: each [[benchmark]] table must have a name, such as "decathlon"')
    return Sweep(name=name, out=Path(out), benchmarks=tuple(parts))


def read_profile(path: Path, *, name: str) -> Profile:
    """One ``[profile.NAME]`` of a profiles file.

    Raises:
        SweepError: there is none of that name, or it has a field that is not known or of another type.
    """
    profiles = read_toml(path).get("profile")
    if not isinstance(profiles, dict) or not isinstance(profiles.get(name), dict):
        known = ", ".join(sorted(profiles)) if isinstance(profiles, dict) else "none"
        raise SweepError(f"{path} has no [profile.{name}]; it has {known}")
    value = dict(profiles[name])
    defaults = Profile()
    for key, given in value.items():
        if key not in {entry.name for entry in fields(Profile)}:
            known = ", ".join(entry.name for entry in fields(Profile))
            raise SweepError(f"{path}: [profile.{name}] has {key!r}, which is not known; known: {known}")
        usual = getattr(defaults, key)
        kind = dict if key == "additional" else {type(None): str, tuple: list}.get(type(usual), type(usual))
        if not isinstance(given, kind) or isinstance(given, bool):
            raise SweepError(f"{path}: [profile.{name}] {key} must be a {kind.__name__}, not {given!r:.60}")
    value["setup"] = tuple(value.get("setup", ()))
    return Profile(**value)
