"""The tasks of a method, and their order.

Most methods treat tasks independently.  Those with a network of their own (`Method.stands_on`) have the tasks of the
recipe's order: PackNet adds them one after the other, joint training has all of them at once.  Loads no torch.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from piggyback.shell.errors import BadInput
from piggyback.suite.benchmark import Benchmark
from piggyback.suite.recipe import Recipe, SequenceRecipe

if TYPE_CHECKING:
    from piggyback.methods.table import StandsOn

R = TypeVar("R", bound=Recipe)


def sequence_of(benchmark: Benchmark, recipe: Recipe) -> tuple[str, ...]:
    """The tasks, in order, of methods that do not treat them independently."""
    order = recipe.order if isinstance(recipe, SequenceRecipe) else ()
    return order or benchmark.tasks


def recipe_for(benchmark: Benchmark, recipe: R, *, stands_on: "StandsOn", tasks: Sequence[str]) -> R:
    """The recipe with the tasks to run as its order, if the method's tasks depend on each other and it names none.

    Args:
        benchmark: the tasks' benchmark.
        recipe: as the user gave it.
        stands_on: as the method declares.
        tasks: the tasks to run.
    """
    if not isinstance(recipe, SequenceRecipe) or recipe.order or stands_on == "backbone":
        return recipe
    return recipe if set(tasks) == set(benchmark.tasks) else replace(recipe, order=tuple(tasks))


def tasks_of(
    benchmark: Benchmark, recipe: Recipe, *, method: str, stands_on: "StandsOn", tasks: Sequence[str]
) -> list[str]:
    """The tasks to run with a method, in its order; joint training adds the backbone's own task if the order has it.

    Raises:
        BadInput: the method does not have one of them.
    """
    for task in tasks:
        refuse_task(benchmark, recipe, task=task, method=method, stands_on=stands_on)
    own, sequence = benchmark.backbone_task, sequence_of(benchmark, recipe)
    if stands_on == "pruned":
        return sorted(tasks, key=sequence.index)
    if stands_on == "joint" and own is not None and own in sequence:
        return [*(task for task in tasks if task != own), own]
    return list(tasks)


def refuse_task(benchmark: Benchmark, recipe: Recipe, *, task: str, method: str, stands_on: "StandsOn") -> None:
    """Raise BadInput for a task that the method does not have under this recipe."""
    own, sequence = benchmark.backbone_task, sequence_of(benchmark, recipe)
    if task == own and not (stands_on == "joint" and task in sequence):
        raise BadInput(f"{own} is the backbone's own task: see `piggyback {benchmark.name} backbone`")
    if stands_on != "backbone" and task not in sequence:
        named = ", ".join(sequence)
        raise BadInput(f"{task} is not among the tasks of {method}, which are {named}: see the recipe's order")
    if stands_on == "pruned" and own in sequence:
        raise BadInput(f"{own} is the first task of {method} in any case: leave it out of the order")


def task_before(benchmark: Benchmark, recipe: Recipe, *, task: str) -> str | None:
    """The task before this one in the order, for methods whose tasks build on each other."""
    sequence = sequence_of(benchmark, recipe)
    place = sequence.index(task) if task in sequence else 0
    return sequence[place - 1] if place else None
