"""What the doctor makes of a cluster's own words, as recorded on Slurm 22.05.8, and of a node's answer."""

import json
import re
import signal
import stat
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from piggyback.shell.checks import Check
from piggyback.shell.cli import load, parse
from piggyback.shell.errors import SweepError
from slurm.commands import COMMANDS
from slurm.doctor.cluster_checks import CHECKS
from slurm.doctor.cluster_facts import (
    Association,
    ClusterFacts,
    Qos,
    ask_cluster,
    count_gpus,
    is_up,
    read_associations,
    read_config,
    read_qos,
    read_records,
    read_seconds,
)
from slurm.doctor.node_checks import check_node
from slurm.doctor.node_job import NodeReport, ask_node, check_folder_here
from slurm.doctor.verb import find_checks, find_requests
from slurm.planning.profiles import Profile

CONFIG = """\
Configuration data as of 2026-11-21T16:42:11
AccountingStorageEnforce = none
AccountingStorageType   = accounting_storage/slurmdbd
AuthInfo                = socket=/run/munge/socket,cred_expire=5
ClusterName             = piggyback
GresTypes               = (null)
JobRequeue              = 1
KillWait                = 30 sec
MaxArraySize            = 1001
MaxJobCount             = 10000
MinJobAge               = 300 sec
PreemptMode             = REQUEUE
PreemptType             = preempt/partition_prio
ProctrackType           = proctrack/linuxproc
SchedulerParameters     = sched_interval=2,bf_interval=2
SlurmctldParameters     = preempt_send_user_signal
SLURM_VERSION           = 22.05.8

Slurmctld(primary) at vm is UP
"""
PARTITION = """\
PartitionName=low AllowGroups=ALL AllowAccounts=ALL AllowQos=ALL AllocNodes=ALL Default=YES QoS=N/A GraceTime=15 \
MaxTime=UNLIMITED Nodes=n[0-1] PriorityTier=1 OverTimeLimit=NONE PreemptMode=REQUEUE State=UP TotalNodes=2
PartitionName=high AllowGroups=ALL AllowAccounts=lab AllowQos=ALL AllocNodes=ALL Default=NO QoS=N/A GraceTime=0 \
MaxTime=1-00:00:00 Nodes=n[0-1] PriorityTier=10 OverTimeLimit=NONE PreemptMode=OFF State=UP TotalNodes=2
"""
NODE = """\
NodeName=n0 Arch=x86_64 CoresPerSocket=1  CPUAlloc=0 CPUEfctv=2 CPUTot=2 Gres=gpu:a100:4(S:0-1) RealMemory=8000 \
State=IDLE Partitions=low,high  OS=Linux 6.18 #1 SMP
NodeName=n1 Arch=x86_64 CoresPerSocket=1  CPUAlloc=0 CPUEfctv=8 CPUTot=8 Gres=(null) RealMemory=32000 \
State=DOWN*+DRAIN Partitions=low,high  OS=Linux 6.18 #1 SMP Reason=gone, State=IDLE it said [root@2026-11-21T10:11:46]
"""
SMALL = Profile(cpus=2, memory_gb=4, minutes=60)

PROGRAMS = {
    "scontrol": """
        case "$*" in *config*) cat "$FAKE/config.txt" ;; *partition*) cat "$FAKE/partition.txt" ;;
        *node*) cat "$FAKE/node.txt" ;; *job*) echo >"$FAKE/looked"; cat "$FAKE/job.txt" ;; esac""",
    "sacctmgr": """case "$*" in *assoc*) echo 'lab|normal,long' ;; *) echo 'long|requeue|00:02:00' ;; esac""",
    "srun": "echo 2",
    "nvidia-smi": "echo 'GPU 0: NVIDIA A100 (UUID: GPU-1)'; echo 'GPU 1: NVIDIA A100 (UUID: GPU-2)'",
    "sbatch": """
        for script; do :; done
        [ -e "$FAKE/refuse" ] && { cat "$FAKE/refuse" >&2; exit 1; }
        [ "$1" = --test-only ] && { cp "$script" "$FAKE/tested.sh"; exit 0; }
        cp "$script" "$FAKE/probe.sh"; echo 7
        [ -e "$FAKE/never" ] || SLURM_JOB_ID=7 SLURMD_NODENAME=n0 bash "$script" >&2; exit 0""",
}


@pytest.fixture
def fake_cluster(fake_slurm: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cluster of recorded words, whose sbatch runs the job here and at once."""
    monkeypatch.setattr("slurm.doctor.node_job.POLL_S", 0.02)
    for name, body in PROGRAMS.items():
        path = fake_slurm / "bin" / name
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    texts = {"config": CONFIG, "partition": PARTITION, "node": NODE, "sacct": "", "job": "JobId=7 JobState=COMPLETED\n"}
    for name, text in texts.items():
        (fake_slurm / f"{name}.txt").write_text(text)
    return fake_slurm


def doctor(*words: object) -> int:
    command = next(one for one in COMMANDS if one.name == "sweep doctor")
    return int(load(command.target)(parse(command, [str(word) for word in words])))


@pytest.fixture
def answer(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, dict[str, Any]]]:
    """Exit code, and the checks by name, of the verb."""

    def run(*words: object) -> tuple[int, dict[str, Any]]:
        code = doctor(*words, "--json")
        return code, {check["name"]: check for check in json.loads(capsys.readouterr().out)["checks"]}

    return run


def facts(**config: str) -> ClusterFacts:
    records = read_records(PARTITION)
    return ClusterFacts(
        config=read_config(CONFIG) | config,
        partitions={record["PartitionName"]: record for record in records},
        nodes=tuple(read_records(NODE)),
        sacct=True,
        associations=(Association(account="lab", qos=("normal", "long")),),
        qos={"long": Qos(mode="cancel", grace_s=0), "normal": Qos(mode="cluster", grace_s=120)},
    )


def look(cluster: ClusterFacts, profile: Profile = SMALL) -> dict[str, Check]:
    return {check.name: check for check in (one(cluster, profile) for one in CHECKS)}


def with_partition(cluster: ClusterFacts, **fields: str) -> ClusterFacts:
    return replace(cluster, partitions={**cluster.partitions, "low": {**cluster.partitions["low"], **fields}})


def test_words_of_slurm() -> None:
    config, (first, second) = read_config(CONFIG), read_records(NODE)
    assert config["KillWait"] == "30 sec"
    assert config["GresTypes"] == ""
    assert facts().option("AuthInfo", "cred_expire") == "5"
    assert facts().option("SlurmctldParameters", "preempt_send_user_signal") == ""
    assert facts().option("SlurmctldParameters", "preempt") is None
    assert facts().version == (22, 5)
    assert (is_up(first), is_up(second), second["State"]) == (True, False, "DOWN*+DRAIN")
    assert is_up({"State": "IDLE+CLOUD+POWERED_DOWN"})
    assert is_up({"State": "MIXED~"})
    assert not is_up({"State": "IDLE+DRAIN"})
    assert not is_up({"State": "IDLE*"})
    assert count_gpus("gpu:a100:4(S:0-1),gpu:v100:2") == 6
    assert count_gpus("gpu:a100:4(S:0-1),gpu:v100:2", gpu_type="v100") == 2
    assert count_gpus("gpu:3(S:0)") == 3
    assert count_gpus("(null)") == 0
    assert read_associations("root||normal\nlab|a,b\n") == (Association(account="lab", qos=("a", "b")),)
    assert read_qos("normal|cluster|00:02:00\n") == {"normal": Qos(mode="cluster", grace_s=120)}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("UNLIMITED", None), ("90", 5400), ("90:30", 5430), ("1:00:00", 3600), ("2-00:00:00", 172800), ("1-12", 129600)],
)
def test_times(text: str, seconds: int | None) -> None:
    assert read_seconds(text) == seconds


def test_a_good_cluster() -> None:
    assert {check.state for check in look(facts()).values()} == {"ok"}


@pytest.mark.parametrize(
    ("config", "profile", "name", "state", "found"),
    [
        ({}, {"partition": "gpu"}, "partition", "broken", "there is no partition 'gpu'"),
        ({}, {"partition": "high", "account": "me"}, "partition", "broken", r"AllowAccounts=lab"),
        ({}, {"account": "me"}, "account, qos", "note", "'me' is not one of yours"),
        ({"AccountingStorageEnforce": "associations"}, {"account": "me"}, "account, qos", "broken", "'me' is not"),
        ({}, {"account": "lab", "qos": "gold"}, "account, qos", "note", "'gold' does not go with"),
        ({}, {"cpus": 9}, "resources", "broken", "0 of 2 nodes .*most of each: 8 processors, 31 GB, 4 GPUs"),
        ({}, {"cpus": 4}, "resources", "note", "1 of 2 nodes .*, but 0 of them can be used now"),
        ({}, {"gpus": 4, "gpu_type": "a100"}, "resources", "ok", "1 of 2 nodes"),
        ({}, {"gpus": 1, "gpu_type": "h100"}, "resources", "broken", "0 of 2 nodes .* 1 GPUs of type h100"),
        ({}, {"memory_gb": 8}, "resources", "note", "1 of 2"),  # 8000 MB are not 8 GB
        ({}, {"partition": "high", "minutes": 1441}, "time limit", "broken", "high allows 1440"),
        ({}, {"minutes": 3, "signal_s": 120}, "time limit", "broken", "at once"),
        ({}, {"minutes": 5, "signal_s": 120}, "time limit", "note", "most of the time"),
        ({"JobRequeue": "0"}, {}, "requeue", "ok", "JobRequeue=0, and jobs ask for it"),
        ({"JobRequeue": "0"}, {"additional": {"requeue": False}}, "requeue", "note", "forbid"),
        ({}, {"additional": {"requeue": False}}, "requeue", "ok", "takes --requeue away"),
        ({}, {"additional": {"no-requeue": True}}, "requeue", "note", "forbid"),
        ({}, {"array": 1002}, "arrays", "broken", "allows 1001"),
        ({"MaxArraySize": "0"}, {}, "arrays", "note", "a job of its own"),
        ({"SchedulerParameters": "max_array_tasks=50"}, {}, "arrays", "ok", "50 runs"),
        ({"SchedulerParameters": "max_array_tasks=50"}, {"array": 50}, "arrays", "ok", "50 runs"),
        ({"SLURM_VERSION": "23.11.1"}, {}, "srun", "ok", "gets --cpus"),
        ({"AuthInfo": ""}, {}, "wait after requeue", "ok", "121 s"),
        ({"ProctrackType": "proctrack/cgroup"}, {}, "signals", "ok", "first process"),
    ],
)
def test_what_differs(config: dict[str, str], profile: dict[str, Any], name: str, state: str, found: str) -> None:
    check = look(facts(**config), replace(SMALL, **profile))[name]
    assert check.state == state, check
    assert re.search(found, check.found), check
    assert (check.advice == "") == (state == "ok")


@pytest.mark.parametrize(
    ("config", "partition", "profile", "state", "found"),
    [
        ({}, {"GraceTime": "0"}, {}, "note", r"killed 30 s after it hears of it"),
        ({"SlurmctldParameters": ""}, {}, {}, "ok", "is queued again"),
        ({"SlurmctldParameters": ""}, {"GraceTime": "0"}, {}, "note", "killed 30 s after"),
        ({}, {"PreemptMode": "CANCEL"}, {}, "note", r"not queued again \(PreemptMode=CANCEL\)"),
        ({}, {}, {"additional": {"no-requeue": True}}, "note", r"not queued again \(see requeue\)"),
        ({}, {"PreemptMode": "GANG,SUSPEND"}, {}, "ok", "pauses"),
        ({}, {"PreemptMode": "OFF"}, {}, "ok", "never"),
        ({}, {"PriorityTier": "10"}, {}, "ok", "never"),
        ({}, {}, {"partition": "high"}, "ok", "never"),
        ({}, {"GraceTime": "0"}, {"partition": "high,low"}, "note", "on low"),
        ({"PreemptType": "preempt/none", "PreemptMode": "OFF"}, {"GraceTime": "0"}, {}, "ok", "never"),
        ({"PreemptType": "preempt/qos"}, {}, {"qos": "long"}, "note", "PreemptMode=CANCEL"),
        ({"PreemptType": "preempt/qos"}, {}, {"qos": "normal"}, "ok", "120 s grace"),
    ],
)
def test_preemption(
    config: dict[str, str], partition: dict[str, str], profile: dict[str, Any], state: str, found: str
) -> None:
    check = look(with_partition(facts(**config), **partition), replace(SMALL, **profile))["preemption"]
    assert check.state == state, check
    assert re.search(found, check.found), check


def test_without_accounting() -> None:
    cluster = replace(facts(AccountingStorageType="accounting_storage/none"), sacct=False, associations=None, qos={})
    found = look(cluster, replace(SMALL, account="lab"))
    assert (found["accounting"].state, found["account, qos"].state) == ("note", "unknown")
    assert "300 s" in found["accounting"].found
    assert look(cluster)["account, qos"].state == "ok"


def test_a_partition_that_is_not_up() -> None:
    assert look(with_partition(facts(), State="DOWN"))["partition"].state == "broken"
    assert look(with_partition(facts(), Default="NO"))["partition"].state == "broken"
    assert look(replace(facts(), partitions={}))["partition"].state == "unknown"


def test_kinds_of_jobs() -> None:
    profile = replace(SMALL, kinds={"backbone": {"gpus": 4, "cpus": 3}, "prepare": {"cpus": 1}})
    found = find_requests(profile)
    assert {kind: (own.cpus, own.memory_gb) for kind, own in found.items()} == {
        "run": (2, 4),
        "backbone": (12, 16),  # a process per GPU
        "prepare": (1, 4),
    }
    assert list(find_requests(SMALL)) == ["run"]
    assert list(find_requests(replace(SMALL, nodes=2))) == ["run", "backbone"]


def test_the_verb(fake_cluster: Path, tmp_path: Path, answer: Callable[..., tuple[int, dict[str, Any]]]) -> None:
    profiles, folder = tmp_path / "profiles.toml", tmp_path / "it's a folder"
    profiles.write_text('[profile.mine]\ncpus = 2\nmemory_gb = 4\ngpus = 2\nsetup = ["echo hello"]\n')
    folder.mkdir()
    code, found = answer("--profiles", profiles, "--profile", "mine", "--folder", folder / "not" / "there")
    assert code == 0, found
    assert {check["state"] for check in found.values()} == {"ok"}, found
    assert found["GPUs on the node"]["found"] == "nvidia-smi sees 2, 2 asked for"
    assert found["shared folder"]["found"].startswith("job 7 on n0")
    assert list(folder.iterdir()) == []
    assert not (fake_cluster / "scancel.args").exists()
    probe, tested = (fake_cluster / "probe.sh").read_text(), (fake_cluster / "tested.sh").read_text()
    assert all(f"#SBATCH {line}\n" in probe for line in ("--no-requeue", "--time=5", "--mail-type=NONE"))
    assert all(f"#SBATCH {line}\n" in tested for line in ("--requeue", "--time=240", "--gpus-per-node=2"))
    assert "echo hello" in probe


def test_the_verb_for_a_reader(
    fake_cluster: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert doctor("--no-node-check") == 0  # 16 GB and 4 processors are on the node that is down
    printed = capsys.readouterr().out
    assert "1 of 2 nodes have 4 processors, 16 GB, but 0 of them" in printed
    assert printed.count("\n│") == 16  # a line per promise, and one of advice
    assert printed.endswith("15 promises looked at: 1 to know of\n")
    assert not (fake_cluster / "probe.sh").exists()


@pytest.mark.usefixtures("no_slurm")
def test_no_slurm() -> None:
    with pytest.raises(
        SweepError, match=r"there is no Slurm here: sbatch, srun, scontrol, squeue, scancel not on PATH"
    ):
        doctor()


def test_no_controller(fake_cluster: Path) -> None:
    (fake_cluster / "config.txt").unlink()
    with pytest.raises(SweepError, match="slurmctld, is down"):
        ask_cluster()


def test_sbatch_refuses(fake_cluster: Path, tmp_path: Path) -> None:
    (fake_cluster / "refuse").write_text("sbatch: error: invalid partition\n  specified: gpu\n")
    found = {check.name: check for check in find_checks(SMALL, folder=tmp_path)}
    assert found["request"].found == "sbatch would refuse: sbatch: error: invalid partition specified: gpu"
    assert "shared folder" not in found
    (check,) = check_node(ask_node(SMALL, folder=tmp_path), SMALL, tmp_path)
    assert (check.name, check.state) == ("node", "broken")


IMPATIENT = {"queued": 0.1, "running": 0.1, "ended": 0.1, "unknown": 0.1}


@pytest.mark.parametrize(
    ("job", "name", "state", "found"),
    [
        ("JobState=PENDING Reason=Priority ExitCode=0:0", "node", "unknown", r"did not start in time \(Priority\)"),
        ("JobState=FAILED Reason=NonZeroExitCode ExitCode=41:0", "shared folder", "broken", "does not see"),
        ("JobState=FAILED Reason=NonZeroExitCode ExitCode=42:0", "shared folder", "broken", "cannot write"),
        ("JobState=COMPLETED Reason=None ExitCode=0:0", "shared folder", "broken", "is COMPLETED, and nothing from it"),
        ("JobState=RUNNING Reason=None ExitCode=0:0", "shared folder", "broken", "is RUNNING, and nothing from it"),
    ],
)
def test_no_answer(fake_cluster: Path, tmp_path: Path, job: str, name: str, state: str, found: str) -> None:
    (fake_cluster / "never").touch()
    (fake_cluster / "job.txt").write_text(f"JobId=7 {job}\n")
    folder = tmp_path / "swept"
    folder.mkdir()
    report = ask_node(SMALL, folder=folder, patience=IMPATIENT)  # type: ignore[arg-type]
    (check,) = check_node(report, SMALL, folder)
    assert (check.name, check.state) == (name, state)
    assert re.search(found, check.found), check
    assert (fake_cluster / "scancel.args").read_text() == "7\n"
    assert list(folder.iterdir()) == []


def test_setup_lines_that_fail(fake_cluster: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slurm.doctor.node_job.PRINTED_S", 0.0)
    (fake_cluster / "job.txt").write_text("JobId=7 JobState=FAILED Reason=None ExitCode=3:0\n")
    profile = replace(SMALL, setup=("echo no such module; exit 3",))
    (check,) = check_node(ask_node(profile, folder=tmp_path), profile, tmp_path)
    assert check.found == "job 7 ended early (FAILED, exit code 3): no such module"


def test_interrupted(fake_cluster: Path, tmp_path: Path, eventually: Callable[..., None]) -> None:
    (fake_cluster / "never").touch()
    (fake_cluster / "job.txt").write_text("JobId=7 JobState=PENDING Reason=Priority\n")
    looked = fake_cluster / "looked"

    def interrupt() -> None:
        eventually(looked.exists)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a script's & has had it ignored
    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        ask_node(SMALL, folder=tmp_path)
    thread.join()
    signal.signal(signal.SIGINT, before)
    assert not list(tmp_path.glob(".doctor-*"))
    assert (fake_cluster / "scancel.args").read_text() == "7\n"


def test_folder(tmp_path: Path) -> None:
    folder = tmp_path / "swept"
    folder.mkdir()
    assert check_folder_here(folder / "a" / "b").state == "ok"
    assert check_folder_here(folder / "100%").state == "broken"
    assert check_folder_here(Path("/proc/none")).state == "broken"
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "name", "state"),
    [
        ({}, "clocks", "ok"),
        ({"time": "1030"}, "clocks", "note"),
        ({"time": "980"}, "clocks", "note"),
        ({"time": "1004"}, "clocks", "ok"),
        ({"time": ""}, "clocks", "unknown"),
        ({"scontrol": ""}, "scontrol on the node", "note"),
        ({"controller": ""}, "scontrol on the node", "note"),
        ({"python": "ModuleNotFoundError: No module named 'slurm'"}, "python on the node", "broken"),
        ({"cpus": "1"}, "srun on the node", "note"),
        ({"cpus": ""}, "srun on the node", "broken"),
        ({"gpus": "0"}, "GPUs on the node", "broken"),
    ],
)
def test_what_a_node_says(change: dict[str, str], name: str, state: str) -> None:
    good = {"node": "n0", "time": "1001", "scontrol": "/usr/bin/scontrol", "controller": "answers", "cpus": "2"}
    said = good | {"gpus": "1", "python": "imports"} | change
    report = NodeReport(outcome="answered", job="7", answer=said, sent=1000.0, seen=1002.0)
    found = {check.name: check for check in check_node(report, replace(SMALL, gpus=1), Path("swept"))}
    assert found[name].state == state, found[name]
    assert all(check.state == "ok" for other, check in found.items() if other != name)
