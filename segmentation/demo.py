"""The segmentation part of ``piggyback demo``: FCN-32s on scenes it draws itself, with masks and with new layers alone.

Every step but the first two is one of the console command's own verbs: what the demo does can be typed again, and
then with real data.
"""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from piggyback.shell.console import out
from piggyback.suite.results import find_runs
from piggyback.suite.verbs.demo import DemoFolder, announce, take_step
from segmentation.benchmark import BENCHMARK, TASK
from segmentation.drawn.release import Amounts, write_release
from segmentation.drawn.small_vgg import train_backbone

METHODS: Final = ("piggyback", "feature")


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much the demo does.

    Attributes:
        pictures: of each thing, for the backbone.
        backbone_epochs, epochs: of the backbone and of the task.
    """

    amounts: Amounts = field(default_factory=Amounts)
    pictures: int = 60
    backbone_epochs: int = 12
    epochs: int = 8
    update: Literal["auto", "eager"] = "auto"


@dataclass(frozen=True)
class Folder(DemoFolder):
    """Places of the demo's files."""

    @property
    def backbone(self) -> Path:
        return self.root / "backbone.safetensors"


def run_demo(root: Path) -> None:
    """Draw, prepare, train a small VGG, put VOC's task on it with masks and with new layers alone, score.

    Args:
        root: folder for everything; a demo that was interrupted there continues, a finished one says so.

    Raises:
        BadInput: the folder holds something else.
    """
    run_scaled(root, scale=Scale())


def run_scaled(root: Path, *, scale: Scale) -> dict[str, float]:
    """As `run_demo`, of any size; returns the mean IoU of each method."""
    folder = Folder(root)
    announce("draw scenes, in the form of SBD and of PASCAL VOC")
    write_release(folder.release, amounts=scale.amounts)
    announce("train a small VGG to tell single things apart: the backbone")
    train_backbone(folder.backbone, pictures=scale.pictures, epochs=scale.backbone_epochs)
    for title, arguments in plan_commands(folder, scale=scale):
        take_step(title, arguments, root=root)
    found = {method: find_runs(folder.runs, benchmark=BENCHMARK, method=method)[TASK, 0] for method in METHODS}
    predictions = found["piggyback"].folder.root / "predictions" / "seg11valid"
    truth = folder.release / "VOCdevkit" / "VOC2012" / "SegmentationClass"
    take_step(
        "the same number from the PNGs, as for those of any other program",
        ["segmentation", "miou", "--truth", str(truth), "--predictions", str(predictions)],
        root=root,
    )
    scores = {method: run.result.metrics["mean_iou"] for method, run in found.items()}
    show(folder, scores)
    return scores


def plan_commands(folder: Folder, *, scale: Scale) -> list[tuple[str, Sequence[str]]]:
    """The steps in order: a title and the console command's arguments each."""
    data, backbone = ["--data", str(folder.data)], ["--backbone", str(folder.backbone)]
    prepare = ["--source", str(folder.release), "--out", str(folder.data)]
    recipe = ["--recipe", "smoke", "--size", "0", "--epochs", str(scale.epochs), "--batch-size", "8", "--lr", "5e-4"]
    recipe += ["--head-lr-factor", "2", "--deconvolution", "fixed", "--dropout", "0", "--decay-after", "0.75"]
    recipe += ["--precision", "fp32", "--flip"]
    recipe += ["--update", scale.update] if scale.update != "auto" else []
    return [
        ("check every picture and label map and pack them", ["segmentation", "prepare", *prepare]),
        ("what the task adds to the network", ["segmentation", "sizes", *backbone, "--deconvolution", "fixed"]),
        (
            "FCN-32s on the frozen backbone: one bit per weight and new layers, and new layers alone",
            [
                *("segmentation", "run", *data, *backbone, "--out", str(folder.runs)),
                *("--methods", ",".join(METHODS), *recipe),
            ],
        ),
    ]


def show(folder: Folder, scores: dict[str, float]) -> None:
    """Print both scores, where things are and what to do next."""
    masks, alone = (100 * scores[method] for method in METHODS)
    out.print(
        f"mean IoU on drawn scenes: masks {masks:.1f} %, new layers alone {alone:.1f} %\n"
        f"overlay sheets: {folder.runs / 'sheets'}\n\n"
        "next:\n"
        "  piggyback segmentation fetch --out archives        # the official pictures\n"
        f"  piggyback segmentation run --help\n"
        f"  piggyback segmentation evaluate --help             # also {shlex.quote('--split voc2012_test')}",
        markup=False,
        soft_wrap=True,
    )
