"""Training states on the disk, and the signals that ask for one."""

import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from piggyback.suite.training.checkpoints import Checkpoints, Environment, StopFlag, stop_on_signal


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


@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGTERM])
def test_signals_set_the_flag_while_the_block_runs(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with stop_on_signal() as flag:
        assert not flag.requested
        signal.raise_signal(number)
        assert flag.requested
    assert signal.getsignal(number) is before
    assert not StopFlag().requested


def test_what_a_kill_left_of_a_checkpoint_goes(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    for finish in (lambda: checkpoints.save({"epoch": 0}, step=1), checkpoints.clear):
        checkpoints.folder.mkdir(exist_ok=True)
        (checkpoints.folder / ".step-000000001.pt.0badcafe.tmp").write_bytes(b"half")
        finish()
        assert not list(checkpoints.folder.glob(".*"))
    assert not checkpoints.folder.exists()
