"""The board of a benchmark: everything that a leaderboard needs to know about it, as data and one formula.

A package offers its board by an entry point of the group ``piggyback.boards``, named as its results name the benchmark.
The module that holds it must be light: no torch.  Results of a benchmark without a board are shown in a plain table
(`leaderboard.boards.plain_boards`).  ``docs/leaderboard.md`` explains each part by an example.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.resources.abc import Traversable
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
Unit = Literal["fraction", "number"]
Better = Literal["higher", "lower"]
Needed = Literal["always", "measured", "never"]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A number of a result that tables show.

    Attributes:
        name: its key in a result's ``metrics``.
        title: the heading of its column.
        unit: fractions are shown in percent.
        better: which direction is better; None where nobody knows, and then nothing is ranked by it.
        needed: whether a result must have it: every one, every measured one, or none.
    """

    name: str
    title: str
    unit: Unit = "fraction"
    better: Better | None = "higher"
    needed: Needed = "never"


@dataclass(frozen=True, kw_only=True)
class PictureIds:
    """The ids of a task's pictures and categories.

    Attributes:
        known: ids that a picture or a category may have, in any release.
        categories: ids of the official release's categories.
        official: ids of the official release's pictures, by split.
    """

    known: range
    categories: range
    official: Mapping[str, range]


@dataclass(frozen=True, kw_only=True)
class Task:
    """A task of a benchmark.

    Attributes:
        title: the heading of its column.
        pictures: how many the official release has, by split; splits may be left out.
        ids: None where ids follow no rule, so that only labels in the store say which pictures there are.
    """

    title: str
    pictures: Mapping[str, int] = field(default_factory=dict)
    ids: PictureIds | None = None


@dataclass(frozen=True, kw_only=True)
class Answers:
    """Evidence per picture: ``predictions.npz`` has the category that was chosen for each picture of one split.

    With the labels of that split the accuracy, which is the main metric, is counted again, intervals come by bootstrap
    over pictures, and two methods are compared picture by picture.

    Attributes:
        split: the split that is answered, also beside a record of another one.
    """

    file: ClassVar[str] = "predictions.npz"
    split: str = "test"


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """Evidence per class: ``confusion.json`` has the pixels of each true class by predicted class.

    All metrics are counted again from it.

    Attributes:
        classes: names in the order of the matrix.
    """

    file: ClassVar[str] = "confusion.json"
    classes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class BackboneTask:
    """The task that the frozen network was trained for, where the network's own result can serve for a method's.

    Attributes:
        name: of the task.
        kept_by: methods that leave the network as it was for this task.
    """

    name: str
    kept_by: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class Total:
    """One number over all tasks: the sum of the points that each task earns.

    Points exist for official data only, since their scale is made for it.

    Attributes:
        name: what the sum is called in charts.
        points: earned by a task with some errors; takes the task and an array of fractions, gives as large an array.
        most: points of a task without any error.
        view: name of the table of points.
        title: heading of that table's section.
        caption: above the table.
        intro: below the heading.
        chart_caption: below the chart of totals against parameters.
        published_note: what to know of points of published rows.
        split_notes: what to know of totals on a split, by split.
    """

    name: str
    points: Callable[[str, Numbers], Numbers]
    most: float
    view: str
    title: str
    caption: str
    intro: str = ""
    chart_caption: str = ""
    published_note: str = ""
    split_notes: Mapping[str, str] = field(default_factory=dict)

    def earned(self, task: str, error: float) -> float:
        """The points of one task with one error."""
        return float(self.points(task, np.asarray(error)))


@dataclass(frozen=True, kw_only=True)
class Placing:
    """A second order beside ranks: over all complete entries on official data of a split, whatever their protocol.

    Attributes:
        split: that is placed.
        note: why such entries may be compared.
    """

    split: str
    note: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Board:
    """The facts about a benchmark that a leaderboard needs.

    Attributes:
        name: as results name the benchmark.
        title: heading of its section.
        caption: above its table.
        metrics: in the order of their columns; by the first, the main one, entries are ranked.
        across: what columns hold: the main metric of each task, with an entry over all of them; or all metrics of one
            task, with an entry for each task.
        tasks: by name, in the order of their columns; empty where a task may have any name.
        splits: names of the splits; empty where a split may have any name.
        foreign_metrics: names that no result has, because they measure something else.
        evidence: what a result is counted again from; None where there is no such file.
        total: the number that entries are ranked by; None: by the mean over the tasks, or by the main metric.
        placing: None where there is no order across protocols.
        backbone_task: None where the frozen network has no task of its own here.
        published: files of rows that others published (`leaderboard.boards.published`).
        intro: below the heading.
        notes: what to know before comparing its rows.
        ratio_note: what its results' parameter ratios count.
        position: of its table among those of other benchmarks, lowest first.
        view: name of its table; empty: the board's own name.
    """

    name: str
    title: str
    caption: str
    metrics: tuple[Metric, ...]
    across: Literal["tasks", "metrics"]
    tasks: Mapping[str, Task] = field(default_factory=dict)
    splits: tuple[str, ...] = ()
    foreign_metrics: tuple[str, ...] = ()
    evidence: Answers | Confusion | None = None
    total: Total | None = None
    placing: Placing | None = None
    backbone_task: BackboneTask | None = None
    published: tuple[Traversable, ...] = ()
    intro: str = ""
    notes: tuple[str, ...] = ()
    ratio_note: str = ""
    position: int = 100
    view: str = ""

    def __post_init__(self) -> None:
        if not self.metrics:
            raise ValueError(f"the board {self.name} has no metric; give at least the main one")
        if self.across == "tasks" and not self.tasks:
            raise ValueError(f"the board {self.name} has a column for each task, but names no task")
        if self.total is not None and self.across != "tasks":
            raise ValueError(f"the board {self.name} has a total over tasks, but no column for each task")
        if isinstance(self.evidence, Answers) and self.main.name != "accuracy":
            raise ValueError(f"the board {self.name} judges each picture, so its main metric must be accuracy")

    @property
    def main(self) -> Metric:
        """The metric that entries are ranked by, or that their totals are made from."""
        return self.metrics[0]

    @property
    def names(self) -> tuple[str, ...]:
        """The tasks in alphabetical order."""
        return tuple(sorted(self.tasks))

    @property
    def views(self) -> tuple[str, ...]:
        """The names of its tables: its own, and that of the points where there is a total."""
        own = self.view or self.name
        return (own,) if self.total is None else (own, self.total.view)

    def has_task(self, task: str) -> bool:
        """Whether the benchmark has this task."""
        return not self.tasks or task in self.tasks

    def has_split(self, split: str) -> bool:
        """Whether the benchmark has this split."""
        return not self.splits or split in self.splits

    def count_official(self, task: str, split: str) -> int | None:
        """The number of pictures in the official release; None where it is not known."""
        known = self.tasks.get(task)
        return None if known is None else known.pictures.get(split)

    def find_ids(self, task: str) -> PictureIds | None:
        """The rule of a task's ids; None where there is none."""
        known = self.tasks.get(task)
        return None if known is None else known.ids
