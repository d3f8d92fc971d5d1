"""One small job that reports from a compute node, with the profile's own options."""

import contextlib
import re
import secrets
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal

from submitit.slurm.slurm import _make_sbatch_string

from piggyback.shell.checks import Check
from piggyback.shell.console import err
from piggyback.shell.errors import SweepError
from slurm.doctor.cluster_facts import read_records
from slurm.planning.profiles import Profile
from slurm.queries import STATES, JobState, ask
from slurm.sending.sbatch import Stage, check_folder, login_environment, slurm_parameters

Outcome = Literal["answered", "refused", "waiting", "silent"]
# Seconds of patience: until its start; from its start to its answer (Python over a slow network takes longest); and
# from its end, as long as NFS may show a folder's old content (its default, as far as known).
PATIENCE: Final[Mapping[JobState, float]] = {"queued": 120.0, "running": 120.0, "ended": 60.0, "unknown": 60.0}
PRINTED_S: Final = 10.0  # from its end, once what it printed is seen
POLL_S: Final = 0.5
MINUTES: Final = 5  # the job's time limit
NO_FOLDER, NO_WRITING = 41, 42  # the job's exit codes


@dataclass(frozen=True, kw_only=True)
class NodeReport:
    """What a node's job reported.

    Attributes:
        outcome: ``answered``; ``refused`` by sbatch; still ``waiting`` when patience ended; ``silent``: the job ended
            or took too long, and no answer was seen.
        words: sbatch's, or Slurm's reason to wait, or how the job ended.
        printed: the last line that a silent job printed.
        answer: the node's answer, by key.
        sent, seen: this machine's clock before the job was sent and after its answer was seen, in seconds.
        code: exit code of a job that ended without an answer; None if unknown.
    """

    outcome: Outcome
    words: str = ""
    printed: str = ""
    job: str = ""
    answer: Mapping[str, str] = field(default_factory=dict)
    sent: float = 0.0
    seen: float = 0.0
    code: int | None = None


def check_folder_here(folder: Path) -> Check:
    """The folder, or its nearest existing parent, can be written from here, and Slurm can be given its path."""
    try:
        check_folder(folder)
        with borrow_folder(folder):
            return Check(name="folder", state="ok", found=f"{folder} can be written from here")
    except SweepError as fault:
        found = str(fault)
    except OSError as fault:
        found = f"{folder} cannot be written from here: {fault.strerror}"
    return Check(name="folder", state="broken", found=found, advice="choose another folder for the sweep's out")


@contextlib.contextmanager
def borrow_folder(folder: Path) -> Iterator[Path]:
    """Make a folder within another, or within its nearest existing parent; it is removed after the block."""
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    place = Path(tempfile.mkdtemp(prefix=".doctor-", dir=folder))
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)  # a node may be writing to it still


def make_probe(profile: Profile, *, answer: Path) -> str:
    """Shell lines that ask the questions; the answer file appears atomically."""
    place, part = shlex.quote(str(answer)), shlex.quote(f"{answer}.part")
    imports = shlex.join([sys.executable, "-c", "import slurm, submitit; print('imports')"])
    lines = [
        "{",
        'echo "node=$SLURMD_NODENAME"',
        'echo "time=$(date +%s)"',
        'echo "scontrol=$(command -v scontrol)"',
        'scontrol show job "$SLURM_JOB_ID" >/dev/null && echo "controller=answers"',
        # without the user's own limit of threads, which nproc would report in place of the processors
        f'echo "cpus=$(env -u OMP_NUM_THREADS srun --ntasks=1 --cpus-per-task={profile.cpus} nproc </dev/null)"',
        "echo \"gpus=$(nvidia-smi -L | grep -c '^GPU')\"" if profile.gpus else "",
        f'echo "python=$({imports} 2>&1 | tail -n 1)"',
        f"}} >{part} && mv {part} {place}",
    ]
    return "\n".join(filter(None, lines))


def make_text(profile: Profile, *, folder: Path, token: str) -> str:
    """The batch script: the profile's options and setup lines, as in jobs of sweeps, and the questions."""
    asked, said = (shlex.quote(str(folder / name)) for name in ("asked", "said"))
    # What it prints goes to a file only if the folder is there: otherwise the job would end without a word.
    before = (
        f'[ "$(cat {asked} 2>/dev/null)" = {token} ] || exit {NO_FOLDER}',
        f": >{said} || exit {NO_WRITING}",
        f"exec >{said} 2>&1",
    )
    silent = {"requeue": False, "no-requeue": True, "output": "/dev/null", "error": "/dev/null"}
    small = replace(
        profile,
        minutes=MINUTES,
        signal_s=1,
        mail_type="NONE",
        mail_user=None,
        setup=(*before, *profile.setup),
        additional={**profile.additional, **silent},
    )
    parameters = slurm_parameters(small, name="piggyback-doctor", stage=Stage(kind="run", depth=0, runs=()), depends=())
    command = make_probe(profile, answer=folder / "answer")
    return _make_sbatch_string(command=command, folder=folder, use_srun=False, **parameters)


def ask_node(profile: Profile, *, folder: Path, patience: Mapping[JobState, float] = PATIENCE) -> NodeReport:
    """Send the job, wait for its answer, and leave neither a job nor files behind.

    Args:
        profile: what it asks for.
        folder: where the sweep's files will be, on storage that nodes share.
        patience: seconds to wait, by the job's state.
    """
    with borrow_folder(folder) as place:
        token = secrets.token_hex(8)
        (place / "asked").write_text(token)
        script = place / "job.sh"
        script.write_text(make_text(profile, folder=place, token=token))
        sent = time.time()
        accepted, words = call_sbatch("--parsable", str(script))
        if not accepted:
            return NodeReport(outcome="refused", words=words)
        job = words.partition(";")[0].strip()
        report = None
        try:
            report = wait_for_answer(job, place=place, sent=sent, patience=patience)
        finally:
            if report is None or report.outcome != "answered":
                cancel(job)
        return report


def cancel(job: str) -> None:
    """Ask Slurm to end the job, in a process of its own, which survives if a second Ctrl-C ends this one."""
    told = subprocess.Popen(
        ["scancel", job], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    with contextlib.suppress(subprocess.TimeoutExpired):
        told.wait(60)


def check_request(profile: Profile, *, kind: str, folder: Path) -> Check:
    """sbatch would take a job of a kind by the profile; nothing is sent (man sbatch, --test-only)."""
    stage = Stage(kind=kind, depth=0, runs=())
    parameters = slurm_parameters(profile, name="piggyback-doctor", stage=stage, depends=())
    with borrow_folder(folder) as place:
        script = place / "job.sh"
        script.write_text(_make_sbatch_string(command="true", folder=place, **parameters))
        accepted, words = call_sbatch("--test-only", str(script))
    if accepted:
        return Check(name="request", state="ok", found="sbatch would take a job by the profile")
    advice = "change the profile by these words; `sweep submit --dry-run` shows what sbatch gets"
    return Check(name="request", state="broken", found=f"sbatch would refuse: {words[-300:]}", advice=advice)


def call_sbatch(*arguments: str) -> tuple[bool, str]:
    """Call sbatch; returns whether it accepts, and what it printed."""
    try:
        with login_environment():
            done = subprocess.run(["sbatch", *arguments], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as fault:
        return False, str(fault)
    words = done.stdout if done.returncode == 0 and done.stdout.strip() else done.stderr
    return done.returncode == 0, " ".join(words.split())


def wait_for_answer(job: str, *, place: Path, sent: float, patience: Mapping[JobState, float]) -> NodeReport:
    """Wait until the answer is there, the job has ended without one, or it takes too long."""
    state: JobState = "queued"
    since, record = time.monotonic(), dict[str, str]()
    with err.status("") as shown:
        while (past := time.monotonic() - since) < patience[state]:
            if answer := read_answer(place):
                return NodeReport(outcome="answered", job=job, answer=answer, sent=sent, seen=time.time())
            told = ask(["scontrol", "--oneliner", "show", "job", job])
            if told is not None:
                record = next(iter(read_records(told)), record)
                now = STATES.get(record.get("JobState", ""), "unknown") if told else "ended"  # Slurm has forgotten it
                since, state = since if now == state else time.monotonic(), now
            if find_code(record) in (NO_FOLDER, NO_WRITING):
                break
            if state == "ended" and past > PRINTED_S and (place / "said").exists():
                break
            reason = f" ({record['Reason']})" if record.get("Reason", "None") != "None" else ""
            limit = f"{past:.0f} of {patience[state]:.0f} s"
            shown.update(f"job {job} asks a compute node: {state}{reason}, {limit}; Ctrl-C cancels it")
            time.sleep(POLL_S)
    if state == "queued":
        return NodeReport(outcome="waiting", job=job, words=record.get("Reason", "no reason given"))
    said = read_text(place / "said").strip().splitlines()
    return NodeReport(
        outcome="silent",
        job=job,
        words=record.get("JobState", "forgotten by Slurm"),
        printed=said[-1][:200] if said else "",
        code=find_code(record),
    )


def find_code(record: Mapping[str, str]) -> int | None:
    """Exit code of a job's batch script, by scontrol; None if it does not say."""
    code = record.get("ExitCode", "").partition(":")[0]
    return int(code) if code.isdecimal() else None


def read_answer(place: Path) -> dict[str, str]:
    """Parse the answer's lines ``key=value``; empty while it is missing."""
    with contextlib.suppress(OSError):
        place.chmod(0o700)  # makes NFS look again, as submitit does
    return dict(re.findall(r"^(\w+)=(.*)$", read_text(place / "answer"), flags=re.M))


def read_text(path: Path) -> str:
    """Text of a file; empty while it cannot be read."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
