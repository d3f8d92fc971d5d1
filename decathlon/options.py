"""What can be asked of the Decathlon's verbs; imports nothing heavy."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final, Literal

import tyro

from decathlon.recipes import RECIPES, Recipe
from piggyback.shell.arguments import Names, Numbers
from piggyback.suite.recipe import recipe_named_in

DEFAULT_RECIPE: Final = "paper"


@dataclass(frozen=True, kw_only=True)
class FetchOptions:
    """Download the official archives.

    Attributes:
        out: folder for the archives.
        archives: which ones, with commas between; all that need no login when not given.
        url: another place to take them from; the file names are added to it.
        json: print one JSON object instead of a table.
    """

    out: Path
    archives: Names = ()
    url: str | None = None
    json: bool = False


@dataclass(frozen=True, kw_only=True)
class PrepareOptions:
    """Check and pack pictures.

    Attributes:
        source: folder with the official archives, an unpacked tree, or single <task>.tar files and annotations.
        out: folder for the packed tasks.
        tasks: which ones, with commas between; all that are found when not given.
        json: print one JSON object instead of a table.
    """

    source: Path
    out: Path
    tasks: Names = ()
    json: bool = False


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Train one task with one method.  The flags of the recipe override what --recipe names.

    Attributes:
        task: one of the nine.
        method: what the task may change about the network.
        data: folder that `decathlon prepare` wrote.
        backbone: backbone file or WRN checkpoint.
        out: folder for runs; the same command again continues, or says that it is done.
        folder: the run's folder; under --out, named by what identifies the run, when not given.
        after: folder of the run that this one builds on, for packnet; found under --out when not given.
        ground: folder by `decathlon ground`, for packnet, joint and series-joint; its network is copied to --out.
            When not given, the network is looked for there, and made.
        recipe: name of the recipe.
        settings: the recipe's fields.
        device: such as cpu or cuda:1; the first GPU, or the processor, when not given.
        allow_other_environment: continue a checkpoint of another torch, processor or thread count.
        json: print one JSON object instead of a table.
    """

    task: str
    method: str = "piggyback"
    data: Path
    backbone: Path
    out: Path
    folder: Path | None = None
    after: Path | None = None
    ground: Path | None = None
    recipe: str = DEFAULT_RECIPE
    settings: Recipe = field(default_factory=Recipe)
    device: str | None = None
    allow_other_environment: bool = False
    json: bool = False


@dataclass(frozen=True, kw_only=True)
class GroundOptions:
    """Make the network that a method stands on.  The flags of the recipe override what --recipe names.

    Attributes:
        method: packnet, joint or series-joint; others stand on the backbone itself.
        data: folder that `decathlon prepare` wrote.
        backbone: backbone file or WRN checkpoint.
        out: folder for runs; the same command again continues, or says that it is done.
        folder: the network's folder; under --out, named by what identifies the network, when not given.
        recipe: name of the recipe.
        settings: the recipe's fields.
        device: such as cpu or cuda:1; the first GPU, or the processor, when not given.
        allow_other_environment: continue a checkpoint of another torch, processor or thread count.
        json: print one JSON object.
    """

    method: str
    data: Path
    backbone: Path
    out: Path
    folder: Path | None = None
    recipe: str = DEFAULT_RECIPE
    settings: Recipe = field(default_factory=Recipe)
    device: str | None = None
    allow_other_environment: bool = False
    json: bool = False


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """Measure a finished run's payload.

    Attributes:
        run: the run's folder.
        data: folder that `decathlon prepare` wrote.
        backbone: backbone file or WRN checkpoint that the run was trained on.
        split: the part to measure on.
        labels: labels of the test part, a folder or a zip; those beside the data when not given.
        device: such as cpu or cuda:1.
        json: print one JSON object instead of a table.
    """

    run: Path
    data: Path
    backbone: Path
    split: Literal["val", "test"] = "val"
    labels: Path | None = None
    device: str | None = None
    json: bool = False


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Train all tasks with one or more methods.  The flags of the recipe override what --recipe names.

    Attributes:
        data: folder that `decathlon prepare` wrote.
        backbone: backbone file or WRN checkpoint.
        out: folder for runs, scores and submissions; the same command again continues.
        methods: with commas between.
        tasks: which of the nine, with commas between; all when not given.
        recipe: name of the recipe.
        settings: the recipe's fields.
        labels: labels of the test parts, read once, after all training; those beside the data when not given.
        device: such as cpu or cuda:1; the first GPU, or the processor, when not given.
        parallel: processes that train at the same time; with several GPUs each takes one.  0 is one per GPU.
        allow_other_environment: continue checkpoints of another torch, processor or thread count.
        json: print one JSON object instead of tables.
    """

    data: Path
    backbone: Path
    out: Path
    methods: Names = ("piggyback",)
    tasks: Names = ()
    recipe: str = DEFAULT_RECIPE
    settings: Recipe = field(default_factory=Recipe)
    labels: Path | None = None
    device: str | None = None
    parallel: int = 0
    allow_other_environment: bool = False
    json: bool = False


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """Score the finished runs of a folder and say what is missing.

    Attributes:
        runs: folder of the runs.
        data: folder that `decathlon prepare` wrote.
        methods: with commas between.
        tasks: those that should be there, with commas between; all nine when not given.  imagenet12 among them is one
            of joint and series-joint only.
        seeds: with commas between.
        labels: labels of the test parts; those beside the data when not given.
        device: for the backbone's own task, such as cpu or cuda:1.
        json: print one JSON object instead of tables.
    """

    runs: Path
    data: Path
    methods: Names = ("piggyback",)
    tasks: Names = ()
    seeds: Numbers = (0,)
    labels: Path | None = None
    device: str | None = None
    json: bool = False


@dataclass(frozen=True, kw_only=True)
class DrawOptions:
    """Draw a small decathlon.

    Attributes:
        out: folder for it.
    """

    out: Path


@dataclass(frozen=True, kw_only=True)
class SubmitOptions:
    """Collect predictions into a submission.

    Attributes:
        runs: folder that `decathlon run` wrote.
        method: whose predictions.
        out: the results.json to write; the zip goes beside it.
        seed: of the runs.
        partial: write it although a task or a picture is missing, and say so.
        json: print one JSON object.
    """

    runs: Path
    out: Path
    method: str = "piggyback"
    seed: int = 0
    partial: bool = False
    json: bool = False


@dataclass(frozen=True, kw_only=True)
class ScoreOptions:
    """Score a results file.

    Attributes:
        file: a results.json, or the zip that holds it.
        labels: labels of the test parts: the organisers' labels_test.zip, or a folder of <task>_test.json.
        json: print one JSON object instead of a table.
    """

    file: Annotated[Path, tyro.conf.Positional]
    labels: Path
    json: bool = False


@dataclass(frozen=True, kw_only=True)
class MergeOptions:
    """Put backbone and payload together.

    Attributes:
        payload: what a run added: its payload.safetensors.
        backbone: backbone file or WRN checkpoint that the run was trained on.
        out: the safetensors file to write: a plain state dict of the network with the task's head.
        force: overwrite a different file.
        json: print one JSON object.
    """

    payload: Path
    backbone: Path
    out: Path
    force: bool = False
    json: bool = False


def train_defaults(arguments: Sequence[str]) -> TrainOptions:
    """Defaults under the recipe that the arguments name; what has no default stays required."""
    missing: dict[str, Path] = {name: tyro.MISSING for name in ("data", "backbone", "out")}
    task: str = tyro.MISSING
    settings = recipe_named_in(arguments, recipes=RECIPES, default=DEFAULT_RECIPE)
    return TrainOptions(task=task, settings=settings, **missing)  # type: ignore[arg-type]


def ground_defaults(arguments: Sequence[str]) -> GroundOptions:
    """Defaults under the recipe that the arguments name; what has no default stays required."""
    missing: dict[str, Path] = {name: tyro.MISSING for name in ("data", "backbone", "out")}
    method: str = tyro.MISSING
    settings = recipe_named_in(arguments, recipes=RECIPES, default=DEFAULT_RECIPE)
    return GroundOptions(method=method, settings=settings, **missing)  # type: ignore[arg-type]


def run_defaults(arguments: Sequence[str]) -> RunOptions:
    """Defaults under the recipe that the arguments name; what has no default stays required."""
    missing: dict[str, Path] = {name: tyro.MISSING for name in ("data", "backbone", "out")}
    settings = recipe_named_in(arguments, recipes=RECIPES, default=DEFAULT_RECIPE)
    return RunOptions(settings=settings, **missing)  # type: ignore[arg-type]
