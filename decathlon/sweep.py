"""The Decathlon's part of a sweep: draw, prepare, backbone, every task with every method and seed, score.

Fields of the spec: ``methods``, ``tasks`` (all nine when empty), ``seeds``, ``recipe``, ``settings``; ``data``, a
packed folder, or ``source``, archives to pack (``"drawn"`` draws a small release); ``backbone``, a file, or a table of
settings, and the ``recipe`` that they change, to train one by; ``labels`` of the test parts; ``label``, to tell two
parts of one sweep, which share data and backbone where both name the same.

Methods that need a network of their own (`stands_on`) have one run more for each seed, which makes it; tasks that build
on one another (`follows`) also wait for each other.  Two parts whose networks would be the same have one between them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, Final

from decathlon.backbone.pretraining_recipe import PRESETS
from decathlon.recipes import RECIPES, Recipe, recipe_for, task_before, tasks_of
from decathlon.tasks import BACKBONE_TASK, MASKED_TASKS, find_task
from piggyback.methods.table import follows, stands_on
from piggyback.shell.errors import BadInput
from piggyback.suite.recipe import as_flags
from piggyback.suite.sweep import (
    Planned,
    planned_run,
    refuse_empty,
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

NAME: Final = "decathlon"
KNOWN: Final = ("methods", "tasks", "seeds", "recipe", "settings", "data", "source", "backbone", "labels")


@dataclass(frozen=True, kw_only=True)
class Ground:
    """What all runs stand on.

    Attributes:
        data: packed tasks.
        backbone: file.
        steps: planned runs that make these.
        needs: ids of those that runs wait for.
        given: those of data and backbone that no step makes.
        identity: tells data and backbone from others.
    """

    data: Path
    backbone: Path
    steps: tuple[Planned, ...]
    needs: tuple[str, ...]
    given: tuple[Path, ...]
    identity: tuple[str, ...]

    @property
    def flags(self) -> list[str]:
        """Arguments of the console command that name data and backbone."""
        return ["--data", str(self.data), "--backbone", str(self.backbone)]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Runs of one recipe, which lie in one folder and are scored together.

    Attributes:
        label: of the part of the sweep.
        score: name of the step that scores them, within the part.
        start: name of the recipe that `recipe` changes.
        recipe: of all runs, but for the seed.
        methods, tasks, seeds: every one with every other.
        ground: what they stand on.
        shared: folder of what several parts of the sweep may have in common.
        out: folder of the part.
    """

    label: str
    score: str
    start: str
    recipe: Recipe
    methods: tuple[str, ...]
    tasks: tuple[str, ...]
    seeds: tuple[int, ...]
    ground: Ground
    shared: Path
    out: Path

    @property
    def place(self) -> Path:
        """Folder of the runs."""
        return self.out / f"recipe-{short_id(asdict(replace(self.recipe, seed=0)), self.ground.identity)}"

    def own_tasks(self, method: str) -> list[str]:
        """The tasks to run with a method, in its order.

        Raises:
            BadInput: the method does not have one of them.
        """
        return tasks_of(self.recipe, method=method, stands_on=stands_on(method), tasks=self.tasks)

    def name_of(self, task: str, *, method: str, seed: int) -> str:
        """Id of a run, and name of its folder."""
        key = short_id(self.label, task, method, asdict(replace(self.recipe, seed=seed)), self.ground.identity)
        return f"{task}-{method}-seed{seed}-{key}"


def plan(spec: Mapping[str, Any]) -> list[Planned]:
    """What the spec would run.

    Raises:
        BadInput, UnknownName: it has fields, tasks, methods, recipes or settings that there are not, or a method does
            not have a task.
    """
    refuse_unknown(spec, known=KNOWN)
    label, sweep = take_label(spec, benchmark=NAME), take_place(spec, "out").path
    _, recipe = take_run_recipe(spec, recipes=RECIPES)
    methods, seeds, tasks = take_methods(spec), take_seeds(spec), take_tasks(spec)
    labels = [take_place(spec, "labels").path] if "labels" in spec else []
    first = Batch(
        label=label,
        score="score",
        start=str(take(spec, "recipe", str, default="paper")),
        recipe=recipe,
        methods=tuple(methods),
        tasks=tuple(tasks),
        seeds=tuple(seeds),
        ground=plan_ground(spec, shared=sweep / NAME),
        shared=sweep / NAME,
        out=sweep / label,
    )
    batches = list(split_by_recipe(first))
    runs = [list(plan_runs(batch)) for batch in batches]
    scores = [plan_score(batch, own, labels=labels) for batch, own in zip(batches, runs, strict=True)]
    return [*first.ground.steps, *chain.from_iterable(runs), *scores]


def split_by_recipe(batch: Batch) -> Iterator[Batch]:
    """The batch, and behind it one of those methods whose recipe names the tasks that are run, where they are not all.

    With other tasks these are other networks, and cannot be counted among the runs that there are; the other methods'
    runs stay what they are when tasks are added.
    """
    recipes = {
        method: recipe_for(batch.recipe, stands_on=stands_on(method), tasks=batch.tasks) for method in batch.methods
    }
    for recipe in sorted(set(recipes.values()), key=lambda one: one != batch.recipe):
        methods = tuple(name for name in batch.methods if recipes[name] == recipe)
        score = batch.score if recipe == batch.recipe else f"{batch.score}-in-order"
        yield replace(batch, recipe=recipe, methods=methods, score=score)


def plan_runs(batch: Batch) -> Iterator[Planned]:
    """Every task with every method and seed, each method's network before them.

    Raises:
        BadInput: a method does not have a task, or one builds on a task that is not run.
    """
    own = {method: batch.own_tasks(method) for method in batch.methods}
    for method in batch.methods:
        refuse_gaps(batch.recipe, method=method, tasks=own[method])
    for seed in batch.seeds:
        changed = (method for method in own if stands_on(method) != "backbone")
        networks = {method: plan_network(batch, method=method, seed=seed) for method in changed}
        yield from networks.values()
        for task in (*batch.tasks, BACKBONE_TASK):
            for method in (name for name in own if task in own[name]):
                yield plan_run(batch, task=task, method=method, seed=seed, network=networks.get(method))


def refuse_gaps(recipe: Recipe, *, method: str, tasks: Sequence[str]) -> None:
    """Raise BadInput where a task builds on one that is not run."""
    if not follows(method):
        return
    for task in tasks:
        before = task_before(recipe, task=task)
        if before is not None and before not in tasks:
            raise BadInput(
                f"{task} by {method} builds on {before}, which is not among the sweep's tasks: "
                "add it to them, or take it out of the recipe's order"
            )


def plan_run(batch: Batch, *, task: str, method: str, seed: int, network: Planned | None) -> Planned:
    """One task with one method and seed."""
    name = batch.name_of(task, method=method, seed=seed)
    folder, needs = batch.place / "runs" / name, list(batch.ground.needs)
    argv = ["decathlon", "train", "--task", task, "--method", method, *recipe_flags(batch.recipe, start=batch.start)]
    argv += ["--seed", str(seed), *batch.ground.flags, "--out", str(batch.place), "--folder", str(folder)]
    if network is not None:
        argv += ["--ground", network["folder"]]
        needs = [network["id"]]
    before = task_before(batch.recipe, task=task) if follows(method) else None
    if before is not None:
        needs.append(batch.name_of(before, method=method, seed=seed))
        argv += ["--after", str(batch.place / "runs" / needs[-1])]
    return planned_run(
        name,
        title=f"{batch.label} {task} {method} seed {seed}",
        kind="run",
        argv=argv,
        folder=folder,
        proof=folder / "result.json",
        needs=needs,
        inputs=batch.ground.given,
        cost=f"decathlon {task} {method} {short_id(asdict(replace(batch.recipe, seed=0)))}",
    )


def plan_network(batch: Batch, *, method: str, seed: int) -> Planned:
    """The run that makes the network that a method stands on.

    A pruned one is the same whatever the tasks and their order, so that parts with other orders share it.
    """
    recipe, ground = batch.recipe, batch.ground
    if stands_on(method) == "pruned":
        recipe = replace(recipe, order=())
    name = f"{method}-seed{seed}-{short_id(method, asdict(replace(recipe, seed=seed)), ground.identity)}"
    folder = batch.shared / "grounds" / name
    argv = ["decathlon", "ground", "--method", method, *recipe_flags(recipe, start=batch.start), "--seed", str(seed)]
    argv += [*ground.flags, "--out", str(batch.shared), "--folder", str(folder)]
    return planned_run(
        f"{NAME}-ground-{name}",
        title=f"{NAME} ground {method} seed {seed}",
        kind="run",
        argv=argv,
        folder=folder,
        proof=folder / "backbone.safetensors",  # written last
        needs=ground.needs,
        inputs=ground.given,
    )


def plan_score(batch: Batch, runs: Sequence[Planned], *, labels: Sequence[Path]) -> Planned:
    """The step that scores a batch's runs, after any ending of theirs."""
    tasks = dict.fromkeys((*batch.tasks, *chain.from_iterable(batch.own_tasks(method) for method in batch.methods)))
    argv = ["decathlon", "report", "--runs", str(batch.place), "--data", str(batch.ground.data)]
    argv += ["--methods", ",".join(batch.methods), "--tasks", ",".join(tasks)]
    argv += ["--seeds", ",".join(map(str, batch.seeds)), *(word for path in labels for word in ("--labels", str(path)))]
    return planned_run(
        f"{batch.label}-{batch.score}",
        title=f"{batch.label} {batch.score}",
        kind="score",
        argv=argv,
        folder=batch.out / batch.score,
        needs=[run["id"] for run in runs],
        inputs=[*(path for path in batch.ground.given if path == batch.ground.data), *labels],
        after="ended",
    )


def recipe_flags(recipe: Recipe, *, start: str) -> list[str]:
    """Arguments of the console command that name a recipe and change it, but for the seed."""
    changed = {name: value for name, value in asdict(recipe).items() if name != "seed"}
    return ["--recipe", start, *as_flags(changed, start=RECIPES[start])]


def take_tasks(spec: Mapping[str, Any]) -> list[str]:
    """The tasks of a spec, each once; all that are trained when it names none.

    Raises:
        BadInput, UnknownName: there are no such tasks, or one is the backbone's own.
    """
    tasks = [find_task(str(name)).name for name in take(spec, "tasks", list, default=[])]
    if BACKBONE_TASK in tasks:
        raise BadInput(f"{BACKBONE_TASK} is the backbone's own task and not trained: leave it out of tasks")
    return refuse_empty(tasks or list(MASKED_TASKS), name="tasks")


def plan_ground(spec: Mapping[str, Any], *, shared: Path) -> Ground:
    """Data and backbone: those that are there, or the steps that make them, the same for every part that names them."""
    data, data_identity, steps = plan_data(spec, shared=shared)
    made, given_data = [step["id"] for step in steps][-1:], () if steps else (data,)
    given = take(spec, "backbone", (str, dict), default=None)
    if isinstance(given, str):
        place = take_place(spec, "backbone")
        return Ground(
            data=data,
            backbone=place.path,
            steps=tuple(steps),
            needs=tuple(made),
            given=(*given_data, place.path),
            identity=(data_identity, place.identity),
        )
    settings = {"settings": {name: value for name, value in given.items() if name != "recipe"}}
    recipe = {"recipe": given["recipe"]} if "recipe" in given else {}
    flags, preset = take_recipe(settings | recipe, recipes=PRESETS, default="paper", place="the backbone")
    key = f"{NAME}-backbone-{short_id(asdict(preset), data_identity)}"
    folder = shared / key
    argv = ["decathlon", "backbone", "train", *flags, "--data", str(data), "--out", str(folder)]
    file = folder / "backbone.safetensors"  # written last
    steps.append(
        planned_run(
            key,
            title=f"{NAME} backbone",
            kind="backbone",
            argv=argv,
            folder=folder,
            proof=file,
            needs=made,
            inputs=given_data,
        )
    )
    return Ground(
        data=data,
        backbone=file,
        steps=tuple(steps),
        needs=(key,),
        given=given_data,
        identity=(data_identity, key),
    )


def plan_data(spec: Mapping[str, Any], *, shared: Path) -> tuple[Path, str, list[Planned]]:
    """Folder of the packed tasks, what tells it from others, and the steps that make it."""
    if "source" not in spec:
        place = take_place(spec, "data")
        return place.path, place.identity, []
    steps: list[Planned] = []
    if take(spec, "source", str, default=None) == "drawn":
        source, identity = shared / "release", "drawn"
        argv = ["decathlon", "draw", "--out", source]
        proof = source / "drawn.json"  # written last
        title = f"{NAME} draw"
        steps.append(planned_run(f"{NAME}-draw", title=title, kind="prepare", argv=argv, folder=source, proof=proof))
    else:
        place = take_place(spec, "source")
        source, identity = place.path, place.identity
    data, key = shared / f"data-{short_id(identity)}", short_id(identity)
    if "data" in spec:
        place = take_place(spec, "data")
        data, identity, key = place.path, f"{identity} {place.identity}", short_id(identity, place.identity)
    steps.append(
        planned_run(
            f"{NAME}-prepare-{key}",
            title=f"{NAME} prepare",
            kind="prepare",
            argv=["decathlon", "prepare", "--source", source, "--out", data],
            folder=shared / f"prepare-{key}",
            needs=[step["id"] for step in steps],
            inputs=[] if steps else [source],
        )
    )
    return data, identity, steps
