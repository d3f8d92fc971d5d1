"""The sweep verbs, and the same as a Python API: `plan`, `send`, `find_standings`, `cancel`."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from slurm.errors import SweepError
from slurm.folders import SweepFolder, read_json, write_json
from slurm.jobs import do_run
from slurm.local_queue import start_queue, work
from slurm.options import CancelOptions, LogsOptions, NewOptions, PlanOptions, StatusOptions, SubmitOptions
from slurm.planned import PlannedRun, check_plan, order, plan_benchmark
from slurm.reports import out, print_json, say, show_plan, show_standings, standings_as_json, table
from slurm.states import Standing, choose, find_standings
from slurm.sweep_files import EXAMPLES, Profile, Sweep, read_profile, read_sweep

WATCH_S = 5.0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A sweep with its runs, in the order of their needs."""

    sweep: Sweep
    folder: SweepFolder
    runs: tuple[PlannedRun, ...]

    @property
    def finished(self) -> set[str]:
        """Ids of the runs whose proof is there.  What is done anew each time is finished only when nothing before
        it is to be done."""
        done = {run.id for run in self.runs if self.folder.proof(run).exists()}
        for run in self.runs:
            if run.proof is None and not set(run.needs) <= done:
                done.discard(run.id)
        return done


def plan(sweep: Sweep) -> Plan:
    """What a sweep would run.

    Raises:
        SweepError: a benchmark is not known, or its part of the sweep is wrong.
    """
    out = {"out": str(sweep.out)}
    runs = [run for part in sweep.benchmarks for run in plan_benchmark(str(part["name"]), {**part, **out})]
    check_plan(runs)
    return Plan(sweep=sweep, folder=SweepFolder(sweep.out), runs=tuple(order(runs)))


def estimate_hours(planned: Plan) -> dict[str, float]:
    """Hours of each run by the median of finished runs of the same cost, where there are any."""
    seconds: dict[str, list[float]] = {}
    for run in planned.runs:
        took = read_json(run.folder / "result.json").get("wall_s")
        if isinstance(took, int | float) and run.cost:
            seconds.setdefault(run.cost, []).append(float(took))
    return {run.id: median(seconds[run.cost]) / 3600 for run in planned.runs if run.cost in seconds}


def find_unsent(planned: Plan) -> list[PlannedRun]:
    """The runs to send: those that are missing, stopped or failed; not those that are done, queued or under way."""
    finished = planned.finished
    rest = [run for run in planned.runs if run.id not in finished]
    standings = find_standings(planned.folder, rest)
    return [one.run for one in standings if one.state not in ("queued", "running")]


def sweep_folder(place: Path) -> SweepFolder:
    """The folder of a sweep that is named by its file or by the folder."""
    return SweepFolder(place) if place.is_dir() else SweepFolder(read_sweep(place).out)


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
    say(f"{target}: edit it, then `piggyback sweep plan {target}`")
    return 0


def run_plan(options: PlanOptions) -> int:
    """``piggyback sweep plan``."""
    planned = plan(read_sweep(options.file))
    finished, hours = planned.finished, estimate_hours(planned)
    if options.json:
        runs = [
            {"id": run.id, "title": run.title, "kind": run.kind, "needs": list(run.needs), "argv": list(run.argv)}
            | {"done": run.id in finished, "hours": hours.get(run.id)}
            for run in planned.runs
        ]
        print_json({"name": planned.sweep.name, "runs": runs})
    else:
        show_plan(planned.sweep.name, planned.runs, finished=finished, hours=hours)
    return 0


def run_submit(options: SubmitOptions) -> int:
    """``piggyback sweep submit``; with --wait 1 where a run has failed."""
    planned = plan(read_sweep(options.file))
    cluster = ("slurm" if shutil.which("sbatch") else "local") if options.cluster == "auto" else options.cluster
    profile = Profile()
    if cluster == "slurm" and (options.profile is not None or options.profiles.exists()):
        profile = read_profile(options.profiles, name=options.profile or "default")
    if options.dry_run:
        return show_submission(planned, cluster=cluster, profile=profile)
    planned.folder.root.mkdir(parents=True, exist_ok=True)
    unsent = find_unsent(planned)
    planned.folder.write_plan(planned.sweep.name, planned.runs)
    for run in unsent:
        planned.folder.job(run.id).done.unlink(missing_ok=True)
    jobs = send(planned, unsent, cluster=cluster, profile=profile, options=options) if unsent else {}
    if options.wait and cluster == "slurm":
        wait(planned)
    standings = find_standings(planned.folder, planned.runs)
    if options.json:
        print_json({"sent": jobs, **standings_as_json(planned.sweep.name, standings)})
    elif options.wait or cluster == "debug":
        show_standings(planned.sweep.name, standings)
        show_scores(planned)
    else:
        where = f"sent {len(unsent)} of {len(planned.runs)} runs to {cluster}" if unsent else "nothing to send"
        say(f"{where}; `piggyback sweep status {options.file}` tells how they stand")
    return 1 if (options.wait or cluster == "debug") and any(one.state != "done" for one in standings) else 0


def send(
    planned: Plan, runs: Sequence[PlannedRun], *, cluster: str, profile: Profile, options: SubmitOptions
) -> dict[str, str]:
    """Send runs to where they are to be done; gives the job of each."""
    if cluster == "slurm":
        from slurm.submission import submit

        return submit(planned.folder, runs, name=planned.sweep.name, profile=profile)
    if cluster == "debug":
        for run in runs:
            do_run(planned.folder.root, run=run.id, argv=run.argv)
        return {run.id: "debug" for run in runs}
    for run in runs:
        write_json(planned.folder.job(run.id).submitted, {"cluster": "local", "job": "local", "when": time.time()})
    if options.wait:
        work(planned.folder, runs, parallel=options.max_parallel)
        return {run.id: "local" for run in runs}
    pid = start_queue(planned.folder, runs, parallel=options.max_parallel)
    return {run.id: f"local-{pid}" for run in runs}


def show_submission(planned: Plan, *, cluster: str, profile: Profile) -> int:
    """Print what would be sent."""
    unsent = find_unsent(planned)
    if cluster != "slurm":
        table("would be done here, in this order", "run", "command", rows=[(r.id, " ".join(r.argv)) for r in unsent])
        return 0
    from slurm.submission import job_name, make_stages, sbatch_text, slurm_parameters

    for stage in make_stages(unsent, limit=profile.array or 1000):
        depends = ["JOB_OF_THE_STAGE_BEFORE"] if stage.depth else []
        name = job_name(planned.sweep.name, stage.kind)
        parameters = slurm_parameters(profile, name=name, kind=stage.kind, depends=depends)
        say(sbatch_text(stage, root=planned.folder.root, parameters=parameters))
    return 0


def show_scores(planned: Plan) -> None:
    """What the score steps printed."""
    for run in planned.runs:
        log = planned.folder.job(run.id).log
        if run.kind == "score" and log.exists():
            say(log.read_text(errors="replace").rpartition("== ")[2].partition("\n")[2])


def wait(planned: Plan) -> None:
    """Until no run is queued or under way."""
    while any(one.state in ("queued", "running") for one in find_standings(planned.folder, planned.runs)):
        time.sleep(WATCH_S)


def run_status(options: StatusOptions) -> int:
    """``piggyback sweep status``."""
    sweep = sweep_folder(options.sweep)
    name, runs = sweep.read_plan()
    chosen = choose(runs, options.runs)
    while True:
        standings = find_standings(sweep, chosen)
        if options.json:
            print_json(standings_as_json(name, standings))
        else:
            if options.watch and out.is_terminal:
                out.clear()
            show_standings(name, standings)
        if not options.watch or not any(one.state in ("queued", "running") for one in standings):
            return 0
        time.sleep(WATCH_S)


def run_logs(options: LogsOptions) -> int:
    """``piggyback sweep logs``."""
    sweep = sweep_folder(options.sweep)
    runs = choose(sweep.read_plan()[1], [options.run])
    if len(runs) > 1:
        raise SweepError(f"{options.run!r} fits {len(runs)} runs: {', '.join(run.id for run in runs[:5])}")
    log = sweep.job(runs[0].id).log
    if not log.exists():
        raise SweepError(f"{runs[0].id} has printed nothing yet: {log} is not there")
    with log.open(errors="replace") as file:
        while True:
            while line := file.readline():
                out.print(line.rstrip("\n"), markup=False, soft_wrap=True)
            if not options.follow:
                return 0
            time.sleep(0.5)


def run_cancel(options: CancelOptions) -> int:
    """``piggyback sweep cancel``."""
    sweep = sweep_folder(options.sweep)
    _, runs = sweep.read_plan()
    ended = cancel(sweep, choose(runs, options.runs), whole=not options.runs)
    if options.json:
        print_json({"cancelled": ended})
    else:
        say(f"cancelled {len(ended)} runs{': ' + ', '.join(ended[:8]) if ended else ''}")
    return 0


def cancel(sweep: SweepFolder, runs: Sequence[PlannedRun], *, whole: bool) -> list[str]:
    """End runs that are queued or under way.

    Args:
        sweep: the folder.
        runs: to end.
        whole: they are all of the sweep: a local queue ends too.

    Returns:
        Their ids.
    """
    standings: list[Standing] = [one for one in find_standings(sweep, runs) if one.state in ("queued", "running")]
    jobs = [one.job for one in standings if one.job and not one.job.startswith("local")]
    if jobs:
        told = subprocess.run(["scancel", *jobs], capture_output=True, text=True, timeout=60, check=False)
        if told.returncode:
            raise SweepError(f"scancel refuses: {told.stderr.strip()}")
    owner = read_json(sweep.queue)
    if whole and isinstance(owner.get("pid"), int):
        stop_process(owner["pid"], number=signal.SIGTERM)
    for one in standings:
        claim = read_json(sweep.job(one.run.id).claim)
        if str(claim.get("job", "")).startswith("local-") and isinstance(claim.get("pid"), int):
            stop_process(claim["pid"], number=signal.SIGUSR2)
    return [one.run.id for one in standings]


def stop_process(pid: int, *, number: signal.Signals) -> None:
    """Signal a process that may have ended meanwhile."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
