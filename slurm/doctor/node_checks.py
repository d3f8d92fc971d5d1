"""Checks of a compute node: whether it has what sweeps need, by the report of a job there."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

from piggyback.shell.checks import Check
from slurm.doctor.node_job import NO_FOLDER, NO_WRITING, NodeReport
from slurm.planning.profiles import Profile

CLOCK_S: Final = 5.0  # signs of life count as old after minutes (`slurm.folder.claims`), so this is on the safe side


def check_node(report: NodeReport, profile: Profile, folder: Path) -> list[Check]:
    """All checks of a node; if no report came back, one check that says why."""
    if report.outcome == "answered":
        return [look(report, profile) for look in LOOKS]
    if report.outcome == "refused":
        advice = "change the profile by these words; `sweep submit --dry-run` shows what sbatch gets"
        return [Check(name="node", state="broken", found=f"sbatch refuses: {report.words}", advice=advice)]
    if report.outcome == "waiting":
        found = f"job {report.job} did not start in time ({report.words}), and is cancelled; nothing is known of nodes"
        return [Check(name="node", state="unknown", found=found, advice="try again later, or with --no-node-check")]
    if report.code == NO_WRITING:
        found = f"a node sees {folder}, but cannot write to it"
        advice = "give a folder that you may write to from compute nodes"
    elif report.code == NO_FOLDER:
        found = f"a node does not see what was written to {folder} here"
        advice = "give a folder on storage that all nodes share, not a local one such as /tmp"
    elif report.printed:
        found = f"job {report.job} ended early ({report.words}, exit code {report.code}): {report.printed}"
        return [Check(name="node", state="broken", found=found, advice="look at the profile's setup lines")]
    else:
        found = f"job {report.job} is {report.words}, and nothing from it is seen in {folder}"
        advice = "look at the profile's setup lines, and whether the folder is on storage that all nodes share"
    return [Check(name="shared folder", state="broken", found=found, advice=advice)]


def check_place(report: NodeReport, profile: Profile) -> Check:
    """The job ran, and files were visible both ways."""
    found = f"job {report.job} on {report.answer.get('node')}: files are seen both ways"
    return Check(name="shared folder", state="ok", found=f"{found}, {report.seen - report.sent:.0f} s in all")


def check_clocks(report: NodeReport, profile: Profile) -> Check:
    """The node's clock, read between sending and seeing, lies between the two."""
    told = report.answer.get("time", "")
    if not told.isdecimal():
        return Check(name="clocks", state="unknown", found="the node did not say what time it is")
    ahead = max(int(told) - report.seen, 0.0) + min(int(told) + 1 - report.sent, 0.0)
    if abs(ahead) > CLOCK_S:
        found = f"the node's clock is {abs(ahead):.0f} s {'ahead' if ahead > 0 else 'behind'}"
        advice = "ask the cluster's administrators to set the clocks (NTP): signs of life are judged by them"
        return Check(name="clocks", state="note", found=found, advice=advice)
    return Check(name="clocks", state="ok", found="the node's fits with this machine's")


def check_scontrol(report: NodeReport, profile: Profile) -> Check:
    """A job can queue itself again from its node (S13)."""
    name, path = "scontrol on the node", report.answer.get("scontrol", "")
    if not path:
        found = "not on PATH: a job near its time limit cannot be queued again by itself"
        advice = "add a line to the profile's setup, such as `module load slurm`; else `sweep retry` after each stop"
        return Check(name=name, state="note", found=found, advice=advice)
    if report.answer.get("controller") != "answers":
        found = f"{path} gets no answer: a job near its time limit cannot be queued again by itself"
        return Check(name=name, state="note", found=found, advice="ask the cluster's administrators why")
    return Check(name=name, state="ok", found=path)


def check_python(report: NodeReport, profile: Profile) -> Check:
    """The same Python is there, and imports what jobs need."""
    said = report.answer.get("python", "")
    if said == "imports":
        return Check(name="python on the node", state="ok", found="this one, with what jobs import")
    found = f"this Python does not work there: {said or 'it says nothing'}"
    advice = "install the environment on shared storage, or add what it needs to the profile's setup"
    return Check(name="python on the node", state="broken", found=found, advice=advice)


def check_step(report: NodeReport, profile: Profile) -> Check:
    """A step, started as jobs start theirs, has the processors that were asked for (S12)."""
    said = report.answer.get("cpus", "")
    if not said.isdecimal():
        advice = "ask the cluster's administrators why; jobs start their work by srun"
        return Check(name="srun on the node", state="broken", found="srun starts nothing within a job", advice=advice)
    if int(said) < profile.cpus:
        found = f"a step has {said} of {profile.cpus} processors"
        return Check(name="srun on the node", state="note", found=found, advice="ask the cluster's administrators why")
    return Check(name="srun on the node", state="ok", found=f"a step has {said} processors, {profile.cpus} asked for")


def check_gpus(report: NodeReport, profile: Profile) -> Check:
    """The node's GPUs are seen by the driver's own tool."""
    if not profile.gpus:
        return Check(name="GPUs on the node", state="ok", found="none asked for")
    said = report.answer.get("gpus", "")
    if not said.isdecimal() or int(said) < profile.gpus:
        found = f"nvidia-smi sees {said or 'none'} of {profile.gpus}"
        advice = "check gpus, gpu_type and partition in the profile, and its setup lines"
        return Check(name="GPUs on the node", state="broken", found=found, advice=advice)
    return Check(name="GPUs on the node", state="ok", found=f"nvidia-smi sees {said}, {profile.gpus} asked for")


LOOKS: Final[tuple[Callable[[NodeReport, Profile], Check], ...]] = (
    check_place,
    check_clocks,
    check_scontrol,
    check_python,
    check_step,
    check_gpus,
)
