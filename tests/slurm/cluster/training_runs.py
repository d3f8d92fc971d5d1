"""Short trainings to send to the test cluster, and what became of them; for the fault tests and reliability.py."""

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from cluster import OURS, Cluster
from layout import ClusterError

from decathlon.drawn.release import Amounts, write_release
from slurm.folder.layout import SweepFolder
from slurm.folder.state_files import read_state
from slurm.planning.planned_run import PlannedRun
from slurm.planning.plans import Plan, find_unsent
from slurm.planning.profiles import Profile
from slurm.sending.submission import Target, send
from slurm.states import OPEN, Standing, find_standings

PLAIN = (sys.executable, "-m", "piggyback")
WATCHED = (sys.executable, str(Path(__file__).with_name("watched_command.py")))
ONE_THREAD = {"OMP_NUM_THREADS": "1"}  # part of what bits depend on
PACE_S = 0.04  # after each step; see watched_command.py
STEPS = 100
RECIPE = ["--recipe", "smoke", "--min-steps", str(STEPS), "--lr", "5e-4", "--head-lr-factor", "20", "--norm", "trained"]
"""Masks, norm layers with their running statistics, and a head, on five epochs: all that a checkpoint has to keep."""
PATIENCE_S = 400.0
REST_S = 30.0  # so long without anything queued or running, and nothing more will come


@dataclass(frozen=True, kw_only=True)
class Ground:
    """What all trainings stand on, and what they must come to.

    Attributes:
        folder: with drawn data and a backbone.
        reference: result of the plain command, never interrupted.
    """

    folder: Path
    reference: dict[str, Any]

    def argv(self, place: Path) -> list[str]:
        """Arguments of a training whose run folder is `place`."""
        ground = ["--data", str(self.folder / "data"), "--backbone", str(self.folder / "backbone.safetensors")]
        where = ["--out", str(place.parent), "--folder", str(place)]
        return ["decathlon", "train", "--task", "svhn", "--method", "piggyback", *RECIPE, *ground, *where]


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One process's work on a run.

    Attributes:
        job: Slurm's id.
        restart: how often Slurm had queued the job again.
        code: it ended with; None where it had no time to say.
    """

    job: str
    restart: int
    code: int | None


@contextmanager
def clients_of(cluster: Cluster) -> Iterator[None]:
    """Have sbatch and the like, started by this process, talk to the cluster."""
    kept = {name: value for name, value in os.environ.items() if not OURS.match(name)}
    with patch.dict(os.environ, kept | cluster.environment(), clear=True):
        yield


def make_ground(folder: Path) -> Ground:
    """Draw svhn and imagenet12, train a small backbone, and train the reference; some 40 s."""
    amounts = Amounts(backbone=(240, 40, 40), task=(320, 80, 160))
    write_release(folder / "release", tasks=("imagenet12", "svhn"), amounts=amounts)
    do("decathlon", "prepare", "--source", folder / "release", "--out", folder / "data")
    network = ["--recipe", "smoke", "--depth", "10", "--widen", "1", "--size", "32", "--epochs", "1"]
    do("decathlon", "backbone", "train", "--data", folder / "data", "--out", folder / "pretraining", *network)
    (folder / "backbone.safetensors").symlink_to(folder / "pretraining" / "backbone.safetensors")
    ground = Ground(folder=folder, reference={})
    do(*ground.argv(folder / "reference"))
    return Ground(folder=folder, reference=read_outcome(folder / "reference"))


def do(*arguments: str | Path) -> None:
    """Run the plain console command.

    Raises:
        ClusterError: it fails; with what it said.
    """
    command = [*PLAIN, *map(str, arguments)]
    done = subprocess.run(command, env=os.environ | ONE_THREAD, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ClusterError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-2000:]}")


def read_outcome(place: Path) -> dict[str, Any]:
    """What must be the same whatever happened to a run."""
    result = json.loads((place / "result.json").read_text())
    epochs = [json.loads(line) for line in (place / "metrics.jsonl").read_text().splitlines()]
    digests = {
        name: hashlib.sha256((place / name).read_bytes()).hexdigest()
        for name in ("payload.safetensors", "predictions.npz")
    }
    return {
        **digests,
        "epochs": [{key: value for key, value in epoch.items() if key != "seconds"} for epoch in epochs],
        "result": {key: value for key, value in result.items() if key not in ("wall_s", "code")},
    }


@dataclass(frozen=True, kw_only=True)
class Trainings:
    """A sweep of equal trainings on a cluster.

    Attributes:
        cluster: where they are sent.
        ground: they stand on.
        plan: the runs.
        profile: how they are sent.
    """

    cluster: Cluster
    ground: Ground
    plan: Plan
    profile: Profile

    @property
    def runs(self) -> tuple[PlannedRun, ...]:
        """The runs of the plan."""
        return self.plan.runs

    def send(self, *, pace: float = PACE_S) -> dict[str, str]:
        """Send what is not done; the job of each run."""
        self.plan.folder.write_plan(self.plan.name, self.runs)
        with patch("slurm.jobs.COMMAND", (*WATCHED, str(pace))):
            return send(self.plan, find_unsent(self.plan), target=Target(cluster="slurm", profile=self.profile))

    def standings(self) -> list[Standing]:
        """How they stand."""
        return find_standings(self.plan.folder, self.runs)

    def wait_for_step(self, step: int, *, runs: Sequence[PlannedRun] | None = None) -> None:
        """Return when the first has come to a step, and all have a checkpoint.

        Raises:
            ClusterError: not in time, or one has done all its steps, so that a fault would come too late for it.
        """
        watched = self.runs if runs is None else runs
        end = time.monotonic() + PATIENCE_S
        while not (any(last_step(run) >= step for run in watched) and all(has_checkpoint(run) for run in watched)):
            if time.monotonic() > end or any(last_step(run) == STEPS for run in watched):
                raise ClusterError(f"not all together under way at step {step}: {self.describe()}")
            time.sleep(0.05)

    def wait_for_states(self, *states: str, runs: Sequence[PlannedRun] | None = None) -> set[str]:
        """Return when all are in one of `states`; gives every state that was seen on the way.

        Raises:
            ClusterError: they do not come there in time, or have come to rest elsewhere.
        """
        watched = {run.id for run in (self.runs if runs is None else runs)}
        seen: set[str] = set()
        begun = moving = time.monotonic()
        while True:
            now = {one.state for one in self.standings() if one.run.id in watched}
            seen |= now
            if now <= set(states):
                return seen
            moving = time.monotonic() if now & set(OPEN) else moving
            if time.monotonic() - begun > PATIENCE_S or time.monotonic() - moving > REST_S:
                raise ClusterError(f"not {' or '.join(states)}: {self.describe()}")
            time.sleep(0.5)

    def describe(self) -> str:
        """How they stand, and the ends of their logs, for messages."""
        parts = []
        for one in self.standings():
            log = self.plan.folder.job(one.run.id).log
            tail = log.read_text(errors="replace")[-1500:] if log.exists() else "(no log)"
            parts.append(
                f"{one.run.id} is {one.state} {one.message}; {read_attempts(self.plan.folder, one.run)}\n{tail}"
            )
        return "\n".join(parts)


def make_trainings(
    cluster: Cluster, ground: Ground, folder: Path, *, count: int = 1, minutes: int = 120, signal_s: int = 60
) -> Trainings:
    """Equal trainings in a folder of their own, not sent yet."""
    sweep = SweepFolder(folder)
    runs = []
    for number in range(count):
        place = folder / "runs" / f"svhn-{number}"
        proof = place / "result.json"
        runs.append(
            PlannedRun(
                id=place.name,
                title=f"svhn {number}",
                kind="run",
                argv=tuple(ground.argv(place)),
                folder=place,
                proof=proof,
            )
        )
    profile = Profile(
        partition="low",
        minutes=minutes,
        signal_s=signal_s,
        cpus=1,
        memory_gb=2,
        setup=tuple(f"export {name}={value}" for name, value in ONE_THREAD.items()),
    )
    plan = Plan(name="faults", folder=sweep, runs=tuple(runs))
    return Trainings(cluster=cluster, ground=ground, plan=plan, profile=profile)


def read_diary(run: PlannedRun) -> list[tuple[str, int]]:
    """Process and step, of every step that any process did."""
    try:
        lines = Path(f"{run.folder}.steps").read_text().splitlines(keepends=True)
    except FileNotFoundError:
        return []
    whole = [line.split() for line in lines if line.endswith("\n")]
    return [(words[0], int(words[1])) for words in whole]


def last_step(run: PlannedRun) -> int:
    """The last step that was done; 0 before the first."""
    diary = read_diary(run)
    return diary[-1][1] if diary else 0


def has_checkpoint(run: PlannedRun) -> bool:
    """Whether there is a checkpoint to go on from."""
    return any((run.folder / "checkpoints").glob("step-*.pt"))


def read_spans(run: PlannedRun) -> list[tuple[int, int]]:
    """First and last step of each process that did any, in order."""
    spans: dict[str, list[int]] = {}
    for process, step in read_diary(run):
        spans.setdefault(process, []).append(step)
    return [(steps[0], steps[-1]) for steps in spans.values()]


def count_lost(run: PlannedRun) -> int:
    """Steps that were done twice or oftener."""
    steps = [step for _, step in read_diary(run)]
    return len(steps) - len(set(steps))


def read_attempts(sweep: SweepFolder, run: PlannedRun) -> list[Attempt]:
    """All attempts at a run, in order."""
    root = sweep.job(run.id).claims.root
    found = []
    for path in sorted(root.glob("[0-9]*[0-9].json")):
        owner, end = read_state(path), read_state(path.with_suffix(".ended.json"))
        found.append(Attempt(job=str(owner.get("job")), restart=int(owner.get("restart", 0)), code=end.get("code")))
    return found
