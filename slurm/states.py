"""How the runs of a sweep stand: by what lies in their folders first, then by what Slurm says."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any, Final, Literal

from slurm.errors import SweepError
from slurm.folders import JobFolder, SweepFolder, read_json
from slurm.jobs import REQUEUE, is_alive
from slurm.planned import PlannedRun
from slurm.queries import JobState, find_states

State = Literal["done", "running", "queued", "stopped", "failed", "missing"]
METRICS: Final = ("mean_iou", "accuracy")  # the number to show of a result, the first that it has


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How one run stands.

    Attributes:
        run: the planned run.
        state: ``stopped`` ones have left a checkpoint and wait for being sent again; ``missing`` ones were never sent.
        progress: share that is done, in [0, 1]; None where nobody says.
        metric: name and value, of a result or of the last epoch.
        node: where it is or was.
        seconds: worked on it so far.
        left_s: seconds that it will still take, by its progress.
        job: the scheduler's id.
        message: why it failed.
    """

    run: PlannedRun
    state: State
    progress: float | None = None
    metric: tuple[str, float] | None = None
    node: str = ""
    seconds: float | None = None
    left_s: float | None = None
    job: str = ""
    message: str = ""

    def as_json(self) -> dict[str, Any]:
        """The standing as ``--json`` prints it."""
        fields = {key: value for key, value in vars(self).items() if key not in ("run", "metric")}
        metric = {"name": self.metric[0], "value": self.metric[1]} if self.metric is not None else None
        return {"id": self.run.id, "title": self.run.title, "kind": self.run.kind, **fields, "metric": metric}


def find_standings(sweep: SweepFolder, runs: Sequence[PlannedRun]) -> list[Standing]:
    """How the runs stand, with one question to Slurm for all of them, and none where all are done or local."""
    open_jobs = {}
    for run in runs:
        sent = read_json(sweep.job(run.id).submitted)
        if sent.get("cluster") == "slurm" and isinstance(sent.get("job"), str) and not sweep.proof(run).exists():
            open_jobs[run.id] = sent["job"]
    known = find_states(open_jobs.values())
    return [find_standing(sweep, run, job=open_jobs.get(run.id, ""), known=known) for run in runs]


def find_standing(
    sweep: SweepFolder, run: PlannedRun, *, job: str, known: Mapping[str, tuple[JobState, str]]
) -> Standing:
    """How one run stands; `known` has the states of Slurm's jobs."""
    folder = sweep.job(run.id)
    status, claim = read_json(run.folder / "status.json"), read_json(folder.claim)
    progress, seconds = number(status.get("progress")), number(status.get("seconds"))
    common: dict[str, Any] = {"run": run, "node": str(claim.get("host", "")), "job": str(claim.get("job", job))}
    if sweep.proof(run).exists():
        result = read_json(run.folder / "result.json")
        return Standing(**common, state="done", progress=1.0, metric=find_metric(result), seconds=seconds)
    slurm_says, word = known.get(job, ("unknown", ""))
    running = {name for name, (state, _) in known.items() if state == "running"}
    at_work = bool(claim.get("open")) and is_alive(claim, ask_slurm=running.__contains__)
    if at_work:
        begun = number(claim.get("since"))
        elapsed = time.time() - begun if begun is not None else None
        return Standing(
            **common, state="running", progress=progress, seconds=seconds or elapsed, left_s=estimate(progress, seconds)
        )
    if slurm_says in ("queued", "running"):
        return Standing(**{**common, "job": job}, state="queued", progress=progress, seconds=seconds)
    return Standing(
        **common, progress=progress, seconds=seconds, **find_end(folder, sent=bool(job), open_claim=claim, word=word)
    )


def find_end(folder: JobFolder, *, sent: bool, open_claim: Mapping[str, Any], word: str) -> dict[str, Any]:
    """State and message of a run that is neither done nor under way nor queued."""
    ended = folder.ended()
    if open_claim.get("open"):
        return {"state": "failed", "message": f"its process ended without a word{f' ({word})' if word else ''}"}
    if ended and ended[-1].get("code") == REQUEUE:
        return {"state": "stopped", "message": "stopped with a checkpoint"}
    if ended:
        why = ended[-1].get("message") or f"exit code {ended[-1].get('code')}"
        return {"state": "failed", "message": str(why)}
    if sent:
        return {"state": "failed", "message": f"its job ended before it began{f' ({word})' if word else ''}"}
    return {"state": "missing"}


def number(value: object) -> float | None:
    """A number of a file that a run wrote; None for anything else."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def find_metric(result: Mapping[str, Any]) -> tuple[str, float] | None:
    """The number to show of a result."""
    metrics = result.get("metrics")
    if not isinstance(metrics, dict):
        return None
    return next(((name, float(metrics[name])) for name in METRICS if number(metrics.get(name)) is not None), None)


def estimate(progress: float | None, seconds: float | None) -> float | None:
    """Seconds still to come, if all goes on as it has."""
    if not progress or seconds is None or progress >= 1:
        return None
    return seconds * (1 - progress) / progress


def choose(runs: Sequence[PlannedRun], patterns: Iterable[str]) -> list[PlannedRun]:
    """The runs whose id, or a word of whose title, fits one of the patterns; all where there is none.

    Raises:
        SweepError: a pattern fits nothing.
    """
    found: dict[str, PlannedRun] = {}
    wanted = list(patterns)
    for pattern in wanted:
        fitting = [run for run in runs if any(fnmatch(word, pattern) for word in (run.id, *run.title.split()))]
        if not fitting:
            raise SweepError(f"no run of the sweep is called {pattern!r}; `piggyback sweep status` lists them")
        found.update((run.id, run) for run in fitting)
    return [run for run in runs if run.id in found] if wanted else list(runs)
