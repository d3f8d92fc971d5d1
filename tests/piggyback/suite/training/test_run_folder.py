import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from piggyback.shell.errors import BadInput, NotTrainable
from piggyback.shell.files import write_json
from piggyback.suite.training.run_folder import (
    Checkpoints,
    Environment,
    RunFolder,
    StopFlag,
    Watch,
    code_version,
    conduct,
    open_run,
    stop_on_signal,
)


def state(number: int) -> dict[str, Any]:
    return {"number": number, "tensor": torch.arange(number + 1), "name": "run", "nested": {"betas": (0.9, 0.999)}}


def numbers(checkpoints: Checkpoints) -> list[int]:
    return sorted(int(path.stem.removeprefix("step-")) for path in checkpoints.folder.glob("step-*.pt"))


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_the_newest_state_comes_back_and_two_are_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    assert checkpoints.load() is None
    for step in (5, 10, 200, 1_000_000_000):
        checkpoints.save(state(step % 7), step=step)
    assert numbers(checkpoints) == [200, 1_000_000_000]
    found = checkpoints.load()
    assert found is not None
    assert found["number"] == 1_000_000_000 % 7
    assert torch.equal(found["tensor"], torch.arange(1_000_000_000 % 7 + 1))
    checkpoints.clear()
    assert not checkpoints.folder.exists()
    checkpoints.clear()


@pytest.mark.parametrize("fault", ["flipped", "truncated", "empty", "no digest"])
def test_a_damaged_state_gives_way_to_the_older_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], fault: str
) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state(1), step=1)
    checkpoints.save(state(2), step=2)
    newest = tmp_path / "step-000000002.pt"
    data = newest.read_bytes()
    broken = {"flipped": data[:-9] + b"x" + data[-8:], "truncated": data[:-1], "empty": b"", "no digest": data[65:]}
    newest.write_bytes(broken[fault])
    found = checkpoints.load()
    assert found is not None
    assert found["number"] == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"checkpoint {newest} is damaged" in said


def test_damaged_states_do_not_push_new_ones_out(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    for step in (100, 200):
        checkpoints.save(state(3), step=step)
        damage(tmp_path / f"step-{step:09d}.pt")
    assert checkpoints.load() is None
    checkpoints.save(state(4), step=10)  # the run started again
    assert numbers(checkpoints) == [10]
    checkpoints.save(state(5), step=20)
    assert numbers(checkpoints) == [10, 20]
    found = checkpoints.load()
    assert found is not None
    assert found["number"] == 5


def test_a_whole_state_of_another_program_is_passed_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save({"version": torch.__version__}, step=1)  # a class that weights_only refuses
    assert checkpoints.load() is None
    assert "cannot be read by torch" in capsys.readouterr().err


def test_an_environment_survives_a_checkpoint(tmp_path: Path) -> None:
    here = Environment.here(torch.device("cpu"), update="eager")
    Checkpoints(tmp_path).save({"environment": vars(here)}, step=1)
    found = Checkpoints(tmp_path).load()
    assert found is not None
    assert here.differences(found["environment"]) == []
    found["environment"] |= {"torch_version": "1.0", "update": "compiled"}
    assert here.differences(found["environment"]) == [
        f"torch_version was 1.0, is {torch.__version__}",
        "update was compiled, is eager",
    ]
    assert len(here.differences({})) == 4


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


@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGTERM])
def test_signals_set_the_flag_while_the_block_runs(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with stop_on_signal() as flag:
        assert not flag.requested
        signal.raise_signal(number)
        assert flag.requested
    assert signal.getsignal(number) is before
    assert not StopFlag().requested


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


def test_what_a_kill_left_of_a_checkpoint_goes(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    for finish in (lambda: checkpoints.save({"epoch": 0}, step=1), checkpoints.clear):
        checkpoints.folder.mkdir(exist_ok=True)
        (checkpoints.folder / ".step-000000001.pt.0badcafe.tmp").write_bytes(b"half")
        finish()
        assert not list(checkpoints.folder.glob(".*"))
    assert not checkpoints.folder.exists()
