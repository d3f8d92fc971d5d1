"""Stages of a sweep's jobs, each an array that waits for its needs, sent to sbatch through submitit.

Dependencies say "after any ending", and each run checks itself that what it needs is done: after a failed parent,
Slurm's own "after success" would keep children waiting for ever, and let them start once the parent is forgotten
(reference: cluster notes, end of section 2).
"""

import contextlib
import io
import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import submitit
from submitit.core.utils import FailedJobError, FailedSubmissionError, environment_variables
from submitit.helpers import clean_env
from submitit.slurm.slurm import SlurmExecutor, _make_sbatch_string

from piggyback.shell.errors import SweepError
from slurm.folder.layout import SweepFolder
from slurm.jobs import JobCall
from slurm.planning.planned_run import PlannedRun
from slurm.planning.profiles import Profile
from slurm.queries import ask
from slurm.sending.snapshots import import_variables

DEAF: Final = 'trap "" USR2; exec "$@"'
MAX_ARRAY: Final = 1001  # Slurm's default MaxArraySize; indices are below it


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Runs that can be done at the same time, as one array.

    Attributes:
        depth: how many stages they wait for.
        runs: at most as many as an array may have elements.
        parts: number of arrays that the stage was split into, which share its limit of simultaneous elements.
    """

    kind: str
    depth: int
    runs: tuple[PlannedRun, ...]
    parts: int = 1


def find_array_limit(profile: Profile) -> int:
    """Most elements of one array: the profile's, else the cluster's, else Slurm's default."""
    if profile.array:
        return profile.array
    config = ask(["scontrol", "show", "config"]) or ""
    size = re.search(r"^MaxArraySize\s*=\s*(\d+)", config, flags=re.M)
    tasks = re.search(r"^SchedulerParameters\s*=.*\bmax_array_tasks=(\d+)", config, flags=re.M)
    below = (int(size[1]) if size else MAX_ARRAY) - 1
    return max(1, min(below, int(tasks[1])) if tasks else below)


def make_stages(runs: Sequence[PlannedRun], *, limit: int) -> list[Stage]:
    """Group runs into stages, in the order of their needs, split where an array would have more than `limit` elements.

    A training that others build on is a job of its own, sent before the rest of its depth, so that what builds on it
    waits for no other.
    """
    depths: dict[str, int] = {}
    for run in runs:
        depths[run.id] = max((depths[need] + 1 for need in run.needs if need in depths), default=0)
    alone = {need for run in runs if run.kind == "run" for need in run.needs}
    places = {run.id: place for place, run in enumerate(runs) if run.kind == "run" and run.id in alone}

    def key(run: PlannedRun) -> tuple[int, str, int]:
        return depths[run.id], run.kind, places.get(run.id, len(runs))

    stages = []
    for (depth, kind, _), group in groupby(sorted(runs, key=key), key=key):
        members = list(group)
        starts = range(0, len(members), limit)
        for first in starts:
            part = tuple(members[first : first + limit])
            stages.append(Stage(kind=kind, depth=depth, runs=part, parts=len(starts)))
    return stages


def slurm_parameters(
    profile: Profile, *, name: str, stage: Stage, depends: Sequence[str], code: Path | None = None
) -> dict[str, Any]:
    """Make submitit's parameters for a stage's jobs.

    Args:
        profile: how to ask for resources.
        name: of the jobs.
        stage: which.
        depends: jobs to wait for.
        code: folder that jobs import the packages from, see `slurm.sending.snapshots`.
    """
    own, processes = profile.of_kind(stage.kind), profile.of_kind(stage.kind).processes(stage.kind)
    gres = f"gpu:{own.gpu_type}:{own.gpus}" if own.gpu_type else None
    # srun of Slurm 22.05 to 23.02 does not read SLURM_CPUS_PER_TASK (S12); one process that fails ends the others
    srun = ["--cpus-per-task", str(own.cpus)] + (["--kill-on-bad-exit=1"] if processes * own.nodes > 1 else [])
    setup = [*own.setup, *(f"export {key}={shlex.quote(value)}" for key, value in import_variables(code).items())]
    wanted = {
        "job_name": name,
        "partition": own.partition,
        "account": own.account,
        "qos": own.qos,
        "constraint": own.constraint,
        "mail_user": own.mail_user,
        "mail_type": own.mail_type,
        "time": own.minutes,
        "mem": f"{own.memory_gb * processes}GB",
        "nodes": own.nodes,
        "ntasks_per_node": processes,
        "cpus_per_task": own.cpus,
        "gpus_per_node": own.gpus if own.gpus and not gres else None,
        "gres": gres if own.gpus else None,
        "signal_delay_s": own.signal_s,
        "array_parallelism": max(1, own.parallel // stage.parts),
        "setup": setup or None,
        "srun_args": srun,
        "dependency": "afterany:" + ":".join(depends) if depends else None,
        "additional_parameters": {
            key: value for key, value in {"requeue": True, **own.additional}.items() if value is not False
        },
    }
    return {key: value for key, value in wanted.items() if value is not None}


def job_name(sweep: str, kind: str) -> str:
    """A name for squeue, of characters that are safe in every shell."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", f"{sweep}-{kind}")[:80]


def check_folder(root: Path) -> None:
    """Refuse a folder whose path Slurm would read as a pattern.

    Raises:
        SweepError: its path has such a character.
    """
    wrong = [character for character in "%\\\n" if character in str(root)]
    if wrong:
        raise SweepError(f"the folder {str(root)!r} has {wrong[0]!r} in its path, which means something else to Slurm")


def log_folder(sweep: SweepFolder) -> Path:
    """Folder of submitit's files: one for all jobs, as it must exist before jobs have ids."""
    return sweep.root / "submitit"


@contextlib.contextmanager
def login_environment() -> Iterator[None]:
    """Restore, inside a job, the environment of a login node, since a job's variables would change the new job (S21).

    The variables that lead to the cluster stay; submitit's helper alone would remove them too.
    """
    kept = {name: os.environ[name] for name in ("SLURM_CONF", "SLURM_CLUSTERS") if name in os.environ}
    with clean_env(), environment_variables(**kept):
        yield


def python_words() -> str:
    """Words that start Python in a job's shell line, ignoring USR2 until it has a handler.

    A job that is preempted in its first seconds would die of the signal, as FAILED, which Slurm does not queue again
    (seen on 22.05).  What a shell ignores stays ignored in what it executes (POSIX, trap); Slurm ends and requeues the
    job after its grace time all the same.
    """
    return f"/bin/sh -c {shlex.quote(DEAF)} sh {shlex.quote(sys.executable)}"


def submit_stage(sweep: SweepFolder, stage: Stage, *, parameters: dict[str, Any]) -> list[str]:
    """Send one stage; returns each run's job id.

    Raises:
        SweepError: there is no Slurm here, or sbatch refuses; the message quotes it.
    """
    if any(shutil.which(name) is None for name in ("sbatch", "srun")):
        raise SweepError(
            "there is no Slurm here: sbatch and srun are not on PATH; --cluster local runs on this machine"
        )
    executor = SlurmExecutor(folder=log_folder(sweep), python=python_words())
    executor.update_parameters(**parameters)
    calls = [JobCall(argv=run.argv, root=str(sweep.root), run=run.id) for run in stage.runs]
    try:
        with login_environment(), contextlib.redirect_stderr(io.StringIO()):  # submitit prints what the error says too
            jobs: list[submitit.Job[int]] = (  # an array of one has an id without "_" (S15)
                executor.submit_array(calls) if len(calls) > 1 else [executor.submit(calls[0])]
            )
    except (FailedJobError, FailedSubmissionError) as fault:  # what submitit makes of an sbatch that refuses
        words = " ".join(str(fault).split())[-400:]
        raise SweepError(f"sbatch refuses the {stage.kind} jobs: {words}") from None
    return [str(job.job_id) for job in jobs]


def submit_stages(
    sweep: SweepFolder,
    runs: Sequence[PlannedRun],
    *,
    name: str,
    profile: Profile,
    before: Mapping[str, str],
    code: Path | None = None,
) -> dict[str, str]:
    """Send runs to Slurm.

    Args:
        sweep: the folder; the runs' orders are written already.
        runs: in the order of their needs.
        name: the sweep's.
        profile: how to ask for resources.
        before: jobs of runs that were sent earlier and are queued or in progress; runs that need these wait for them.
        code: see `slurm_parameters`.

    Returns:
        Job id of each run.

    Raises:
        SweepError: sbatch refuses; what was sent until then is recorded.
    """
    check_folder(sweep.root)
    sent: dict[str, str] = {}
    for stage in make_stages(runs, limit=find_array_limit(profile)):
        needs = {need for run in stage.runs for need in run.needs}
        known = {**before, **sent}
        depends = sorted({known[need].partition("_")[0] for need in needs if need in known}, key=int)
        own_name = job_name(name, stage.kind)
        parameters = slurm_parameters(profile, name=own_name, stage=stage, depends=depends, code=code)
        attempts = {run.id: sweep.job(run.id).claims.next() for run in stage.runs}
        for run, job in zip(stage.runs, submit_stage(sweep, stage, parameters=parameters), strict=True):
            sent[run.id] = job
            sweep.job(run.id).note_sent(cluster="slurm", job=job, attempt=attempts[run.id])
    return sent


def sbatch_texts(
    sweep: SweepFolder, runs: Sequence[PlannedRun], *, name: str, profile: Profile, code: Path | None = None
) -> list[str]:
    """The exact texts that sbatch would get, except for the ids of jobs to wait for; needs no Slurm."""
    check_folder(sweep.root)
    texts, folder = [], log_folder(sweep)
    command = f"{python_words()} -u -m submitit.core._submit {shlex.quote(str(folder))}"
    for stage in make_stages(runs, limit=find_array_limit(profile)):
        depends = ["JOB_OF_THE_STAGE_BEFORE"] if stage.depth else []
        own_name = job_name(name, stage.kind)
        parameters = slurm_parameters(profile, name=own_name, stage=stage, depends=depends, code=code)
        count: dict[str, Any] = {"map_count": len(stage.runs)} if len(stage.runs) > 1 else {}
        # submitit shows the text in no public way, and its executor asks for srun before it shows anything
        texts.append(_make_sbatch_string(command=command, folder=folder, **parameters, **count))
    return texts
