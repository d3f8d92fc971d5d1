"""Laws for what is chosen on val: learning rates by short trials, and the epoch that is kept."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_benchmarks import Small
from torch import Tensor

from leaderboard.result import read_result
from piggyback.payload import Payload, read_payload
from piggyback.shell.errors import BadInput, Diverged
from piggyback.suite.bench import Job, open_bench, steps_of
from piggyback.suite.train import train_task

Change = Callable[..., Job]
GRID = (3e-3, 1e-3, 1e-4)


def tensors(payload: Payload) -> dict[str, Tensor]:
    masks = {f"{key} of {name}": tensor for name, parts in payload.kept.items() for key, tensor in parts.items()}
    return {**masks, **payload.own, **{f"head.{name}": tensor for name, tensor in payload.head.items()}}


def same(one: Path, other: Path) -> bool:
    """Whether two payloads hold the same, whatever their recipes."""
    a, b = (tensors(read_payload(path)) for path in (one, other))
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture
def on_val(monkeypatch: pytest.MonkeyPatch, bench_class: Any) -> Callable[..., list[float | None]]:
    """Lets val give these numbers, one after the other; Diverged where there is None.  Gives those still to come."""

    def give(*values: float | None) -> list[float | None]:
        waiting = list(values)

        def measure(bench: Any, network: Any) -> float:
            value = waiting.pop(0)
            if value is None:
                raise Diverged("logits are not finite")
            return value

        monkeypatch.setattr(bench_class, "measure", measure)
        return waiting

    return give


# -- learning rates -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "used"),
    [((0.25, 0.5, 0.25), 1e-3), ((0.5, 0.5, 0.5), 1e-4), ((None, 0.0, None), 1e-3)],
    ids=["best", "tie", "diverged"],
)
def test_the_best_rate_on_val_is_used_and_ties_go_to_the_lower(
    small: Small,
    job: Job,
    change: Change,
    on_val: Callable[..., list[float | None]],
    values: tuple[float | None, ...],
    used: float,
) -> None:
    waiting = on_val(*values)
    job = change(replace(job, method="feature"), **small.choosing, lr_grid=GRID, trial_share=0.5)
    folder = train_task(job)
    assert waiting == []
    steps, metric = steps_of(open_bench(job), "train"), small.benchmark.trial_metric  # half of two epochs
    expected = [
        {"lr": rate, "steps": None if value is None else steps, metric: value}
        for rate, value in zip(GRID, values, strict=True)
    ]
    assert json.loads(folder.trials.read_text()) == expected
    recipe = read_result(folder.result).recipe
    assert recipe is not None
    assert (recipe["lr_used"], recipe["lr_trials"]) == (used, expected)
    first = json.loads(folder.metrics.read_text().splitlines()[0])
    assert first["lr"] == pytest.approx(used * job.recipe.head_lr_factor)  # of the head, which is all that is trained
    assert not folder.checkpoints.exists()


def test_trials_leave_nothing_behind_in_the_final_training(
    small: Small, job: Job, change: Change, on_val: Callable[..., list[float | None]], tmp_path: Path
) -> None:
    on_val(0.5, 0.75)
    job = change(job, **small.choosing)
    tried = train_task(change(job, lr_grid=(1e-4, job.recipe.lr)))
    plain = train_task(replace(job, out=tmp_path / "plain"))
    assert same(tried.payload, plain.payload)


def test_when_every_rate_diverges_the_run_fails(
    small: Small, job: Job, change: Change, on_val: Callable[..., list[float | None]], folder_of: Any
) -> None:
    on_val(None, None)
    job = change(job, **small.choosing, lr_grid=GRID[:2], trial_share=0.5)
    with pytest.raises(Diverged, match="every learning rate"):
        train_task(job)
    assert folder_of(job).read_status()["state"] == "failed"


def test_damaged_trials_are_a_message(small: Small, job: Job, change: Change, folder_of: Any) -> None:
    job = change(job, **small.choosing, lr_grid=GRID)
    folder = folder_of(job)
    folder.root.mkdir(parents=True)
    folder.trials.write_text(json.dumps([{"lr": 9.0, "steps": 1, small.benchmark.trial_metric: 0.5}]))
    with pytest.raises(BadInput, match=r"trials\.json has other learning rates than the recipe: delete it"):
        train_task(job)


# -- what is looked at, and when ------------------------------------------------------------------------


@pytest.mark.parametrize("trained_on", ["train", "train+val"])
def test_trials_see_their_own_pictures_and_the_result_is_measured_once_at_the_end(
    small: Small, job: Job, change: Change, bench_class: Any, monkeypatch: pytest.MonkeyPatch, trained_on: str
) -> None:
    seen: list[str] = []
    batches, measure, finish = bench_class.batches, bench_class.measure, bench_class.finish

    def note_batches(bench: Any, part: str, epoch: int, start: int) -> Iterator[Any]:
        for batch in batches(bench, part, epoch, start):
            seen.append(part)
            yield batch

    def note(name: str, function: Any) -> Any:
        return lambda *given: (seen.append(name), function(*given))[1]

    monkeypatch.setattr(bench_class, "batches", note_batches)
    monkeypatch.setattr(bench_class, "measure", note("val", measure))
    monkeypatch.setattr(bench_class, "finish", note("finish", finish))
    fields = {"epochs": 1, "batch_size": 1, "lr_grid": GRID[:2], "trial_share": 1.0, "trained_on": trained_on}
    job = change(job, **small.choosing, **fields)
    bench = open_bench(job)
    tried, final = bench.count_batches("train"), bench.count_batches(job.recipe.trained_on)
    assert (final > tried) == (trained_on == "train+val")
    train_task(job)
    trial = [*["train"] * tried, "val"]
    assert seen == [*trial, *trial, *[trained_on] * final, "finish"]


def test_the_best_epoch_on_val_is_kept(
    small: Small, job: Job, change: Change, on_val: Callable[..., list[float | None]]
) -> None:
    job = change(job, **small.choosing, epochs=3, decay_after=1.0, selected_on="val")
    waiting = on_val(0.25, 0.75, 0.75)
    folder = train_task(job)
    assert waiting == []
    result = read_result(folder.result)
    assert result.selected_on == "val"
    lines = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    assert [line[small.benchmark.trial_metric] for line in lines] == [0.25, 0.75, 0.75]
    short = train_task(change(job, epochs=2, selected_on="last epoch"))
    assert same(folder.payload, short.payload)  # of equally good epochs the first
    prints = [read_result(one.result).fingerprints for one in (folder, short)]
    assert prints[0] == prints[1]  # predictions too are those of that epoch
    assert not same(folder.payload, train_task(change(job, selected_on="last epoch")).payload)
