"""Plain networks trained by a recipe: stopped anywhere, done again, refused."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from breaks import StopAfter
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from toy_training import STEPS, batches

from piggyback.shell.errors import BadInput, Requeue
from piggyback.suite.networks.pretraining import Pretraining
from piggyback.suite.recipe import Recipe, settings_of
from piggyback.weight_files import load_weights

RECIPE = Recipe(epochs=3, decay_after=0.5, lr=1e-2, precision="fp32", seed=3)


def make(place: Path, *, recipe: Recipe = RECIPE, **more: Any) -> Pretraining:
    torch.manual_seed(1)
    network = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))
    fields: dict[str, Any] = {
        "batches": batches,
        "data": {"data": "f" * 64},
        "goal": place / "net.safetensors",
        **more,
    }
    return Pretraining(network=network, recipe=recipe, count=STEPS, criterion=cross_entropy, **fields)


@pytest.mark.parametrize("fields", [{}, {"rule": "sgd", "accumulate": 2, "weight_decay": 1e-3}], ids=["adam", "sgd"])
def test_a_stop_at_every_step_changes_no_byte(tmp_path: Path, fields: dict[str, Any]) -> None:
    recipe = Recipe(**{**vars(RECIPE), **fields})
    whole, other = make(tmp_path / "whole", recipe=recipe), tmp_path / "other"
    whole.run()
    stops = 0
    while True:
        training = make(other, recipe=recipe, stop=StopAfter(1))
        torch.manual_seed(stops)  # where a checkpoint is loaded nothing of what this process did may count
        try:
            training.run()
        except Requeue:
            stops += 1
            assert not training.goal.exists()
            status = json.loads((other / "status.json").read_text())
            assert (status["state"], status["progress"]) == ("requeue", pytest.approx(stops * recipe.accumulate / 12))
            continue
        break
    assert stops == 12 // recipe.accumulate
    assert training.goal.read_bytes() == whole.goal.read_bytes()
    assert not (other / "checkpoints").exists()


def test_a_finished_network_says_what_it_was_made_of_and_is_left_alone(tmp_path: Path) -> None:
    training = make(tmp_path)
    training.run()
    source = {"recipe": settings_of(RECIPE), "data": "f" * 64}
    assert training.source == source
    assert json.loads((tmp_path / "recipe.json").read_text()) == json.loads(json.dumps(source))
    assert [json.loads(line)["epoch"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [1, 2, 3]
    assert load_weights(training.goal).keys() == training.network.state_dict().keys()
    before = training.goal.stat().st_mtime_ns

    def none(epoch: int, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        raise AssertionError("it is trained again")

    make(tmp_path, batches=none).run()
    assert training.goal.stat().st_mtime_ns == before


def test_what_is_written_and_where_can_be_chosen(tmp_path: Path) -> None:
    seen: list[Any] = []
    goal = tmp_path / "net.safetensors"

    def write(source: Any) -> None:
        seen.append(source)
        goal.touch()

    training = make(tmp_path, folder=tmp_path / "training", write=write)
    training.run()
    assert seen == [training.source]
    assert {path.name for path in tmp_path.iterdir()} == {"net.safetensors", "training"}


def test_the_folder_of_another_training_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Requeue):
        make(tmp_path, stop=StopAfter(2)).run()
    for other in ({"recipe": Recipe(**{**vars(RECIPE), "lr": 1e-3})}, {"data": {"data": "0" * 64}}):
        with pytest.raises(BadInput, match="belongs to another run"):
            make(tmp_path, **other).run()


@pytest.mark.parametrize(
    "field", [{"lr_grid": (1e-3,)}, {"norm": "trained"}, {"selected_on": "val"}, {"head_lr_factor": 2.0}]
)
def test_settings_that_would_not_count_are_refused(tmp_path: Path, field: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match=f"{next(iter(field))} means nothing where a whole network is trained"):
        make(tmp_path, recipe=Recipe(**{**vars(RECIPE), **field})).run()
    assert list(tmp_path.iterdir()) == []


def test_a_signal_stops_it(tmp_path: Path) -> None:
    def signalled(epoch: int, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        for number, batch in enumerate(batches(epoch, start)):
            if number == 2:
                signal.raise_signal(signal.SIGTERM)
            yield batch

    with pytest.raises(Requeue):
        make(tmp_path, batches=signalled).run()
    assert [path.stem for path in (tmp_path / "checkpoints").iterdir()] == ["step-000000003"]
