"""Facts of a cluster, as Slurm's commands print them: configuration, partitions, nodes and accounts.

The formats are those of Slurm 22.05, from its man pages and a real cluster; other versions were not tested.
"""

import getpass
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from piggyback.shell.errors import SweepError
from slurm.queries import ask

COMMANDS: Final = ("sbatch", "srun", "scontrol", "squeue", "scancel")
NO_LIMIT: Final = ("UNLIMITED", "INFINITE", "NONE", "N/A", "")
OUT_OF_USE: Final = {"DOWN", "DRAIN", "DRAINED", "DRAINING", "FAIL", "FAILING", "FUTURE", "NOT_RESPONDING"}


@dataclass(frozen=True, kw_only=True)
class Association:
    """One line of accounting: an account of this user and its rights.

    Attributes:
        qos: names of the qualities of service that the account may use.
    """

    account: str
    qos: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Qos:
    """A quality of service.

    Attributes:
        mode: how its jobs are preempted; ``cluster`` means as the cluster sets it.
        grace_s: seconds that its preempted jobs have.
    """

    mode: str
    grace_s: int


@dataclass(frozen=True, kw_only=True)
class ClusterFacts:
    """Facts that all checks use, asked for once.

    Attributes:
        config: from ``scontrol show config``; "(null)" is stored as empty.
        partitions: fields by name, as ``scontrol show partition`` prints them.
        nodes: the fields of each node.
        sacct: whether sacct answers.
        associations: this user's; None if no accounting answers.
        qos: by name; empty if no accounting answers.
    """

    config: Mapping[str, str]
    partitions: Mapping[str, Mapping[str, str]]
    nodes: tuple[Mapping[str, str], ...]
    sacct: bool
    associations: tuple[Association, ...] | None = None
    qos: Mapping[str, Qos]

    @property
    def version(self) -> tuple[int, int]:
        """For example (22, 5); zeros if Slurm does not say."""
        said = re.match(r"(\d+)\.(\d+)", self.config.get("SLURM_VERSION", ""))
        return (int(said[1]), int(said[2])) if said else (0, 0)

    def number(self, key: str, *, default: int) -> int:
        """A number from the configuration, without its unit."""
        said = re.match(r"\d+", self.config.get(key, ""))
        return int(said[0]) if said else default

    def option(self, key: str, name: str) -> str | None:
        """A comma-separated option of a line: the text after ``name=``, "" for the bare name, None if missing."""
        for word in self.config.get(key, "").split(","):
            first, _, value = word.strip().partition("=")
            if first.lower() == name.lower():
                return value
        return None


def ask_cluster() -> ClusterFacts:
    """Ask Slurm for all facts.

    Raises:
        SweepError: there is no Slurm here, or its controller does not answer.
    """
    if missing := [name for name in COMMANDS if shutil.which(name) is None]:
        raise SweepError(
            f"there is no Slurm here: {', '.join(missing)} not on PATH; log in to the cluster, or load its Slurm"
            " module; on this machine alone, sweeps run with --cluster local"
        )
    config = read_config(ask(["scontrol", "show", "config"]) or "")
    if not config:
        raise SweepError(
            "Slurm's commands are here, but `scontrol show config` gets no answer: the controller, slurmctld, is down"
            " or out of reach; try `scontrol ping`"
        )
    has_accounts = not config.get("AccountingStorageType", "").endswith("/none")
    partitions = read_records(ask(["scontrol", "--all", "--oneliner", "show", "partition"]) or "")
    return ClusterFacts(
        config=config,
        partitions={record["PartitionName"]: record for record in partitions if "PartitionName" in record},
        nodes=tuple(read_records(ask(["scontrol", "--all", "--oneliner", "show", "node"]) or "")),
        sacct=ask(["sacct", "-X", "-n", "-P", "-o", "JobID", "-S", "now"]) is not None,
        associations=ask_associations() if has_accounts else None,
        qos=read_qos(ask(["sacctmgr", "-n", "-P", "show", "qos", "format=name,preemptmode,gracetime"]) or "")
        if has_accounts
        else {},
    )


def ask_associations() -> tuple[Association, ...] | None:
    """Ask for this user's accounts; None if no accounting answers."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # an id without a name; the second from Python 3.13
        return None
    said = ask(["sacctmgr", "-n", "-P", "show", "assoc", "where", f"user={user}", "format=account,qos"])
    return None if said is None else read_associations(said)


def read_config(text: str) -> dict[str, str]:
    """Parse lines ``Key = value`` of ``scontrol show config``."""
    lines = re.findall(r"^(\S+)[ \t]*=[ \t]*(.*?)[ \t]*$", text, flags=re.M)
    return {key: "" if value == "(null)" else value for key, value in lines}


def read_records(text: str) -> list[dict[str, str]]:
    """Parse records of ``Key=value`` fields, one per line, of ``scontrol --oneliner``; values end at the first space.

    Free text, such as the reason of a node that is down, may hold what looks like a field, so the first one counts.
    """
    fields = [re.findall(r"(?:^|\s)([A-Za-z_]\w*)=(\S*)", line) for line in text.splitlines()]
    return [dict(reversed(record)) for record in fields if record]


def read_associations(text: str) -> tuple[Association, ...]:
    """Parse lines ``account|qos,qos`` of sacctmgr."""
    rows = [line.split("|") for line in text.splitlines() if line.count("|") == 1]
    return tuple(Association(account=account, qos=tuple(filter(None, qos.split(",")))) for account, qos in rows)


def read_qos(text: str) -> dict[str, Qos]:
    """Parse lines ``name|mode|hh:mm:ss`` of sacctmgr."""
    rows = [line.split("|") for line in text.splitlines() if line.count("|") == 2]
    return {name: Qos(mode=mode, grace_s=read_seconds(grace) or 0) for name, mode, grace in rows}


def read_seconds(text: str) -> int | None:
    """Seconds of a time as Slurm writes it; None for no limit.

    After days come hours; otherwise one number is minutes, two are minutes and seconds, three begin with hours (man
    slurm.conf, MaxTime).
    """
    if text.upper() in NO_LIMIT or not re.fullmatch(r"(\d+-)?\d+(:\d+){0,2}", text):
        return None
    days, dash, rest = text.rpartition("-")
    numbers = [int(part) for part in rest.split(":")]
    if dash:
        hours, minutes, seconds = [*numbers, 0, 0][:3]
    elif len(numbers) == 3:
        hours, minutes, seconds = numbers
    else:
        hours, (minutes, seconds) = 0, [*numbers, 0][:2]
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds


def count_gpus(gres: str, *, gpu_type: str = "") -> int:
    """Count a node's GPUs of one type, or of any, by its ``Gres`` field, such as ``gpu:a100:4(S:0-1)``."""
    found = re.findall(r"\bgpu(?::([^:,()]+))?:(\d+)", gres)
    return sum(int(count) for name, count in found if not gpu_type or name == gpu_type)


def is_up(node: Mapping[str, str]) -> bool:
    """Whether jobs can start on a node; one that sleeps to save power can."""
    state = node.get("State", "")
    return not state.endswith("*") and not OUT_OF_USE & set(state.rstrip("*~#!%$@^-").split("+"))


def choose_partitions(facts: ClusterFacts, partition: str | None) -> Sequence[Mapping[str, str]]:
    """The partitions that a profile names, or the cluster's default; missing ones are left out."""
    if partition is None:
        return [record for record in facts.partitions.values() if record.get("Default") == "YES"]
    return [facts.partitions[name] for name in partition.split(",") if name in facts.partitions]
