"""The sweep verbs, as typed."""

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import slurm
from piggyback.shell.cli import load, parse
from piggyback.shell.errors import SweepError
from slurm.commands import COMMANDS
from slurm.folder.layout import SweepFolder
from slurm.states import find_standings

GOOD = {"a": ["make"], "b": ["make"]}


def sweep(verb: str, *words: object) -> int:
    """Run a verb through the console command's own parser."""
    command = next(one for one in COMMANDS if one.name == f"sweep {verb}")
    return int(load(command.target)(parse(command, [str(word) for word in words])))


@pytest.fixture
def answer(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, Any]]:
    """Exit code and JSON of a verb."""

    def run(verb: str, *words: object) -> tuple[int, Any]:
        capsys.readouterr()
        code = sweep(verb, *words, "--json")
        return code, json.loads(capsys.readouterr().out)

    return run


def states(file: Path) -> dict[str, str]:
    folder = SweepFolder(file.parent / "swept")
    return {one.run.id: one.state for one in find_standings(folder, folder.read_plan()[1])}


def test_help_and_json_of_every_verb() -> None:
    assert {one.name for one in COMMANDS} == {
        f"sweep {verb}" for verb in ("new", "plan", "submit", "retry", "status", "logs", "cancel", "doctor")
    }
    for one in COMMANDS:
        assert callable(load(one.target))


def test_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert sweep("new", "smoke") == 0
    assert (tmp_path / "smoke.toml").exists()
    assert sweep("new", "profiles", "--out", "mine.toml") == 0
    assert capsys.readouterr().out.splitlines() == [
        "smoke.toml: edit it, then `piggyback sweep plan smoke.toml`",
        "mine.toml: edit it, then `piggyback sweep doctor --profiles mine.toml`",
    ]
    with pytest.raises(SweepError, match=r"smoke\.toml exists"):
        sweep("new", "smoke")
    with pytest.raises(SweepError, match=r"no example is called 'smok'; known: .*smoke"):
        sweep("new", "smok")


@pytest.mark.usefixtures("no_slurm")
def test_from_plan_to_score_and_again(
    toy: Callable[..., Path], answer: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = toy(GOOD, folder="it's a folder")
    code, plan = answer("plan", file)
    assert code == 0
    assert [(run["id"], run["done"], run["hours"]) for run in plan["runs"]] == [
        (name, False, None) for name in ("prep", "a", "b", "score")
    ]
    code, report = answer("submit", file, "--wait", "--max-parallel", "2")
    assert (code, set(report["sent"])) == (0, {"prep", "a", "b", "score"})
    assert {run["state"] for run in report["runs"]} == {"done"}
    assert [run["hours"] for run in answer("plan", file)[1]["runs"]] == [None, 0.01, 0.01, None]
    profiles = tmp_path / "p.toml"
    profiles.write_text("[profile.big]\ngpus = 1\n[profile.big.run]\ngpus = 4\n[profile.small]\ncpus = 3\n")
    other = toy(GOOD, folder="elsewhere")  # has no records of its own
    for profile, unit, cost in (("big", "GPU-hours", 0.04), ("small", "CPU-hours", 0.03)):
        flags = ["--profiles", profiles, "--profile", profile, "--records", file]
        guess = answer("plan", other, *flags)[1]
        assert (guess["unit"], [run["cost"] for run in guess["runs"]]) == (unit, [None, cost, cost, None])
    assert answer("submit", file, "--wait")[1]["sent"] == {}
    monkeypatch.chdir(tmp_path / "it's a folder")
    assert (
        answer("status", "toy.toml")[1]["runs"] == report["runs"] == answer("status", file.parent / "swept")[1]["runs"]
    )
    (file.parent / "swept" / "toy" / "a" / "result.json").unlink()
    assert set(answer("submit", file, "--wait")[1]["sent"]) == {"a", "score"}  # not what stands on its own
    file = toy(GOOD, folder="it's a folder", prep=("say", "other"))
    assert set(answer("submit", file, "--cluster", "debug")[1]["sent"]) == {"prep"}
    file = toy({**GOOD, "c": ["make"]}, folder="it's a folder", prep=("say", "other"))
    assert set(answer("submit", file, "--cluster", "debug")[1]["sent"]) == {"c", "score"}


@pytest.mark.usefixtures("no_slurm")
@pytest.mark.parametrize("cluster", ["local", "debug"])
def test_failures_and_retry(
    toy: Callable[..., Path], answer: Callable[..., Any], capsys: pytest.CaptureFixture[str], cluster: str
) -> None:
    file = toy({"a": ["make"], "bad": ["fail", "3"], "worse": ["fail", "4"]})
    assert sweep("submit", file, "--wait", "--cluster", cluster) == 1
    shown = capsys.readouterr().out
    assert "exit code 3" in shown
    assert "the score is 42" in shown
    assert states(file) == {"prep": "done", "a": "done", "bad": "failed", "worse": "failed", "score": "stopped"}
    toy({"a": ["make"], "bad": ["make"], "worse": ["make"]})
    code, report = answer("retry", file, "bad", "--cluster", cluster, "--wait")
    assert (code, set(report["sent"])) == (1, {"bad", "score"})  # as submitted: it fails again
    assert [run["message"] for run in report["runs"] if run["id"] == "worse"] == ["exit code 4"]
    code, report = answer("submit", file, "--cluster", cluster, "--wait")
    assert (code, set(report["sent"])) == (0, {"bad", "worse", "score"})
    assert answer("retry", file, "bad", "--cluster", cluster, "--wait") == (0, {**report, "sent": {}})
    with pytest.raises(SweepError, match="no run of the sweep is called 'x'"):
        sweep("retry", file, "x")


@pytest.mark.usefixtures("no_slurm")
def test_a_failed_parent_takes_its_children_along(toy: Callable[..., Path], answer: Callable[..., Any]) -> None:
    file = toy(GOOD, prep=("fail", "3"))
    code, report = answer("submit", file, "--wait")
    messages = {run["id"]: run["message"] for run in report["runs"]}
    assert code == 1
    assert messages["a"] == messages["b"] == "prep, which it needs, ended with exit code 3"
    assert set(answer("retry", file, "prep", "--dry-run")[1]["would_send"][0]) == {"id", "argv"}
    sent = [run["id"] for run in answer("retry", file, "a", "--dry-run")[1]["would_send"]]
    assert sent == ["prep", "a", "score"]


@pytest.mark.usefixtures("no_slurm")
def test_in_the_background(
    toy: Callable[..., Path], answer: Callable[..., Any], eventually: Callable[..., None]
) -> None:
    file = toy({"a": ["hold"], "b": ["make"]})
    proof = file.parent / "swept" / "toy" / "a" / "result.json"
    code, report = answer("submit", file, "--max-parallel", "1")
    assert code == 0
    assert all(re.fullmatch(r"local-\d+", job) for job in report["sent"].values())
    assert answer("submit", file)[1]["sent"] == {}  # queued and running ones are not sent twice
    eventually(lambda: Path(f"{proof}.pid").exists())
    assert answer("cancel", file, "a")[1] == {"cancelled": ["a"]}
    eventually(lambda: states(file) == {"prep": "done", "a": "stopped", "b": "done", "score": "stopped"})
    Path(f"{proof}.go").touch()
    eventually(lambda: SweepFolder(file.parent / "swept").queue.last().end is not None)  # type: ignore[union-attr]
    code, report = answer("submit", file, "--wait")
    assert (code, set(report["sent"])) == (0, {"a", "score"})


@pytest.mark.usefixtures("no_slurm")
def test_logs(
    toy: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
    eventually: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("slurm.verbs.WATCH_S", 0.2)
    file = toy({"a": ["hold"], "b": ["fail", "3"]})
    proof = file.parent / "swept" / "toy" / "a" / "result.json"
    sweep("submit", file, "--max-parallel", "2")
    timer = threading.Timer(1.0, lambda: (eventually(proof.parent.exists), Path(f"{proof}.go").touch()))
    timer.start()
    assert sweep("logs", file, "a", "-f") == 0  # ends with the run
    timer.join()
    eventually(lambda: states(file)["b"] == "failed")
    capsys.readouterr()
    assert sweep("logs", file, "b") == 0
    assert re.fullmatch(r"== .* job local-\d+ restart 0 on \S+\nno luck\n", capsys.readouterr().out)
    with pytest.raises(SweepError, match="'\\*' fits 4 runs: prep, a, b, score"):
        sweep("logs", file, "*")
    eventually(lambda: SweepFolder(file.parent / "swept").queue.last().end is not None)  # type: ignore[union-attr]


def test_slurm_gets_what_the_dry_run_shows_and_nothing_twice(
    toy: Callable[..., Path], answer: Callable[..., Any], fake_slurm: Path
) -> None:
    file = toy(GOOD)
    dry = answer("submit", file, "--dry-run")[1]
    assert dry["cluster"] == "slurm"
    assert not (file.parent / "swept").exists()
    code, report = answer("submit", file)
    assert (code, report["sent"]) == (0, {"prep": "101", "a": "102_0", "b": "102_1", "score": "103"})
    scripts = [path.read_text() for path in sorted(fake_slurm.glob("sent-*.sh"))]
    assert [re.sub(r"afterany:\d+", "afterany:JOB_OF_THE_STAGE_BEFORE", text) for text in scripts] == dry["scripts"]
    (fake_slurm / "squeue.txt").write_text("101|RUNNING\n102_[0-1%2]|PENDING\n103|PENDING\n")
    assert answer("submit", file)[1]["sent"] == {}
    assert answer("status", file, "a", "b")[1]["runs"][0]["state"] == "queued"
    (fake_slurm / "squeue.txt").write_text("102_1|PENDING\n103|PENDING\n")  # prep and a have died
    report = answer("submit", file)[1]
    assert report["sent"] == {"prep": "104", "a": "105", "score": "106"}  # the score waits for them now
    assert (fake_slurm / "scancel.args").read_text() == "103\n"
    assert "--dependency=afterany:102:105\n" in (fake_slurm / "sent-106.sh").read_text()


def test_slurm_does_not_answer(toy: Callable[..., Path], answer: Callable[..., Any], fake_slurm: Path) -> None:
    file = toy(GOOD)
    answer("submit", file)
    (fake_slurm / "squeue.err").write_text("Unable to contact slurm controller\n")
    assert {run["state"] for run in answer("status", file)[1]["runs"]} == {"unknown"}
    with pytest.raises(SweepError, match="4 runs were sent to Slurm, which does not answer"):
        sweep("submit", file)


def test_cancel_in_slurm(toy: Callable[..., Path], answer: Callable[..., Any], fake_slurm: Path) -> None:
    file = toy(GOOD)
    answer("submit", file)
    (fake_slurm / "squeue.txt").write_text("101|RUNNING\n102_[0-1%2]|PENDING\n103|PENDING\n")
    assert answer("cancel", file, "a")[1] == {"cancelled": ["a"]}
    assert (fake_slurm / "scancel.args").read_text() == "102_0\n"
    (fake_slurm / "squeue.txt").write_text("102_1|PENDING\n")
    (fake_slurm / "scancel.err").write_text(
        "scancel: error: Kill job error on job id 102_1: Invalid job id specified\n"
    )
    assert answer("cancel", file)[1] == {"cancelled": ["b"]}
    (fake_slurm / "scancel.err").write_text("scancel: error: Access/permission denied\n")
    with pytest.raises(SweepError, match="scancel refuses: scancel: error: Access/permission denied"):
        sweep("cancel", file)
    (fake_slurm / "squeue.txt").write_text("")
    (fake_slurm / "sacct.txt").write_text("102_0|CANCELLED by 0\n")
    assert answer("status", file, "a")[1]["runs"][0]["message"] == "cancelled"


def test_runs_taken_out_of_the_file_stay_in_sight_while_they_are_queued(
    toy: Callable[..., Path], answer: Callable[..., Any], fake_slurm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = toy(GOOD)
    answer("submit", file)
    (fake_slurm / "squeue.txt").write_text("101|RUNNING\n102_[0-1%2]|PENDING\n103|PENDING\n")
    toy({"a": ["make"]})
    capsys.readouterr()
    assert sweep("submit", file) == 0
    assert "1 runs that are no longer in the sweep" in capsys.readouterr().out
    assert [run["id"] for run in answer("status", file)[1]["runs"]] == ["prep", "a", "b", "score"]


@pytest.mark.usefixtures("fake_slurm")
def test_wrong_profiles_and_numbers(toy: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = toy(GOOD)
    with pytest.raises(SweepError, match=r"profiles\.toml cannot be read"):
        sweep("submit", file, "--profile", "gpu")
    (tmp_path / "profiles.toml").write_text("[profile.gpu]\n")
    with pytest.raises(SweepError, match=r"no \[profile\.default\]; it has gpu"):
        sweep("submit", file)
    with pytest.raises(SweepError, match="--max-parallel must be 0 or more, not -1"):
        sweep("submit", file, "--max-parallel", "-1")
    with pytest.raises(SweepError, match="no sweep was submitted to"):
        sweep("status", file)


def test_the_console_command_tells_users_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text("name = 3")
    command = [sys.executable, "-m", "piggyback", "sweep", "plan", str(tmp_path / "s.toml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ})
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"piggyback: .*s\.toml must have a name and an out folder, both texts\n", done.stderr)
    code = "import sys, slurm.verbs, slurm.sending.sbatch, slurm.local_queue; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.usefixtures("no_slurm")
def test_from_python(toy: Callable[..., Path]) -> None:
    planned = slurm.plan(slurm.read_sweep(toy({"a": ["make"]})))
    target = slurm.Target(cluster="local", stay=True)
    jobs = slurm.submit(planned, target=target)
    assert list(jobs) == ["prep", "a", "score"]
    slurm.stay(planned, [run for run in planned.runs if run.id in jobs], target=target)
    assert {one.state for one in slurm.find_standings(planned.folder, planned.runs)} == {"done"}
    assert slurm.submit(planned, target=target) == {}
    assert slurm.cancel(planned, planned.runs) == []


def test_every_public_name_is_there() -> None:
    assert all(callable(getattr(slurm, name)) for name in slurm.__all__)
    with pytest.raises(AttributeError, match="'plam'"):
        slurm.plam  # noqa: B018
