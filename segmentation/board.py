"""The segmentation benchmark's board: what the leaderboard must know of it.  Light: no torch."""

from importlib.resources import files
from typing import Final

from leaderboard.boards.board import Board, Confusion, Metric, Task
from segmentation.voc import CLASSES

BOARD: Final = Board(
    name="segmentation",
    title="Segmentation",
    caption="PASCAL VOC segmentation (%)",
    metrics=(  # in the order of section 5 of J. Long, E. Shelhamer, T. Darrell, CVPR 2015
        Metric(name="mean_iou", title="mean IoU", needed="always"),
        Metric(name="pixel_accuracy", title="pixel acc.", needed="measured"),
        Metric(name="mean_accuracy", title="mean acc.", needed="measured"),
        Metric(name="frequency_weighted_iou", title="f.w. IoU", needed="measured"),
    ),
    across="metrics",
    tasks={"pascal-voc": Task(title="PASCAL VOC")},
    foreign_metrics=("accuracy", "error", "top1", "top5"),
    evidence=Confusion(classes=CLASSES),
    published=(files("segmentation").joinpath("published", "rows.json"),),
    intro="PASCAL VOC 2012, intersection over union in percent.",
    position=2,
)
