"""States of the runs of a sweep: by the files in their folders first, then by what Slurm says."""

import math
import signal
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any, Final, Literal

from piggyback.shell.errors import SweepError
from slurm.children import REQUEUE
from slurm.folder.claims import Claim
from slurm.folder.layout import JobFolder, SweepFolder
from slurm.folder.state_files import read_last_line, read_state
from slurm.planning.planned_run import PlannedRun
from slurm.queries import Answer, find_states

State = Literal["done", "running", "queued", "unknown", "stopped", "failed", "missing"]
OPEN: Final[tuple[State, ...]] = ("running", "queued", "unknown")
METRICS: Final = ("mean_iou", "accuracy")  # the number to show of a result, the first that it has
EPOCH_METRICS: Final = (*METRICS, "val_mean_iou", "val_accuracy", "val_top1", "loss")
KILLED: Final = 128  # exit codes from here on are signals


@dataclass(frozen=True, kw_only=True)
class Standing:
    """State of one run.

    Attributes:
        state: ``stopped`` runs wait to be sent again, with a checkpoint if they had begun; ``missing`` ones were
            never sent; ``unknown`` ones were sent to a Slurm that does not answer now.
        progress: fraction completed, in [0, 1]; None if unknown.
        metric: name and value, of a result or of the last epoch.
        node: where it runs or ran.
        seconds: that it has taken so far.
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
        fields = {key: value for key, value in vars(self).items() if key not in ("run", "metric")}
        metric = {"name": self.metric[0], "value": self.metric[1]} if self.metric is not None else None
        return {"id": self.run.id, "title": self.run.title, "kind": self.run.kind, **fields, "metric": metric}


@dataclass(frozen=True, kw_only=True)
class Traces:
    """Content of the files in a run's job folder.

    Attributes:
        sent: where it was last sent; empty if never.
        claim: the last attempt.
    """

    run: PlannedRun
    folder: JobFolder
    sent: Mapping[str, Any]
    claim: Claim | None

    @property
    def slurm_job(self) -> str:
        """Slurm's id of the job that the run was sent as; empty if it was not sent to Slurm."""
        return str(self.sent.get("job", "")) if self.sent.get("cluster") == "slurm" else ""

    @property
    def has_begun(self) -> bool:
        """Whether there was an attempt since it was last sent."""
        first = self.sent.get("attempt", 0)
        return self.claim is not None and isinstance(first, int) and self.claim.number >= first

    @property
    def is_over(self) -> bool:
        """Whether it ended by itself since it was last sent, though Slurm may still show its job for minutes.

        False if it must continue or was killed: that may be Slurm's doing, which queues the job again next.
        """
        code = self.claim.end.get("code") if self.claim is not None and self.claim.end is not None else None
        return self.has_begun and isinstance(code, int) and code != REQUEUE and code < KILLED


def find_standings(
    sweep: SweepFolder, runs: Sequence[PlannedRun], *, only: Collection[str] | None = None
) -> list[Standing]:
    """Find the states of runs, with one question to Slurm for all of them, and none if all are done or local.

    Args:
        sweep: the folder.
        runs: all of the plan, in the order of their needs.
        only: ids of the runs to find; all by default.
    """
    chosen = [run for run in runs if only is None or run.id in only]
    traces = [find_traces(sweep, run) for run in chosen]
    finished = sweep.find_finished(runs)  # after the attempts: a run leaves its proof first, and its end then
    open_ones = [one for one in traces if one.run.id not in finished]
    jobs = {one.slurm_job for one in open_ones}
    jobs |= {one.claim.job for one in open_ones if one.claim and one.claim.in_slurm and one.claim.end is None}
    answer = find_states(jobs - {""})
    if jobs - {""}:  # what ended while Slurm was asked has left its end by now
        traces = [one if one.run.id in finished else look_again(sweep, one) for one in traces]
        finished = sweep.find_finished(runs)
    queue = sweep.queue.last() if any(one.sent.get("cluster") == "local" for one in open_ones) else None
    has_queue = queue is not None and queue.is_alive(lambda job: None)
    return [
        find_standing(one, done=one.run.id in finished, answer=answer, in_queue=has_queue and is_waiting(one))
        for one in traces
    ]


def find_traces(sweep: SweepFolder, run: PlannedRun) -> Traces:
    """Read what a run's job folder says."""
    folder = sweep.job(run.id)
    return Traces(run=run, folder=folder, sent=read_state(folder.submitted), claim=folder.claims.last())


def look_again(sweep: SweepFolder, one: Traces) -> Traces:
    """Read the traces again; keep the old ones if the run was sent again, as Slurm was asked about the old job."""
    now = find_traces(sweep, one.run)
    return now if now.sent == one.sent else one


def is_waiting(one: Traces) -> bool:
    """Whether an active local queue has yet to start the run."""
    return one.sent.get("cluster") == "local" and not one.has_begun and not one.folder.cancelled.exists()


def find_standing(one: Traces, *, done: bool, answer: Answer, in_queue: bool) -> Standing:
    """Derive a run's state from its traces and Slurm's answer."""
    status, owner = read_state(one.run.folder / "status.json"), one.claim.owner if one.claim else {}
    progress, seconds = number(status.get("progress")), number(status.get("seconds"))
    node, job = str(owner.get("node", "")), str(owner.get("job", one.slurm_job))
    alive = one.claim is not None and one.claim.is_alive(answer.is_running)
    if seconds is None and one.claim is not None:  # the run itself says nothing
        seconds = find_seconds(one.claim, alive=alive)
    common: dict[str, Any] = {"run": one.run, "node": node, "job": job, "progress": progress, "seconds": seconds}
    if done:
        metric = find_metric(read_state(one.run.folder / "result.json").get("metrics"), METRICS)
        return Standing(**{**common, "progress": 1.0}, state="done", metric=metric)
    if alive:
        metric = find_metric(read_last_line(one.run.folder / "metrics.jsonl"), EPOCH_METRICS)
        return Standing(**common, state="running", metric=metric, left_s=estimate(progress, seconds))
    state, word = answer.of(one.slurm_job) if one.slurm_job else ("ended", "")
    if state == "running" and one.is_over:
        state = "ended"
    common["job"] = one.slurm_job or job
    if state == "unknown" and word:  # a word of a newer Slurm: the job is there, and that is what matters
        state = "queued"
    if in_queue or state != "ended":
        message = "Slurm does not answer" if state == "unknown" else find_reason(one, answer)
        return Standing(**common, state="queued" if in_queue or state == "ended" else state, message=message)
    return Standing(**common, **find_end(one, word=word))


def find_reason(one: Traces, answer: Answer) -> str:
    """Describe what holds a queued run back; empty if it only waits its turn."""
    reason = answer.reasons.get(one.slurm_job, "")
    return f"Slurm says {reason}" if reason else ""


def find_seconds(claim: Claim, *, alive: bool) -> float | None:
    """Seconds from a claim to its end, to now, or to its last sign of life."""
    begun, ended = number(claim.owner.get("since")), number((claim.end or {}).get("ended"))
    if begun is None:
        return None
    return max(0.0, (ended or (time.time() if alive else claim.beat)) - begun)


def find_end(one: Traces, *, word: str) -> dict[str, Any]:
    """State and message of a run that is neither done nor in progress nor queued."""
    said = f" ({word})" if word else ""
    end = one.claim.end if one.claim is not None else None
    if one.folder.cancelled.exists() and (end is None or not one.has_begun or end.get("code") == REQUEUE):
        return {"state": "stopped", "message": "cancelled"}
    if one.sent and not one.has_begun:
        if one.slurm_job:
            return {"state": "failed", "message": f"its job ended before it began{said}"}
        return {"state": "stopped", "message": "its queue ended before it began"}
    if one.claim is None:
        return {"state": "missing"}
    if end is None:
        return {"state": "failed", "message": f"its process ended without a word{said}"}
    if end.get("code") == REQUEUE:
        return {"state": "stopped", "message": str(end.get("message") or "stopped with a checkpoint")}
    if end.get("code") == 0:  # done, but before something that it needs, or by another command
        return {"state": "stopped", "message": "to be done again with what it needs"}
    return {"state": "failed", "message": str(end.get("message") or describe_code(end.get("code")))}


def describe_code(code: object) -> str:
    """Describe an exit code; 128 and more are signals, and the kernel sends KILL when memory runs out."""
    if not isinstance(code, int) or code - 128 not in set(signal.Signals):
        return f"exit code {code}"
    advice = ": most likely there was not enough memory" if code - 128 == signal.SIGKILL else ""
    return f"killed by {signal.Signals(code - 128).name}{advice} (exit code {code})"


def number(value: object) -> float | None:
    """A number from a file that a run wrote; None for anything else."""
    if not isinstance(value, int | float) or isinstance(value, bool) or abs(value) > 1e300 or math.isnan(value):
        return None
    return float(value)


def find_metric(metrics: object, names: Sequence[str]) -> tuple[str, float] | None:
    """Find the first of the names that has a number."""
    if not isinstance(metrics, dict):
        return None
    found = ((name, number(metrics.get(name))) for name in names)
    return next(((name, value) for name, value in found if value is not None), None)


def estimate(progress: float | None, seconds: float | None) -> float | None:
    """Seconds still to come, if progress continues at the same rate."""
    if progress is None or seconds is None or not 0 < progress < 1:
        return None
    return seconds * (1 - progress) / progress


def choose(runs: Sequence[PlannedRun], patterns: Iterable[str]) -> list[PlannedRun]:
    """Find the runs whose id, or a word of whose title, matches one of the patterns; all runs without patterns.

    Raises:
        SweepError: a pattern matches no run.
    """
    found: dict[str, PlannedRun] = {}
    wanted = list(patterns)
    for pattern in wanted:
        fitting = [run for run in runs if any(fnmatch(word, pattern) for word in (run.id, *run.title.split()))]
        if not fitting:
            raise SweepError(f"no run of the sweep is called {pattern!r}; `piggyback sweep status` lists them")
        found.update((run.id, run) for run in fitting)
    return [run for run in runs if run.id in found] if wanted else list(runs)
