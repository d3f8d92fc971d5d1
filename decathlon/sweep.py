"""The Decathlon's part of a sweep: draw, prepare, backbone, every task with every method and seed, score.

Fields of the spec: ``methods``, ``tasks`` (all nine when empty), ``seeds``, ``recipe``, ``settings``; ``data``, a
packed folder, or ``source``, archives to pack (``"drawn"`` draws a small release); ``backbone``, a file, or a table of
settings to train one by; ``labels`` of the test parts.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from decathlon.recipes import RECIPES
from decathlon.tasks import MASKED_TASKS, find_task
from piggyback.recipes import as_flags, change_recipe, find_recipe
from piggyback.sweeps import Planned, planned_run, refuse_unknown, short_id, take

KNOWN = ("methods", "tasks", "seeds", "recipe", "settings", "data", "source", "backbone", "labels")


@dataclass(frozen=True, kw_only=True)
class Ground:
    """What all runs stand on.

    Attributes:
        data: packed tasks.
        backbone: file.
        steps: planned runs that make these.
        needs: ids of those that runs wait for.
        identity: tells data and backbone from others.
    """

    data: Path
    backbone: Path
    steps: tuple[Planned, ...]
    needs: tuple[str, ...]
    identity: tuple[str, ...]


def plan(spec: Mapping[str, Any]) -> list[Planned]:
    """What the spec would run.

    Raises:
        BadInput, UnknownName: it has fields, tasks, recipes or settings that there are not.
    """
    refuse_unknown(spec, known=KNOWN)
    out = Path(take(spec, "out", str, default=None)) / "decathlon"
    ground = plan_ground(spec, out=out)
    recipe_name = take(spec, "recipe", str, default="paper")
    settings = take(spec, "settings", dict, default={})
    recipe = change_recipe(find_recipe(recipe_name, recipes=RECIPES), settings, name="the sweep's settings")
    tasks = [find_task(name).name for name in take(spec, "tasks", list, default=[])] or list(MASKED_TASKS)
    methods, seeds = take(spec, "methods", list, default=["piggyback"]), take(spec, "seeds", list, default=[0])
    runs = []
    for seed in seeds:
        for task in tasks:
            for method in methods:
                key = short_id(task, method, asdict(replace(recipe, seed=seed)), ground.identity)
                name = f"{task}-{method}-seed{seed}-{key}"
                folder = out / "runs" / name
                argv = ["decathlon", "train", "--task", task, "--method", method, "--recipe", recipe_name]
                argv += [*as_flags(settings), "--seed", str(seed), "--data", str(ground.data)]
                argv += ["--backbone", str(ground.backbone), "--out", str(out), "--folder", str(folder)]
                runs.append(
                    planned_run(
                        name,
                        title=f"decathlon {task} {method} seed {seed}",
                        kind="run",
                        argv=argv,
                        folder=folder,
                        proof=folder / "result.json",
                        needs=ground.needs,
                        cost=f"decathlon {task} {method} {short_id(asdict(replace(recipe, seed=0)))}",
                    )
                )
    score = ["decathlon", "report", "--runs", str(out), "--data", str(ground.data), "--methods", ",".join(methods)]
    score += ["--tasks", ",".join(tasks), "--seeds", ",".join(map(str, seeds))]
    score += ["--labels", spec["labels"]] if "labels" in spec else []
    last = planned_run(
        "decathlon-score",
        title="decathlon score",
        kind="score",
        argv=score,
        folder=out,
        needs=[run["id"] for run in runs],
        after="ended",
    )
    return [*ground.steps, *runs, last]


def plan_ground(spec: Mapping[str, Any], *, out: Path) -> Ground:
    """Data and backbone: those that are there, or the steps that make them."""
    steps: list[Planned] = []
    source = take(spec, "source", str, default="")
    data = Path(take(spec, "data", str, default=str(out / "data") if source else None))
    if source == "drawn":
        source = str(out / "release")
        steps.append(
            planned_run(
                "decathlon-draw",
                title="draw a decathlon",
                kind="prepare",
                argv=["decathlon", "draw", "--out", source],
                folder=out / "release",
                proof=out / "release" / "drawn.json",
            )
        )
    if source:
        steps.append(
            planned_run(
                "decathlon-prepare",
                title="decathlon prepare",
                kind="prepare",
                argv=["decathlon", "prepare", "--source", source, "--out", str(data)],
                folder=out / "prepare",
                needs=[step["id"] for step in steps],
            )
        )
    made = [step["id"] for step in steps][-1:]
    given = take(spec, "backbone", (str, dict), default=None)
    if isinstance(given, str):
        return Ground(
            data=data, backbone=Path(given), steps=tuple(steps), needs=tuple(made), identity=(str(data), given)
        )
    key = f"decathlon-backbone-{short_id(given, str(data))}"
    folder = out / key
    argv = ["decathlon", "backbone", "train", "--data", str(data), "--out", str(folder), *as_flags(given)]
    file = folder / "backbone.safetensors"
    steps.append(
        planned_run(key, title="decathlon backbone", kind="backbone", argv=argv, folder=folder, proof=file, needs=made)
    )
    return Ground(data=data, backbone=file, steps=tuple(steps), needs=(key,), identity=(str(data), key))
