"""The loop alone."""

import math
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from breaks import StopAfter
from torch import Tensor, nn
from toy_training import CPU, PLAN, STEPS, batches, bits, make, same, without_seconds

from piggyback.shell.errors import BadInput, Diverged, Requeue
from piggyback.suite.training import loop
from piggyback.suite.training.checkpoints import Checkpoints, Environment
from piggyback.suite.training.loop import Plan, Training


def test_records_rates_and_steps() -> None:
    steps: list[int] = []
    seen: list[list[int]] = []
    rates: list[list[float]] = []
    done = make()
    plain = done.learner.optimizer.step

    def step() -> None:
        rates.append([group["lr"] for group in done.learner.optimizer.param_groups])
        plain()

    done.learner.optimizer.step = step  # type: ignore[method-assign, assignment]
    look = lambda history: seen.append([line["epoch"] for line in history])  # noqa: E731
    history = replace(done, on_step=steps.append, on_epoch=look).run()
    assert steps == list(range(1, 13))
    assert seen == [[1], [1, 2], [1, 2, 3]]
    assert [line["lr"] for line in history] == [3e-3, 3e-3 * 0.1, 3e-3 * 0.1]  # falls after 6 of 12 steps
    assert rates == [[3e-3, 1e-3, 1e-2]] * 6 + [[3e-3 * 0.1, 1e-3 * 0.1, 1e-2 * 0.1]] * 6
    assert all(set(line) == {"epoch", "loss", "lr", "seconds"} for line in history)
    losses = [math.log(3)] * 3
    assert [line["loss"] for line in history] == pytest.approx(losses, abs=1.0)


def test_rates_fall_twice() -> None:
    plan = Plan(epochs=10, steps=20, decay_after=0.5, decay_again=0.75, decay_factor=0.1)
    assert [plan.decay(step) for step in range(200)] == pytest.approx([1.0] * 100 + [0.1] * 50 + [0.01] * 50)
    assert replace(plan, decay_again=None).decay(199) == 0.1
    odd = Plan(epochs=1, steps=7, decay_after=0.5, decay_again=0.6)  # after 3.5 and 4.2 steps, rounded
    assert [odd.decay(step) for step in range(7)] == pytest.approx([1.0] * 4 + [0.01] * 3)


def test_rates_follow_half_a_cosine() -> None:
    """Of all steps, not of an epoch's; the last step is the one before zero."""
    plan = Plan(epochs=2, steps=3, schedule="cosine", decay_after=0.5, decay_again=0.6)
    expected = [1.0, 0.5 + 3**0.5 / 4, 0.75, 0.5, 0.25, 0.5 - 3**0.5 / 4]  # cosines of multiples of 30 degrees
    assert [plan.decay(step) for step in range(6)] == pytest.approx(expected)
    rates: list[float] = []
    done = make(plan=replace(PLAN, schedule="cosine"))
    step = done.learner.optimizer.step

    def note() -> None:
        rates.append(done.learner.optimizer.param_groups[-1]["lr"])
        step()

    done.learner.optimizer.step = note  # type: ignore[method-assign, assignment]
    history = done.run()
    assert rates == [1e-2 * 0.5 * (1 + math.cos(math.pi * step / 12)) for step in range(12)]
    assert history[-1]["lr"] == 3e-3 * 0.5 * (1 + math.cos(math.pi * 11 / 12))


def test_a_break_in_a_cosine_changes_no_bit(tmp_path: Path) -> None:
    plan = replace(PLAN, schedule="cosine")
    whole = make(plan=plan)
    whole.run()
    with pytest.raises(Requeue):
        make(plan=plan, checkpoints=Checkpoints(tmp_path), stop=StopAfter(7)).run()
    resumed = make(plan=plan, checkpoints=Checkpoints(tmp_path))
    resumed.run()
    assert same(bits(resumed), bits(whole))
    stepped = make()
    stepped.run()
    assert not same(bits(resumed), bits(stepped))


def test_the_loss_is_the_mean_over_the_steps() -> None:
    values = iter(range(1, 13))

    def loss(outputs: Tensor, _: Tensor) -> Tensor:
        return outputs.sum() * 0 + next(values)

    assert [line["loss"] for line in make(criterion=loss).run()] == [2.5, 6.5, 10.5]


@pytest.mark.parametrize(
    "method", ["piggyback", "piggyback-ternary", "finetune", "feature", "affine", "ksm", "dan", ""]
)
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


# -- several parts --------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two networks under one optimizer, whose batches come in turn."""

    networks: tuple[nn.Linear, nn.Linear]
    optimizer: torch.optim.Optimizer
    bad: int = -1
    device: torch.device = CPU
    update: str = "none"
    parts: tuple[str, ...] = ("left", "right")

    def begin(self) -> None: ...

    def loss(self, batch: tuple[int, Tensor, Tensor]) -> tuple[int, Tensor]:
        number, inputs, targets = batch
        loss = F.cross_entropy(self.networks[number](inputs), targets)
        return number, loss * float("inf") if number == self.bad else loss

    def state(self) -> dict[str, Any]:
        return {"networks": [network.state_dict() for network in self.networks]}

    def load(self, state: dict[str, Any]) -> None:
        for network, saved in zip(self.networks, state["networks"], strict=True):
            network.load_state_dict(saved)


def make_pair(*, bad: int = -1, **more: Any) -> Training:
    torch.manual_seed(1)
    networks = (nn.Linear(6, 3), nn.Linear(6, 3))
    optimizer = torch.optim.Adam([p for network in networks for p in network.parameters()], lr=1e-2)
    in_turn = lambda epoch, start: ((n % 2, *pair) for n, pair in enumerate(batches(epoch, start), start))  # noqa: E731
    learner = Pair(networks=networks, optimizer=optimizer, bad=bad)
    return Training(learner=learner, batches=in_turn, plan=PLAN, seed=7, **more)


def test_parts_have_losses_of_their_own_also_over_breaks(tmp_path: Path) -> None:
    whole = make_pair()
    history = whole.run()
    for line in history:
        assert len(line["losses"]) == 2
        assert sum(line["losses"]) / STEPS == pytest.approx(line["loss"])
        assert min(line["losses"]) > 0.5  # each part's own two steps
    for stop in range(1, 12):
        with pytest.raises(Requeue):
            make_pair(checkpoints=Checkpoints(tmp_path), stop=StopAfter(1)).run()
        assert (tmp_path / f"step-{stop:09d}.pt").exists()
    resumed = make_pair(checkpoints=Checkpoints(tmp_path))
    assert without_seconds(resumed.run()) == without_seconds(history)
    for one, other in zip(resumed.learner.networks, whole.learner.networks, strict=True):  # type: ignore[attr-defined]
        assert torch.equal(one.weight, other.weight)


@pytest.mark.parametrize(("bad", "name"), [(0, "left"), (1, "right")])
def test_the_part_whose_loss_is_not_finite_is_named(bad: int, name: str) -> None:
    with pytest.raises(Diverged, match=f"the loss of {name} is not finite any more at epoch 1, step 4"):
        make_pair(bad=bad).run()


# -- breaks and records ---------------------------------------------------------------------------------


def test_seconds_of_an_epoch_add_up_over_a_break(tmp_path: Path) -> None:
    def slow(outputs: Tensor, targets: Tensor) -> Tensor:
        time.sleep(0.05)
        return F.cross_entropy(outputs, targets)

    with pytest.raises(Requeue):
        make(criterion=slow, checkpoints=Checkpoints(tmp_path), stop=StopAfter(3)).run()
    found = Checkpoints(tmp_path).load()
    assert found is not None
    assert found["seconds"] > 0.15
    history = make(criterion=slow, checkpoints=Checkpoints(tmp_path)).run()
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


def test_a_checkpoint_of_another_version_is_passed_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Requeue):
        make(checkpoints=Checkpoints(tmp_path), stop=StopAfter(3)).run()
    found = Checkpoints(tmp_path).load()
    assert found is not None
    del found["total"]
    Checkpoints(tmp_path).save(found, step=3)
    steps: list[int] = []
    make(checkpoints=Checkpoints(tmp_path), on_step=steps.append).run()
    assert steps == list(range(1, 13))
    assert "of another version of this program, so the training starts again" in capsys.readouterr().err


def test_on_save_is_called_with_the_steps_of_all_epochs(tmp_path: Path) -> None:
    saved: list[int] = []
    plan = replace(PLAN, epochs=2, checkpoint_s=-1.0)
    make(plan=plan, checkpoints=Checkpoints(tmp_path), on_save=saved.append).run()
    assert saved == list(range(1, 9))


def test_on_epoch_may_leave_evaluation_mode_behind() -> None:
    done = make()
    history = replace(done, on_epoch=lambda history: done.learner.adapter.eval()).run()
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

    with pytest.raises(Diverged, match=f"loss is .* epoch {-(-step // 4)}, step 2: lower the learning rate"):
        make(criterion=loss).run()


def test_a_long_epoch_is_not_trained_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "LOOK_EVERY", 2)
    with pytest.raises(Diverged, match="epoch 1, step 2"):  # its gradients are zero, and say nothing
        make(criterion=lambda outputs, targets: outputs.sum() * 0 + float("inf")).run()


def test_a_gradient_that_is_not_finite_ends_the_training() -> None:
    """The loss is finite: the square root of nothing has no slope."""

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets) + (outputs * 0).sum().sqrt()

    with pytest.raises(Diverged, match=r"^at epoch 1, step 1: the gradient of '[\w.]+' is not finite: nothing was"):
        make(criterion=loss).run()


def test_another_environment_is_refused_unless_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Requeue):
        make(checkpoints=Checkpoints(tmp_path), stop=StopAfter(5)).run()
    other = Environment(torch_version="9.9", device="abacus", machine="m68k", update="eager")
    monkeypatch.setattr(Environment, "here", lambda device, **_: other)
    with pytest.raises(BadInput, match=r"device was .*, is abacus.*--allow-other-environment"):
        make(checkpoints=Checkpoints(tmp_path)).run()
    history = make(checkpoints=Checkpoints(tmp_path), allow_other_environment=True).run()
    assert len(history) == 3


@pytest.mark.parametrize(
    ("method", "update", "form"),
    [
        ("piggyback", "eager", "eager"),
        ("ksm", "auto", "eager"),
        ("feature", "auto", "none"),
        ("finetune", "auto", "none"),
    ],
)
def test_the_environment_has_the_real_form_of_the_update(method: str, update: Any, form: str) -> None:
    done = make(method)
    done.learner.optimizer.mask_update.mode = update
    assert done.environment.update == form
    assert done.environment.torch_version == torch.__version__
    assert type(done.environment.torch_version) is str


def test_an_update_that_cannot_be_compiled_is_recorded_as_eager(monkeypatch: pytest.MonkeyPatch) -> None:
    import piggyback.numerics.update as update

    def broken(*arguments: object) -> None:
        raise RuntimeError("no compiler here")

    monkeypatch.setattr(update, "FAILURES", {})  # what failed here must not be remembered elsewhere
    monkeypatch.setattr(update, "compiled_kernel", lambda method: broken)
    done = make()
    done.learner.optimizer.mask_update.mode = "auto"
    assert done.environment.update == "eager"
