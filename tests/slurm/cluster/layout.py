"""Where a test cluster's files and ports lie, and what its configuration says.

The keys and the reasons for them: ``../shared/reference/slurm-test-cluster.md`` (the page, below) and
``../shared/reference/cluster.md`` section 4, both beside the project.
"""

import os
import pwd
import random
import socket
from dataclasses import dataclass, field
from pathlib import Path

NODES = ("n0", "n1")
PORTS = range(12000, 30000)  # below the range from which the kernel gives ports to outgoing connections


class ClusterError(Exception):
    """The test cluster cannot be brought up, or does not do what it was told."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What differs between one test cluster and another.

    Args:
        accounting: with mariadbd and slurmdbd, or without (``accounting_storage/none``: sacct fails).
        grace: seconds between the warning of a preempted job and its end, on the partition low.
        warning: the user signal (``sbatch --signal``) is also sent at preemption (``preempt_send_user_signal``).
        requeue: ``JobRequeue``, whether jobs may be requeued when they do not say so themselves.
        max_array_size: ``MaxArraySize``, one more than the largest index of an array.
        node_timeout: seconds without an answer after which a node is DOWN (``SlurmdTimeout``).
        min_job_age: seconds after which slurmctld forgets a job that has ended, and squeue too (``MinJobAge``).
        cpus: of each node; more than this machine has are no fault (``config_overrides``).
        memory_mb: of each node, likewise.
    """

    accounting: bool = True
    grace: int = 15
    warning: bool = True
    requeue: bool = True
    max_array_size: int = 1001
    node_timeout: int = 10
    min_job_age: int = 300
    cpus: int = 2
    memory_mb: int = 8000


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One cluster's place on this machine; nothing outside `folder` is written.

    Args:
        folder: absolute, of no more than 60 characters: it holds sockets, whose names are limited to 107 bytes.
        host: this machine's name, which Slurm resolves to find the address that it listens on.
        address: what `host` resolves to, in 127.0.0.0/8.
        user: whom all daemons run as.
        ports: of slurmctld, slurmdbd and each slurmd.
    """

    folder: Path
    host: str
    address: str
    user: str
    ports: tuple[int, ...]
    options: Options = field(default_factory=Options)

    @property
    def slurm_conf(self) -> Path:
        """What clients find the cluster by, in the environment variable ``SLURM_CONF``."""
        return self.folder / "slurm.conf"

    @property
    def dbd_conf(self) -> Path:
        """Must lie beside slurm.conf: slurmdbd looks for it there."""
        return self.folder / "slurmdbd.conf"

    @property
    def munge_socket(self) -> Path:
        """Of a munged of our own, so that the machine's, if there is one, is left alone."""
        return self.folder / "munge" / "socket"

    @property
    def database(self) -> Path:
        """Data and socket of mariadbd, for this user only."""
        return self.folder / "database"

    @property
    def database_socket(self) -> Path:
        """The only way to the database: it listens on no port."""
        return self.database / "socket"

    def log(self, daemon: str) -> Path:
        """What `daemon` writes about itself."""
        return self.folder / "log" / f"{daemon}.log"


def plan_layout(folder: Path, options: Options) -> Layout:
    """A layout in `folder` with ports that are free now.

    Raises:
        ClusterError: the folder's name is too long, or this machine's name does not lead to a loopback address.
    """
    folder = folder.resolve()
    if len(str(folder)) > 60:
        raise ClusterError(f"{folder} is too long a name: sockets lie in it, and 60 characters are the limit")
    host = socket.gethostname()
    # With NoInAddrAny Slurm listens on the address of the machine's name and on no other; without, on all.
    try:
        address = socket.gethostbyname(host)
    except OSError as problem:
        address = str(problem)
    if not address.startswith("127."):
        raise ClusterError(
            f"this machine's name {host!r} must lead to a loopback address, and leads to {address}: "
            f"add the line '127.0.0.1 {host}' to /etc/hosts"
        )
    user = pwd.getpwuid(os.geteuid()).pw_name
    ports = free_ports(2 + len(NODES), address)
    return Layout(folder=folder, host=host, address=address, user=user, ports=ports, options=options)


def free_ports(count: int, address: str) -> tuple[int, ...]:
    """`count` different ports on which nobody listens at `address`, drawn so that two clusters seldom meet."""
    found: list[int] = []
    for port in random.SystemRandom().sample(PORTS, 50 * count):
        with socket.socket() as probe:
            try:
                probe.bind((address, port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            return tuple(found)
    raise ClusterError(f"fewer than {count} free ports at {address} between {PORTS.start} and {PORTS.stop}")


def slurm_text(layout: Layout) -> str:
    """slurm.conf; the page's table has the reason of each key that has none here."""
    options, folder = layout.options, layout.folder
    if options.accounting:
        storage = ["AccountingStorageType=accounting_storage/slurmdbd", f"AccountingStorageHost={layout.host}"]
        storage += [f"AccountingStoragePort={layout.ports[1]}"]
        # AuthInfo does not count on the way to slurmdbd: without this line slurmctld asks the machine's own munged.
        storage += [f"AccountingStoragePass={layout.munge_socket}"]
    else:
        storage = ["AccountingStorageType=accounting_storage/none"]
    node_ports = ",".join(map(str, layout.ports[2:]))
    lines = [
        "ClusterName=piggyback",
        f"SlurmctldHost={layout.host}({layout.address})",
        f"SlurmctldPort={layout.ports[0]}",
        "CommunicationParameters=NoInAddrAny,NoCtldInAddrAny",  # else all daemons listen on every interface
        f"SlurmUser={layout.user}",
        f"SlurmdUser={layout.user}",
        "AuthType=auth/munge",
        "CredType=cred/munge",
        f"AuthInfo=socket={layout.munge_socket},cred_expire=5",  # a requeued job waits a second longer than this
        f"StateSaveLocation={folder}/state",
        f"SlurmdSpoolDir={folder}/spool-%n",
        f"SlurmctldPidFile={folder}/slurmctld.pid",
        f"SlurmdPidFile={folder}/slurmd-%n.pid",
        f"SlurmctldLogFile={layout.log('slurmctld')}",
        f"SlurmdLogFile={layout.log('slurmd-%n')}",
        "ProctrackType=proctrack/linuxproc",
        "TaskPlugin=task/none",
        "JobAcctGatherType=jobacct_gather/linux",
        "SelectType=select/cons_tres",
        "SelectTypeParameters=CR_CPU_Memory",
        "SlurmdParameters=config_overrides",
        "ReturnToService=2",
        "MpiDefault=none",
        "MailProg=/bin/true",
        "DefMemPerCPU=500",
        f"JobRequeue={int(options.requeue)}",
        f"MaxArraySize={options.max_array_size}",
        f"SlurmdTimeout={options.node_timeout}",
        f"MinJobAge={options.min_job_age}",
        "KillWait=5",  # seconds from TERM to KILL, 30 by default
        # A job is looked at when it comes, not within 3 s, and again every second, not every 30 to 60.
        "SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1",
        "PreemptType=preempt/partition_prio",
        "PreemptMode=REQUEUE",
        *(["SlurmctldParameters=preempt_send_user_signal"] if options.warning else []),
        *storage,
        f"NodeName={node_range()} NodeAddr={layout.address} NodeHostname={layout.host} Port=[{node_ports}] "
        f"CPUs={options.cpus} RealMemory={options.memory_mb}",
        f"PartitionName=low Nodes=ALL Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime={options.grace}",
        "PartitionName=high Nodes=ALL PriorityTier=10 PreemptMode=OFF",
    ]
    return "\n".join(lines) + "\n"


def node_range() -> str:
    """The nodes as Slurm writes them, since ports can be listed only beside a range of names."""
    return f"n[{NODES[0][1:]}-{NODES[-1][1:]}]"


def dbd_text(layout: Layout) -> str:
    """slurmdbd.conf, for a database that a socket leads to."""
    lines = [
        "AuthType=auth/munge",
        f"AuthInfo=socket={layout.munge_socket}",
        f"DbdHost={layout.host}",
        f"DbdAddr={layout.address}",
        f"DbdPort={layout.ports[1]}",
        "CommunicationParameters=NoInAddrAny",
        f"SlurmUser={layout.user}",
        "StorageType=accounting_storage/mysql",
        "StorageHost=localhost",  # to the client library: by the socket, which MYSQL_UNIX_PORT names
        "StorageLoc=slurm_acct_db",
        f"StorageUser={layout.user}",
        f"LogFile={layout.log('slurmdbd')}",
        f"PidFile={layout.folder}/slurmdbd.pid",
    ]
    return "\n".join(lines) + "\n"
