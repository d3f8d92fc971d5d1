"""Profiles: the resources that jobs ask a cluster for, as TOML."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final, get_args

from piggyback.shell.errors import SweepError
from slurm.planning.planned_run import Kind
from slurm.planning.sweep_files import read_toml

PROFILES: Final = "profiles"
"""Name of the profiles file among the examples, and of the file that is looked for."""


@dataclass(frozen=True, kw_only=True)
class Profile:
    """What to ask a cluster for; every field is an sbatch option unless said otherwise.

    Attributes:
        partition, account, qos, constraint, mail_user, mail_type: as sbatch takes them.
        minutes: time limit.
        memory_gb, cpus: of each process.  A job has one; a backbone's training has one per GPU and node.
        gpus: of each node.
        gpu_type: such as ``a100``; any when empty.
        nodes: of a backbone's training; all other jobs have one.
        parallel: array elements at the same time.
        array: elements of one array at most; the cluster's MaxArraySize is looked up when 0.
        signal_s: seconds before the time limit at which a job is asked to stop.
        setup: shell lines before the job's command.
        additional: other sbatch options; true is a bare flag, false takes one away that would be there.
        kinds: what is different for jobs of a kind (`slurm.planning.planned_run.Kind`); in the file a table within the
            profile's, such as ``[profile.gpu.backbone]``.
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
        """The profile with the differences for jobs of a kind applied."""
        own = replace(self, **self.kinds.get(kind, {}), kinds={})
        return own if kind == "backbone" else replace(own, nodes=1)

    def processes(self, kind: str) -> int:
        """Processes per node of a job of a kind."""
        return max(1, self.gpus) if kind == "backbone" else 1


def find_profile(name: str | None, *, file: Path | None, beside: Path | None = None) -> Profile:
    """Find the profile that a user means.

    Args:
        name: the profile's; ``default`` if not given.
        file: a file of profiles; by default ``profiles.toml`` here, or where `beside` is.
        beside: the sweep's file or folder.

    Returns:
        The profile; the defaults if none was named and there is no such file.

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
    """Read one ``[profile.NAME]`` of a profiles file.

    Raises:
        SweepError: there is none of that name, or a field is unknown, of the wrong type or out of range.
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
    """Check the fields of a profile.

    Raises:
        SweepError: one is unknown, of the wrong type or out of range.
    """
    for key, value in given.items():
        check_field(key, value, place=place)
    return {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}


def check_field(key: str, given: object, *, place: str) -> None:
    """Refuse an unknown field of a profile, or an impossible value.

    Raises:
        SweepError: the message says what it must be.
    """
    names = [entry.name for entry in fields(Profile) if entry.name != "kinds"]
    if key not in names:
        raise SweepError(f"{place} has an unknown field, {key!r}; known: {', '.join(names)}")
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
