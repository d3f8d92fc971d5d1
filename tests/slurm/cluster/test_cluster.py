"""The test cluster itself: what tests on it rely on, seen to hold; S1 is from ``../shared/reference/cluster.md``."""

import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import submitit
from cluster import Cluster
from jobs import Sleeper, stay
from layout import NODES, ClusterError, Options, plan_layout
from processes import add_descendants, all_processes

pytestmark = pytest.mark.cluster

LIMIT = 120  # minutes; below 50 or so, submitit takes preemptions for timeouts (S1)


def make_executor(folder: Path, **parameters: object) -> submitit.AutoExecutor:
    executor = submitit.AutoExecutor(folder, cluster="slurm")
    executor.update_parameters(timeout_min=LIMIT, slurm_partition="low", **parameters)
    return executor


def wait_for_state(job: submitit.Job[str], state: str) -> None:
    """Accounting lags a little behind."""
    end = time.monotonic() + 30
    while (seen := job.watcher.get_state(job.job_id, mode="force")) != state:
        assert time.monotonic() < end, f"sacct has {seen}, not {state}"
        time.sleep(0.5)


def lines_of(diary: Path) -> list[str]:
    return diary.read_text().splitlines() if diary.exists() else []


def test_both_nodes_idle(cluster: Cluster) -> None:
    assert cluster.node_states() == {"n0": "idle", "n1": "idle"}
    assert cluster.run("squeue", "--noheader") == ""


def test_loopback_only(cluster: Cluster) -> None:
    for port in cluster.layout.ports:
        with socket.socket() as other:
            other.bind(("127.45.67.89", port))  # an error if somebody listens at all addresses


def test_array_of_three(cluster: Cluster, tmp_path: Path) -> None:
    executor = make_executor(tmp_path, cpus_per_task=2)  # a node each
    jobs = executor.map_array(stay, [2, 2, 0])
    assert {job.result() for job in jobs} == set(NODES)
    for job in jobs:
        wait_for_state(job, "COMPLETED")


def preempt(cluster: Cluster, folder: Path) -> tuple[submitit.Job[str], list[str]]:
    """A job on low that gave way to one on high and has run to its end since; and what it wrote down."""
    diary = folder / "diary"
    job = make_executor(folder, slurm_exclusive=True).submit(Sleeper(), diary)
    cluster.wait_until(lambda: lines_of(diary) == ["start 0"], what="the job on low running")
    above = cluster.submit("--partition=high", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=sleep 1")
    cluster.wait_for_job(above, "COMPLETED")
    cluster.wait_for_job(job.job_id, "COMPLETED")
    assert cluster.show_job(job.job_id)["Restarts"] == "1"
    return job, lines_of(diary)


def test_preemption_with_grace(cluster: Cluster, tmp_path: Path) -> None:
    job, diary = preempt(cluster, tmp_path)
    assert diary == ["start 0", "warned", "start 1"]
    assert job.result() == "ended after 1"
    wait_for_state(job, "COMPLETED")


def test_preemption_without_grace(make_cluster: Callable[..., Cluster], tmp_path: Path) -> None:
    job, diary = preempt(make_cluster(grace=0), tmp_path)
    # Slurm has requeued it before submitit's handler tries to, fails (S6) and leaves an error where the result goes;
    # so a result is to be believed only when the job has come to its end.
    assert diary == ["start 0", "warned", "start 1"]
    assert job.result() == "ended after 1"
    wait_for_state(job, "COMPLETED")


def test_lost_node(cluster: Cluster, tmp_path: Path) -> None:
    diary = tmp_path / "diary"
    script = f"--wrap=echo start $SLURM_RESTART_COUNT $SLURMD_NODENAME >> '{diary}'; srun sleep 600"
    job = cluster.submit("--nodelist=n1", "--output=/dev/null", script)
    cluster.wait_until(lambda: lines_of(diary) == ["start n1"], what="the job on n1")

    cluster.lose_node("n1")
    assert cluster.job_processes("n1") == set()
    cluster.wait_for_nodes("down*", ["n1"])
    assert cluster.node_states()["n0"] == "idle"
    assert cluster.wait_for_job(job, "PENDING")["Restarts"] == "1"

    cluster.bring_back("n1")
    cluster.wait_for_job(job, "RUNNING")
    cluster.wait_until(lambda: lines_of(diary) == ["start n1", "start 1 n1"], what="the job on n1 again")


def test_without_accounting(make_cluster: Callable[..., Cluster]) -> None:
    cluster = make_cluster(accounting=False, requeue=False, max_array_size=4)
    assert "slurmdbd" not in cluster.daemons
    job = cluster.submit("--output=/dev/null", "--wrap=sleep 600")
    cluster.wait_for_job(job, "RUNNING")
    assert cluster.run("squeue", "--noheader", "--format=%i %T") == f"{job} RUNNING\n"
    with pytest.raises(ClusterError, match="accounting storage is disabled"):
        cluster.run("sacct")
    with pytest.raises(ClusterError, match="Requested operation is presently disabled"):
        cluster.run("scontrol", "requeue", job)
    with pytest.raises(ClusterError, match="Invalid job array specification"):
        cluster.submit("--array=0-4", "--wrap=true")
    cluster.run("scancel", job)
    cluster.wait_for_job(job, "CANCELLED")


def test_coming_down_leaves_nothing(make_cluster: Callable[..., Cluster]) -> None:
    cluster = make_cluster(accounting=False)
    # Programs that hear no TERM, one of which has left the job's session and its parents.
    cluster.submit("--output=/dev/null", "--wrap=trap '' TERM; (setsid sleep 601 &); sleep 600; sleep 600")
    cluster.wait_until(lambda: len(cluster.job_processes("n0")) == 4, what="slurmstepd, bash and two sleeps")
    pids = {daemon.process.pid for daemon in cluster.daemons.values()} | cluster.job_processes()
    cluster.down()
    assert pids & all_processes() == set()
    assert not cluster.layout.folder.exists()


def test_port_taken() -> None:
    layout = plan_layout(Path(tempfile.mkdtemp(prefix="slurm-")), Options(accounting=False))
    cluster = Cluster(layout)
    with socket.socket() as other:
        other.bind((layout.address, layout.ports[0]))  # without listening, so that sinfo is refused at once
        with pytest.raises(ClusterError, match=r"(?s)slurmctld ended with code 1\. .*Address already in use"):
            cluster.up()
        cluster.down()
    assert not layout.folder.exists()


@pytest.fixture
def by_hand() -> Iterator[tuple["subprocess.Popen[str]", Path]]:
    """up.py when it has said that the cluster is up, and its folder."""
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    script = Path(__file__).with_name("up.py")
    command = [sys.executable, str(script), "--no-accounting", "--folder", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == f"export SLURM_CONF={folder}/slurm.conf\n"
        yield process, folder
        process.kill()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=["interrupted", "killed"])
def test_by_hand(by_hand: tuple["subprocess.Popen[str]", Path], how: signal.Signals) -> None:
    process, folder = by_hand
    daemons = add_descendants({process.pid}, all_processes()) - {process.pid}
    assert len(daemons) >= 4, "munged, slurmctld and two slurmd"
    process.send_signal(how)
    process.wait(30)
    end = time.monotonic() + 10
    while left := daemons & all_processes():
        assert time.monotonic() < end, f"{left} live on"
        time.sleep(0.1)
    assert folder.exists() == (how == signal.SIGKILL)  # nobody was left to remove it
