"""The loop alone, on a net of three layers with dropout, so that random numbers count."""

import math
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import piggyback.training as training
from piggyback.adapter import attach
from piggyback.errors import BadInput, Diverged, Requeue
from piggyback.methods import named_method
from piggyback.runs import Checkpoints, Environment, StopFlag
from piggyback.training import Plan, Training

STEPS = 4
PLAN = Plan(epochs=3, steps=STEPS, decay_after=0.5)


class StopAfter(StopFlag):
    """Asks for an end after so many steps."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    @property
    def requested(self) -> bool:  # type: ignore[override]
        self.left -= 1
        return self.left <= 0


def batches(epoch: int, start: int) -> Iterator[tuple[Tensor, Tensor]]:
    for number in range(start, STEPS):
        generator = torch.Generator().manual_seed(100 * epoch + number)
        yield torch.randn(5, 6, generator=generator), torch.randint(0, 3, (5,), generator=generator)


def make(method: str = "piggyback", *, plan: Plan = PLAN, **more: Any) -> Training:
    torch.manual_seed(1)
    network = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 8), nn.Linear(8, 3))
    adapter = attach(network, method=named_method(method), head="4", norm="trained")
    adapter.add_task("a", head=nn.Linear(8, 3))
    optimizer = adapter.optimizer(mask_lr=3e-3, head_lr=1e-2, norm_lr=1e-3, update="eager")
    keywords: dict[str, Any] = {"batches": batches, "loss": F.cross_entropy, **more}
    return Training(adapter=adapter, optimizer=optimizer, plan=plan, seed=7, **keywords)


def bits(done: Training) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in done.adapter.network.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one | other)


def without_seconds(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in line.items() if key != "seconds"} for line in history]


def test_records_rates_and_steps() -> None:
    steps: list[int] = []
    seen: list[list[int]] = []
    rates: list[list[float]] = []
    done = make()
    plain = done.optimizer.step

    def step() -> None:
        rates.append([group["lr"] for group in done.optimizer.param_groups])
        plain()

    done.optimizer.step = step  # type: ignore[method-assign, assignment]
    look = lambda history: seen.append([line["epoch"] for line in history])  # noqa: E731
    history = replace(done, on_step=steps.append, on_epoch=look).run()
    assert steps == list(range(1, 13))
    assert seen == [[1], [1, 2], [1, 2, 3]]
    assert [line["lr"] for line in history] == [3e-3, 3e-3 * 0.1, 3e-3 * 0.1]  # falls after 6 of 12 steps
    assert rates == [[3e-3, 1e-3, 1e-2]] * 6 + [[3e-3 * 0.1, 1e-3 * 0.1, 1e-2 * 0.1]] * 6
    assert all(set(line) == {"epoch", "loss", "lr", "seconds"} for line in history)
    losses = [math.log(3)] * 3
    assert [line["loss"] for line in history] == pytest.approx(losses, abs=1.0)


def test_the_loss_is_the_mean_over_the_steps() -> None:
    values = iter(range(1, 13))

    def loss(outputs: Tensor, _: Tensor) -> Tensor:
        return outputs.sum() * 0 + next(values)

    assert [line["loss"] for line in make(loss=loss).run()] == [2.5, 6.5, 10.5]


@pytest.mark.parametrize("method", ["piggyback", "piggyback-ternary", "finetune", "feature"])
def test_a_break_after_every_step_changes_no_bit(tmp_path: Path, method: str) -> None:
    whole = make(method)
    history = whole.run()
    start = bits(make(method))
    assert not same(bits(whole), start)
    breaks = 0
    while True:
        # Where a checkpoint is loaded nothing of what this process did before may count.
        torch.manual_seed(breaks)
        resumed = make(method, checkpoints=Checkpoints(tmp_path), stop=StopAfter(1))
        try:
            found = resumed.run()
        except Requeue:
            breaks += 1
            continue
        break
    assert breaks == 12
    assert same(bits(resumed), bits(whole))
    assert without_seconds(found) == without_seconds(history)


def test_seconds_of_an_epoch_add_up_over_a_break(tmp_path: Path) -> None:
    def slow(outputs: Tensor, targets: Tensor) -> Tensor:
        time.sleep(0.05)
        return F.cross_entropy(outputs, targets)

    with pytest.raises(Requeue):
        make(loss=slow, checkpoints=Checkpoints(tmp_path), stop=StopAfter(3)).run()
    found = Checkpoints(tmp_path).load()
    assert found is not None
    assert found["seconds"] > 0.15
    history = make(loss=slow, checkpoints=Checkpoints(tmp_path)).run()
    assert history[0]["seconds"] > found["seconds"] + 0.05


def test_checkpoints_come_as_often_as_planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[int] = []
    monkeypatch.setattr(Checkpoints, "save", lambda _, state, *, step: saved.append(step))
    make(checkpoints=Checkpoints(tmp_path)).run()
    assert saved == []
    often = Plan(epochs=2, steps=STEPS, checkpoint_s=-1.0)
    make(plan=often, checkpoints=Checkpoints(tmp_path)).run()
    assert saved == list(range(1, 9))


def test_a_stop_without_a_place_for_checkpoints_just_ends() -> None:
    with pytest.raises(Requeue):
        make(stop=StopAfter(2)).run()


def test_on_epoch_may_leave_evaluation_mode_behind() -> None:
    done = make()
    history = replace(done, on_epoch=lambda history: done.adapter.eval()).run()
    assert without_seconds(history) == without_seconds(make().run())


def test_on_epoch_may_add_to_the_record(tmp_path: Path) -> None:
    def note(history: list[dict[str, Any]]) -> None:
        history[-1]["val_accuracy"] = len(history) / 10

    with pytest.raises(Requeue):
        make(checkpoints=Checkpoints(tmp_path), stop=StopAfter(6), on_epoch=note).run()
    history = make(checkpoints=Checkpoints(tmp_path), on_epoch=note).run()
    assert [line["val_accuracy"] for line in history] == [0.1, 0.2, 0.3]


@pytest.mark.parametrize("step", [2, 6])
def test_a_loss_that_is_not_finite_ends_the_training(step: int) -> None:
    count = iter(range(1, 13))

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets) * (float("nan") if next(count) == step else 1.0)

    with pytest.raises(Diverged, match=f"epoch {-(-step // 4)}, step 4: lower the learning rate"):
        make(loss=loss).run()


def test_a_long_epoch_is_not_trained_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "LOOK_EVERY", 2)
    with pytest.raises(Diverged, match="epoch 1, step 2"):
        make(loss=lambda outputs, targets: outputs.sum() * float("inf")).run()


def test_another_environment_is_refused_unless_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Requeue):
        make(checkpoints=Checkpoints(tmp_path), stop=StopAfter(5)).run()
    other = Environment(torch_version="9.9", device="abacus", machine="m68k", update="eager")
    monkeypatch.setattr(Environment, "here", lambda device, *, update: other)
    with pytest.raises(BadInput, match=r"device was .*, is abacus.*--allow-other-environment"):
        make(checkpoints=Checkpoints(tmp_path)).run()
    history = make(checkpoints=Checkpoints(tmp_path), allow_other_environment=True).run()
    assert len(history) == 3


@pytest.mark.parametrize(
    ("method", "update", "form"),
    [("piggyback", "eager", "eager"), ("feature", "auto", "none"), ("finetune", "auto", "none")],
)
def test_the_environment_has_the_real_form_of_the_update(method: str, update: Any, form: str) -> None:
    done = make(method)
    done.optimizer.mask_update.mode = update
    assert done.environment.update == form
    assert done.environment.torch_version == torch.__version__
    assert type(done.environment.torch_version) is str


def test_an_update_that_cannot_be_compiled_is_recorded_as_eager(monkeypatch: pytest.MonkeyPatch) -> None:
    import piggyback.update as update

    def broken(*arguments: object) -> None:
        raise RuntimeError("no compiler here")

    monkeypatch.setattr(update, "compiled_kernel", lambda method: broken)
    done = make()
    done.optimizer.mask_update.mode = "auto"
    assert done.environment.update == "eager"
