"""Plans: a sweep's runs, those finished, those to send, and how long they may take."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from piggyback.shell.errors import SweepError
from slurm.folder.layout import SweepFolder
from slurm.folder.state_files import read_state
from slurm.planning.planned_run import PlannedRun, check_plan, plan_benchmark
from slurm.planning.profiles import Profile
from slurm.planning.sweep_files import Sweep, read_sweep
from slurm.states import Standing, find_standings


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A sweep with its runs, in the order of their needs."""

    name: str
    folder: SweepFolder
    runs: tuple[PlannedRun, ...]

    @property
    def finished(self) -> set[str]:
        return self.folder.find_finished(self.runs)


def plan(sweep: Sweep) -> Plan:
    """Ask all benchmarks of a sweep what they would run.

    Raises:
        SweepError: a benchmark is unknown, or its part of the sweep is wrong.
    """
    places = {"out": str(sweep.out), "root": str(sweep.root)}
    runs = [run for part in sweep.benchmarks for run in plan_benchmark(str(part["name"]), {**part, **places})]
    if sweep.page:
        runs.append(plan_page(sweep.out, runs))
    return Plan(name=sweep.name, folder=SweepFolder(sweep.out), runs=tuple(check_plan(runs)))


def plan_page(out: Path, runs: Sequence[PlannedRun]) -> PlannedRun:
    """The last step, however the others end: stores finished results, and builds the page.

    The leaderboard is called by its command line, as the benchmarks are.
    """
    needed = {need for run in runs for need in run.needs}
    argv = ("leaderboard", "build", str(out / "board"), "--runs", str(out), "--out", str(out / "site"))
    return PlannedRun(
        id="page",
        title="page",
        kind="page",
        argv=argv,
        folder=out / "site",
        proof=None,
        needs=tuple(dict.fromkeys(run.id for run in runs if run.id not in needed)),
        after="ended",
    )


def find_folder(place: Path) -> SweepFolder:
    """Folder of a sweep, from its file or from the folder itself."""
    return SweepFolder(place) if place.is_dir() else SweepFolder(read_sweep(place).out)


def submitted_plan(place: Path) -> Plan:
    """Read the plan of a sweep as it was last submitted.

    Raises:
        SweepError: it never was.
    """
    folder = find_folder(place)
    name, runs = folder.read_plan()
    return Plan(name=name, folder=folder, runs=tuple(check_plan(runs)))


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Estimated durations of runs.

    Attributes:
        hours: wall time by id; runs without a recorded run of the same cost are missing.
        cost: by id, the hours times the devices that a profile asks for; the hours alone without a profile.
        unit: of `cost`: ``GPU-hours`` if the profile has GPUs, else ``CPU-hours``, or ``hours`` without a profile.
    """

    hours: Mapping[str, float]
    cost: Mapping[str, float]
    unit: str


def estimate(planned: Plan, *, records: SweepFolder | None = None, profile: Profile | None = None) -> Estimate:
    """Estimate the time of each run by the median of finished runs of the same cost.

    Args:
        planned: the sweep; its own finished runs count too.
        records: another sweep that was submitted.
        profile: how a cluster would be asked for resources.

    Raises:
        SweepError: nothing was submitted from `records`.
    """
    earlier = [*planned.runs, *(records.read_plan()[1] if records is not None else [])]
    seconds: dict[str, list[float]] = {}
    for run in earlier:
        took = read_state(run.folder / "result.json").get("wall_s") if run.cost else None
        if isinstance(took, int | float):
            seconds.setdefault(run.cost, []).append(float(took))
    hours = {run.id: median(seconds[run.cost]) / 3600 for run in planned.runs if run.cost in seconds}
    if profile is None:
        return Estimate(hours=hours, cost=hours, unit="hours")
    share = {run.id: count_devices(profile, kind=run.kind) for run in planned.runs}
    unit = "GPU-hours" if profile.gpus else "CPU-hours"
    return Estimate(hours=hours, cost={run: time * share[run] for run, time in hours.items()}, unit=unit)


def count_devices(profile: Profile, *, kind: str) -> int:
    """GPUs that a job of a kind asks for; processors if the profile has no GPUs."""
    own = profile.of_kind(kind)
    return own.nodes * (own.gpus if profile.gpus else own.cpus * own.processes(kind))


def find_unsent(planned: Plan, *, chosen: Collection[str] | None = None) -> list[PlannedRun]:
    """Find the runs to send: those missing, stopped or failed, not those done, queued or in progress.

    Args:
        planned: the sweep.
        chosen: only these, what waits for them, and what they need.

    Raises:
        SweepError: Slurm does not say whether runs that were sent are still queued; sending them could do them twice.
    """
    standings = find_standings(planned.folder, planned.runs)
    wanted = {run.id for run in planned.runs} if chosen is None else find_related(planned.runs, chosen)
    lost = [one.run.id for one in standings if one.state == "unknown" and one.run.id in wanted]
    if lost:
        raise SweepError(
            f"{len(lost)} runs were sent to Slurm, which does not answer (squeue): {lost[0]} and others may be queued"
            " still, so nothing is sent; try again when it answers"
        )
    return [one.run for one in standings if one.run.id in wanted and is_unsent(one)]


def is_unsent(one: Standing) -> bool:
    return one.state in ("missing", "stopped", "failed")


def find_related(runs: Sequence[PlannedRun], chosen: Iterable[str]) -> set[str]:
    """Ids of the chosen runs, of all that wait for them, and of all that these need."""
    related = set(chosen)
    for run in runs:
        if related & set(run.needs):
            related.add(run.id)
    below = set(chosen)
    for run in reversed(runs):
        if run.id in below or (run.id in related and run.after == "done"):
            below |= set(run.needs)
    return related | below
