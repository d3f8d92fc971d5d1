"""Learning rates tried: which one is chosen, what is noted, and the batches of a short training."""

import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from piggyback.shell.errors import BadInput, Diverged, Requeue
from piggyback.suite.training.rate_trials import choose_rate, cut_batches, read_trials

GRID = (3e-3, 1e-3, 1e-4)


@pytest.fixture
def choose(tmp_path: Path) -> Callable[..., tuple[Any, list[tuple[float, int]]]]:
    """Chooses with given numbers, one after the other; exceptions are raised.  Gives what was measured too."""

    def run(*values: Any, grid: tuple[float, ...] = GRID) -> tuple[Any, list[tuple[float, int]]]:
        waiting, asked = list(values), list[tuple[float, int]]()

        def measure(rate: float, number: int) -> tuple[int, float]:
            asked.append((rate, number))
            value = waiting.pop(0)
            if isinstance(value, BaseException):
                raise value
            return 10 * number, value

        file = tmp_path / "run" / "trials.json"
        return choose_rate(grid, file=file, metric="val", title="a run", measure=measure), asked

    return run


def noted(tmp_path: Path) -> Any:
    return json.loads((tmp_path / "run" / "trials.json").read_text())


@pytest.mark.parametrize(
    ("values", "used"),
    [
        ((0.1, 0.3, 0.2), 1e-3),
        ((0.3, 0.3, 0.1), 1e-3),
        ((0.3, 0.1, 0.3), 1e-4),
        ((0.0, 0.0, 0.0), 1e-4),
        ((Diverged("x"), 0.0, Diverged("y")), 1e-3),
    ],
    ids=["best", "tie of neighbours", "tie", "all zero", "diverged"],
)
def test_the_highest_number_wins_and_ties_go_to_the_lower_rate(choose: Any, values: Any, used: float) -> None:
    (rate, trials), asked = choose(*values)
    assert rate == used
    assert asked == [(3e-3, 1), (1e-3, 2), (1e-4, 3)]
    assert [trial["lr"] for trial in trials] == list(GRID)


def test_the_order_of_the_grid_does_not_matter(choose: Any) -> None:
    (rate, _), _ = choose(0.5, 0.5, grid=(1e-4, 1e-3))
    assert rate == 1e-4


def test_every_trial_is_noted_when_it_ends(choose: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (_, trials), _ = choose(0.1, Diverged("the loss is not finite"), 0.2)
    expected = [
        {"lr": 3e-3, "steps": 10, "val": 0.1},
        {"lr": 1e-3, "steps": None, "val": None},
        {"lr": 1e-4, "steps": 30, "val": 0.2},
    ]
    assert trials == noted(tmp_path) == expected
    said = capsys.readouterr().err
    assert said == "a run: learning rate 0.001 was tried and diverged (the loss is not finite)\n"


@pytest.mark.parametrize(
    "fault", [Requeue(), KeyboardInterrupt(), MemoryError()], ids=lambda fault: type(fault).__name__
)
def test_a_broken_trial_is_repeated_and_finished_ones_are_not(
    choose: Any, tmp_path: Path, fault: BaseException
) -> None:
    whole = choose(0.1, 0.3, 0.2)[0]
    expected = noted(tmp_path)
    (tmp_path / "run" / "trials.json").unlink()
    with pytest.raises(type(fault)):
        choose(0.1, fault)
    assert noted(tmp_path) == expected[:1]
    found, asked = choose(0.3, 0.2)
    assert asked == [(1e-3, 2), (1e-4, 3)]
    assert found == whole
    assert noted(tmp_path) == expected
    found, asked = choose()
    assert (found, asked) == (whole, [])


def test_a_trial_that_diverged_is_not_repeated_either(choose: Any) -> None:
    with pytest.raises(Requeue):
        choose(Diverged("x"), Requeue())
    (rate, _), asked = choose(0.0, 0.0)
    assert (rate, asked) == (1e-4, [(1e-3, 2), (1e-4, 3)])


def test_when_every_rate_diverges_there_is_none(choose: Any) -> None:
    with pytest.raises(Diverged, match=r"a run: every learning rate of \(0.003, 0.001, 0.0001\) diverged"):
        choose(Diverged("a"), Diverged("b"), Diverged("c"))


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("{", "is not JSON"),
        ("{}", "damaged"),
        ("[1]", "damaged"),
        ('[{"lr": 0.003, "steps": 1}]', "damaged"),
        ('[{"lr": 0.003, "steps": 1, "val": 0.5, "more": 1}]', "damaged"),
        ('[{"lr": 0.003, "steps": 1, "accuracy": 0.5}]', "damaged"),
        ('[{"lr": 0.003, "steps": 1, "val": "0.5"}]', "damaged"),
        ('[{"lr": 0.003, "steps": 1, "val": true}]', "damaged"),
        ('[{"lr": 0.003, "steps": 1, "val": null}]', "damaged"),
        ('[{"lr": 0.001, "steps": 1, "val": 0.5}]', "other learning rates"),
        (json.dumps([{"lr": rate, "steps": 1, "val": 0.5} for rate in (*GRID, 1.0)]), "other learning rates"),
    ],
)
def test_a_file_that_does_not_fit_is_a_message(tmp_path: Path, text: str, fault: str) -> None:
    file = tmp_path / "trials.json"
    file.write_text(text)
    with pytest.raises(BadInput, match=rf"trials\.json .*{fault}"):
        read_trials(file, grid=GRID, metric="val")


def test_no_file_is_no_trial(tmp_path: Path) -> None:
    assert read_trials(tmp_path / "trials.json", grid=GRID, metric="val") == []


# -- a short training as one epoch ----------------------------------------------------------------------


EPOCH = 5


def batches(epoch: int, start: int) -> Iterator[tuple[Tensor, Tensor]]:
    for number in range(start, EPOCH):
        yield torch.tensor([epoch]), torch.tensor([number])


@pytest.mark.parametrize("total", [1, 4, 5, 6, 10, 13])
def test_a_short_training_reaches_over_epochs(total: int) -> None:
    cut = cut_batches(batches, epoch=EPOCH, total=total)
    expected = list(itertools.islice(((epoch, number) for epoch in range(9) for number in range(EPOCH)), total))
    for start in range(total + 1):  # resumed anywhere it goes on as the whole one would
        assert [(int(one), int(other)) for one, other in cut(0, start)] == expected[start:]


def test_no_batch_is_made_that_is_not_asked_for() -> None:
    made: list[tuple[int, int]] = []

    def note(epoch: int, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        for pair in batches(epoch, start):
            made.append((epoch, int(pair[1])))
            yield pair

    assert len(list(cut_batches(note, epoch=EPOCH, total=6)(0, 3))) == 3
    assert made == [(0, 3), (0, 4), (1, 0)]
