"""Which tasks a method has: the rule that single runs and sweeps share."""

from dataclasses import replace
from typing import Any

import pytest

from piggyback.shell.errors import BadInput
from piggyback.suite.benchmark import Benchmark, Metric
from piggyback.suite.ordering import recipe_for, refuse_task, sequence_of, task_before, tasks_of
from piggyback.suite.recipe import Recipe, SequenceRecipe

PLAIN = SequenceRecipe()
TOY = Benchmark(
    name="toy",
    title="Toy",
    recipes={"paper": PLAIN},
    opener="not.there:open_bench",
    metrics=(Metric(name="accuracy", title="accuracy"),),
    tasks=("a", "b", "c"),
    backbone_task="own",
)


def ordered(*tasks: str) -> SequenceRecipe:
    return replace(PLAIN, order=tasks)


def test_the_order_is_the_recipes_or_that_of_all_tasks() -> None:
    assert sequence_of(TOY, PLAIN) == sequence_of(TOY, Recipe()) == TOY.tasks
    assert sequence_of(TOY, ordered("c", "a")) == ("c", "a")
    assert [task_before(TOY, ordered("c", "a"), task=task) for task in ("c", "a", "b")] == [None, "c", None]
    assert [task_before(TOY, PLAIN, task=task) for task in TOY.tasks] == [None, "a", "b"]


def test_methods_that_do_not_treat_tasks_one_by_one_take_those_that_are_run() -> None:
    for stands_on in ("pruned", "joint"):
        assert recipe_for(TOY, PLAIN, stands_on=stands_on, tasks=["c", "a"]) == ordered("c", "a")
        assert recipe_for(TOY, PLAIN, stands_on=stands_on, tasks=TOY.tasks[::-1]) == PLAIN  # all, in the usual order
        assert recipe_for(TOY, ordered("b"), stands_on=stands_on, tasks=["a"]) == ordered("b")
    assert recipe_for(TOY, PLAIN, stands_on="backbone", tasks=["c", "a"]) == PLAIN
    assert recipe_for(TOY, Recipe(), stands_on="joint", tasks=["a"]) == Recipe()


def test_tasks_are_run_in_the_methods_order_with_the_backbones_own_where_it_is_trained() -> None:
    recipe = ordered("c", "a", "own")
    assert tasks_of(TOY, recipe, method="m", stands_on="backbone", tasks=["a", "b"]) == ["a", "b"]
    assert tasks_of(TOY, recipe, method="joint", stands_on="joint", tasks=["a", "c"]) == ["a", "c", "own"]
    assert tasks_of(TOY, recipe, method="joint", stands_on="joint", tasks=["own", "a"]) == ["a", "own"]
    assert tasks_of(TOY, ordered("c", "a"), method="packnet", stands_on="pruned", tasks=["a", "c"]) == ["c", "a"]


@pytest.mark.parametrize(
    ("task", "order", "stands_on", "message"),
    [
        ("a", ("b",), "pruned", "a is not among the tasks of m, which are b: see the recipe's order"),
        ("a", ("b",), "joint", "a is not among the tasks of m, which are b"),
        ("a", ("a", "own"), "pruned", "own is the first task of m in any case: leave it out of the order"),
        ("own", ("a", "b"), "joint", "own is the backbone's own task: see `piggyback toy backbone`"),
        ("own", ("a", "own"), "pruned", "own is the backbone's own task"),
        ("own", (), "backbone", "own is the backbone's own task"),
    ],
)
def test_tasks_that_a_method_does_not_have_are_refused(
    task: str, order: tuple[str, ...], stands_on: Any, message: str
) -> None:
    with pytest.raises(BadInput, match=message):
        refuse_task(TOY, ordered(*order), task=task, method="m", stands_on=stands_on)


def test_tasks_that_a_method_has_are_not() -> None:
    refuse_task(TOY, ordered("b"), task="a", method="m", stands_on="backbone")
    refuse_task(TOY, ordered("a", "own"), task="own", method="m", stands_on="joint")
    refuse_task(TOY, PLAIN, task="c", method="m", stands_on="pruned")
