"""Plan of a benchmark's part of a sweep: draw, prepare, backbone, every task with every method and seed, score.

Fields of the spec: ``methods``, ``tasks`` (all when empty), ``seeds``, ``recipe``, ``settings``; ``data``, a prepared
folder, or ``source``, what is prepared (``"drawn"`` draws a small release); ``backbone``, a file, or a table of
settings, and the ``recipe`` that they change, to train one by; ``label``, which tells apart two parts of one sweep;
they share data and backbone where both name the same.  A benchmark may know more fields (`Source.report_paths`).

Methods with a network of their own (`piggyback.methods.table`) have one more run for each seed, which makes it; tasks
that build on each other also wait for each other.  Two parts whose networks would be the same share one.  Nothing here
loads torch.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, Final

from piggyback.methods.table import follows, stands_on
from piggyback.shell.cli import load
from piggyback.shell.errors import BadInput
from piggyback.suite.benchmark import Benchmark
from piggyback.suite.ordering import recipe_for, task_before, tasks_of
from piggyback.suite.recipe import Recipe, SequenceRecipe, as_flags, settings_of
from piggyback.suite.sweeps.inputs import Inputs, plan_inputs
from piggyback.suite.sweeps.spec import (
    Planned,
    planned_run,
    refuse_empty,
    refuse_unknown,
    short_id,
    take,
    take_label,
    take_methods,
    take_place,
    take_run_recipe,
    take_seeds,
)

KNOWN: Final = ("methods", "seeds", "recipe", "settings", "data", "source", "backbone")


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Runs of one recipe, which share a folder and are scored together.

    Attributes:
        label: of the part of the sweep.
        score: name, within the part, of the step that scores them.
        start: name of the recipe that `recipe` changes.
        recipe: of all runs, apart from the seed.
        methods, tasks, seeds: all are combined with each other.
        shared: folder of what several parts of the sweep share.
        out: folder of the part.
    """

    benchmark: Benchmark
    label: str
    score: str
    start: str
    recipe: Recipe
    methods: tuple[str, ...]
    tasks: tuple[str, ...]
    seeds: tuple[int, ...]
    inputs: Inputs
    shared: Path
    out: Path

    @property
    def recipe_id(self) -> tuple[Any, ...]:
        """What tells the recipe from others, whatever the seed."""
        return (settings_of(replace(self.recipe, seed=0)),)

    @property
    def place(self) -> Path:
        """Folder of the runs."""
        return self.out / f"recipe-{short_id(*self.recipe_id, self.inputs.identity)}"

    def own_tasks(self, method: str) -> list[str]:
        """The tasks to run with a method, in its order.

        Raises:
            BadInput: the method does not have one of them.
        """
        return tasks_of(self.benchmark, self.recipe, method=method, stands_on=stands_on(method), tasks=self.tasks)

    def words_of(self, task: str) -> tuple[str, ...]:
        """The task's name if the benchmark has several tasks."""
        return (task,) if self.benchmark.several else ()

    def name_of(self, task: str, *, method: str, seed: int) -> str:
        """Id of a run, which is also its folder's name."""
        recipe = settings_of(replace(self.recipe, seed=seed))
        key = short_id(self.label, *self.words_of(task), method, recipe, self.inputs.identity)
        return f"{self.benchmark.label_of(task, self.recipe)}-{method}-seed{seed}-{key}"

    def flags_of(self, recipe: Recipe) -> list[str]:
        """Flags that name a recipe and change it, apart from the seed."""
        changed = {name: value for name, value in asdict(recipe).items() if name != "seed"}
        return ["--recipe", self.start, *as_flags(changed, start=self.benchmark.recipes[self.start])]


def plan(benchmark: Benchmark, spec: Mapping[str, Any]) -> list[Planned]:
    """Plan the runs of a spec.

    Raises:
        BadInput, UnknownName: a field, task, method, recipe or setting is unknown, or a method does not have a task.
    """
    own = benchmark.source.report_paths
    refuse_unknown(spec, known=(*KNOWN, *(("tasks",) if benchmark.several else ()), *own))
    label, sweep = take_label(spec, benchmark=benchmark.name), take_place(spec, "out").path
    _, recipe = take_run_recipe(spec, recipes=benchmark.recipes, default=benchmark.default_recipe)
    methods, seeds, tasks = take_methods(spec), take_seeds(spec), take_tasks(benchmark, spec)
    for method in methods:
        benchmark.refuse_method(method)
    paths = {name: take_place(spec, name).path for name in own if name in spec}
    shared = sweep / benchmark.name
    first = Batch(
        benchmark=benchmark,
        label=label,
        score="score",
        start=str(take(spec, "recipe", str, default=benchmark.default_recipe)),
        recipe=recipe,
        methods=tuple(methods),
        tasks=tuple(tasks),
        seeds=tuple(seeds),
        inputs=plan_inputs(benchmark, spec, shared=shared, recipe=recipe),
        shared=shared,
        out=sweep / label,
    )
    batches = list(split_by_recipe(first))
    runs = [list(plan_runs(batch)) for batch in batches]
    scores = [plan_score(batch, of_batch, paths=paths) for batch, of_batch in zip(batches, runs, strict=True)]
    return [*first.inputs.steps, *chain.from_iterable(runs), *scores]


def split_by_recipe(batch: Batch) -> Iterator[Batch]:
    """The batch; if not all tasks are run, followed by one of those methods whose recipe must name the tasks.

    Other tasks make other networks for these methods, so their runs cannot be counted among those of all tasks; the
    other methods' runs stay the same when tasks are added.
    """
    recipes = {
        method: recipe_for(batch.benchmark, batch.recipe, stands_on=stands_on(method), tasks=batch.tasks)
        for method in batch.methods
    }
    for recipe in sorted(set(recipes.values()), key=lambda one: one != batch.recipe):
        methods = tuple(name for name in batch.methods if recipes[name] == recipe)
        score = batch.score if recipe == batch.recipe else f"{batch.score}-in-order"
        yield replace(batch, recipe=recipe, methods=methods, score=score)


def plan_runs(batch: Batch) -> Iterator[Planned]:
    """Every task with every method and seed, after the methods' networks.

    Raises:
        BadInput: a method does not have a task, or a task builds on one that is not run.
    """
    own = {method: batch.own_tasks(method) for method in batch.methods}
    for method in batch.methods:
        refuse_gaps(batch, method=method, tasks=own[method])
    last = () if batch.benchmark.backbone_task is None else (batch.benchmark.backbone_task,)
    for seed in batch.seeds:
        built = (method for method in own if stands_on(method) != "backbone")
        networks = {method: plan_network(batch, method=method, seed=seed) for method in built}
        yield from networks.values()
        for task in (*batch.tasks, *last):
            for method in (name for name in own if task in own[name]):
                yield plan_run(batch, task=task, method=method, seed=seed, network=networks.get(method))


def refuse_gaps(batch: Batch, *, method: str, tasks: Sequence[str]) -> None:
    """Raise BadInput for a task that builds on one that is not run."""
    if not follows(method):
        return
    for task in tasks:
        before = task_before(batch.benchmark, batch.recipe, task=task)
        if before is not None and before not in tasks:
            raise BadInput(
                f"{task} by {method} builds on {before}, which is not among the sweep's tasks: "
                "add it to them, or take it out of the recipe's order"
            )


def plan_run(batch: Batch, *, task: str, method: str, seed: int, network: Planned | None) -> Planned:
    name, noun, words = batch.name_of(task, method=method, seed=seed), batch.benchmark.name, batch.words_of(task)
    folder, needs = batch.place / "runs" / name, list(batch.inputs.needs)
    argv = [noun, "train", *(("--task", *words) if words else ()), "--method", method, *batch.flags_of(batch.recipe)]
    argv += ["--seed", str(seed), *batch.inputs.flags, "--out", str(batch.place), "--folder", str(folder)]
    if network is not None:
        argv += ["--ground", network["folder"]]
        needs = [network["id"]]
    before = task_before(batch.benchmark, batch.recipe, task=task) if follows(method) else None
    if before is not None:
        needs.append(batch.name_of(before, method=method, seed=seed))
        argv += ["--after", str(batch.place / "runs" / needs[-1])]
    return planned_run(
        name,
        title=" ".join((batch.label, *words, method, f"seed {seed}")),
        kind="run",
        argv=argv,
        folder=folder,
        proof=folder / "result.json",
        needs=needs,
        inputs=batch.inputs.given,
        cost=" ".join((noun, *words, method, short_id(*batch.recipe_id))),
    )


def plan_network(batch: Batch, *, method: str, seed: int) -> Planned:
    """The run that makes the network that a method builds on.

    A pruned one is the same whatever the tasks and their order, so that parts with other orders share it.
    """
    recipe, inputs, noun = batch.recipe, batch.inputs, batch.benchmark.name
    if stands_on(method) == "pruned" and isinstance(recipe, SequenceRecipe):
        recipe = replace(recipe, order=())
    key = short_id(method, settings_of(replace(recipe, seed=seed)), inputs.identity)
    name = f"{method}-seed{seed}-{key}"
    folder = batch.shared / "grounds" / name
    argv = [noun, "ground", "--method", method, *batch.flags_of(recipe), "--seed", str(seed)]
    argv += [*inputs.flags, "--out", str(batch.shared), "--folder", str(folder)]
    return planned_run(
        f"{noun}-ground-{name}",
        title=f"{noun} ground {method} seed {seed}",
        kind="run",
        argv=argv,
        folder=folder,
        proof=folder / "backbone.safetensors",  # written last
        needs=inputs.needs,
        inputs=inputs.given,
    )


def plan_score(batch: Batch, runs: Sequence[Planned], *, paths: Mapping[str, Path]) -> Planned:
    """The step that scores a batch's runs, however they ended."""
    benchmark, inputs = batch.benchmark, batch.inputs
    argv = [benchmark.name, "report", "--runs", str(batch.place), "--data", str(inputs.data)]
    if benchmark.source.report_words is not None:
        argv += load(benchmark.source.report_words)(batch.recipe)
    argv += ["--methods", ",".join(batch.methods)]
    if benchmark.several:
        own = chain.from_iterable(batch.own_tasks(method) for method in batch.methods)
        argv += ["--tasks", ",".join(dict.fromkeys((*batch.tasks, *own)))]
    argv += ["--seeds", ",".join(map(str, batch.seeds))]
    argv += [word for name, path in paths.items() for word in (f"--{name}", str(path))]
    return planned_run(
        f"{batch.label}-{batch.score}",
        title=f"{batch.label} {batch.score}",
        kind="score",
        argv=argv,
        folder=batch.out / batch.score,
        needs=[run["id"] for run in runs],
        inputs=[*(path for path in inputs.given if path == inputs.data), *paths.values()],
        after="ended",
    )


def take_tasks(benchmark: Benchmark, spec: Mapping[str, Any]) -> list[str]:
    """The tasks of a spec, each once; all tasks to train if it names none.

    Raises:
        BadInput, UnknownName: a task is unknown, or is the backbone's own.
    """
    tasks = [benchmark.find_task(str(name)) for name in take(spec, "tasks", list, default=[])]
    if benchmark.backbone_task in tasks:
        own = benchmark.backbone_task
        raise BadInput(f"{own} is the backbone's own task and not trained: leave it out of tasks")
    return refuse_empty(tasks or list(benchmark.tasks), name="tasks")
