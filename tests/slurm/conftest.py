"""A benchmark of shell commands, and a Slurm of shell scripts: nothing here loads torch or needs a cluster."""

import json
import shutil
import stat
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from slurm.folder.layout import SweepFolder
from slurm.planning import planned_run
from slurm.planning.planned_run import PlannedRun
from slurm.planning.plans import Plan

CHILD = """
case "$1" in
make) mkdir -p "${2%/*}"; echo "now $2" >> "$LOG"
    echo '{"metrics": {"accuracy": 0.5}, "wall_s": 36.0}' > "$2" ;;
span) mkdir -p "${2%/*}"; begun=$(date +%s%N); sleep 0.2
    printf '{"span": [%s, %s]}' "$begun" "$(date +%s%N)" > "$2" ;;
say) echo "the score is $2" ;;
fail) echo "no luck"; exit "$2" ;;
gpu) mkdir -p "${2%/*}"; echo "gpu=$CUDA_VISIBLE_DEVICES" > "$2" ;;
hold) mkdir -p "${2%/*}"
    trap 'echo told >> "$2.told"; sleep 0.5; exit 75' USR2
    echo $$ > "$2.pid"
    patience=3000
    until [ -e "$2.go" ]; do sleep 0.02; patience=$((patience - 1)); [ $patience = 0 ] && exit 99; done
    echo '{}' > "$2" ;;
esac
"""

SLURM = {
    "sbatch": """
        [ -e "$FAKE/refuse" ] && { cat "$FAKE/refuse" >&2; exit 1; }
        number=$(($(cat "$FAKE/number") + 1)); echo $number > "$FAKE/number"
        cp "$1" "$FAKE/sent-$number.sh"; env > "$FAKE/env-$number"; echo "Submitted batch job $number" """,
    "squeue": """
        [ -e "$FAKE/squeue.err" ] && { cat "$FAKE/squeue.err" >&2; exit 1; }
        echo "$SLURM_BITSTR_LEN $@" > "$FAKE/squeue.args"; cat "$FAKE/squeue.txt" """,
    "sacct": """[ -e "$FAKE/sacct.txt" ] || exit 1; cat "$FAKE/sacct.txt" """,
    "scancel": """echo "$@" >> "$FAKE/scancel.args"; [ -e "$FAKE/scancel.err" ] || exit 0
        cat "$FAKE/scancel.err" >&2; exit 1""",
    "scontrol": """
        [ "$1" = show ] && { echo "MaxArraySize            = $(cat "$FAKE/max_array")"; exit 0; }
        echo "$@" >> "$FAKE/scontrol.args"; [ -e "$FAKE/scontrol.err" ] || exit 0
        cat "$FAKE/scontrol.err" >&2; exit 1""",
    "srun": "exit 1",
}


@pytest.fixture(autouse=True)
def shell_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What runs stands for: ``sh child.sh`` in the place of the console command."""
    script = tmp_path / "child.sh"
    script.write_text(CHILD)
    monkeypatch.setattr("slurm.jobs.COMMAND", ("/bin/sh", str(script)))
    monkeypatch.setattr("slurm.local_queue.POLL_S", 0.02)
    monkeypatch.setenv("LOG", str(tmp_path / "order.log"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def toy_plan(spec: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Prepare, runs ``a``, ``b``, ... with what each does, and a score."""
    out = Path(spec["out"]) / "toy"

    def one(name: str, kind: str, argv: list[str], **more: Any) -> dict[str, Any]:
        fields = {"id": name, "title": f"toy {name}", "kind": kind, "argv": argv, "folder": str(out / name)}
        return {**fields, "proof": None, **more}

    runs = []
    for name, words in spec["runs"].items():
        proof = str(out / name / "result.json")
        argv = [words[0], proof if words[0] != "fail" else words[1]]
        runs.append(one(name, "run", argv, proof=proof, needs=["prep"], cost="toy"))
    prep = one("prep", "prepare", spec.get("prep", ["say", "prep"]))
    return [prep, *runs, one("score", "score", ["say", "42"], needs=[run["id"] for run in runs], after="ended")]


class ToyPoint:
    name = "toy"

    @staticmethod
    def load() -> SimpleNamespace:
        return SimpleNamespace(plan=toy_plan)


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Writes the sweep file of a toy benchmark."""
    monkeypatch.setattr(planned_run, "entry_points", lambda group: [ToyPoint()])

    def write(runs: Mapping[str, list[str]], *, prep: tuple[str, ...] = ("say", "prep"), folder: str = "work") -> Path:
        path = tmp_path / folder / "toy.toml"
        path.parent.mkdir(exist_ok=True)
        lines = [
            'name = "toy"',
            'out = "swept"',
            "page = false",
            "[[benchmark]]",
            'name = "toy"',
            f"prep = {json.dumps(prep)}",
        ]
        lines += ["[benchmark.runs]", *(f"{name} = {json.dumps(words)}" for name, words in runs.items())]
        path.write_text("\n".join(lines))
        return path

    return write


@pytest.fixture
def make_plan(tmp_path: Path) -> Callable[..., Plan]:
    """A plan from keyword arguments: name to (argv, needs); runs of ``make`` and ``hold`` have a proof."""

    def make(**runs: tuple[list[str], list[str]]) -> Plan:
        folder = SweepFolder(tmp_path / "swept")
        found = []
        for name, (words, needs) in runs.items():
            place = folder.root / "toy" / name
            proof = place / "result.json" if words[0] in ("make", "hold", "gpu") else None
            argv = (words[0], str(proof)) if proof else tuple(words)
            found.append(
                PlannedRun(
                    id=name, title=f"toy {name}", kind="run", argv=argv, folder=place, proof=proof, needs=tuple(needs)
                )
            )
        return Plan(name="toy", folder=folder, runs=tuple(found))

    return make


@pytest.fixture
def fake_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that holds what the Slurm commands on PATH answer, and what they were told."""
    folder, programs = tmp_path / "fake", tmp_path / "fake" / "bin"
    programs.mkdir(parents=True)
    for name, body in SLURM.items():
        path = programs / name
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    (folder / "number").write_text("100")
    (folder / "squeue.txt").write_text("")
    (folder / "max_array").write_text("1001")
    monkeypatch.setenv("FAKE", str(folder))
    monkeypatch.setenv("PATH", f"{programs}:{Path(shutil.which('sh') or '').parent}:{Path(sys.executable).parent}")
    return folder


@pytest.fixture
def no_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without Slurm's commands."""
    programs = tmp_path / "without"
    programs.mkdir()
    for name in ("sh", "date", "mkdir", "sleep", "env", "cat"):
        (programs / name).symlink_to(shutil.which(name) or name)
    monkeypatch.setenv("PATH", str(programs))


def wait_for(true: Callable[[], object], *, seconds: float = 20.0) -> None:
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, "it does not happen"
        time.sleep(0.02)


@pytest.fixture
def eventually() -> Callable[..., None]:
    return wait_for
