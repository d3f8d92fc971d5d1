"""Data and backbone of a sweep's part: those that are there, or the steps that make them.

The steps are the same for every part that names the same source, so that parts share them.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from piggyback.shell.cli import load
from piggyback.shell.errors import BadInput
from piggyback.suite.benchmark import Benchmark
from piggyback.suite.recipe import Recipe
from piggyback.suite.sweeps.spec import Planned, planned_run, short_id, take, take_place, take_recipe


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What all runs of a part need.

    Attributes:
        data: prepared folder.
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
class Data:
    """A prepared folder and how it is made.

    Attributes:
        path: the folder.
        identity: tells it from others.
        steps: that make it, the last one last; none where it is given.
        drawn: folder of what was drawn, if it was.
    """

    path: Path
    identity: str
    steps: tuple[Planned, ...]
    drawn: Path | None = None


def plan_inputs(benchmark: Benchmark, spec: Mapping[str, Any], *, shared: Path, recipe: Recipe) -> Inputs:
    """Data and backbone for a spec.

    Raises:
        BadInput, UnknownName: the spec lacks one, or names what there is not.
    """
    data = plan_data(benchmark, spec, shared=shared, recipe=recipe)
    made = tuple(step["id"] for step in data.steps[-1:])
    given = () if data.steps else (data.path,)
    drawn = benchmark.source.drawn_backbone
    if drawn is not None and data.drawn is not None and "backbone" not in spec:
        return Inputs(
            data=data.path,
            backbone=data.drawn / drawn,
            steps=data.steps,
            needs=tuple(step["id"] for step in data.steps),
            given=given,
            identity=(data.identity, "drawn"),
        )
    kinds = str if benchmark.source.presets is None else (str, dict)
    if isinstance(take(spec, "backbone", kinds, default=None), str):
        place = take_place(spec, "backbone")
        return Inputs(
            data=data.path,
            backbone=place.path,
            steps=data.steps,
            needs=made,
            given=(*given, place.path),
            identity=(data.identity, place.identity),
        )
    step = plan_pretraining(benchmark, spec["backbone"], data=data, shared=shared, needs=made, given=given)
    return Inputs(
        data=data.path,
        backbone=Path(step["proof"]),
        steps=(*data.steps, step),
        needs=(step["id"],),
        given=given,
        identity=(data.identity, step["id"]),
    )


def plan_pretraining(
    benchmark: Benchmark,
    table: Mapping[str, Any],
    *,
    data: Data,
    shared: Path,
    needs: tuple[str, ...],
    given: tuple[Path, ...],
) -> Planned:
    """The step that trains a backbone by a table of settings."""
    settings = {"settings": {name: value for name, value in table.items() if name != "recipe"}}
    recipe = {"recipe": table["recipe"]} if "recipe" in table else {}
    presets = load(benchmark.source.presets or "")
    flags, preset = take_recipe(settings | recipe, recipes=presets, default="paper", place="the backbone")
    key = f"{benchmark.name}-backbone-{short_id(asdict(preset), data.identity)}"
    folder = shared / key
    return planned_run(
        key,
        title=f"{benchmark.name} backbone",
        kind="backbone",
        argv=[*benchmark.source.pretrain, *flags, "--data", str(data.path), "--out", str(folder)],
        folder=folder,
        proof=folder / "backbone.safetensors",  # written last
        needs=needs,
        inputs=given,
    )


def plan_data(benchmark: Benchmark, spec: Mapping[str, Any], *, shared: Path, recipe: Recipe) -> Data:
    """The prepared folder that a spec names, or that is made from its source."""
    source, noun = benchmark.source, benchmark.name
    if "source" not in spec or source.prepare is None:
        place = take_place(spec, "data")
        return Data(path=place.path, identity=place.identity, steps=())
    steps: list[Planned] = []
    drawn = None
    if take(spec, "source", str, default=None) == "drawn":
        if source.draw is None:
            raise BadInput(f"{noun} draws no release: give a source or data")
        drawn, identity = shared / source.drawn, "drawn"
        origin, proof, title = drawn / source.drawn_release, drawn / source.drawn_proof, f"{noun} draw"
        argv: list[object] = [*source.draw, "--out", drawn]
        steps.append(planned_run(f"{noun}-draw", title=title, kind="prepare", argv=argv, folder=drawn, proof=proof))
    else:
        place = take_place(spec, "source")
        origin, identity = place.path, place.identity
    words = () if source.prepare_words is None else tuple(load(source.prepare_words)(recipe))
    parts = (identity, *words[1::2])
    data, key = shared / f"data-{short_id(*parts)}", short_id(*parts)
    if "data" in spec:
        place = take_place(spec, "data")
        data, identity, key = place.path, f"{identity} {place.identity}", short_id(*parts, place.identity)
    steps.append(
        planned_run(
            f"{noun}-prepare-{key}",
            title=f"{noun} prepare",
            kind="prepare",
            argv=[*source.prepare, "--source", origin, "--out", data, *words],
            folder=shared / f"prepare-{key}",
            needs=[step["id"] for step in steps],
            inputs=[] if steps else [origin],
        )
    )
    return Data(path=data, identity=identity, steps=tuple(steps), drawn=drawn)
