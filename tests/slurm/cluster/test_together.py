"""A backbone trained by one process on each of two nodes, on the real Slurm: stopped, queued again, the same bits."""

import os
import socket
import subprocess
from pathlib import Path

import pytest
from cluster import Cluster
from training_runs import ONE_THREAD, PLAIN, Ground

from slurm.folder.layout import SweepFolder
from slurm.planning.planned_run import PlannedRun
from slurm.planning.plans import Plan
from slurm.planning.profiles import Profile
from slurm.sending.submission import Target, submit
from slurm.states import find_standings

pytestmark = pytest.mark.cluster

NETWORK = ["--recipe", "smoke", "--depth", "10", "--widen", "1", "--size", "32", "--epochs", "3"]
FILE = "backbone.safetensors"


def train_here(argv: list[str], *, out: Path) -> bytes:
    """The file that two processes of this machine make together, never interrupted."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    common = {**os.environ, **ONE_THREAD, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    processes = [
        subprocess.Popen([*PLAIN, *argv, "--out", str(out)], env=common | {"RANK": rank, "LOCAL_RANK": "0"})
        for rank in ("0", "1")
    ]
    assert [process.wait(240) for process in processes] == [0, 0]
    return (out / FILE).read_bytes()


def test_two_nodes_train_one_backbone(
    ground: Ground, cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slurm.jobs.COMMAND", PLAIN)
    argv = ["decathlon", "backbone", "train", *NETWORK, "--data", str(ground.folder / "data")]
    place = tmp_path / "together"
    run = PlannedRun(
        id="backbone",
        title="backbone",
        kind="backbone",
        argv=(*argv, "--out", str(place)),
        folder=place,
        proof=place / FILE,
    )
    planned = Plan(name="together", folder=SweepFolder(tmp_path / "sweep"), runs=(run,))
    # The nodes of the test cluster have names that lead nowhere; a real one's do.
    setup = ("export MASTER_ADDR=127.0.0.1", "export OMP_NUM_THREADS=1")
    profile = Profile(partition="low", minutes=120, memory_gb=2, cpus=1, nodes=2, setup=setup)
    job = submit(planned, target=Target(cluster="slurm", profile=profile))["backbone"]

    folder = planned.folder.job("backbone")
    cluster.wait_until(lambda: folder.log.exists() and "epoch 1 of 3" in folder.log.read_text(), what="the first epoch")
    assert cluster.show_job(job)["NumTasks"] == "2"
    assert folder.log_of(1).exists()
    cluster.run("scancel", "--signal=USR2", job)  # what a time limit or a preemption sends, to both processes
    cluster.wait_until(lambda: len(folder.claims.ends()) == 2, what="the end of both attempts", seconds=240)

    assert [(end["code"], end["restart"]) for end in folder.claims.ends()] == [(75, 0), (0, 1)]
    assert find_standings(planned.folder, planned.runs)[0].state == "done"
    assert folder.log.read_text().count("epoch 1 of 3") == 1  # continued, not begun anew
    assert (place / FILE).read_bytes() == train_here(argv, out=tmp_path / "here")
