"""What the benchmarks' plans share."""

import json
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Literal

import pytest

from piggyback.methods import table
from piggyback.shell.errors import BadInput, UnknownName
from piggyback.suite.sweeps.spec import (
    refuse_unknown,
    short_id,
    take,
    take_label,
    take_methods,
    take_place,
    take_recipe,
    take_run_recipe,
    take_seeds,
)


@dataclass(frozen=True, kw_only=True)
class Toy:
    epochs: int = 3
    lr: float = 0.1
    kind: Literal["x", "y"] = "x"
    rates: tuple[float, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        if any(rate <= 0 for rate in self.rates):
            raise BadInput("rates must be positive")


RECIPES = {"paper": Toy(), "smoke": Toy(epochs=1)}


def test_plans_load_no_torch() -> None:
    plan = "import sys, piggyback.suite.sweeps.spec as s; s.take_methods({'methods': ['joint']})"
    code = f"{plan}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_methods_of_other_packages_are_known_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def offered(*, group: str) -> list[EntryPoint]:
        return [EntryPoint(name="theirs", value="not.there:Method", group=group)] if group == table.GROUP else []

    monkeypatch.setattr(table, "entry_points", offered)
    assert take_methods({"methods": ["theirs", "joint"]}) == ["theirs", "joint"]  # and nothing was loaded
    with pytest.raises(UnknownName, match=r"no method is called 'their'\. Did you mean 'theirs'\?"):
        take_methods({"methods": ["their"]})


def test_methods() -> None:
    assert take_methods({}) == ["piggyback"]
    assert take_methods({"methods": ["feature", "piggyback", "feature"]}) == ["feature", "piggyback"]
    with pytest.raises(UnknownName, match=r"no method is called 'pigyback'\. Did you mean 'piggyback'\?"):
        take_methods({"methods": ["pigyback"]})
    with pytest.raises(BadInput, match="methods are empty"):
        take_methods({"methods": []})


def test_seeds() -> None:
    assert take_seeds({"seeds": [2, 0, 2]}) == [2, 0]
    for wrong in ([True], [-1], ["0"], [1.0], [1 << 63]):
        with pytest.raises(BadInput, match="seeds must be whole numbers from 0"):
            take_seeds({"seeds": wrong})
    with pytest.raises(BadInput, match="seeds cannot be 3"):
        take_seeds({"seeds": 3})


def test_fields() -> None:
    with pytest.raises(BadInput, match="unknown field, 'taks'; known: tasks"):
        refuse_unknown({"name": "n", "out": "o", "root": "r", "label": "l", "taks": []}, known=["tasks"])
    with pytest.raises(BadInput, match="must give data"):
        take({}, "data", str, default=None)
    assert take_label({}, benchmark="toy") == "toy"
    with pytest.raises(BadInput, match="label must be lowercase letters"):
        take_label({"label": "../x"}, benchmark="toy")


def test_places_count_from_the_sweeps_file_and_are_told_apart() -> None:
    spec = {"root": "/srv/me", "out": "/srv/me/swept", "data": "data", "backbone": "/shared/b"}
    place = take_place(spec, "data")
    assert (place.path, place.identity) == (Path("/srv/me/data"), "../data")
    assert take_place({**spec, "root": "/other", "out": "/other/swept"}, "data").identity == "../data"  # copied with it
    assert take_place({**spec, "root": "/other"}, "data").identity == "../../../other/data"
    assert take_place(spec, "backbone").identity == "/shared/b"
    with pytest.raises(BadInput, match="data cannot be 3"):
        take_place({**spec, "data": 3}, "data")


def test_recipes() -> None:
    spec = {"recipe": "smoke", "settings": {"lr": 1, "rates": [0.1, 0.2], "epochs": 1}}
    flags, recipe = take_run_recipe(spec, recipes=RECIPES, default="paper")
    assert flags == ["--recipe", "smoke", "--lr", "1", "--rates", "0.1", "0.2"]  # epochs are the recipe's anyway
    assert recipe == Toy(epochs=1, lr=1, rates=(0.1, 0.2))
    with pytest.raises(UnknownName, match="no recipe is called 'smok'"):
        take_run_recipe({"recipe": "smok"}, recipes=RECIPES, default="paper")
    with pytest.raises(BadInput, match=r"give seeds = \[\.\.\.\]"):
        take_run_recipe({"settings": {"seed": 3}}, recipes=RECIPES, default="paper")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"epoch": 3}, "no setting of the recipe in p is called 'epoch'"),
        ({"epochs": 2.5}, "epochs must be a whole number, not 2.5"),
        ({"epochs": "3"}, "epochs must be a value like 3"),
        ({"kind": "z"}, "kind is 'z', not one of"),
        ({"rates": ["a"]}, "p: '<=' not supported"),
        ({"rates": [-1.0]}, "rates must be positive"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, object], words: str) -> None:
    with pytest.raises((BadInput, UnknownName), match=words):
        take_recipe({"settings": settings}, recipes=RECIPES, default="paper", place="p")


def test_ids() -> None:
    assert short_id("a", {"x": 1, "y": 2}) == short_id("a", {"y": 2, "x": 1})
    assert short_id("a", "b") != short_id("ab") != short_id("a", "c")
    assert len(short_id(json.dumps([]))) == 10
