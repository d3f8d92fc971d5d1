"""Data and backbone of a sweep's part: existing ones, or the steps that make them.

Parts that name the same source get the same steps, and so share them.
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
        steps: planned runs that make data and backbone.
        needs: ids of the steps that runs wait for.
        given: data and backbone as far as no step makes them.
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
        """Flags that name data and backbone."""
        return ["--data", str(self.data), "--backbone", str(self.backbone)]


@dataclass(frozen=True, kw_only=True)
class Data:
    """A prepared folder and how it is made.

    Attributes:
        identity: tells it from others.
        steps: steps that make it, in order; none if it is given.
        drawn: folder of the drawn release, if there is one.
    """

    path: Path
    identity: str
    steps: tuple[Planned, ...]
    drawn: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What a folder is prepared from.

    Attributes:
        flags: flags that name it.
        identity: tells it from others.
        steps: steps that make it.
        given: files or folders of it that no step makes.
        drawn: folder of the drawn release, if there is one.
    """

    flags: tuple[str, ...]
    identity: str
    steps: tuple[Planned, ...] = ()
    given: tuple[Path, ...] = ()
    drawn: Path | None = None


def plan_inputs(benchmark: Benchmark, spec: Mapping[str, Any], *, shared: Path, recipe: Recipe) -> Inputs:
    """Data and backbone for a spec.

    Raises:
        BadInput, UnknownName: the spec lacks one, or names something unknown.
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
    kinds = str if benchmark.source.pretrain is None else (str, dict)
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
    presets = benchmark.source.presets
    flags, preset = take_recipe(settings | recipe, recipes=presets, default=next(iter(presets)), place="the backbone")
    words = [benchmark.name, *(benchmark.source.pretrain or "").split(), *(flags if len(presets) > 1 else flags[2:])]
    key = f"{benchmark.name}-backbone-{short_id(asdict(preset), data.identity)}"
    folder = shared / key
    return planned_run(
        key,
        title=f"{benchmark.name} backbone",
        kind="backbone",
        argv=[*words, "--data", str(data.path), "--out", str(folder)],
        folder=folder,
        proof=folder / "backbone.safetensors",  # written last
        needs=needs,
        inputs=given,
    )


def plan_data(benchmark: Benchmark, spec: Mapping[str, Any], *, shared: Path, recipe: Recipe) -> Data:
    """The prepared folder that a spec names, or that is made from its source."""
    source, noun = benchmark.source, benchmark.name
    made = "source" in spec or (source.has_pictures and "data" not in spec)
    if source.prepare is None or not made:
        place = take_place(spec, "data")
        return Data(path=place.path, identity=place.identity, steps=())
    origin = plan_origin(benchmark, spec, shared=shared)
    words = () if source.prepare_words is None else tuple(load(source.prepare_words)(recipe))
    parts, identity = (origin.identity, *words[1::2]), origin.identity
    data, key = shared / f"data-{short_id(*parts)}", short_id(*parts)
    if "data" in spec:
        place = take_place(spec, "data")
        data, identity, key = place.path, f"{identity} {place.identity}", short_id(*parts, place.identity)
    step = planned_run(
        f"{noun}-prepare-{key}",
        title=f"{noun} prepare",
        kind="prepare",
        argv=[noun, *source.prepare.split(), *origin.flags, "--out", data, *words],
        folder=shared / f"prepare-{key}",
        needs=[step["id"] for step in origin.steps],
        inputs=origin.given,
    )
    return Data(path=data, identity=identity, steps=(*origin.steps, step), drawn=origin.drawn)


def plan_origin(benchmark: Benchmark, spec: Mapping[str, Any], *, shared: Path) -> Origin:
    """The source that a spec names or asks to be drawn, or none if ``prepare`` brings its own pictures.

    Raises:
        BadInput: the benchmark has no such source.
    """
    source, noun = benchmark.source, benchmark.name
    if source.has_pictures:
        if "source" in spec:
            raise BadInput(f"{noun} brings its own pictures: leave source out")
        return Origin(flags=(), identity="own pictures")
    if take(spec, "source", str, default=None) != "drawn":
        place = take_place(spec, "source")
        return Origin(flags=("--source", str(place.path)), identity=place.identity, given=(place.path,))
    if source.draw is None:
        raise BadInput(f"{noun} cannot draw a release: give a source or data")
    drawn = shared / source.drawn
    step = planned_run(
        f"{noun}-draw",
        title=f"{noun} draw",
        kind="prepare",
        argv=[noun, *source.draw.split(), "--out", drawn],
        folder=drawn,
        proof=drawn / source.drawn_proof,
    )
    flags = ("--source", str(drawn / source.drawn_release))
    return Origin(flags=flags, identity="drawn", steps=(step,), drawn=drawn)
