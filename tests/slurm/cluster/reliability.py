"""Every fault case many times, at random moments: ``python tests/slurm/cluster/reliability.py --out FILE.md``.

Writes a table of counts as Markdown, and all reports as JSON beside it.  Takes some half an hour with five of each.
"""

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random, SystemRandom
from statistics import median
from typing import Any

from cluster import Cluster, find_missing, run_cluster
from faults import HOWS, Report, interrupt, lose_node, preempt, time_out
from layout import ClusterError, Options
from training_runs import STEPS, Ground, clients_of, make_ground

Fault = Callable[[Ground, Cluster, Path, Random], list[Report]]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One kind of fault, or several that trainings meet at the same time.

    Attributes:
        name: of the case.
        fault: does it once.
        options: of the cluster that it needs.
    """

    name: str
    fault: Fault
    options: Options = field(default_factory=Options)


CASES = (
    Case(name="preempted, 15 s of grace", fault=lambda *a: preempt(*a, case="preempted, 15 s of grace", count=2)),
    Case(
        name="preempted, no grace",
        fault=lambda *a: preempt(*a, case="preempted, no grace", count=2),
        options=Options(grace=0),
    ),
    Case(
        name="preempted, no grace and no warning",
        fault=lambda *a: preempt(*a, case="preempted, no grace and no warning", count=2),
        options=Options(grace=0, warning=False),
    ),
    Case(name="time limit", fault=time_out),
    Case(name="node lost, away for long", fault=lambda *a: lose_node(*a, at_once=False)),
    Case(name="node lost, back at once", fault=lambda *a: lose_node(*a, at_once=True)),
    Case(name="stops from outside", fault=lambda *a: interrupt(*a, hows=HOWS)),
)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One repetition of a case: its reports, or the words with which it broke off."""

    case: str
    number: int
    reports: tuple[Report, ...]
    fault: str = ""

    @property
    def is_well(self) -> bool:
        """Whether all went as it must."""
        return not self.fault and not any(one.problems for one in self.reports)


def repeat(case: Case, cluster: Cluster, ground: Ground, *, root: Path, count: int, random: Random) -> Iterator[Trial]:
    """Do a case so many times."""
    for number in range(count):
        folder = root / f"{case.name.replace(' ', '-').replace(',', '')}-{number}"
        try:
            reports, fault = tuple(case.fault(ground, cluster, folder, random)), ""
        except (ClusterError, OSError, subprocess.SubprocessError) as broken:
            reports, fault = (), str(broken)
        yield Trial(case=case.name, number=number, reports=reports, fault=fault)
        try:
            cluster.cancel_all()
        except ClusterError as broken:
            yield Trial(case=case.name, number=number, reports=(), fault=f"afterwards: {broken}")
            return


def do_all(cases: Sequence[Case], *, root: Path, count: int, random: Random) -> list[Trial]:
    """All cases, with the clusters that they need, one after the other."""
    ground, trials = make_ground(root / "ground"), list[Trial]()
    say(f"ground made; each training has {STEPS} steps")
    for options in dict.fromkeys(case.options for case in cases):
        with run_cluster(options) as cluster, clients_of(cluster):
            for case in (one for one in cases if one.options == options):
                for trial in repeat(case, cluster, ground, root=root, count=count, random=random):
                    trials.append(trial)
                    show(trial)
    return trials


def show(trial: Trial) -> None:
    """One line per training, and what went wrong."""
    word = "well" if trial.is_well else "WRONG"
    say(f"{time.strftime('%T')} {trial.case}, {trial.number + 1}: {word} {trial.fault}")
    for one in trial.reports:
        spans = ", ".join(f"{first} to {last}" for first, last in one.spans)
        say(f"    steps {spans}; codes {one.codes}; {one.lost} again; {one.seconds:.0f} s {'; '.join(one.problems)}")


def write_table(trials: Sequence[Trial]) -> str:
    """Counts per kind of fault, as Markdown."""
    lines = [
        "| fault | times | trainings | same bits, and all else well | came after step (median) |"
        " queued again by Slurm | attempts | steps done again (median) |",
        "|---|---:|---:|---:|---|---|---|---|",
    ]
    for name in dict.fromkeys(one.case for trial in trials for one in trial.reports):
        own = [trial for trial in trials if any(one.case == name for one in trial.reports)]
        reports = [one for trial in own for one in trial.reports if one.case == name]
        well = sum(not one.problems for one in reports)
        columns = (
            spread([one.moment for one in reports]),
            spread([one.restarts for one in reports], middle=False),
            spread([len(one.codes) for one in reports], middle=False),
            spread([one.lost for one in reports]),
        )
        lines.append(f"| {name} | {len(own)} | {len(reports)} | {well} | {' | '.join(columns)} |")
    broken = [f"{trial.case}, {trial.number + 1}, broke off: {trial.fault}" for trial in trials if trial.fault]
    return "\n".join([*lines, *broken]) + "\n"


def spread(values: Sequence[int], *, middle: bool = True) -> str:
    """Least, greatest and median."""
    if not values:
        return "-"
    ends = f"{min(values)} to {max(values)}" if min(values) < max(values) else f"{min(values)}"
    return f"{ends} ({median(values):g})" if middle else ends


def as_json(trials: Sequence[Trial], *, seed: int) -> dict[str, Any]:
    """Everything that was found."""
    return {"seed": seed, "steps": STEPS, "trials": [asdict(trial) | {"well": trial.is_well} for trial in trials]}


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Every fault case many times, at random moments, on a real Slurm.")
    parser.add_argument("--out", type=Path, default=Path("runs/reliability.md"), help="table; .json beside it has all")
    parser.add_argument("--count", type=int, default=5, help="repetitions of each case")
    parser.add_argument("--seed", type=int, help="of the moments; drawn when not given")
    parser.add_argument("--case", action="append", choices=[case.name for case in CASES], help="only this; repeatable")
    return parser.parse_args()


def main() -> int:
    arguments = read_arguments()
    if missing := find_missing():
        say(missing)
        return 1
    for number in (signal.SIGINT, signal.SIGTERM):  # both bring the cluster down, also where a script's & ignores one
        signal.signal(number, signal.default_int_handler)
    seed = SystemRandom().randrange(10**6) if arguments.seed is None else arguments.seed
    cases = [case for case in CASES if arguments.case is None or case.name in arguments.case]
    say(f"moments are drawn with seed {seed}; where Slurm takes its time, the same seed gives other moments")
    try:
        with tempfile.TemporaryDirectory(prefix="reliability-") as root:
            trials = do_all(cases, root=Path(root), count=arguments.count, random=Random(seed))
    except KeyboardInterrupt:
        say("interrupted; nothing is written")
        return 130
    except ClusterError as problem:
        say(str(problem))
        return 1
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(write_table(trials))
    arguments.out.with_suffix(".json").write_text(json.dumps(as_json(trials, seed=seed), indent=1) + "\n")
    wrong = sum(not trial.is_well for trial in trials)
    say(f"{arguments.out.read_text()}\n{len(trials)} repetitions, {wrong} went wrong; written to {arguments.out}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
