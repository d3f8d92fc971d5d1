"""What is segmentation's own in a sweep: splits, and the methods that mean something here."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from piggyback.methods.table import TABLE, stands_on
from piggyback.shell.errors import BadInput
from piggyback.suite.sweeps import plan as sweeps
from segmentation.benchmark import BENCHMARK
from segmentation.options import DrawOptions, PrepareOptions
from segmentation.recipes import WITHOUT

plan = partial(sweeps.plan, BENCHMARK)
GIVEN = {
    "root": "/srv/me",
    "out": "/srv/me/swept",
    "data": "data",
    "backbone": "b.safetensors",
    "methods": ["piggyback", "finetune"],
    "seeds": [0, 1],
    "recipe": "smoke",
}
DRAWN = {key: value for key, value in GIVEN.items() if key not in ("data", "backbone")} | {"source": "drawn"}
Read = Callable[[list[str]], Any]


def test_settings_of_runs_reach_their_commands(read_command: Read) -> None:
    settings = {"epochs": 2, "lr_grid": [1e-3], "held_out": 4, "flip": True, "dropout": 0}
    runs = plan({**GIVEN, "settings": settings})
    found = read_command(runs[3]["argv"]).settings
    assert (found.epochs, found.lr_grid, found.flip, found.dropout, found.size) == (2, (1e-3,), True, 0.0, 64)
    assert runs[3]["id"].startswith("seg11valid-finetune-seed1-")


def test_the_splits_of_the_recipe_are_packed_and_reported(read_command: Read) -> None:
    draw, prepare, first, *_, score = plan({**DRAWN, "settings": {"evaluate": "voc2012_val_minus_sbd"}})
    drawn, packed, options = (read_command(run["argv"]) for run in (draw, prepare, first))
    assert isinstance(drawn, DrawOptions)
    assert isinstance(packed, PrepareOptions)
    assert packed.source == drawn.out / "release"
    assert packed.splits == (options.settings.train, "voc2012_val_minus_sbd")
    assert read_command(score["argv"]).own.split == "voc2012_val_minus_sbd"
    others = [run["id"] for run in plan(DRAWN)]
    assert prepare["id"] not in others  # other splits are other data


def test_methods_that_mean_something_here() -> None:
    """Those that train weights of one task on VGG-16; not those that need other tasks, or its norm layers."""
    assert {name for name in TABLE if stands_on(name) != "backbone"} <= WITHOUT.keys() <= TABLE.keys()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"settings": {"margin": "x"}}, "margin is 'x', not one of"),
        ({"settings": {"evaluate": "voc2012_test"}}, "a split without label maps"),
        ({"backbone": {"depth": 1}}, "backbone cannot be"),
    ],
)
def test_specs_with_faults(change: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        plan({**GIVEN, **change})
