"""From a plan to what sbatch gets."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from piggyback.shell.errors import SweepError
from slurm.folder.layout import SweepFolder
from slurm.folder.state_files import read_state
from slurm.planning.plans import Plan
from slurm.planning.profiles import Profile
from slurm.sending.sbatch import find_array_limit, job_name, make_stages, sbatch_texts, submit_stages

GPU = Profile(
    partition="gpu",
    account="lab",
    constraint="a100|h100",
    mail_user="me@example.org",
    mail_type="FAIL",
    minutes=600,
    memory_gb=32,
    cpus=8,
    gpus=1,
    gpu_type="a100",
    parallel=1,
    signal_s=300,
    setup=("module load cuda",),
    additional={"requeue": True, "licenses": "x", "exclusive": False},
)

GOLDEN = """\
#!/bin/bash

# Parameters
#SBATCH --account=lab
#SBATCH --array=0-1%1
#SBATCH --constraint='a100|h100'
#SBATCH --cpus-per-task=8
#SBATCH --dependency=afterany:JOB_OF_THE_STAGE_BEFORE
#SBATCH --error='FOLDER/submitit/%A_%a_0_log.err'
#SBATCH --gres=gpu:a100:1
#SBATCH --job-name=my-sweep-run
#SBATCH --licenses=x
#SBATCH --mail-type=FAIL
#SBATCH --mail-user=me@example.org
#SBATCH --mem=32GB
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output='FOLDER/submitit/%A_%a_0_log.out'
#SBATCH --partition=gpu
#SBATCH --requeue
#SBATCH --signal=USR2@300
#SBATCH --time=600
#SBATCH --wckey=submitit

# setup
module load cuda

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output 'FOLDER/submitit/%A_%a_%t_log.out' --error 'FOLDER/submitit/%A_%a_%t_log.err' \
--cpus-per-task 8 /bin/sh -c 'trap "" USR2; exec "$@"' sh PYTHON -u -m submitit.core._submit 'FOLDER/submitit'
"""


@pytest.fixture
def planned(make_plan: Callable[..., Plan]) -> Plan:
    made = make_plan(p=(["say", "p"], []), a=(["make"], ["p"]), b=(["make"], ["p"]), s=(["say", "s"], ["a", "b"]))
    return replace(made, runs=(*made.runs[:-1], replace(made.runs[-1], kind="score", after="ended")))


def send(planned: Plan, **more: object) -> dict[str, str]:
    return submit_stages(planned.folder, planned.runs, name="my sweep", profile=Profile(), before={}, **more)  # type: ignore[arg-type]


def read_scripts(fake_slurm: Path) -> list[str]:
    return [path.read_text() for path in sorted(fake_slurm.glob("sent-*.sh"))]


@pytest.mark.usefixtures("no_slurm")
def test_the_text_of_a_dry_run(planned: Plan, tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path / "my sweep's folder")
    texts = sbatch_texts(folder, planned.runs, name="my sweep", profile=GPU)
    assert len(texts) == 3
    found = texts[1].replace(sys.executable, "PYTHON")
    quoted = str(folder.root).replace("'", "'\"'\"'")
    assert found == GOLDEN.replace("FOLDER", quoted)
    script = tmp_path / "script.sh"
    script.write_text(texts[1].replace("srun ", "printf '<%s>\\n' ").replace("module load", ":"))
    printed = subprocess.run(["/bin/sh", str(script)], capture_output=True, text=True, check=True).stdout.splitlines()
    assert printed[-1] == f"<{folder.root}/submitit>"  # a shell gives the folder back as it is


def test_stages_and_their_order(planned: Plan, fake_slurm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "1")  # submitted from inside a job
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "64")
    monkeypatch.setenv("SLURM_CONF", "/etc/other/slurm.conf")  # but this says where the cluster is
    assert send(planned) == {"p": "101", "a": "102_0", "b": "102_1", "s": "103"}
    scripts = read_scripts(fake_slurm)
    waits = [re.findall(r"--dependency=(\S+)", script) for script in scripts]
    assert waits == [[], ["afterany:101"], ["afterany:102"]]
    dry = sbatch_texts(planned.folder, planned.runs, name="my sweep", profile=Profile())
    assert [re.sub(r"afterany:\d+", "afterany:JOB_OF_THE_STAGE_BEFORE", script) for script in scripts] == dry
    told = [line for line in (fake_slurm / "env-101").read_text().splitlines() if line.startswith(("SLURM", "SBATCH"))]
    assert told == ["SLURM_CONF=/etc/other/slurm.conf"]
    assert os.environ["SLURM_CPUS_PER_TASK"] == "64"
    assert read_state(planned.folder.job("b").submitted)["job"] == "102_1"
    pickles = sorted(path.name for path in (planned.folder.root / "submitit").glob("*.pkl"))
    assert pickles == ["101_submitted.pkl", "102_0_submitted.pkl", "102_1_submitted.pkl", "103_submitted.pkl"]


def test_runs_that_others_build_on_are_jobs_of_their_own(make_plan: Callable[..., Plan], fake_slurm: Path) -> None:
    """Two chains, x and y, beside single runs: a chain waits for nothing but itself."""
    chains: dict[str, tuple[list[str], list[str]]] = {"a": (["make"], []), "x1": (["make"], [])}
    chains |= {"y1": (["make"], []), "b": (["make"], []), "x2": (["make"], ["x1"]), "y2": (["make"], ["y1"])}
    chains |= {"x3": (["make"], ["x1", "x2"]), "z1": (["make"], ["y1"])}
    sent = send(make_plan(**chains))
    assert sent == {
        **{"x1": "101", "y1": "102", "a": "103_0", "b": "103_1"},
        **{"x2": "104", "y2": "105_0", "z1": "105_1", "x3": "106"},
    }
    waits = [re.findall(r"--dependency=(\S+)", script) for script in read_scripts(fake_slurm)]
    assert waits == [[], [], [], ["afterany:101"], ["afterany:102"], ["afterany:101:104"]]


def test_runs_wait_for_what_was_sent_before(planned: Plan, fake_slurm: Path) -> None:
    before = {"p": "55", "other": "56"}
    submit_stages(planned.folder, planned.runs[1:], name="n", profile=Profile(), before=before)
    assert "--dependency=afterany:55\n" in read_scripts(fake_slurm)[0]


def test_arrays_are_split_at_the_clusters_limit(planned: Plan, fake_slurm: Path) -> None:
    (fake_slurm / "max_array").write_text("3")
    runs = [replace(planned.runs[0], id=f"r{number}") for number in range(5)]
    jobs = submit_stages(planned.folder, runs, name="n", profile=Profile(parallel=6), before={})
    assert jobs == {"r0": "101_0", "r1": "101_1", "r2": "102_0", "r3": "102_1", "r4": "103"}  # one is no array
    assert "#SBATCH --array=0-1%2\n" in read_scripts(fake_slurm)[0]  # three arrays share what may run at a time
    assert "--array" not in read_scripts(fake_slurm)[2]
    assert [len(stage.runs) for stage in make_stages(runs, limit=4)] == [4, 1]


def test_a_schedulers_own_limit_of_an_array(fake_slurm: Path) -> None:
    (fake_slurm / "max_array").write_text("1001\nSchedulerParameters = bf_interval=2,max_array_tasks=40")
    assert find_array_limit(Profile()) == 40
    assert find_array_limit(Profile(array=7)) == 7


def test_a_backbone_has_a_process_per_gpu_and_node_and_other_jobs_have_one(planned: Plan) -> None:
    own = {"backbone": {"nodes": 2, "gpus": 4, "minutes": 99}, "score": {"gpus": 0, "partition": "cpu"}}
    profile = Profile(cpus=3, memory_gb=5, gpus=1, nodes=3, kinds=own)
    texts = {}
    for kind in ("backbone", "run", "score"):
        run = replace(planned.runs[0], kind=kind)  # type: ignore[arg-type]
        texts[kind] = sbatch_texts(planned.folder, [run], name="n", profile=profile)[0]
    backbone = ["--nodes=2", "--ntasks-per-node=4", "--gpus-per-node=4", "--mem=20GB", "--cpus-per-task=3", "--time=99"]
    assert all(f"#SBATCH {option}\n" in texts["backbone"] for option in backbone)
    assert "--kill-on-bad-exit=1" in texts["backbone"]
    one = ["--nodes=1", "--ntasks-per-node=1", "--gpus-per-node=1", "--mem=5GB", "--time=240"]
    assert all(f"#SBATCH {option}\n" in texts["run"] for option in one)
    assert "kill-on" not in texts["run"]
    assert "gpus" not in texts["score"]
    assert "#SBATCH --partition=cpu\n" in texts["score"]


def test_a_snapshot_comes_first_on_a_jobs_path(planned: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", f"/mine{os.pathsep}")
    code = tmp_path / "the code"
    text = sbatch_texts(planned.folder, planned.runs[:1], name="n", profile=Profile(setup=("module",)), code=code)[0]
    assert f"# setup\nmodule\nexport PYTHONPATH='{code}:/mine'\nexport PYTHONSAFEPATH=1\n" in text


def test_sbatch_refuses(planned: Plan, fake_slurm: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (fake_slurm / "refuse").write_text("sbatch: error: invalid partition specified: gpu\n")
    with pytest.raises(SweepError, match=r"sbatch refuses the run jobs: .*invalid partition specified: gpu"):
        send(planned)
    assert not planned.folder.job("p").submitted.exists()
    assert capsys.readouterr().err == ""  # it is said once, by the error


@pytest.mark.usefixtures("no_slurm")
def test_no_slurm(planned: Plan) -> None:
    with pytest.raises(SweepError, match="there is no Slurm here: sbatch and srun are not on PATH"):
        send(planned)


def test_folders_that_slurm_would_take_for_patterns(planned: Plan, tmp_path: Path) -> None:
    with pytest.raises(SweepError, match="has '%' in its path"):
        sbatch_texts(SweepFolder(tmp_path / "50%j"), planned.runs, name="n", profile=Profile())


def test_names_of_jobs() -> None:
    assert job_name("my sweep; rm -rf /", "run") == "my-sweep-rm--rf--run"
