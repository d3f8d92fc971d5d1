"""What can be asked of the segmentation verbs; imports nothing heavy."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final

import tyro

from piggyback.shell.arguments import Names
from piggyback.suite.recipe import recipe_named_in
from segmentation.recipes import RECIPES, FCNRecipe
from segmentation.release.splits import EVALUATION_SPLIT, TRAIN_SPLIT

DEFAULT_RECIPE: Final = "paper"


@dataclass(frozen=True, kw_only=True)
class PrepareOptions:
    """Check and pack pictures and label maps.

    Attributes:
        source: folder with VOCdevkit and benchmark_RELEASE, unpacked or as the official archives.
        out: folder for the packed splits.
        splits: with commas between: sbd_train, sbd_val, seg11valid, voc2012_train, voc2012_val, voc2012_test,
            train_aug, voc2012_val_minus_sbd.
        json: print one JSON object instead of a table.
    """

    source: Path
    out: Path
    splits: Names = (TRAIN_SPLIT, EVALUATION_SPLIT)
    json: bool = False


@dataclass(frozen=True, kw_only=True)
class MiouOptions:
    """Score palette PNGs of any program.

    Attributes:
        truth: folder of label maps, such as VOC's SegmentationClass.
        predictions: folder of PNGs with the same names.
        ids: file with one id per line; every PNG of the predictions when not given.
        csv: also write the numbers per class into this file.
        json: print one JSON object instead of a table.
    """

    truth: Path
    predictions: Path
    ids: Path | None = None
    csv: Path | None = None
    json: bool = False


@dataclass(frozen=True, kw_only=True)
class BundleOptions:
    """Write or check the archive that VOC's evaluation server takes.

    Attributes:
        predictions: folder of palette PNGs, one per picture; with a .tgz or .tar it is checked and nothing written.
        pictures: folder of the JPEG files, such as VOC's JPEGImages, for their sizes.
        out: the .tgz to write.
        ids: file with one id per line; the 1,456 of VOC2012's test part when not given.
        json: print one JSON object instead of a table.
    """

    predictions: Path
    pictures: Path
    out: Path | None = None
    ids: Path | None = None
    json: bool = False


@dataclass(frozen=True, kw_only=True)
class RleOptions:
    """Write label maps as COCO RLE.

    Attributes:
        predictions: folder of palette PNGs.
        out: the JSON file to write.
        json: print one JSON object instead of a line.
    """

    predictions: Path
    out: Path
    json: bool = False


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """Make a backbone file.

    Attributes:
        file: weights of a VGG in torchvision's names, by torch.save or as safetensors.
        convention: what they were trained with: torchvision (RGB in 0..1, mean and standard deviation) or caffe (BGR in
            0..255 minus a mean); no file says it of itself.
        out: the backbone file to write.
        force: overwrite a different file.
        json: print one JSON object.
    """

    file: Annotated[Path, tyro.conf.Positional]
    convention: str
    out: Path
    force: bool = False
    json: bool = False


@dataclass(frozen=True, kw_only=True)
class SizesOptions:
    """Count what a task adds.

    Attributes:
        recipe: name of the recipe: paper, mini or smoke.
        settings: the recipe's fields.
        backbone: backbone file; VGG-16 with fc6 and fc7 when not given.
        json: print one JSON object instead of a table.
    """

    recipe: str = DEFAULT_RECIPE
    settings: FCNRecipe = field(default_factory=FCNRecipe)
    backbone: Path | None = None
    json: bool = False


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """What ``segmentation train`` has beside the suite's options.

    Attributes:
        allow_overlap: evaluate although some of the pictures were trained on; the result says so.
    """

    allow_overlap: bool = False


@dataclass(frozen=True, kw_only=True)
class OwnRun(Overlap):
    """What ``segmentation run`` has beside the suite's options.

    Attributes:
        sheets: pictures to show on each method's overlay sheet; 0 for none.
    """

    sheets: int = 6


@dataclass(frozen=True, kw_only=True)
class OwnEvaluate:
    """What ``segmentation evaluate`` has beside the suite's options.

    Attributes:
        split: packed split to measure on; the run's own when not given.  Of one without label maps, such as
            voc2012_test, there are predictions only.
        out: folder for predictions, matrix and numbers; the same command again continues there.
        sheets: pictures to show on an overlay sheet; 0 for none.
        allow_overlap: evaluate although some of the pictures were trained on.
    """

    split: str | None = None
    out: Path = tyro.MISSING
    sheets: int = 6
    allow_overlap: bool = False


@dataclass(frozen=True, kw_only=True)
class OwnReport:
    """What ``segmentation report`` has beside the suite's options.

    Attributes:
        split: that the runs were evaluated on.
    """

    split: str = EVALUATION_SPLIT


@dataclass(frozen=True, kw_only=True)
class DrawOptions:
    """Draw scenes, and train a small VGG on single drawn things.

    Attributes:
        out: folder for both: release/ and backbone.safetensors.
    """

    out: Path


def sizes_defaults(arguments: Sequence[str]) -> SizesOptions:
    """Defaults under the recipe that the arguments name."""
    return SizesOptions(settings=settings_for(arguments))


def settings_for(arguments: Sequence[str]) -> FCNRecipe:
    return recipe_named_in(arguments, recipes=RECIPES, default=DEFAULT_RECIPE)
