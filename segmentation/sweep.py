"""Segmentation's part of a sweep: draw, prepare, every method with every seed, score.

Fields of the spec: ``methods``, ``seeds``, ``recipe``, ``settings``; ``data``, a packed folder, or ``source``, a folder with
the releases (``"drawn"`` draws a small one with a backbone for it); ``backbone``, a backbone file.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from piggyback.recipes import as_flags, change_recipe, find_recipe
from piggyback.sweeps import Planned, planned_run, refuse_unknown, short_id, take
from segmentation.recipes import RECIPES, Recipe

KNOWN = ("methods", "seeds", "recipe", "settings", "data", "source", "backbone")


@dataclass(frozen=True, kw_only=True)
class Ground:
    """What all runs stand on: packed data and a backbone file, and the planned runs that make them."""

    data: str
    backbone: str
    steps: tuple[Planned, ...]


def plan(spec: Mapping[str, Any]) -> list[Planned]:
    """What the spec would run.

    Raises:
        BadInput, UnknownName: it has fields, recipes or settings that there are not.
    """
    refuse_unknown(spec, known=KNOWN)
    out = Path(take(spec, "out", str, default=None)) / "segmentation"
    recipe_name = take(spec, "recipe", str, default="paper")
    settings = take(spec, "settings", dict, default={})
    recipe = change_recipe(find_recipe(recipe_name, recipes=RECIPES), settings, name="the sweep's settings")
    ground = plan_ground(spec, out=out, recipe=recipe)
    methods, seeds = take(spec, "methods", list, default=["piggyback"]), take(spec, "seeds", list, default=[0])
    runs = []
    for seed in seeds:
        for method in methods:
            key = short_id(method, asdict(replace(recipe, seed=seed)), ground.data, ground.backbone)
            name = f"{recipe.evaluate}-{method}-seed{seed}-{key}"
            folder = out / "runs" / name
            argv = ["segmentation", "train", "--method", method, "--recipe", recipe_name, *as_flags(settings)]
            argv += ["--seed", str(seed), "--data", ground.data, "--backbone", ground.backbone]
            argv += ["--out", str(out), "--folder", str(folder)]
            runs.append(
                planned_run(
                    name,
                    title=f"segmentation {method} seed {seed}",
                    kind="run",
                    argv=argv,
                    folder=folder,
                    proof=folder / "result.json",
                    needs=[step["id"] for step in ground.steps][-1:],
                    cost=f"segmentation {method} {short_id(asdict(replace(recipe, seed=0)))}",
                )
            )
    score = ["segmentation", "report", "--runs", str(out), "--data", ground.data, "--split", recipe.evaluate]
    score += ["--methods", ",".join(methods), "--seeds", ",".join(map(str, seeds))]
    last = planned_run(
        "segmentation-score",
        title="segmentation score",
        kind="score",
        argv=score,
        folder=out,
        needs=[run["id"] for run in runs],
        after="ended",
    )
    return [*ground.steps, *runs, last]


def plan_ground(spec: Mapping[str, Any], *, out: Path, recipe: Recipe) -> Ground:
    """Data and backbone: those that are there, or the steps that make them."""
    source, steps = take(spec, "source", str, default=""), list[Planned]()
    data = str(take(spec, "data", str, default=str(out / "data") if source else None))
    drawn = out / "drawn"
    file = drawn / "backbone.safetensors"
    backbone = take(spec, "backbone", str, default=str(file) if source == "drawn" else None)
    if source == "drawn":
        argv = ["segmentation", "draw", "--out", str(drawn)]
        steps.append(  # the backbone's file is written last
            planned_run("segmentation-draw", title="draw scenes", kind="prepare", argv=argv, folder=drawn, proof=file)
        )
        source = str(drawn / "release")
    if source:
        argv = ["segmentation", "prepare", "--source", source, "--out", data]
        argv += ["--splits", ",".join(dict.fromkeys((recipe.train, recipe.evaluate)))]
        steps.append(
            planned_run(
                "segmentation-prepare",
                title="segmentation prepare",
                kind="prepare",
                argv=argv,
                folder=out / "prepare",
                needs=[step["id"] for step in steps],
            )
        )
    return Ground(data=data, backbone=backbone, steps=tuple(steps))
