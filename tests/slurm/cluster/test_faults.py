"""Trainings on the real Slurm come to the same bits, whatever befalls them; reliability.py does each case oftener."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random, SystemRandom

import pytest
from cluster import Cluster, run_cluster
from faults import HOWS, Report, finish_slow, interrupt, lose_node, preempt, send_slow
from layout import Options
from processes import PROC, read_name
from training_runs import Ground, Trainings, clients_of

from slurm.folder.layout import SweepFolder
from slurm.planning.planned_run import PlannedRun
from slurm.planning.plans import Plan
from slurm.planning.profiles import Profile
from slurm.sending.submission import Target, send

pytestmark = pytest.mark.cluster
Slow = tuple[Trainings, dict[str, str], float]


@pytest.fixture
def random() -> Random:
    """Draws the moments; what it was made with is shown where a test fails."""
    seed = SystemRandom().randrange(10**6)
    sys.stdout.write(f"moments drawn with Random({seed})\n")
    return Random(seed)


def check(reports: list[Report]) -> None:
    for one in reports:
        sys.stdout.write(f"{one}\n")
    assert [one.problems for one in reports] == [()] * len(reports)


@pytest.fixture(scope="module")
def slow(ground: Ground, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slow]:
    """On a cluster of its own, and sent before all others: it takes two minutes, in most of which nothing happens."""
    with run_cluster(Options(accounting=False)) as cluster:
        with clients_of(cluster):
            sent = send_slow(ground, cluster, tmp_path_factory.mktemp("slow"))
        yield sent


def find_starting(cluster: Cluster) -> set[int]:
    """Processes of jobs that are Python on its way to the run's claim; they cannot listen to signals yet."""
    pids = {pid for pid in cluster.job_processes() if read_name(pid).startswith("python")}
    return {pid for pid in pids if b"submitit.core._submit" in (PROC / str(pid) / "cmdline").read_bytes()}


@pytest.mark.usefixtures("slow")
def test_warned_before_it_listens(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when a job is preempted in its first second: the signal must not kill it, or it were FAILED for Slurm."""
    monkeypatch.setattr("slurm.jobs.COMMAND", ("/bin/sh",))
    place = tmp_path / "runs" / "short"
    proof = place / "result.json"
    argv = ("-c", f"mkdir -p '{place}' && echo '{{}}' > '{proof}'")
    run = PlannedRun(id="short", title="short", kind="run", argv=argv, folder=place, proof=proof)
    plan = Plan(name="short", folder=SweepFolder(tmp_path), runs=(run,))
    plan.folder.write_plan(plan.name, plan.runs)
    job = send(plan, plan.runs, target=Target(cluster="slurm", profile=Profile(partition="low", cpus=1, memory_gb=1)))
    cluster.wait_until(lambda: bool(find_starting(cluster)), what="the job's Python")
    for pid in find_starting(cluster):
        os.kill(pid, signal.SIGUSR2)
    assert cluster.wait_for_job(job["short"], "COMPLETED")["Restarts"] == "0"
    assert proof.exists()


def test_preempted_with_grace(ground: Ground, cluster: Cluster, tmp_path: Path, random: Random) -> None:
    check(preempt(ground, cluster, tmp_path, random, case="with grace", count=2))


def test_preempted_without_grace(
    ground: Ground, make_cluster: Callable[..., Cluster], tmp_path: Path, random: Random
) -> None:
    check(preempt(ground, make_cluster(grace=0), tmp_path, random, case="without grace", count=1))


def test_preempted_without_warning(
    ground: Ground, make_cluster: Callable[..., Cluster], tmp_path: Path, random: Random
) -> None:
    check(preempt(ground, make_cluster(grace=0, warning=False), tmp_path, random, case="without warning", count=1))


def test_lost_node(ground: Ground, cluster: Cluster, tmp_path: Path, random: Random) -> None:
    check(lose_node(ground, cluster, tmp_path, random, at_once=False))


def test_stops_from_outside(ground: Ground, cluster: Cluster, tmp_path: Path, random: Random) -> None:
    check(interrupt(ground, cluster, tmp_path, random, hows=HOWS))


def test_time_limit(slow: Slow) -> None:
    with clients_of(slow[0].cluster):
        check(finish_slow(*slow))
