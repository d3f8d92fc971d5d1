"""A real Slurm as a fixture: one for the session, others on demand. `make cluster-test` runs what uses them."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # up.py, a script, imports the same modules by the same names

from cluster import Cluster, find_missing, run_cluster  # noqa: E402
from layout import Options  # noqa: E402
from training_runs import Ground, make_ground  # noqa: E402


@pytest.fixture(scope="session", autouse=True)
def programs() -> None:
    """Skip, or fail where ``REQUIRE_SLURM`` is set, when there are no programs to bring up."""
    if missing := find_missing():
        if os.environ.get("REQUIRE_SLURM"):
            pytest.fail(missing)
        pytest.skip(missing)


def lead_to(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make sbatch, sacct and the like, started by this process, talk to `cluster`; jobs can import jobs.py."""
    environment = cluster.environment()
    for name in os.environ.keys() - environment.keys():
        monkeypatch.delenv(name)
    for name in ("SLURM_CONF", "PATH"):
        monkeypatch.setenv(name, environment[name])
    monkeypatch.setenv("PYTHONPATH", str(HERE), prepend=os.pathsep)


@pytest.fixture(scope="session")
def session_cluster() -> Iterator[Cluster]:
    """Up from the first test that wants it to the end; with accounting."""
    with run_cluster() as cluster:
        yield cluster


@pytest.fixture
def cluster(session_cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """The session's cluster: both nodes idle and no jobs at first, and its clients in this process's environment."""
    session_cluster.wait_for_nodes("idle")
    lead_to(session_cluster, monkeypatch)
    yield session_cluster
    session_cluster.cancel_all()


@pytest.fixture(scope="session")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    """Drawn data, a small backbone and a training that was never interrupted."""
    return make_ground(tmp_path_factory.mktemp("ground"))


@pytest.fixture
def make_cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Cluster]]:
    """Bring up a cluster with other options, for one test: ``make_cluster(accounting=False)``."""
    with ExitStack() as stack:

        def build(**options: Any) -> Cluster:
            cluster = stack.enter_context(run_cluster(Options(**options)))
            lead_to(cluster, monkeypatch)
            return cluster

        yield build
