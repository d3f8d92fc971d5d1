"""The Decathlon's part of a sweep: draw, prepare, backbone, every task with every method and seed, score.

Fields of the spec: ``methods``, ``tasks`` (all nine when empty), ``seeds``, ``recipe``, ``settings``; ``data``, a
packed folder, or ``source``, archives to pack (``"drawn"`` draws a small release); ``backbone``, a file, or a table of
settings, and the ``recipe`` that they change, to train one by; ``labels`` of the test parts; ``label``, to tell two
parts of one sweep.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from decathlon.pretraining_recipe import PRESETS
from decathlon.recipes import RECIPES
from decathlon.tasks import BACKBONE_TASK, MASKED_TASKS, find_task
from piggyback.errors import BadInput
from piggyback.sweeps import (
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


def plan(spec: Mapping[str, Any]) -> list[Planned]:
    """What the spec would run.

    Raises:
        BadInput, UnknownName: it has fields, tasks, methods, recipes or settings that there are not.
    """
    refuse_unknown(spec, known=KNOWN)
    label = take_label(spec, benchmark="decathlon")
    out = take_place(spec, "out").path / label
    flags, recipe = take_run_recipe(spec, recipes=RECIPES)
    methods, seeds, tasks = take_methods(spec), take_seeds(spec), take_tasks(spec)
    ground = plan_ground(spec, label=label, out=out)
    place = out / f"recipe-{short_id(asdict(replace(recipe, seed=0)), ground.identity)}"  # scored as a whole
    runs = []
    for seed in seeds:
        for task in tasks:
            for method in methods:
                key = short_id(label, task, method, asdict(replace(recipe, seed=seed)), ground.identity)
                name = f"{task}-{method}-seed{seed}-{key}"
                folder = place / "runs" / name
                argv = ["decathlon", "train", "--task", task, "--method", method, *flags]
                argv += ["--seed", str(seed), "--data", str(ground.data)]
                argv += ["--backbone", str(ground.backbone), "--out", str(place), "--folder", str(folder)]
                runs.append(
                    planned_run(
                        name,
                        title=f"{label} {task} {method} seed {seed}",
                        kind="run",
                        argv=argv,
                        folder=folder,
                        proof=folder / "result.json",
                        needs=ground.needs,
                        inputs=ground.given,
                        cost=f"decathlon {task} {method} {short_id(asdict(replace(recipe, seed=0)))}",
                    )
                )
    score = ["decathlon", "report", "--runs", str(place), "--data", str(ground.data), "--methods", ",".join(methods)]
    score += ["--tasks", ",".join(tasks), "--seeds", ",".join(map(str, seeds))]
    labels = [take_place(spec, "labels").path] if "labels" in spec else []
    score += [word for path in labels for word in ("--labels", str(path))]
    last = planned_run(
        f"{label}-score",
        title=f"{label} score",
        kind="score",
        argv=score,
        folder=out / "score",
        needs=[run["id"] for run in runs],
        inputs=[*(path for path in ground.given if path == ground.data), *labels],
        after="ended",
    )
    return [*ground.steps, *runs, last]


def take_tasks(spec: Mapping[str, Any]) -> list[str]:
    """The tasks of a spec, each once; all that are trained when it names none.

    Raises:
        BadInput, UnknownName: there are no such tasks, or one is the backbone's own.
    """
    tasks = [find_task(str(name)).name for name in take(spec, "tasks", list, default=[])]
    if BACKBONE_TASK in tasks:
        raise BadInput(f"{BACKBONE_TASK} is the backbone's own task and not trained: leave it out of tasks")
    return refuse_empty(tasks or list(MASKED_TASKS), name="tasks")


def plan_ground(spec: Mapping[str, Any], *, label: str, out: Path) -> Ground:
    """Data and backbone: those that are there, or the steps that make them."""
    data, data_identity, steps = plan_data(spec, label=label, out=out)
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
    key = f"{label}-backbone-{short_id(asdict(preset), data_identity)}"
    folder = out / key
    argv = ["decathlon", "backbone", "train", *flags, "--data", str(data), "--out", str(folder)]
    file = folder / "backbone.safetensors"  # written last
    steps.append(
        planned_run(
            key,
            title=f"{label} backbone",
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


def plan_data(spec: Mapping[str, Any], *, label: str, out: Path) -> tuple[Path, str, list[Planned]]:
    """Folder of the packed tasks, what tells it from others, and the steps that make it."""
    if "source" not in spec:
        place = take_place(spec, "data")
        return place.path, place.identity, []
    steps: list[Planned] = []
    if take(spec, "source", str, default=None) == "drawn":
        source, identity = out / "release", "drawn"
        argv = ["decathlon", "draw", "--out", source]
        proof = source / "drawn.json"  # written last
        title = f"{label} draw"
        steps.append(planned_run(f"{label}-draw", title=title, kind="prepare", argv=argv, folder=source, proof=proof))
    else:
        place = take_place(spec, "source")
        source, identity = place.path, place.identity
    data, key = out / f"data-{short_id(identity)}", short_id(identity)
    if "data" in spec:
        place = take_place(spec, "data")
        data, identity, key = place.path, f"{identity} {place.identity}", short_id(identity, place.identity)
    steps.append(
        planned_run(
            f"{label}-prepare-{key}",
            title=f"{label} prepare",
            kind="prepare",
            argv=["decathlon", "prepare", "--source", source, "--out", data],
            folder=out / f"prepare-{key}",
            needs=[step["id"] for step in steps],
            inputs=[] if steps else [source],
        )
    )
    return data, identity, steps
