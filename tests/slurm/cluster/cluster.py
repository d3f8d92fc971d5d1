"""A real Slurm with two nodes on this machine, for tests; brought up and down by this process.

It follows ``../shared/reference/slurm-test-cluster.md`` (beside the project), but for three points: munged and
mariadbd are of its own, in the cluster's folder, and the database is reached by a socket, without a password or port.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from daemons import Daemon, start_daemon, stop_daemon, wait_until
from layout import NODES, ClusterError, Layout, Options, dbd_text, plan_layout, slurm_text
from processes import find_job_processes, kill_job_processes

PACKAGES = "slurm-wlm slurmdbd munge mariadb-server-core"
CLIENTS = ("sbatch", "srun", "scancel", "scontrol", "sinfo", "squeue", "sacct", "setpriv")
DAEMONS = ("slurmctld", "slurmd", "munged")
ACCOUNTING = ("slurmdbd", "mariadbd")
# The tables without which MariaDB stores no procedures, and slurmdbd needs some.
SYSTEM_TABLES = [
    Path(f"/usr/share/{folder}/{name}_system_tables.sql")
    for folder in ("mysql", "mariadb")
    for name in ("mysql", "mariadb")
]
ENDS = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT")  # from PREEMPTED and NODE_FAIL a job may come back
OURS = re.compile(r"(SLURM|SLURMD|SBATCH|SRUN|SALLOC|SACCT|SINFO|SQUEUE|SCANCEL)_")


def search_path() -> str:
    """PATH with the folders of daemons, which other users than root often lack."""
    return os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"])


def find_missing() -> str | None:
    """What to install before a cluster can be brought up, as a sentence; None when all is there."""
    programs = (*CLIENTS, *DAEMONS, *ACCOUNTING)
    missing = [name for name in programs if shutil.which(name, path=search_path()) is None]
    if not any(path.is_file() for path in SYSTEM_TABLES):
        missing.append(SYSTEM_TABLES[0].name)
    if not missing:
        return None
    return f"a real Slurm needs {', '.join(missing)}: apt-get install {PACKAGES}"


@contextmanager
def run_cluster(options: Options | None = None, *, folder: Path | None = None) -> Iterator["Cluster"]:
    """A cluster that is up within the block, and gone after it with all that it wrote.

    Args:
        options: what it shall be like.
        folder: where its files go, not there yet or empty; without one, a new temporary folder.

    Raises:
        ClusterError: it does not come up; the message has the tail of the log that says why.
    """
    if folder is None:
        folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    elif folder.exists() and any(folder.iterdir()):
        raise ClusterError(f"{folder} is not empty, and would be removed at the end: give another folder")
    try:
        cluster = Cluster(plan_layout(folder, options or Options()))
        try:
            cluster.up()
            yield cluster
        finally:
            cluster.down()
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # where there was no plan there was no cluster to remove it


class Cluster:
    """The daemons of one layout, and what tests do with them. `run_cluster` makes one."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.daemons: dict[str, Daemon] = {}

    def environment(self) -> dict[str, str]:
        """For clients: this process's environment, with the way to this cluster and to no other."""
        kept = {name: value for name, value in os.environ.items() if not OURS.match(name)}
        return kept | {"SLURM_CONF": str(self.layout.slurm_conf), "PATH": search_path()}

    def run(self, *command: str, seconds: float = 30) -> str:
        """What a client command prints.

        Raises:
            ClusterError: it fails, or takes longer than `seconds`.
        """
        try:
            done = subprocess.run(
                command, env=self.environment(), capture_output=True, text=True, timeout=seconds, check=True
            )
        except subprocess.CalledProcessError as failure:
            raise ClusterError(f"{' '.join(command)}: {failure.stderr.strip() or failure.stdout.strip()}") from None
        except subprocess.TimeoutExpired:
            raise ClusterError(f"{' '.join(command)}: no answer within {seconds:.0f} s") from None
        return done.stdout

    def wait_until(self, ready: Callable[[], bool], *, what: str, seconds: float = 60) -> None:
        """Return when `ready()` is true; a ClusterError with logs when a daemon ends or the time is over."""
        wait_until(ready, what=what, daemons=self.daemons.values(), seconds=seconds)

    # Up and down

    def up(self) -> None:
        """Start everything, one after the other as they need each other, and return when all nodes are idle."""
        self._write_files()
        munge = self.layout.munge_socket
        self._start(
            "munged",
            ["--foreground", f"--socket={munge}"]
            + [f"--{name}-file={munge.parent / name}" for name in ("key", "pid", "seed")]
            + [f"--log-file={self.layout.log('munged')}"],
        )
        if self.layout.options.accounting:
            self._start_accounting()
        self.wait_until(munge.is_socket, what="munged's socket")
        self._start("slurmctld", ["-D"])
        # Not by asking it: clients try for ten seconds to reach one that is not there, once a second.
        self.wait_until(lambda: listens(self.layout.address, self.layout.ports[0]), what="slurmctld listening")
        for node in NODES:
            self._start_node(node)
        self.wait_for_nodes("idle")

    def down(self) -> None:
        """End all that was started, jobs too, and remove the folder. Does nothing the second time."""
        # Who starts processes goes first; jobs last, since slurmctld would requeue them.
        for name in ("slurmctld", *map(slurmd_name, NODES), "slurmdbd"):
            self._stop(name)
        self._stop("mariadbd", how=signal.SIGKILL)  # writing its pages to the disk takes seconds, and they go with it
        self._stop("munged")
        kill_job_processes(self.layout.slurm_conf, self._node_logs())
        if self.layout.folder.exists():
            shutil.rmtree(self.layout.folder)

    # Nodes

    def node_states(self) -> dict[str, str]:
        """State by node, in lower case, as sinfo has it: idle, allocated, down, ...; empty when it does not answer.

        A mark at the end says more; ``*``: does not answer.
        """
        try:
            lines = self.run("sinfo", "--noheader", "--Node", "--format=%N %T").splitlines()
        except ClusterError:
            return {}
        return dict(line.split() for line in lines)

    def wait_for_nodes(self, state: str, nodes: Sequence[str] = NODES, *, seconds: float = 60) -> None:
        """Return when all `nodes` are in `state`."""

        def arrived() -> bool:
            states = self.node_states()
            return all(states.get(node) == state for node in nodes)

        self.wait_until(arrived, what=f"{', '.join(nodes)} {state}", seconds=seconds)

    def lose_node(self, node: str) -> None:
        """As if its power failed: slurmd, slurmstepd and all tasks die at once. Slurm notices after `node_timeout`."""
        self._stop(slurmd_name(node), how=signal.SIGKILL)
        kill_job_processes(self.layout.slurm_conf, self._node_logs([node]))

    def bring_back(self, node: str) -> None:
        """Start the slurmd of a lost node again; with ``ReturnToService=2`` the node is idle soon."""
        self._start_node(node)

    def job_processes(self, *nodes: str) -> set[int]:
        """Ids of what runs for jobs on `nodes`, slurmstepd included; without any, on all."""
        return find_job_processes(self.layout.slurm_conf, self._node_logs(nodes or NODES))

    # Jobs

    def submit(self, *arguments: str) -> str:
        """The id of a job sent with ``sbatch`` and these arguments."""
        return self.run("sbatch", "--parsable", *arguments).strip().partition(";")[0]

    def show_job(self, job: str) -> dict[str, str]:
        """What slurmctld knows of a job (``scontrol show job``): JobState, Restarts, NodeList, Reason, ..."""
        return dict(re.findall(r"(\w+)=(\S*)", self.run("scontrol", "--oneliner", "show", "job", job)))

    def wait_for_job(self, job: str, *states: str, seconds: float = 60) -> dict[str, str]:
        """What slurmctld knows of a job that has come to one of `states`.

        Raises:
            ClusterError: it does not in time, or has ended otherwise.
        """

        def arrived() -> bool:
            state = self.show_job(job)["JobState"]
            if state in ENDS and state not in states:
                raise ClusterError(f"job {job} is {state}, and will not be {' or '.join(states)}")
            return state in states

        self.wait_until(arrived, what=f"job {job} {' or '.join(states)}", seconds=seconds)
        return self.show_job(job)

    def cancel_all(self) -> None:
        """Cancel every job and wait until none is left."""
        self.run("scancel", f"--user={self.layout.user}")
        self.wait_until(lambda: not self.run("squeue", "--noheader"), what="an empty queue")

    # Inside

    def _write_files(self) -> None:
        layout = self.layout
        for name in ("log", "munge", "state", "database/data", *(f"spool-{node}" for node in NODES)):
            (layout.folder / name).mkdir(parents=True)
        # munged wants its socket reachable for everybody; nobody shall read what lies here, or reach the database.
        for folder in (layout.folder, layout.munge_socket.parent):
            folder.chmod(0o711)
        layout.database.chmod(0o700)
        write_secret(layout.munge_socket.parent / "key", os.urandom(128))
        layout.slurm_conf.write_text(slurm_text(layout))
        write_secret(layout.dbd_conf, dbd_text(layout).encode())

    def _start_accounting(self) -> None:
        layout = self.layout
        tables = next(path for path in SYSTEM_TABLES if path.is_file())
        script = layout.database / "start.sql"
        script.write_text(f"CREATE DATABASE mysql;\nUSE mysql;\n{tables.read_text()}\nCREATE DATABASE slurm_acct_db;\n")
        self._start("mariadbd", mariadbd_arguments(layout, script))
        self.wait_until(layout.database_socket.is_socket, what="mariadbd's socket")
        self._start("slurmdbd", ["-D"], MYSQL_UNIX_PORT=str(layout.database_socket))
        # Without it, at its very first start, slurmctld gives up ("no TRES").
        self.wait_until(lambda: listens(layout.address, layout.ports[1]), what="slurmdbd listening")

    def _start_node(self, node: str) -> None:
        self._start(slurmd_name(node), ["-D", "-N", node])

    def _start(self, name: str, arguments: Sequence[str], **variables: str) -> None:
        program = shutil.which(name.partition("-")[0], path=search_path())
        if program is None:
            raise ClusterError(find_missing() or f"{name} is not there")
        environment = self.environment() | variables
        log = self.layout.log(name)
        self.daemons[name] = start_daemon(name, [program, *arguments], environment=environment, log=log)

    def _stop(self, name: str, *, how: signal.Signals = signal.SIGTERM) -> None:
        if daemon := self.daemons.pop(name, None):
            stop_daemon(daemon, how=how)

    def _node_logs(self, nodes: Sequence[str] = NODES) -> list[Path]:
        return [self.layout.log(slurmd_name(node)) for node in nodes]


def slurmd_name(node: str) -> str:
    """What a node's slurmd, and its log, are called here."""
    return f"slurmd-{node}"


def mariadbd_arguments(layout: Layout, script: Path) -> list[str]:
    """A small, forgetful server that makes its tables by `script` before it lets anybody in.

    No accounts: who can reach the socket may do everything, and only this user can.
    """
    return [
        "--no-defaults",
        f"--user={layout.user}",
        f"--datadir={layout.database / 'data'}",
        f"--socket={layout.database_socket}",
        "--skip-networking",
        "--skip-grant-tables",
        f"--init-file={script}",
        "--debug-no-sync",  # never waits for the disk
        "--innodb-flush-log-at-trx-commit=0",
        "--innodb-doublewrite=0",
        "--innodb-buffer-pool-size=16M",
        "--innodb-log-file-size=8M",
        "--innodb-data-file-path=ibdata1:5M:autoextend",
        "--innodb-autoextend-increment=1",  # else 64 MB at the first extension
    ]


def write_secret(path: Path, data: bytes) -> None:
    """A file that nobody else could ever read."""
    with open(path, "xb", opener=lambda name, flags: os.open(name, flags, 0o600)) as out:
        out.write(data)


def listens(address: str, port: int) -> bool:
    """Whether somebody answers at that port."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((address, port)) == 0
