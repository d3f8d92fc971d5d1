"""Segmentation's part of a sweep: draw, prepare, every method with every seed, score.

Fields of the spec: ``methods``, ``seeds``, ``recipe``, ``settings``; ``data``, a packed folder, or ``source``, a folder
with the releases (``"drawn"`` draws a small one with a backbone for it); ``backbone``, a backbone file; ``label``, to
tell two parts of one sweep, which share their data where both name the same.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from piggyback.suite.sweep import (
    Planned,
    planned_run,
    refuse_unknown,
    short_id,
    take,
    take_label,
    take_methods,
    take_place,
    take_run_recipe,
    take_seeds,
)
from segmentation.recipes import RECIPES, Recipe, refuse_method

NAME: Final = "segmentation"
KNOWN: Final = ("methods", "seeds", "recipe", "settings", "data", "source", "backbone")


@dataclass(frozen=True, kw_only=True)
class Ground:
    """What all runs stand on.

    Attributes:
        data: packed splits.
        backbone: file.
        steps: planned runs that make these.
        given: those of data and backbone that no step makes.
        identity: tells data and backbone from others.
    """

    data: Path
    backbone: Path
    steps: tuple[Planned, ...]
    given: tuple[Path, ...]
    identity: tuple[str, ...]


def plan(spec: Mapping[str, Any]) -> list[Planned]:
    """What the spec would run.

    Raises:
        BadInput, UnknownName: it has fields, methods, recipes or settings that there are not.
    """
    refuse_unknown(spec, known=KNOWN)
    label, sweep = take_label(spec, benchmark=NAME), take_place(spec, "out").path
    out = sweep / label
    flags, recipe = take_run_recipe(spec, recipes=RECIPES)
    methods, seeds = take_methods(spec), take_seeds(spec)
    for method in methods:
        refuse_method(method)
    ground = plan_ground(spec, shared=sweep / NAME, recipe=recipe)
    place = out / f"recipe-{short_id(asdict(replace(recipe, seed=0)), ground.identity)}"  # scored as a whole
    runs = []
    for seed in seeds:
        for method in methods:
            key = short_id(label, method, asdict(replace(recipe, seed=seed)), ground.identity)
            name = f"{recipe.evaluate}-{method}-seed{seed}-{key}"
            folder = place / "runs" / name
            argv = ["segmentation", "train", "--method", method, *flags]
            argv += ["--seed", str(seed), "--data", str(ground.data), "--backbone", str(ground.backbone)]
            argv += ["--out", str(place), "--folder", str(folder)]
            runs.append(
                planned_run(
                    name,
                    title=f"{label} {method} seed {seed}",
                    kind="run",
                    argv=argv,
                    folder=folder,
                    proof=folder / "result.json",
                    needs=[step["id"] for step in ground.steps],
                    inputs=ground.given,
                    cost=f"segmentation {method} {short_id(asdict(replace(recipe, seed=0)))}",
                )
            )
    score = ["segmentation", "report", "--runs", str(place), "--data", str(ground.data), "--split", recipe.evaluate]
    score += ["--methods", ",".join(methods), "--seeds", ",".join(map(str, seeds))]
    last = planned_run(
        f"{label}-score",
        title=f"{label} score",
        kind="score",
        argv=score,
        folder=out / "score",
        needs=[run["id"] for run in runs],
        inputs=[path for path in ground.given if path == ground.data],
        after="ended",
    )
    return [*ground.steps, *runs, last]


def plan_ground(spec: Mapping[str, Any], *, shared: Path, recipe: Recipe) -> Ground:
    """Data and backbone: those that are there, or the steps that make them, the same for every part that names them."""
    steps: list[Planned] = []
    drawn = shared / "drawn"
    is_drawn = "source" in spec and take(spec, "source", str, default=None) == "drawn"
    if is_drawn and "backbone" not in spec:
        backbone, backbone_identity, given = drawn / "backbone.safetensors", "drawn", []
    else:
        place = take_place(spec, "backbone")
        backbone, backbone_identity, given = place.path, place.identity, [place.path]
    if is_drawn:
        proof = drawn / "backbone.safetensors"  # written last
        argv = ["segmentation", "draw", "--out", drawn]
        title = f"{NAME} draw"
        steps.append(planned_run(f"{NAME}-draw", title=title, kind="prepare", argv=argv, folder=drawn, proof=proof))
    if "source" not in spec:
        place = take_place(spec, "data")
        identities = (place.identity, backbone_identity)
        return Ground(data=place.path, backbone=backbone, steps=(), given=(place.path, *given), identity=identities)
    source, identity = drawn / "release", "drawn"
    if not is_drawn:
        place = take_place(spec, "source")
        source, identity = place.path, place.identity
    splits = ",".join(dict.fromkeys((recipe.train, recipe.evaluate)))
    key = short_id(identity, splits)
    data = shared / f"data-{key}"
    if "data" in spec:
        place = take_place(spec, "data")
        data, identity, key = place.path, f"{identity} {place.identity}", short_id(identity, splits, place.identity)
    steps.append(
        planned_run(
            f"{NAME}-prepare-{key}",
            title=f"{NAME} prepare",
            kind="prepare",
            argv=["segmentation", "prepare", "--source", source, "--out", data, "--splits", splits],
            folder=shared / f"prepare-{key}",
            needs=[step["id"] for step in steps],
            inputs=[] if steps else [source],
        )
    )
    return Ground(
        data=data,
        backbone=backbone,
        steps=tuple(steps),
        given=tuple(given),
        identity=(identity, backbone_identity),
    )
