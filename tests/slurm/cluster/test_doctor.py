"""What the doctor says of real clusters, good and bad."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cluster import Cluster

from piggyback.shell.checks import Check
from slurm.doctor.verb import find_checks
from slurm.planning.profiles import Profile

pytestmark = pytest.mark.cluster

SMALL = Profile(cpus=2, memory_gb=1, minutes=60)
PATIENCE = {"queued": 2.0, "running": 60.0, "ended": 60.0, "unknown": 60.0}


def ask(profile: Profile, folder: Path) -> dict[str, Check]:
    found = list(find_checks(profile, folder=folder, patience=PATIENCE))  # type: ignore[arg-type]
    assert not list(folder.glob(".doctor-*"))
    return {check.name: check for check in found}


def test_good_cluster(cluster: Cluster, tmp_path: Path) -> None:
    folder = tmp_path / "it's a folder"
    folder.mkdir()
    found = ask(SMALL, folder)
    assert {check.state for check in found.values()} == {"ok"}, found
    assert "on n0" in found["shared folder"].found
    assert "15 s grace" in found["preemption"].found


def test_poor_cluster(make_cluster: Callable[..., Cluster], tmp_path: Path) -> None:
    cluster = make_cluster(warning=False, grace=0, requeue=False, accounting=False, max_array_size=100)
    found = ask(Profile(cpus=2, memory_gb=1, account="lab", array=200), tmp_path)
    states = {name: check.state for name, check in found.items() if check.state != "ok"}
    assert states == {"account, qos": "unknown", "preemption": "note", "arrays": "broken", "accounting": "note"}
    assert "killed 5 s after it hears of it" in found["preemption"].found
    # and its word on JobRequeue=0 is true: a job that asks for it can be queued again
    job = cluster.submit("--requeue", "--output=/dev/null", "--wrap=sleep 600")
    cluster.wait_for_job(job, "RUNNING")
    cluster.run("scontrol", "requeue", job)
    assert cluster.wait_for_job(job, "PENDING", "RUNNING")["Restarts"] == "1"


def test_what_sbatch_refuses(cluster: Cluster, tmp_path: Path) -> None:
    found = ask(Profile(cpus=3, memory_gb=1, partition="low"), tmp_path)
    assert {name for name, check in found.items() if check.state == "broken"} == {"resources", "request"}
    assert "node configuration is not available" in found["request"].found


def test_full_cluster(cluster: Cluster, tmp_path: Path) -> None:
    above = cluster.submit("--partition=high", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=sleep 600")
    cluster.wait_for_job(above, "RUNNING")
    found = ask(SMALL, tmp_path)
    assert found["node"].state == "unknown"
    cluster.wait_until(lambda: "piggyback" not in cluster.run("squeue", "--format=%j"), what="its job cancelled")


def test_folder_that_nodes_do_not_see(cluster: Cluster, tmp_path: Path) -> None:
    """Another file system over the folder, for one process and its children alone."""
    own = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs none "$1" && shift && exec "$@"', "sh", str(tmp_path)]
    if shutil.which("unshare") is None or subprocess.run([*own, "true"], capture_output=True, check=False).returncode:
        pytest.skip("unshare --mount needs to be root, and mount to be allowed")
    verb = [sys.executable, "-m", "piggyback", "sweep", "doctor", "--json", "--folder", str(tmp_path)]
    profiles = tmp_path.with_name(f"{tmp_path.name}.toml")
    profiles.write_text("[profile.default]\ncpus = 2\nmemory_gb = 1\n")
    done = subprocess.run([*own, *verb, "--profiles", str(profiles)], capture_output=True, text=True, check=False)
    failed = [check["found"] for check in json.loads(done.stdout)["checks"] if check["state"] == "broken"]
    assert failed == [f"a node does not see what was written to {tmp_path} here"]
    assert done.returncode == 1
