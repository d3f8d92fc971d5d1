"""The sweep verbs as a user types them, in this process, and what they answer."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from piggyback.shell.cli import main
from slurm.folder.layout import SweepFolder

OPEN = {"queued", "running", "unknown"}


@dataclass(frozen=True)
class Answer:
    """Exit code of a command, and what it printed."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What it printed, read."""
        return json.loads(self.out)


class Console:
    """Types ``piggyback sweep ...``, for sweeps on Slurm."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys

    def type(self, verb: str, *words: object) -> Answer:
        """The answer to ``piggyback sweep VERB WORDS``; no error of a user's is an exception here."""
        self.capsys.readouterr()
        code = main(["sweep", verb, *map(str, words)])
        printed = self.capsys.readouterr()
        return Answer(code, printed.out, printed.err)

    def send(self, verb: str, file: Path, *words: object) -> dict[str, str]:
        """The job of each run that ``submit`` or ``retry`` sends, with the profiles beside the sweep's file."""
        answer = self.type(verb, file, *words, "--cluster", "slurm", "--profiles", profiles_of(file), "--json")
        assert answer.err == ""
        assert answer.code == 0
        return dict(answer.json["sent"])

    def standings(self, file: Path, *runs: str) -> dict[str, dict[str, Any]]:
        """What ``status`` says of each run."""
        answer = self.type("status", file, *runs, "--json")
        assert (answer.code, answer.err) == (0, "")
        return {run["id"]: run for run in answer.json["runs"]}

    def states(self, file: Path) -> dict[str, str]:
        """The state of each run, as ``status`` says."""
        return {run: one["state"] for run, one in self.standings(file).items()}

    def wait_for(
        self, file: Path, wanted: Mapping[str, str] | Callable[[dict[str, str]], bool], *, seconds: float = 90
    ) -> dict[str, dict[str, Any]]:
        """What ``status`` says when runs have come to the states that are wanted."""
        end = time.monotonic() + seconds
        while True:
            standings = self.standings(file)
            states = {run: one["state"] for run, one in standings.items()}
            if wanted(states) if callable(wanted) else wanted.items() <= states.items():
                return standings
            assert time.monotonic() < end, f"not in time: {states}"
            time.sleep(0.2)

    def wait_for_end(self, file: Path, *, seconds: float = 90) -> dict[str, dict[str, Any]]:
        """What ``status`` says when no run is queued or under way."""
        return self.wait_for(file, lambda states: not OPEN & set(states.values()), seconds=seconds)


def profiles_of(file: Path) -> Path:
    """The profiles for a sweep's file."""
    return file.with_name("profiles.toml")


def write_profiles(file: Path, **fields: object) -> None:
    """Write the profile for a sweep's file: small jobs on low, of two hours so that S1 stays away.

    Args:
        file: the sweep's.
        fields: others than these, as of `slurm.planning.sweep_files.Profile`; a mapping is for jobs of one kind.
    """
    usual = {"partition": "low", "memory_gb": 1, "cpus": 1, "minutes": 120}
    tables = {"": {name: value for name, value in (usual | fields).items() if not isinstance(value, dict)}}
    tables |= {f".{name}": value for name, value in fields.items() if isinstance(value, dict)}
    lines = []
    for name, table in tables.items():
        lines += [f"[profile.default{name}]", *(f"{key} = {json.dumps(value)}" for key, value in table.items())]
    profiles_of(file).write_text("\n".join([*lines, ""]))


def attempts_of(file: Path, run: str) -> int:
    """How often a run was begun."""
    return SweepFolder(file.parent / "swept").job(run).claims.next()


def proof_of(file: Path, run: str) -> str:
    """The result of a toy run, beside which lie the marks that its command makes and waits for."""
    return str(file.parent / "swept" / "toy" / run / "result.json")


def let_go(file: Path, run: str) -> None:
    """Let a toy run end that holds, or will."""
    mark = Path(f"{proof_of(file, run)}.go")
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.touch()


def is_held(file: Path, run: str) -> bool:
    """Whether a toy run that holds has begun to."""
    return Path(f"{proof_of(file, run)}.pid").exists()
