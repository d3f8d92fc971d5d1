from dataclasses import asdict, dataclass, fields
from typing import ClassVar, Literal

import pytest

from piggyback.shell.errors import BadInput, UnknownName
from piggyback.suite.recipe import Recipe as SuiteRecipe
from piggyback.suite.recipe import as_flags, find_recipe, read_recipe, recipe_named_in, run_id, settings_of


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
    assert run_id(asdict(Recipe())) == "77984496e5"
    assert run_id({"grid": (), "view": "crop", "lr": 1.0}) == run_id({"lr": 1.0, "view": "crop", "grid": []})
    ids = {run_id(asdict(one)) for one in (Recipe(), Recipe(lr=2.0), Recipe(grid=(1.0,)), Recipe(view="whole"))}
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


# -- the suite's own ------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Own(SuiteRecipe):
    """A benchmark's recipe, which had results before the suite had some of its fields."""

    LATER: ClassVar[tuple[str, ...]] = ("accumulate", "norm_lr", "sides")

    size: int
    sides: tuple[int, ...] = (1, 2)


def test_fields_that_came_later_stay_out_of_ids_until_they_are_used() -> None:
    plain = settings_of(Own(size=8))
    assert plain.keys() == {entry.name for entry in fields(Own)} - set(Own.LATER)
    assert plain["size"] == 8
    used = settings_of(Own(size=8, accumulate=2, sides=(3,)))
    assert used == plain | {"accumulate": 2, "sides": (3,)}
    assert settings_of(Own(size=8, norm_lr=0.5)) == plain | {"norm_lr": 0.5}
    assert run_id(settings_of(Own(size=8, accumulate=1, norm_lr=None, sides=(1, 2)))) == run_id(plain)


@pytest.mark.parametrize("batches", [1, 5, 7])
def test_small_tasks_get_more_epochs_until_they_have_their_steps(batches: int) -> None:
    assert Own(size=8, epochs=3).epochs_for(batches) == 3
    recipe = Own(size=8, epochs=3, min_steps=30, accumulate=2)
    steps = -(-batches // 2)
    epochs = recipe.epochs_for(batches)
    assert epochs * steps >= 30
    assert epochs == 3 or (epochs - 1) * steps < 30


def test_a_choice_on_val_needs_a_val_that_is_not_trained_on() -> None:
    with pytest.raises(BadInput, match="cannot be selected on val when val is trained on"):
        Own(size=8, selected_on="val", trained_on="train+val")


def test_flags_say_what_differs_from_the_recipe_they_change() -> None:
    start = Own(size=8)
    settings = {"size": 8, "lr": 0.5, "sides": [3, 4], "norm": "fixed", "lr_grid": ()}
    assert as_flags(settings, start=start) == ["--lr", "0.5", "--sides", "3", "4"]
    assert as_flags({"sides": []}, start=start) == ["--sides"]
    assert as_flags({"flip": True, "mirror": False}) == ["--flip", "--no-mirror"]
