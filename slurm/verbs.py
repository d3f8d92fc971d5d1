"""The sweep verbs, built on the Python API that ``import slurm`` gives."""

import shlex
import shutil
import sys
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Final

from piggyback.shell.console import out, print_json, say
from piggyback.shell.errors import SweepError
from slurm.children import REQUEUE
from slurm.options import (
    AnyCluster,
    CancelOptions,
    LogsOptions,
    NewOptions,
    PlanOptions,
    RetryOptions,
    StatusOptions,
    SubmitOptions,
)
from slurm.planning.planned_run import PlannedRun
from slurm.planning.plans import Plan, estimate, find_folder, find_unsent, plan, submitted_plan
from slurm.planning.profiles import PROFILES, Profile, find_profile
from slurm.planning.sweep_files import EXAMPLES, read_sweep
from slurm.reports import show_plan, show_standings, standings_as_json
from slurm.sending.cancellation import cancel
from slurm.sending.submission import Cluster, Target, find_left_over, stay, submit
from slurm.states import OPEN, choose, find_standings

WATCH_S: Final = 5.0
FOLLOW_S: Final = 0.5


def run_new(options: NewOptions) -> int:
    """``piggyback sweep new``."""
    source = EXAMPLES / f"{options.name}.toml"
    known = sorted(path.stem for path in EXAMPLES.glob("*.toml"))
    if options.name not in known:
        raise SweepError(f"no example is called {options.name!r}; known: {', '.join(known)}")
    target = options.out or Path(f"{options.name}.toml")
    if target.exists() and not options.force:
        raise SweepError(f"{target} exists; choose another --out, or --force to overwrite it")
    shutil.copyfile(source, target)
    then = f"doctor --profiles {target}" if options.name == PROFILES else f"plan {target}"
    say(f"{target}: edit it, then `piggyback sweep {then}`")
    return 0


def run_plan(options: PlanOptions) -> int:
    """``piggyback sweep plan``."""
    planned = plan(read_sweep(options.file))
    finished, profile = planned.finished, None
    if options.profile is not None:
        profile = find_profile(options.profile, file=options.profiles, beside=options.file)
    records = None if options.records is None else find_folder(options.records)
    guess = estimate(planned, records=records, profile=profile)
    if options.json:
        runs = [
            {"id": run.id, "title": run.title, "kind": run.kind, "needs": list(run.needs), "argv": list(run.argv)}
            | {"done": run.id in finished, "hours": guess.hours.get(run.id), "cost": guess.cost.get(run.id)}
            for run in planned.runs
        ]
        print_json({"name": planned.name, "unit": guess.unit, "runs": runs})
    else:
        show_plan(planned.name, planned.runs, finished=finished, guess=guess)
    return 0


def run_submit(options: SubmitOptions) -> int:
    """``piggyback sweep submit``; with --wait returns 1 if a run has failed, 75 if some were stopped."""
    planned = plan(read_sweep(options.file))
    return send_missing(planned, options, chosen=None, place=options.file)


def run_retry(options: RetryOptions) -> int:
    """``piggyback sweep retry``; exit codes as of `run_submit`."""
    planned = submitted_plan(options.sweep)
    chosen = None
    if options.runs:
        fitting = {run.id for run in choose(planned.runs, options.runs)}
        standings = find_standings(planned.folder, planned.runs, only=fitting)
        chosen = {one.run.id for one in standings if one.state in ("failed", "stopped", "missing", "unknown")}
    return send_missing(planned, options, chosen=chosen, place=options.sweep)


def send_missing(
    planned: Plan, options: SubmitOptions | RetryOptions, *, chosen: Collection[str] | None, place: Path
) -> int:
    """Send what is missing, or show it; returns the exit code."""
    target = find_target(options, place=place)
    if options.dry_run:
        return show_submission(planned, find_unsent(planned, chosen=chosen), target=target, json=options.json)
    stays, known = target.stay or target.cluster == "debug", {run.id: run for run in planned.runs}
    jobs = submit(planned, target=target, chosen=chosen)
    if left := find_left_over(planned):
        say(f"note: {len(left)} runs that are no longer in the sweep are queued or under way; `sweep cancel` ends them")
    if stays:
        stay(planned, [known[run] for run in jobs], target=target)
    standings = find_standings(planned.folder, planned.runs)
    if options.json:
        print_json({"sent": jobs, **standings_as_json(planned.name, standings)})
    elif stays:
        show_standings(planned.name, standings)
        show_scores(planned)
    else:
        where = f"sent {len(jobs)} of {len(planned.runs)} runs to {target.cluster}" if jobs else "nothing to send"
        say(f"{where}; `piggyback sweep status {place}` shows how they stand")
    states = {one.state for one in standings} - {"done"}
    return 0 if not stays or not states else REQUEUE if states <= {"stopped", *OPEN} else 1


def find_target(options: SubmitOptions | RetryOptions, *, place: Path) -> Target:
    """Find where the options send runs.

    Raises:
        SweepError: the profile is missing or wrong, or the number of parallel runs is impossible.
    """
    if options.max_parallel < 0:
        raise SweepError(f"--max-parallel must be 0 or more, not {options.max_parallel}")
    cluster = name_cluster(options.cluster)
    profile = Profile()
    if cluster == "slurm":
        profile = find_profile(options.profile, file=options.profiles, beside=place)
    return Target(
        cluster=cluster, profile=profile, parallel=options.max_parallel, stay=options.wait, snapshot=options.snapshot
    )


def name_cluster(chosen: AnyCluster) -> Cluster:
    """The cluster that ``auto`` stands for on this machine."""
    if chosen == "auto":
        return "slurm" if shutil.which("sbatch") else "local"
    return chosen


def show_submission(planned: Plan, unsent: Sequence[PlannedRun], *, target: Target, json: bool) -> int:
    """Print what would be sent; returns the exit code."""
    scripts = []
    if target.cluster == "slurm":
        from slurm.sending.sbatch import sbatch_texts  # start-up time: submitit's, which only Slurm needs

        scripts = sbatch_texts(planned.folder, unsent, name=planned.name, profile=target.profile)
    if json:
        runs = [{"id": run.id, "argv": list(run.argv)} for run in unsent]
        print_json({"cluster": target.cluster, "would_send": runs, "scripts": scripts})
    elif target.cluster == "slurm":
        for script in scripts:
            say(script)
    else:
        for run in unsent:
            say(f"# {run.id}\npiggyback {shlex.join(run.argv)}")
    return 0


def show_scores(planned: Plan) -> None:
    """Print the last output of the score steps and the page's step."""
    for run in planned.runs:
        log = planned.folder.job(run.id).log
        if run.kind in ("score", "page") and log.exists():
            say(("\n" + log.read_text(errors="replace")).rpartition("\n== ")[2].partition("\n")[2])


def run_status(options: StatusOptions) -> int:
    """``piggyback sweep status``."""
    while True:
        planned = submitted_plan(options.sweep)
        chosen = {run.id for run in choose(planned.runs, options.runs)}
        standings = find_standings(planned.folder, planned.runs, only=chosen)
        if options.json:
            print_json(standings_as_json(planned.name, standings))
            return 0
        if options.watch and out.is_terminal:
            out.clear()
        show_standings(planned.name, standings)
        if not options.watch or not any(one.state in OPEN for one in standings):
            return 0
        time.sleep(WATCH_S)


def run_logs(options: LogsOptions) -> int:
    """``piggyback sweep logs``; with -f until the run has ended."""
    planned = submitted_plan(options.sweep)
    runs = choose(planned.runs, [options.run])
    if len(runs) > 1:
        raise SweepError(f"{options.run!r} fits {len(runs)} runs: {', '.join(run.id for run in runs[:5])}")
    log, asked = planned.folder.job(runs[0].id).log, time.monotonic()
    going_on = options.follow and is_open(planned, runs[0])
    while not log.exists() and going_on:
        time.sleep(FOLLOW_S)
        going_on = is_open(planned, runs[0])
    if not log.exists():
        raise SweepError(f"{runs[0].id} has printed nothing yet: {log} is not there")
    with log.open(errors="replace", newline="") as file:
        while True:
            sys.stdout.write(file.read())
            sys.stdout.flush()
            if not going_on:
                return 0
            time.sleep(FOLLOW_S)
            if time.monotonic() - asked > WATCH_S:
                asked, going_on = time.monotonic(), is_open(planned, runs[0])


def is_open(planned: Plan, run: PlannedRun) -> bool:
    """Whether a run is queued or in progress."""
    return find_standings(planned.folder, planned.runs, only={run.id})[0].state in OPEN


def run_cancel(options: CancelOptions) -> int:
    """``piggyback sweep cancel``."""
    planned = submitted_plan(options.sweep)
    ended = cancel(planned, choose(planned.runs, options.runs))
    if options.json:
        print_json({"cancelled": ended})
    else:
        more = f" and {len(ended) - 8} more" if len(ended) > 8 else ""
        say(f"cancelled {len(ended)} runs{': ' + ', '.join(ended[:8]) + more if ended else ''}")
    return 0
