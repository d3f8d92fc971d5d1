"""Verbs that every benchmark gets, made from its contract.

Imports nothing heavy: what a verb does is loaded when it runs, so that ``--help`` stays instant.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from functools import partial
from importlib.metadata import entry_points
from typing import Any, Final

import tyro

from piggyback.methods.table import TABLE
from piggyback.shell.cli import Command, load
from piggyback.suite.benchmark import GROUP, Benchmark, find_benchmark
from piggyback.suite.options import (
    EvaluateOptions,
    GroundOptions,
    Nothing,
    ReportOptions,
    RunOptions,
    TasksReportOptions,
    TasksRunOptions,
    TaskTrainOptions,
    TrainOptions,
)
from piggyback.suite.recipe import SequenceRecipe, recipe_named_in

REQUIRED: Final = ("data", "backbone", "out", "task", "method", "run", "runs")


def offered_commands() -> tuple[Command, ...]:
    """The verbs of all installed benchmarks; one that cannot be loaded is reported on standard error and left out."""
    found: list[Command] = []
    for point in entry_points(group=GROUP):
        try:
            found += make_commands(find_benchmark(point.name))
        except Exception as fault:  # of somebody's package: the other verbs must go on working
            sys.stderr.write(f"piggyback: note: {fault}\n")
    return tuple(found)


def make_commands(benchmark: Benchmark) -> list[Command]:
    """The benchmark's own verbs and those that the suite makes for it."""
    name, several = benchmark.name, benchmark.several
    recipe, own = benchmark.recipe_class, benchmark.own
    common = "--data data --backbone backbone.safetensors"
    task = f"--task {benchmark.tasks[0]} " if several else ""
    first = benchmark.label_of(benchmark.tasks[0], benchmark.recipes[benchmark.default_recipe])
    everything = "train all tasks" if several else "train"
    past = f"--run runs/runs/{first}-piggyback-seed0-0123456789"
    train: Any = TaskTrainOptions if several else TrainOptions
    run: Any = TasksRunOptions if several else RunOptions
    report: Any = TasksReportOptions if several else ReportOptions
    verb = partial(make_verb, benchmark)
    made = [
        verb(
            "train",
            "train one task with one method and measure it" if several else "train with one method and measure it",
            options=train[recipe, own.train or Nothing],
            target="piggyback.suite.train:run",
            own=own.train,
            examples=f"  piggyback {name} train {task}{common} --out runs\n"
            f"  piggyback {name} train {task}--method finetune --epochs 4 --seed 1 \\\n      {common} --out runs",
        ),
        verb(
            "run",
            f"{everything} with one or more methods and seeds, and print the final tables",
            options=run[recipe, own.run or Nothing],
            target="piggyback.suite.runs:run",
            own=own.run,
            examples=f"  piggyback {name} run {common} --out runs\n"
            f"  piggyback {name} run {common} --methods piggyback,feature,finetune \\\n      --seeds 0,1,2 --out runs",
        ),
        verb(
            "report",
            "tables of the finished runs of a folder, and what is missing",
            options=report[own.report or Nothing],
            target="piggyback.suite.runs:run_report",
            own=own.report,
            examples=f"  piggyback {name} report --runs runs --data data --methods piggyback,feature --seeds 0,1,2",
        ),
        verb(
            "evaluate",
            "a finished run's payload, measured again",
            options=EvaluateOptions[own.evaluate or Nothing],  # type: ignore[misc]
            target="piggyback.suite.evaluate:run",
            own=own.evaluate,
            examples=f"  piggyback {name} evaluate {past} \\\n      {common}{required_words(own.evaluate)}",
        ),
    ]
    if issubclass(recipe, SequenceRecipe):
        made.append(
            verb(
                "ground",
                "make the network that packnet, joint or series-joint is built on; train and run do it by themselves",
                options=GroundOptions[recipe],  # type: ignore[valid-type]
                target="piggyback.suite.networks.foundation:run",
                examples=f"  piggyback {name} ground --method packnet {common} --out runs",
            )
        )
    return [*(replace(one, name=f"{name} {one.name}") for one in benchmark.verbs), *made]


def make_verb(
    benchmark: Benchmark, verb: str, summary: str, *, options: Any, target: str, examples: str, own: Any = None
) -> Command:
    """One verb, whose function is called with the benchmark and the options."""
    if "settings" in options.__origin__.__dataclass_fields__:
        methods = {name: row.summary for name, row in TABLE.items() if name not in benchmark.without}
        recipes = {name: benchmark.descriptions.get(name, "") for name in benchmark.recipes}
        examples += list_names("Recipes", recipes) + list_names("Methods", methods)
    return Command(
        name=f"{benchmark.name} {verb}",
        summary=summary,
        options=lambda: options,
        defaults=partial(make_defaults, benchmark, options, own or Nothing),
        target=partial(start, target, benchmark),
        examples=examples,
    )


def required_words(own: type[Any] | None) -> str:
    """Flags, for an example, of a benchmark's own options that are required."""
    needed = [entry.name.replace("_", "-") for entry in fields(own or Nothing) if entry.default is tyro.MISSING]
    return "".join(f" --{name} {name}" for name in needed)


def list_names(title: str, summaries: Mapping[str, str]) -> str:
    """Names with a line each, shown after a verb's examples."""
    width = max(map(len, summaries))
    lines = (f"  {name:{width}}  {summary}".rstrip() for name, summary in summaries.items())
    return f"\n\n{title}:\n" + "\n".join(lines)


def start(target: str, benchmark: Benchmark, options: object) -> int:
    """Import the function behind a verb, and call it."""
    do: Callable[[Benchmark, object], int] = load(target)
    return do(benchmark, options)


def make_defaults(benchmark: Benchmark, options: Any, own: type[Any], arguments: Sequence[str]) -> Any:
    """Defaults from the recipe that the arguments name; options without a default stay required."""
    kind = getattr(options, "__origin__", options)
    names = kind.__dataclass_fields__
    values: dict[str, Any] = {name: tyro.MISSING for name in REQUIRED if name in names}
    if "method" in values and kind is not GroundOptions:
        del values["method"]
    if "settings" in names:
        name = benchmark.default_recipe
        values["settings"] = recipe_named_in(arguments, recipes=benchmark.recipes, default=name)
        values["recipe"] = name
    if "own" in names:
        values["own"] = own()
    return options(**values)
