"""Copies of the code, and that jobs run from them."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from piggyback.shell.errors import SweepError
from slurm.children import child_environment
from slurm.folder.state_files import read_state
from slurm.sending.snapshots import find_packages, hash_code, import_variables, take_snapshot

WHERE = "import piggyback, slurm, json; print(json.dumps([piggyback.__file__, slurm.__file__]))"


def test_python_imports_the_copy_from_any_folder(tmp_path: Path) -> None:
    code = take_snapshot(tmp_path / "copies of code")
    checkout = find_packages()["slurm"].parent  # where `python -c` would look first
    done = subprocess.run(
        [sys.executable, "-c", WHERE],
        capture_output=True,
        text=True,
        check=True,
        cwd=checkout,
        env=child_environment(code),
    )
    assert json.loads(done.stdout) == [str(code / name / "__init__.py") for name in ("piggyback", "slurm")]
    packages = {name: code / name for name in find_packages()}
    assert code.name == f"code-{hash_code(packages)}"  # caches that Python has made meanwhile do not count


def test_the_same_code_is_copied_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "a.py").write_text("1")
    monkeypatch.setattr("slurm.sending.snapshots.find_packages", lambda: {"slurm": tmp_path / "pack"})
    first = take_snapshot(tmp_path / "code")
    assert take_snapshot(tmp_path / "code") == first
    (tmp_path / "pack" / "a.py").write_text("2")
    second = take_snapshot(tmp_path / "code")
    assert second != first
    assert (first / "slurm" / "a.py").read_text() == "1"
    assert sorted((tmp_path / "code").iterdir()) == sorted([first, second])  # nothing half made is left


def test_a_copy_of_a_copy_keeps_the_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pack").mkdir()
    (tmp_path / "code.json").write_text('{"commit": "abc", "dirty": true}')
    monkeypatch.setattr("slurm.sending.snapshots.find_packages", lambda: {"slurm": tmp_path / "pack"})
    assert read_state(take_snapshot(tmp_path / "code") / "code.json") == {"commit": "abc", "dirty": True}


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "code").write_text("")
    with pytest.raises(SweepError, match="cannot copy the code to"):
        take_snapshot(tmp_path / "code")


def test_no_snapshot_changes_nothing() -> None:
    assert import_variables(None) == {}


@pytest.mark.parametrize("given", [{}, {"OMP_NUM_THREADS": "7"}])
def test_a_job_has_as_many_threads_as_processors(given: dict[str, str]) -> None:
    found = child_environment(given={"SLURM_CPUS_PER_TASK": "3", **given})
    assert found["OMP_NUM_THREADS"] == given.get("OMP_NUM_THREADS", "3")
    assert "OMP_NUM_THREADS" not in child_environment(given={})


@pytest.mark.usefixtures("no_slurm")
def test_a_sweep_runs_from_the_copy(toy: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from slurm.planning.plans import plan
    from slurm.planning.sweep_files import read_sweep
    from slurm.sending.submission import Target, stay, submit

    monkeypatch.setattr("slurm.jobs.COMMAND", ("/bin/sh", "-c", 'echo "path is $PYTHONPATH"', "sh"))
    planned = plan(read_sweep(toy({"a": ["say"]}, prep=("say",))))
    target = Target(cluster="debug", snapshot=True)
    jobs: dict[str, Any] = submit(planned, target=target)
    stay(planned, [run for run in planned.runs if run.id in jobs], target=target)
    copies = list((planned.folder.root / "code").iterdir())
    assert len(copies) == 1
    assert f"path is {copies[0]}" in planned.folder.job("prep").log.read_text()


def test_packages_of_others_are_copied_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A benchmark from elsewhere runs on a cluster from the same moment's code, be it a folder or a single file."""
    (tmp_path / "library" / "birds").mkdir(parents=True)
    (tmp_path / "library" / "birds" / "__init__.py").write_text("SPECIES = 200\n")
    (tmp_path / "library" / "songs.py").write_text("LENGTH = 3\n")
    offered = tmp_path / "library" / "birds-1.0.dist-info"
    offered.mkdir()
    (offered / "METADATA").write_text("Metadata-Version: 2.1\nName: birds\nVersion: 1.0\n")
    groups = "[piggyback.benchmarks]\nbirds = birds:B\n[piggyback.methods]\nsongs = songs:S\n"
    (offered / "entry_points.txt").write_text(groups)
    monkeypatch.syspath_prepend(tmp_path / "library")
    copy = take_snapshot(tmp_path / "snapshots")
    assert (copy / "birds" / "__init__.py").read_text() == "SPECIES = 200\n"
    assert (copy / "songs.py").read_text() == "LENGTH = 3\n"
    assert (copy / "piggyback" / "suite").is_dir()
