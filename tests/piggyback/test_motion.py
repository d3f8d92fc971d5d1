"""A training that has changed almost no mask value is not passed over in silence."""

import copy
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import piggyback
from piggyback.methods.registry import METHODS
from piggyback.motion import FEW, measure_motion

MASKS = ("piggyback", "piggyback-ternary", "affine", "ksm")
VALUES = 8 * 3 * 9 + 16 * 4 * 9 + 24 * 64  # of the weights of `make_network`, one mask value each
FIRST_STEPS = 3


@pytest.fixture
def train(make_network: Callable, make_head: Callable) -> Callable[..., piggyback.Adapter]:
    """An adapter whose task "a" had a training of so many steps."""

    def run(
        steps: int, *, mask_lr: float = 1e-4, method: str = "piggyback", rule: piggyback.AdamRule | None = None
    ) -> piggyback.Adapter:
        adapter = piggyback.attach(make_network(), method=METHODS[method], head="head", norm="fixed")
        adapter.add_task("a", head=make_head(0))
        go_on(adapter, adapter.optimizer(mask_lr=mask_lr, head_lr=1e-2, rule=rule, update="eager"), steps=steps)
        return adapter

    return run


def go_on(adapter: piggyback.Adapter, optimizer: torch.optim.Optimizer, *, steps: int) -> None:
    pictures = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    adapter.train()
    for _ in range(steps):
        F.cross_entropy(adapter.network(pictures), torch.arange(8) % 4).backward()
        optimizer.step()
        optimizer.zero_grad()


def test_a_short_training_is_told_once_and_why(
    train: Callable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = train(22)
    adapter.save(tmp_path / "early", task="a", final=False)
    assert capsys.readouterr().err == ""  # the training goes on
    adapter.save(tmp_path / "a", task="a")
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert f"0 of {VALUES:,} mask values of task 'a' have changed in 22 steps" in said.err
    assert "the threshold is 0.005 away" in said.err
    moved = float(re.findall(r"moved by at most ([\d.]+),", said.err)[0])
    assert 0.002 < moved < 0.0026  # a step of Adam is about its rate; more while gradients grow
    needed = int(re.findall(r"after some (\d+)\)", said.err)[0])
    assert 40 <= needed <= 55
    adapter.save(tmp_path / "again", task="a")
    assert capsys.readouterr().err == ""
    assert (tmp_path / "again").read_bytes() == (tmp_path / "a").read_bytes()


def test_the_pace_that_is_told_is_about_right(train: Callable) -> None:
    """What "the first changes after some 46" rests on: the real mask that is ahead goes on at its pace."""
    motion = measure_motion(train(35), "a")
    assert motion is not None
    assert motion.changed == 0
    after = measure_motion(train(60), "a")
    assert after is not None
    assert after.changed > 0
    assert motion.values == after.values == VALUES


@pytest.mark.parametrize("method", MASKS)
def test_masks_that_have_moved_are_passed_over(
    train: Callable, method: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of each method a short training is told, and one at a high rate is not; `changed` is what the payload tells."""
    short, long = train(FIRST_STEPS, method=method), train(20, mask_lr=5e-3, method=method)
    short.save(tmp_path / "short", task="a")
    assert f"changed in {FIRST_STEPS} steps" in capsys.readouterr().err
    long.save(tmp_path / "long", task="a")
    assert capsys.readouterr().err == ""
    motion = measure_motion(long, "a")
    assert motion is not None
    assert motion.share > FEW
    kept = piggyback.read_payload(tmp_path / "long").kept.values()
    other = [~parts["mask"] | parts.get("negative", torch.tensor(False)) for parts in kept]
    assert motion.changed == sum(int(one.sum()) for one in other)
    assert motion.values == sum(one.numel() for one in other)
    if method == "piggyback-ternary":
        assert any(bool(parts["negative"].any()) for parts in kept)  # values that a mask of one bit would call on


def test_few_changes_are_told_too(train: Callable, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    adapter = train(1)
    real = adapter.tasks["a"].trained["hidden.weight"]["mask_real"]
    real[0, 0] = 0.0
    adapter.save(tmp_path / "a", task="a")
    said = capsys.readouterr().err
    assert f"note: 1 of {VALUES:,} mask values" in said
    assert "moved by at most 0.01," in said
    assert "at this pace" not in said  # it is there


def test_real_masks_that_never_moved_have_no_pace(
    train: Callable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(2, mask_lr=0.0).save(tmp_path / "a", task="a")
    said = capsys.readouterr().err
    assert "moved by at most 0," in said
    assert "at this pace" not in said


def test_plain_descent_is_measured_like_adam(
    train: Callable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(5, rule=piggyback.SGDRule()).save(tmp_path / "a", task="a")
    assert "changed in 5 steps" in capsys.readouterr().err


def test_steps_before_a_checkpoint_count(
    train: Callable, make_head: Callable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = train(0)
    optimizer = before.optimizer(update="eager")
    go_on(before, optimizer, steps=4)
    saved, state = copy.deepcopy(optimizer.state_dict()), before.training_state("a")
    after = train(0)
    resumed = after.optimizer(update="eager")
    after.load_training_state("a", state)
    resumed.load_state_dict(saved)
    go_on(after, resumed, steps=2)
    after.save(tmp_path / "a", task="a")
    assert "changed in 6 steps" in capsys.readouterr().err


def test_there_is_nothing_to_tell_without_a_training_or_masks(
    train: Callable, make_network: Callable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(0).save(tmp_path / "fresh", task="a")
    for method in ("feature", "norm", "finetune", "series", "dan"):
        adapter = train(1, method=method)
        assert measure_motion(adapter, "a") is None
        adapter.save(tmp_path / method, task="a")
    loaded = piggyback.attach(make_network(), method=piggyback.Binary(), head="head")
    loaded.load(tmp_path / "fresh")
    assert measure_motion(loaded, "a") is None  # the file has no real masks
    loaded.save(tmp_path / "loaded", task="a")
    assert capsys.readouterr().err == ""


def test_a_task_that_cannot_be_saved_is_not_commented_on(
    train: Callable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = train(2)
    with torch.no_grad():
        nn.init.constant_(adapter.tasks["a"].head.bias, torch.nan)
    with pytest.raises(piggyback.shell.errors.Diverged):
        adapter.save(tmp_path / "a", task="a")
    assert capsys.readouterr().err == ""
