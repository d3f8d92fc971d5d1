"""Several batches that make one step."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from breaks import StopAfter
from torch import Tensor
from toy_training import PLAN, batches, bits, make, same, without_seconds

from piggyback.shell.errors import Requeue
from piggyback.suite.training.checkpoints import Checkpoints
from piggyback.suite.training.loop import Plan, Training


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
        step = done.learner.optimizer.step

        def note(step: Any = step, kept: list[Tensor] = kept, done: Training = done) -> None:
            grads = [p.grad for p in done.learner.adapter.network.parameters() if p.grad is not None]
            kept.append(torch.cat([grad.flatten() for grad in grads]))
            step()

        done.learner.optimizer.step = note  # type: ignore[method-assign, assignment]
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
    done = make(
        "feature", plan=plan, criterion=lambda outputs, targets: next(losses) * outputs.sum(1).mean(), calm=True
    )
    bias = done.learner.adapter.network[-1].bias  # type: ignore[index, union-attr]
    step = done.learner.optimizer.step

    def note() -> None:
        gradients.append(float(bias.grad[0]))  # type: ignore[index, union-attr, arg-type]
        step()

    done.learner.optimizer.step = note  # type: ignore[method-assign, assignment]
    steps: list[int] = []
    replace(done, on_step=steps.append).run()
    assert steps == list(range(1, len(sizes) + 1))
    values = iter([1.0, 2.0, 4.0, 8.0])
    means = [sum(next(values) for _ in range(size)) / size for size in sizes]
    assert gradients == pytest.approx(means, rel=1e-6)


def test_the_recorded_loss_is_the_mean_over_steps_of_their_means() -> None:
    values = iter([1.0, 2.0, 6.0, 7.0])
    plan = Plan(epochs=1, steps=2, accumulate=3)
    (line,) = make("feature", plan=plan, criterion=lambda outputs, targets: outputs.sum() * 0 + next(values)).run()
    assert line["loss"] == pytest.approx((3.0 + 7.0) / 2)


def test_learning_rates_fall_by_steps_and_not_by_batches() -> None:
    done = make(plan=Plan(epochs=3, steps=2, accumulate=3, decay_after=0.5))
    rates: list[float] = []
    step = done.learner.optimizer.step

    def note() -> None:
        rates.append(done.learner.optimizer.param_groups[0]["lr"])
        step()

    done.learner.optimizer.step = note  # type: ignore[method-assign, assignment]
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
    plain.learner.adapter.train()
    rates = [group["lr"] for group in plain.learner.optimizer.param_groups]
    for epoch in range(3):
        total = torch.zeros((), dtype=torch.float64)
        for number, (inputs, targets) in enumerate(batches(epoch, 0)):
            loss = F.cross_entropy(plain.learner.adapter.network(inputs), targets)
            loss.backward()  # type: ignore[no-untyped-call]
            for group, rate in zip(plain.learner.optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * (0.1 if 4 * epoch + number >= 6 else 1.0)
            plain.learner.optimizer.step()
            plain.learner.optimizer.zero_grad()
            total += loss.detach().double()
        losses.append(float(total) / 4)
    history = done.run()
    assert [line["loss"] for line in history] == losses
    assert same(bits(done), bits(plain))
