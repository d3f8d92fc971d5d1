"""The Decathlon's board: what the leaderboard must know of it.  Light: no torch."""

from importlib.resources import files
from typing import Final

from decathlon.challenge.points import points_of
from decathlon.tasks import BACKBONE_TASK, SPLITS, TASKS
from decathlon.tasks import Task as OfficialTask
from leaderboard.boards.board import Answers, BackboneTask, Board, Metric, PictureIds, Placing, Task, Total

TITLES: Final = {
    "imagenet12": "ImNet.",
    "aircraft": "Airc.",
    "cifar100": "C100",
    "daimlerpedcls": "DPed",
    "dtd": "DTD",
    "gtsrb": "GTSR",
    "vgg-flowers": "Flwr",
    "omniglot": "OGlt",
    "svhn": "SVHN",
    "ucf101": "UCF",
}
"""The ten tasks in the order of Table 8 of the Piggyback paper, with its headings."""

KEEP_THE_BACKBONE: Final = frozenset(
    {
        *("piggyback", "piggyback-ternary", "feature", "finetune", "scratch", "norm"),
        *("affine", "ksm", "series", "parallel", "dan"),
    }
)
"""Methods that leave the pretrained network as it was for imagenet12, so that its own accuracy there is theirs.

``finetune`` and ``scratch`` train copies; Table 8 of the Piggyback paper prints one accuracy on imagenet12 for both.
The others that we name (packnet, joint, series-joint) change the network that all tasks share, and of a method that
we do not know nobody can say.
"""


def _describe(task: OfficialTask) -> Task:
    """A task with the counts and ids of its official release."""
    counts = dict[str, int](zip(SPLITS, task.pictures, strict=True))
    starts = {str(split): task.first_image_id(split) for split in SPLITS}
    first = task.category_ids.start
    ids = PictureIds(
        known=task.category_ids,
        categories=range(first, first + task.classes),
        official={split: range(start, start + counts[split]) for split, start in starts.items()},
    )
    return Task(title=TITLES[task.name], pictures=counts, ids=ids)


BOARD: Final = Board(
    name="decathlon",
    title="Visual Decathlon",
    caption="Visual Decathlon: top-1 accuracy (%)",
    metrics=(Metric(name="accuracy", title="accuracy", needed="always"),),
    across="tasks",
    tasks={name: _describe(TASKS[name]) for name in TITLES},
    splits=("val", "test"),
    foreign_metrics=("mean_iou", "pixel_accuracy", "mean_accuracy", "frequency_weighted_iou"),
    evidence=Answers(split="test"),
    total=Total(
        name="decathlon score",
        points=points_of,
        most=1000.0,
        view="points",
        title="Points per task",
        caption="Visual Decathlon: points of 1000 per task",
        intro="What each task adds to the score: 1000 for no error, 250 for the error of the organisers' fully "
        "fine-tuned network, none from twice that error on. Only official data earn points.",
        chart_caption="Score against parameters, those for all ten tasks over those of one network; the upper left is "
        "best. The line is the Pareto front of all that is drawn: as in the challenge, networks and training parts "
        "differ.",
        published_note="Published numbers are as printed; points are recomputed from their rounded accuracies.",
        split_notes={"val": "On val the formula still takes the baseline errors of the test parts."},
    ),
    placing=Placing(
        split="test",
        note="Places are among all complete entries on the official test part, by score, as the challenge counts: any "
        "network, trained on train or train+val.",  # its rules: robots.ox.ac.uk/~vgg/decathlon
    ),
    backbone_task=BackboneTask(name=BACKBONE_TASK, kept_by=KEEP_THE_BACKBONE),
    published=tuple(
        files("decathlon").joinpath("published", name) for name in ("accuracies.json", "scores.json", "unverified.json")
    ),
    intro="Accuracy on the ten tasks in percent, their mean, and the score. A rank holds within its protocol.",
    notes=(
        "A score recomputed from published accuracies, which are printed to two decimals, can differ by a few points "
        "from the printed score.",
        "Results on data that are not the official release earn no points and have no score.",
    ),
    ratio_note="Parameters are those for all ten tasks over those of one network, by the Piggyback paper's convention: "
    "heads and normalisation are left out.",
    position=1,
)
