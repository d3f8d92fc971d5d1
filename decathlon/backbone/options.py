"""What can be asked of ``decathlon backbone import | evaluate | train``; imports nothing heavy."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from decathlon.backbone.pretraining_recipe import DEFAULT_PRESET, PRESETS, PretrainRecipe
from piggyback.suite.recipe import recipe_named_in


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """Turn a published WRN checkpoint into a backbone file.

    Attributes:
        checkpoint: the file: a state dict, bare or under `state_dict` or `net`.
        out: where to write; by default the checkpoint's name with .safetensors in the current folder.
        force: overwrite a different file.
        json: print one JSON object instead of a table.
    """

    checkpoint: Annotated[Path, tyro.conf.Positional]
    out: Path | None = None
    force: bool = False
    json: bool = False


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """Measure a backbone's own head on imagenet12.

    Attributes:
        backbone: a backbone file or a WRN checkpoint.
        data: the folder that `decathlon prepare` wrote.
        split: the part to measure on.
        labels: labels of the test part, a folder or a zip; by default labels_test or labels_test.zip beside
            the data.
        size: side of the centre crop, pixels.
        batch_size: pictures per step.
        device: such as cpu or cuda:1; by default the first GPU, or the processor.
        json: print one JSON object instead of a table.
    """

    backbone: Path
    data: Path
    split: Literal["val", "test"] = "test"
    labels: Path | None = None
    size: int = 64
    batch_size: int = 100
    device: str | None = None
    json: bool = False


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Train a backbone from scratch on imagenet12.  The flags of the recipe override what --recipe names.

    Attributes:
        data: the folder that `decathlon prepare` wrote.
        out: the run's folder; the same command again continues there.
        recipe: name of the recipe: paper or smoke.
        settings: the recipe's fields.
        device: such as cpu or cuda:1; by default a GPU for each process, or the processor.
        allow_other_environment: continue although torch, processor, threads or number of processes changed.
        json: print one JSON object instead of a table.
    """

    data: Path
    out: Path
    recipe: str = DEFAULT_PRESET
    settings: PretrainRecipe = field(default_factory=PretrainRecipe)
    device: str | None = None
    allow_other_environment: bool = False
    json: bool = False


def train_defaults(arguments: Sequence[str]) -> TrainOptions:
    """Defaults under the recipe that the arguments name; what has no default stays required."""
    place: Path = tyro.MISSING
    return TrainOptions(
        data=place, out=place, settings=recipe_named_in(arguments, recipes=PRESETS, default=DEFAULT_PRESET)
    )
