"""The smoke sweep on the test cluster, and its results beside those of the queue on this machine.

``python tests/slurm/cluster/smoke.py`` does all of it both ways, in some three minutes, and compares everything.
"""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from cluster import Cluster, run_cluster
from console import write_profiles
from layout import Options

from slurm.folder.state_files import read_state
from slurm.planning.sweep_files import EXAMPLES

PATIENCE_S = 600.0
SAME = ("metrics", "counts", "fingerprints", "bits", "parameter_ratio", "recipe", "versions", "device")
"""What results must have in common; the rest says when, in what time and by which commit."""


@dataclass(frozen=True)
class Smoke:
    """The smoke sweep in a folder of its own; `first` and `second` are submitting it, at the same moment."""

    cluster: Cluster
    folder: Path
    first: "subprocess.Popen[str]"
    second: "subprocess.Popen[str]"

    @property
    def out(self) -> Path:
        """What the sweep makes."""
        return self.folder / "sweeps-smoke"

    def jobs(self) -> list[str]:
        """Ids of all its jobs, also those that have ended."""
        lines = self.cluster.run("squeue", "--array", "--noheader", "--states=all", "--format=%i %j").splitlines()
        return sorted(line.split()[0] for line in lines if line.split()[1].startswith("smoke-"))

    def type(self, verb: str, *words: str) -> tuple[int, str]:
        """Exit code of a command and what it printed."""
        return finish(type_command(self.folder, self.cluster.environment(), verb, "smoke.toml", *words))


def type_command(folder: Path, environment: dict[str, str], verb: str, *words: str) -> "subprocess.Popen[str]":
    """Start ``piggyback sweep VERB WORDS`` in a folder, on one thread."""
    return subprocess.Popen(
        [sys.executable, "-m", "piggyback", "sweep", verb, *words],
        cwd=folder,
        env=environment | {"OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: "subprocess.Popen[str]") -> tuple[int, str]:
    """Exit code of a process and what it printed."""
    printed, _ = process.communicate(timeout=PATIENCE_S)
    return process.returncode, printed


@contextmanager
def run_smoke(cluster: Cluster, folder: Path) -> Iterator[Smoke]:
    """The sweep being submitted, twice; both processes end with the block."""
    shutil.copy(EXAMPLES / "smoke.toml", folder)
    write_profiles(folder / "smoke.toml", memory_gb=3)
    words = ("submit", "smoke.toml", "--cluster", "slurm")
    with (
        type_command(folder, cluster.environment(), *words, "--wait") as first,
        type_command(folder, cluster.environment(), *words, "--wait") as second,
    ):
        try:
            yield Smoke(cluster, folder, first, second)
        finally:
            first.kill()
            second.kill()


def read_results(out: Path) -> dict[str, dict[str, Any]]:
    """What must be the same wherever it is done: values of each result, bytes of each payload and backbone."""
    copies = (out / "board", out / "site")  # another attempt is another place there
    own = [path for path in out.rglob("result.json") if not any(path.is_relative_to(one) for one in copies)]
    results = {path: read_state(path) for path in own}
    found = {path: {name: value.get(name) for name in SAME} for path, value in results.items()}
    found |= {path: {"sha256": digest(path)} for path in out.rglob("*.safetensors")}
    return {str(path.relative_to(out)): value for path, value in found.items()}


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    return sha256(path.read_bytes()).hexdigest()


def redo_here(smoke: Smoke) -> tuple[int, str]:
    """Throw the Decathlon's backbone and the runs of one task away, and have the same file do them on this machine."""
    runs = [path.parent for path in smoke.out.rglob("payload.safetensors") if path.parent.name.startswith("dtd-")]
    gone = [*smoke.out.glob("decathlon/decathlon-backbone-*"), *runs]
    assert len(gone) == 3
    for path in gone:
        shutil.rmtree(path)
    return smoke.type("submit", "--cluster", "local", "--wait", "--max-parallel", "2")


def main() -> int:
    """Do the whole sweep both ways, and say which values differ."""
    with tempfile.TemporaryDirectory() as name, run_cluster(Options()) as cluster:
        there, here = Path(name) / "slurm", Path(name) / "local"
        for folder in (there, here):
            folder.mkdir()
            shutil.copy(EXAMPLES / "smoke.toml", folder)
            write_profiles(folder / "smoke.toml", memory_gb=3)
        words = ("submit", "smoke.toml", "--wait", "--cluster")
        for folder, more in ((there, ("slurm",)), (here, ("local", "--max-parallel", "2"))):
            code, printed = finish(type_command(folder, cluster.environment(), *words, *more))
            sys.stdout.write(f"--cluster {more[0]}: exit code {code}\n{printed}\n")
        one, other = read_results(there / "sweeps-smoke"), read_results(here / "sweeps-smoke")
    differing = [name for name in sorted(one | other) if one.get(name) != other.get(name)]
    sys.stdout.write(
        f"{len(one)} results, payloads and backbones, {len(differing)} differ: {', '.join(differing) or '-'}\n"
    )
    return 1 if differing or not one else 0


if __name__ == "__main__":
    sys.exit(main())
