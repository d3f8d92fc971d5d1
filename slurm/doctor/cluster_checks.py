"""Checks of a cluster: whether it has what sweeps need, by its own facts and the profile.

Sources: the man pages slurm.conf, sbatch and sacctmgr of Slurm 22.05, and the project's reference, cluster notes (S-
numbers and section 4.2 are theirs).
"""

from collections.abc import Callable, Mapping
from typing import Final

from piggyback.shell.checks import Check, State, find_worst
from slurm.doctor.cluster_facts import ClusterFacts, choose_partitions, count_gpus, is_up, read_seconds
from slurm.planning.profiles import Profile

CRED_EXPIRE_S: Final = 120  # Slurm's default (man slurm.conf, AuthInfo)
MIN_KILL_S: Final = 5  # between TERM and KILL at preemption, at least (section 4.2)
SIGNAL_EARLY_S: Final = 60  # the signal may come so much earlier than asked (man sbatch, --signal)
SEND_SIGNAL: Final = "SlurmctldParameters=preempt_send_user_signal"
ASK_ADMIN: Final = "ask the cluster's administrators for"


def check_slurm(facts: ClusterFacts, profile: Profile) -> Check:
    """Slurm answers; its version."""
    name, version = (
        facts.config.get("ClusterName", "a cluster"),
        facts.config.get("SLURM_VERSION", "of unknown version"),
    )
    return Check(name="slurm", state="ok", found=f"{name}, Slurm {version}, {len(facts.nodes)} nodes")


def check_partition(facts: ClusterFacts, profile: Profile) -> Check:
    """The profile's partitions are there, up, and open to its account and quality of service."""
    known = ", ".join(facts.partitions) or "none"
    if not facts.partitions:
        return Check(name="partition", state="unknown", found="scontrol shows no partitions")
    chosen = choose_partitions(facts, profile.partition)
    if profile.partition is None and not chosen:
        advice = f"set partition in the profile to one of: {known}"
        found = "none given, and the cluster has no default"
        return Check(name="partition", state="broken", found=found, advice=advice)
    for name in (profile.partition or "").split(",") if profile.partition else ():
        if name not in facts.partitions:
            advice = f"set partition in the profile to one of: {known}"
            return Check(name="partition", state="broken", found=f"there is no partition {name!r}", advice=advice)
    names = ", ".join(one["PartitionName"] for one in chosen)
    for one in chosen:
        if one.get("State", "UP") != "UP":
            found = f"{one['PartitionName']} is {one['State']}: nothing starts there"
            return Check(name="partition", state="broken", found=found, advice="choose another, or wait until it is up")
        for field, mine in (("AllowAccounts", profile.account), ("AllowQos", profile.qos)):
            allowed = one.get(field, "ALL").split(",")
            if mine and "ALL" not in allowed and mine not in allowed:
                found = f"{one['PartitionName']} does not let {mine!r} in ({field}={one[field]})"
                return Check(name="partition", state="broken", found=found, advice="change the profile to one of these")
    default = "" if profile.partition else ", the cluster's default"
    return Check(name="partition", state="ok", found=f"{names}{default}")


def check_account(facts: ClusterFacts, profile: Profile) -> Check:
    """The profile's account and quality of service are this user's."""
    name = "account, qos"
    enforced = "associations" in facts.config.get("AccountingStorageEnforce", "").lower()
    asked = [f"{key} {value}" for key, value in (("account", profile.account), ("qos", profile.qos)) if value]
    if facts.associations is None:
        if not asked:
            return Check(name=name, state="ok", found="none asked for")
        return Check(name=name, state="unknown", found=f"no accounting answers for {' and '.join(asked)}")
    accounts = sorted({one.account for one in facts.associations})
    mine = [one for one in facts.associations if profile.account in (None, one.account)]
    known = f"yours: {', '.join(accounts) or 'none'}"
    bad: State = "broken" if enforced else "note"
    if (profile.account or enforced) and not mine:
        found = f"account {profile.account!r} is not one of yours" if profile.account else "you have no account here"
        why = "" if enforced else "; this cluster does not enforce it"
        return Check(name=name, state=bad, found=found + why, advice=f"set account in the profile ({known})")
    qos = sorted({quality for one in mine for quality in one.qos})
    if profile.qos and profile.qos not in qos:
        found = f"qos {profile.qos!r} does not go with the account"
        return Check(name=name, state=bad, found=found, advice=f"set qos in the profile (known: {', '.join(qos)})")
    return Check(name=name, state="ok", found=" and ".join(asked) or f"none asked for; {known}")


def check_resources(facts: ClusterFacts, profile: Profile) -> Check:
    """At least one node, or as many as the profile wants, has what a job asks for."""
    names = {one["PartitionName"] for one in choose_partitions(facts, profile.partition)}
    nodes = [one for one in facts.nodes if names & set(one.get("Partitions", "").split(","))]
    if not nodes:
        return Check(name="resources", state="unknown", found="scontrol shows no nodes of the partition")
    kind = f" of type {profile.gpu_type}" if profile.gpu_type else ""
    gpus = f", {profile.gpus} GPUs{kind}" if profile.gpus else ""
    wanted = f"{profile.cpus} processors, {profile.memory_gb} GB{gpus}"
    fitting = [one for one in nodes if fits(one, profile)]
    ready = [one for one in fitting if is_up(one)]
    if len(fitting) < profile.nodes:
        most = f"{max(read_count(one, 'CPUTot') for one in nodes)} processors, "
        most += f"{max(read_count(one, 'RealMemory') for one in nodes) // 1024} GB, "
        most += f"{max(count_gpus(one.get('Gres', ''), gpu_type=profile.gpu_type) for one in nodes)} GPUs{kind}"
        found = f"{len(fitting)} of {len(nodes)} nodes have {wanted} (the most of each: {most})"
        advice = "lower cpus, memory_gb, gpus or nodes in the profile, or choose another partition"
        return Check(name="resources", state="broken", found=found, advice=advice)
    found = f"{len(fitting)} of {len(nodes)} nodes have {wanted}"
    if len(ready) < profile.nodes:
        found += f", but {len(ready)} of them can be used now"
        return Check(name="resources", state="note", found=found, advice="jobs wait until more come up; see `sinfo -R`")
    return Check(name="resources", state="ok", found=found)


def fits(node: Mapping[str, str], profile: Profile) -> bool:
    """Whether a node as a whole has what a job asks for; sbatch's GB are 1024 MB."""
    cpus = read_count(node, "CPUEfctv") or read_count(node, "CPUTot")
    gpus = count_gpus(node.get("Gres", ""), gpu_type=profile.gpu_type)
    memory = read_count(node, "RealMemory")
    return cpus >= profile.cpus and memory >= 1024 * profile.memory_gb and gpus >= profile.gpus


def read_count(node: Mapping[str, str], key: str) -> int:
    """A whole number from a node's fields; 0 if it is missing."""
    return int(node[key]) if node.get(key, "").isdecimal() else 0


def check_time(facts: ClusterFacts, profile: Profile) -> Check:
    """The limit is within the partition's, and the signal before it comes in time."""
    for one in choose_partitions(facts, profile.partition):
        most = read_seconds(one.get("MaxTime", ""))
        if most is not None and 60 * profile.minutes > most:
            found = f"{profile.minutes} minutes, and {one['PartitionName']} allows {most // 60} (MaxTime)"
            advice = f"set minutes in the profile to {most // 60} at most: runs go on where a job was stopped"
            return Check(name="time limit", state="broken", found=found, advice=advice)
    left = 60 * profile.minutes - profile.signal_s - SIGNAL_EARLY_S
    found = (
        f"{profile.minutes} minutes; jobs are told {profile.signal_s} to {profile.signal_s + SIGNAL_EARLY_S} s before"
    )
    if left <= 0:
        found += ", which is at once"
        return Check(name="time limit", state="broken", found=found, advice="raise minutes, or lower signal_s")
    if left < 60 * profile.minutes / 2:
        found += ", so most of the time is lost"
        return Check(name="time limit", state="note", found=found, advice="raise minutes, or lower signal_s")
    return Check(name="time limit", state="ok", found=found)


def may_requeue(facts: ClusterFacts, profile: Profile) -> bool:
    """Whether Slurm may queue the jobs again; they ask for it unless the profile forbids it."""
    taken = profile.additional.get("requeue") is False
    return not profile.additional.get("no-requeue") and (not taken or facts.config.get("JobRequeue") == "1")


def check_requeue(facts: ClusterFacts, profile: Profile) -> Check:
    """A stopped job can be queued again."""
    here = f"JobRequeue={facts.config.get('JobRequeue', '?')}"
    if may_requeue(facts, profile):
        why = (
            f"{here}, as the profile takes --requeue away"
            if profile.additional.get("requeue") is False
            else (f"{here}, and jobs ask for it by --requeue")
        )
        return Check(name="requeue", state="ok", found=why)
    found = f"the profile's additional options forbid it ({here}): a job that is stopped is not continued by itself"
    advice = "take requeue and no-requeue out of additional; without, `sweep retry` sends stopped runs again"
    return Check(name="requeue", state="note", found=found, advice=advice)


def find_preemption(facts: ClusterFacts, profile: Profile, partition: Mapping[str, str]) -> tuple[str, int]:
    """How jobs on a partition are preempted, and their seconds of grace."""
    kind, usual = facts.config.get("PreemptType", ""), facts.config.get("PreemptMode", "OFF")
    if kind.endswith("/qos"):
        qos = facts.qos.get(profile.qos or "")
        mode, grace = (qos.mode, qos.grace_s) if qos else ("cluster", 0)
        mode = usual if mode.lower() in ("", "cluster", "off") else mode
    elif kind.endswith("/partition_prio"):
        mode, grace = partition.get("PreemptMode", usual), int(partition.get("GraceTime", "0"))
        tiers = [int(one.get("PriorityTier", "1")) for one in facts.partitions.values()]
        if int(partition.get("PriorityTier", "1")) >= max(tiers):
            mode = "OFF"  # only jobs of a higher tier preempt (man slurm.conf, PreemptType)
    else:
        mode, grace = "OFF", 0
    words = [word for word in mode.upper().split(",") if word not in ("GANG", "WITHIN")]
    return (words[0] if words else "OFF"), grace


def check_preemption(facts: ClusterFacts, profile: Profile) -> Check:
    """A job that gives way to another comes back."""
    chosen = choose_partitions(facts, profile.partition)
    if not chosen:
        return Check(name="preemption", state="unknown", found="no partition to look at")
    return find_worst(check_preemption_on(facts, profile, one) for one in chosen)


def check_preemption_on(facts: ClusterFacts, profile: Profile, partition: Mapping[str, str]) -> Check:
    """`check_preemption` on one partition."""
    mode, grace = find_preemption(facts, profile, partition)
    where = partition["PartitionName"]
    if mode == "OFF":
        return Check(name="preemption", state="ok", found=f"jobs on {where} are never preempted")
    if mode == "SUSPEND":
        found = f"a preempted job on {where} pauses and goes on by itself; it keeps its memory and GPUs meanwhile"
        return Check(name="preemption", state="ok", found=found)
    if mode != "REQUEUE" or not may_requeue(facts, profile):
        why = f"PreemptMode={mode}" if mode != "REQUEUE" else "see requeue"
        found = f"a preempted job on {where} is not queued again ({why})"
        advice = "`sweep retry` sends it again and goes on from its last checkpoint; or choose another partition"
        return Check(name="preemption", state="note", found=found, advice=advice)
    return check_warning(facts, grace, where)


def check_warning(facts: ClusterFacts, grace: int, where: str) -> Check:
    """A job that is preempted and queued again has time for a checkpoint."""
    signal = facts.option("SlurmctldParameters", "preempt_send_user_signal") is not None
    if grace:  # without the user signal it hears TERM, still counts as running, and asks to be queued again itself
        found = f"a preempted job leaves a checkpoint and is queued again ({grace} s grace)"
        return Check(name="preemption", state="ok", found=found)
    after = max(facts.number("KillWait", default=30), MIN_KILL_S)
    found = f"a preempted job on {where} is queued again, but is killed {after} s after it hears of it (no grace time):"
    found += " a checkpoint that takes longer is lost, and the steps since the one before"
    wanted = f"a GraceTime on {where}" + ("" if signal else f" and {SEND_SIGNAL}")
    return Check(name="preemption", state="note", found=found, advice=f"{ASK_ADMIN} {wanted}")


def check_wait(facts: ClusterFacts, profile: Profile) -> Check:
    """The shortest wait of a job that was queued again (man slurm.conf, AuthInfo)."""
    said = facts.option("AuthInfo", "cred_expire") or ""
    seconds = int(said) if said.isdecimal() else CRED_EXPIRE_S
    return Check(name="wait after requeue", state="ok", found=f"{seconds + 1} s at least (cred_expire)")


def check_kill_wait(facts: ClusterFacts, profile: Profile) -> Check:
    """The time between TERM and KILL, as at scancel."""
    seconds = facts.number("KillWait", default=30)
    return Check(name="end by scancel", state="ok", found=f"{seconds} s for a last checkpoint (KillWait)")


def check_arrays(facts: ClusterFacts, profile: Profile) -> Check:
    """The number of runs in one array, and of jobs that the controller takes in all."""
    size, jobs = facts.number("MaxArraySize", default=1001), facts.number("MaxJobCount", default=10_000)
    tasks = facts.option("SchedulerParameters", "max_array_tasks") or ""
    most, key = (int(tasks), "max_array_tasks") if tasks.isdecimal() and int(tasks) < size else (size, "MaxArraySize")
    if profile.array > max(most, 1):
        found = f"the profile's array is {profile.array}, and the cluster allows {most} ({key})"
        return Check(name="arrays", state="broken", found=found, advice=f"set array in the profile to {max(most, 1)}")
    if most == 0:
        found = "off on this cluster (MaxArraySize=0): every run is a job of its own"
        return Check(name="arrays", state="note", found=found, advice="fine for small sweeps; sbatch is called per run")
    usual = max(most - 1, 1) if key == "MaxArraySize" else max(most, 1)  # an array's indices are below MaxArraySize
    found = f"{profile.array or usual} runs in one; {jobs} jobs on the cluster in all (MaxJobCount)"
    return Check(name="arrays", state="ok", found=found)


def check_accounting(facts: ClusterFacts, profile: Profile) -> Check:
    """Ended jobs are remembered."""
    kind, age = facts.config.get("AccountingStorageType", ""), facts.number("MinJobAge", default=300)
    if facts.sacct:
        return Check(name="accounting", state="ok", found=f"sacct answers ({kind})")
    why = "there is none" if kind.endswith("/none") else f"sacct gives no answer, though there is {kind}"
    found = f"{why}: status has Slurm's word for {age} s after a job's end (MinJobAge), then only the run folders'"
    advice = "nothing is lost; runs that were killed without a word show as stopped or missing: `sweep retry`"
    return Check(name="accounting", state="note", found=found, advice=advice)


def check_srun(facts: ClusterFacts, profile: Profile) -> Check:
    """srun reads how many processors a task has (S12)."""
    if (22, 5) <= facts.version < (23, 11):
        found = "forgets --cpus-per-task in this version; jobs pass it on themselves"
    else:
        found = "gets --cpus-per-task from the job itself"
    return Check(name="srun", state="ok", found=found)


def check_signals(facts: ClusterFacts, profile: Profile) -> Check:
    """The processes that Slurm's signals reach (S10)."""
    kind = facts.config.get("ProctrackType", "").rpartition("/")[2] or "unknown"
    if kind in ("linuxproc", "pgid"):
        found = f"reach all of a job's processes ({kind}); runs hear one of them"
    else:
        found = f"reach a job's first process ({kind}), which tells the run"
    return Check(name="signals", state="ok", found=found)


CHECKS: Final[tuple[Callable[[ClusterFacts, Profile], Check], ...]] = (
    check_slurm,
    check_partition,
    check_account,
    check_resources,
    check_time,
    check_requeue,
    check_preemption,
    check_wait,
    check_kill_wait,
    check_arrays,
    check_accounting,
    check_srun,
    check_signals,
)
