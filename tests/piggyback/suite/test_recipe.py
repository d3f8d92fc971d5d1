from dataclasses import dataclass
from typing import Literal

import pytest

from piggyback.shell.errors import BadInput, UnknownName
from piggyback.suite.recipe import find_recipe, read_recipe, recipe_named_in, run_id


@dataclass(frozen=True, kw_only=True)
class Recipe:
    lr: float = 1.0
    grid: tuple[float, ...] = ()
    view: Literal["crop", "whole"] = "crop"

    def __post_init__(self) -> None:
        if not self.lr > 0:
            raise BadInput(f"lr must be positive, not {self.lr}")


RECIPES = {"long": Recipe(), "short": Recipe(lr=2.0)}


def test_a_recipe_is_found_by_name() -> None:
    assert find_recipe("short", recipes=RECIPES) is RECIPES["short"]
    with pytest.raises(UnknownName, match=r"no recipe is called 'shrt'\. Did you mean 'short'"):
        find_recipe("shrt", recipes=RECIPES)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ([], "long"),
        (["--lr", "3"], "long"),
        (["--recipe", "short"], "short"),
        (["--lr", "3", "--recipe=short", "--lr", "4"], "short"),
        (["--recipe", "short", "--recipe=long"], "long"),
        (["--recipe=long", "--recipe", "short"], "short"),
        (["--recipe", "none", "--recipe", "short"], "short"),
        (["--recipe", "short", "--recipe"], "short"),
        (["--recipe"], "long"),
    ],
)
def test_the_last_recipe_named_counts_as_for_the_parser(arguments: list[str], name: str) -> None:
    assert recipe_named_in(arguments, recipes=RECIPES, default="long") is RECIPES[name]


@pytest.mark.parametrize("arguments", [["--recipe="], ["--recipe", "--lr"], ["--recipe=long", "--recipe=shrt"]])
def test_an_unknown_recipe_among_arguments_is_told(arguments: list[str]) -> None:
    with pytest.raises(UnknownName, match="no recipe is called"):
        recipe_named_in(arguments, recipes=RECIPES, default="long")


def test_ids_are_for_ever_and_of_everything() -> None:
    assert run_id(Recipe()) == "77984496e5"
    ids = {run_id(one) for one in (Recipe(), Recipe(lr=2.0), Recipe(grid=(1.0,)), Recipe(view="whole"))}
    assert len(ids) == 4
    assert all(len(one) == 10 and int(one, 16) >= 0 for one in ids)


def test_a_recipe_is_read_back_without_what_the_run_adds() -> None:
    values = {"lr": 2.0, "grid": [1.0, 3.0], "view": "whole", "lr_used": 3.0}
    assert read_recipe(values, kind=Recipe, name="r.json") == Recipe(lr=2.0, grid=(1.0, 3.0), view="whole")
    assert read_recipe({}, kind=Recipe, name="r.json") == Recipe()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"lr": "fast"}, "not supported"),
        ({"lr": -1.0}, "lr must be positive, not -1.0"),
        ({"lr": None}, "not supported"),
        ({"view": "top"}, "view is 'top', not one of"),
        ({"view": ["crop"]}, "view is"),
    ],
)
def test_what_is_no_recipe_names_the_file(values: dict[str, object], said: str) -> None:
    with pytest.raises(BadInput, match=rf"^runs/r\.json has no valid recipe: .*{said}"):
        read_recipe(values, kind=Recipe, name="runs/r.json")
