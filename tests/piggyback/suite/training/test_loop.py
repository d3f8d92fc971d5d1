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

import piggyback.suite.training.loop as training
from piggyback.adapter import attach
from piggyback.methods.registry import named_method
from piggyback.shell.errors import BadInput, Diverged, Requeue
from piggyback.suite.training.loop import Plan, Training
from piggyback.suite.training.run_folder import Checkpoints, Environment, StopFlag

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


def make(method: str = "piggyback", *, plan: Plan = PLAN, calm: bool = False, **more: Any) -> Training:
    """Calm ones have no batch norm and no dropout."""
    torch.manual_seed(1)
    between = (nn.Identity(), nn.Identity()) if calm else (nn.BatchNorm1d(8), nn.Dropout(0.5))
    network = nn.Sequential(nn.Linear(6, 8), *between, nn.Linear(8, 8), nn.Linear(8, 3))
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
    step = done.optimizer.step

    def note() -> None:
        rates.append(done.optimizer.param_groups[-1]["lr"])
        step()

    done.optimizer.step = note  # type: ignore[method-assign, assignment]
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

    assert [line["loss"] for line in make(loss=loss).run()] == [2.5, 6.5, 10.5]


@pytest.mark.parametrize("method", ["piggyback", "piggyback-ternary", "finetune", "feature", "affine", "ksm", "dan"])
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


# -- accumulation ---------------------------------------------------------------------------------------


def one_large(epoch: int, start: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Two batches of ten pictures, which are the four of five."""
    parts = list(batches(epoch, 0))
    for number in range(start, 2):
        inputs, targets = zip(*parts[2 * number : 2 * number + 2], strict=True)
        yield torch.cat(inputs), torch.cat(targets)


@pytest.mark.parametrize("method", ["piggyback", "finetune", "feature"])
def test_accumulated_batches_step_like_one_large_batch(method: str) -> None:
    """Without batch norm and dropout, in which the size of a batch counts."""
    gradients: dict[int, list[Tensor]] = {}
    finished: dict[int, Training] = {}
    for accumulate, given in ((1, one_large), (2, batches)):
        done = make(method, plan=replace(PLAN, steps=2, accumulate=accumulate), batches=given, calm=True)
        kept = gradients.setdefault(accumulate, [])
        step = done.optimizer.step

        def note(step: Any = step, kept: list[Tensor] = kept, done: Training = done) -> None:
            grads = [p.grad for p in done.adapter.network.parameters() if p.grad is not None]
            kept.append(torch.cat([grad.flatten() for grad in grads]))
            step()

        done.optimizer.step = note  # type: ignore[method-assign, assignment]
        finished[accumulate] = done
    histories = {number: done.run() for number, done in finished.items()}
    assert [len(kept) for kept in gradients.values()] == [6, 6]
    torch.testing.assert_close(gradients[2][0], gradients[1][0], rtol=1e-5, atol=1e-6)
    # Adam turns a rounding error in a gradient near zero into a step of its own, so these are further apart.
    torch.testing.assert_close(bits(finished[2]), bits(finished[1]), rtol=1e-3, atol=1e-4)
    assert [line["loss"] for line in histories[2]] == pytest.approx([line["loss"] for line in histories[1]], rel=1e-4)


@pytest.mark.parametrize(("accumulate", "sizes"), [(1, [1] * 4), (2, [2, 2]), (3, [3, 1]), (4, [4]), (9, [4])])
def test_the_last_step_of_an_epoch_takes_what_is_left(accumulate: int, sizes: list[int]) -> None:
    """Each step's gradient is the mean over its batches, and so is the loss that is recorded."""
    losses, gradients = iter([1.0, 2.0, 4.0, 8.0]), list[float]()
    plan = Plan(epochs=1, steps=len(sizes), accumulate=accumulate, decay_after=1.0)
    done = make("feature", plan=plan, loss=lambda outputs, targets: next(losses) * outputs.sum(1).mean(), calm=True)
    bias = done.adapter.network[-1].bias  # type: ignore[index, union-attr]
    step = done.optimizer.step

    def note() -> None:
        gradients.append(float(bias.grad[0]))  # type: ignore[index, union-attr, arg-type]
        step()

    done.optimizer.step = note  # type: ignore[method-assign, assignment]
    steps: list[int] = []
    replace(done, on_step=steps.append).run()
    assert steps == list(range(1, len(sizes) + 1))
    values = iter([1.0, 2.0, 4.0, 8.0])
    means = [sum(next(values) for _ in range(size)) / size for size in sizes]
    assert gradients == pytest.approx(means, rel=1e-6)


def test_the_recorded_loss_is_the_mean_over_steps_of_their_means() -> None:
    values = iter([1.0, 2.0, 6.0, 7.0])
    plan = Plan(epochs=1, steps=2, accumulate=3)
    (line,) = make("feature", plan=plan, loss=lambda outputs, targets: outputs.sum() * 0 + next(values)).run()
    assert line["loss"] == pytest.approx((3.0 + 7.0) / 2)


def test_learning_rates_fall_by_steps_and_not_by_batches() -> None:
    done = make(plan=Plan(epochs=3, steps=2, accumulate=3, decay_after=0.5))
    rates: list[float] = []
    step = done.optimizer.step

    def note() -> None:
        rates.append(done.optimizer.param_groups[0]["lr"])
        step()

    done.optimizer.step = note  # type: ignore[method-assign, assignment]
    done.run()
    assert rates == [3e-3] * 3 + [3e-3 * 0.1] * 3


@pytest.mark.parametrize("accumulate", [2, 3])
@pytest.mark.parametrize("method", ["piggyback", "finetune"])
def test_a_break_after_every_accumulated_step_changes_no_bit(tmp_path: Path, method: str, accumulate: int) -> None:
    plan = replace(PLAN, steps=2, accumulate=accumulate)
    whole = make(method, plan=plan)
    history = whole.run()
    assert not same(bits(whole), bits(make(method)))
    breaks = 0
    while True:
        torch.manual_seed(breaks)
        resumed = make(method, plan=plan, checkpoints=Checkpoints(tmp_path), stop=StopAfter(1))
        try:
            found = resumed.run()
        except Requeue:
            breaks += 1
            continue
        break
    assert breaks == 6
    assert same(bits(resumed), bits(whole))
    assert without_seconds(found) == without_seconds(history)


def test_one_batch_at_a_time_keeps_the_bits_of_a_plain_loop() -> None:
    """What the loop did before it could accumulate, written out."""
    done = make(plan=replace(PLAN, accumulate=1))
    plain = make()
    losses = []
    torch.manual_seed(plain.seed)
    plain.adapter.train()
    rates = [group["lr"] for group in plain.optimizer.param_groups]
    for epoch in range(3):
        total = torch.zeros((), dtype=torch.float64)
        for number, (inputs, targets) in enumerate(batches(epoch, 0)):
            loss = F.cross_entropy(plain.adapter.network(inputs), targets)
            loss.backward()  # type: ignore[no-untyped-call]
            for group, rate in zip(plain.optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * (0.1 if 4 * epoch + number >= 6 else 1.0)
            plain.optimizer.step()
            plain.optimizer.zero_grad()
            total += loss.detach().double()
        losses.append(float(total) / 4)
    history = done.run()
    assert [line["loss"] for line in history] == losses
    assert same(bits(done), bits(plain))


# -- breaks and records ---------------------------------------------------------------------------------


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
    [
        ("piggyback", "eager", "eager"),
        ("ksm", "auto", "eager"),
        ("feature", "auto", "none"),
        ("finetune", "auto", "none"),
    ],
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

    monkeypatch.setattr(update, "FAILURES", {})  # what failed here must not be remembered elsewhere
    monkeypatch.setattr(update, "compiled_kernel", lambda method: broken)
    done = make()
    done.optimizer.mask_update.mode = "auto"
    assert done.environment.update == "eager"
