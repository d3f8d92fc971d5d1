import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from piggyback.shell.errors import BadInput, NotTrainable
from piggyback.shell.files import write_json
from piggyback.suite.training.checkpoints import Checkpoints
from piggyback.suite.training.run_folder import RunFolder, Watch, code_version, conduct, open_run


def test_a_folder_belongs_to_one_run(tmp_path: Path) -> None:
    key = {"task": "dtd", "recipe": {"lr_grid": (1e-3, 1e-4)}}
    folder = open_run(tmp_path / "a [/b]\n'c\"", key=key)
    assert open_run(folder.root, key=key) == folder
    with pytest.raises(BadInput, match="another run"):
        open_run(folder.root, key={**key, "task": "svhn"})
    folder.key.write_text("{")
    with pytest.raises(BadInput, match="not JSON"):
        open_run(folder.root, key=key)


def test_one_process_works_on_a_run(tmp_path: Path) -> None:
    folder = open_run(tmp_path, key={})
    with folder.hold(), pytest.raises(BadInput, match="another process is at work"), folder.hold():
        pass
    hold = "import sys, time; from pathlib import Path; from piggyback.suite.training.run_folder import RunFolder\n"
    hold += "with RunFolder(Path(sys.argv[1])).hold(): print('held', flush=True); time.sleep(60)"
    other = subprocess.Popen([sys.executable, "-c", hold, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(BadInput, match="another process is at work"), folder.hold():
            pass
    finally:
        other.kill()
        other.communicate()
    with folder.hold():  # a killed process holds nothing
        pass


def test_the_status_tells_who_does_what(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.read_status() == {}
    before = time.time()
    watch = Watch.over(folder)
    watch.progress = 0.25
    watch.say("running", stage="training", loss=1.5)
    found = json.loads(folder.status.read_text())
    assert before <= found.pop("updated") <= time.time()
    assert found.pop("seconds") >= 0
    assert found == {"state": "running", "pid": os.getpid(), "progress": 0.25, "stage": "training", "loss": 1.5}


@pytest.mark.parametrize(
    "fill", [lambda: bytearray(1 << 62), lambda: torch.empty(1 << 50)], ids=["python", "torch on the processor"]
)
def test_too_little_memory_is_a_message(tmp_path: Path, fill: Callable[[], object]) -> None:
    folder = open_run(tmp_path, key={})
    with pytest.raises(NotTrainable, match=r"^not enough memory .*: take smaller batches or pictures$"):
        conduct(folder, lambda watch: (fill(), None)[1])
    assert folder.read_status()["state"] == "failed"
    with pytest.raises(RuntimeError, match="another fault"):
        conduct(folder, lambda watch: (_ for _ in ()).throw(RuntimeError("another fault")))


@pytest.mark.parametrize("text", ["", "{", "[]", '{"progress": "half", "seconds": -3}'])
def test_a_damaged_status_stops_nobody(tmp_path: Path, text: str) -> None:
    folder = RunFolder(tmp_path)
    folder.status.write_text(text)
    watch = Watch.over(folder)
    assert (watch.progress, watch.earlier) == (0.0, 0.0)
    watch.say("running")
    assert folder.read_status()["state"] == "running"


def test_time_and_progress_go_on_after_a_break(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.write_status("requeue", progress=0.5, seconds=100.0)
    watch = Watch.over(folder)
    assert watch.progress == 0.5
    assert 100.0 <= watch.seconds < 130.0


def test_metrics_are_replaced(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.write_metrics([{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": 0.25}])
    folder.write_metrics([{"epoch": 1, "loss": 0.5}])
    assert [json.loads(line) for line in folder.metrics.read_text().splitlines()] == [{"epoch": 1, "loss": 0.5}]


def test_the_code_has_a_version_in_a_checkout_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import piggyback.suite.training.run_folder as runs

    monkeypatch.setattr(runs, "__file__", str(tmp_path / "piggyback" / "suite" / "training" / "run_folder.py"))
    code_version.cache_clear()
    assert code_version() == (None, None)
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "--quiet"], check=True)
    code_version.cache_clear()
    assert code_version() == (None, None)  # no commit yet
    subprocess.run([*git, "commit", "--quiet", "--allow-empty", "-m", "first"], check=True)
    code_version.cache_clear()
    commit, dirty = code_version()
    assert (len(commit or ""), dirty) == (40, False)
    write_json(tmp_path / "new.json", 1)
    code_version.cache_clear()
    assert code_version() == (commit, True)
    code_version.cache_clear()


def test_what_kills_left_goes_when_the_run_is_taken_up_again(tmp_path: Path) -> None:
    folder = open_run(tmp_path / "run", key={})
    left = folder.root / "predictions" / ".one.png.0badcafe.tmp"
    left.parent.mkdir()
    left.write_bytes(b"half")
    conduct(folder, lambda watch: write_json(folder.result, {}))
    assert not left.exists()
    assert folder.result.exists()


def test_a_run_is_finished_when_its_proof_is_there(tmp_path: Path) -> None:
    folder = open_run(tmp_path / "run", key={})
    done: list[str] = []
    proof = folder.root / "network"
    for _ in range(2):
        conduct(folder, lambda watch: (done.append("once"), proof.touch())[1], proof=proof)
    assert done == ["once"]
    folder.write_status("running")  # as a process leaves it that is killed after its last file
    Checkpoints(folder.checkpoints).save({"epoch": 0}, step=1)
    conduct(folder, lambda watch: done.append("twice"), proof=proof)
    assert done == ["once"]
    assert folder.read_status()["state"] == "done"
    assert not folder.checkpoints.exists()
