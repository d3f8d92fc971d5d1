"""Boards of benchmarks that this project does not have, as another package would offer them."""

from leaderboard.boards.board import Answers, Board, Metric, Task

DIGITS = Board(
    name="digits",
    title="Digits",
    caption="Digits: accuracy (%)",
    metrics=(Metric(name="accuracy", title="accuracy", needed="always"),),
    across="tasks",
    tasks={
        "odd": Task(title="Odd", pictures={"test": 10}),
        "even": Task(title="Even", pictures={"test": 10}),
    },
    splits=("val", "test"),
    evidence=Answers(split="test"),
    intro="Digits, five classes each.",
    notes=("Digits are small.",),
)
"""One entry over two tasks, judged picture by picture; no total, so the mean ranks."""

DEPTH = Board(
    name="depth",
    title="Depth",
    caption="Depth: root mean square error (m)",
    metrics=(
        Metric(name="rmse", title="RMSE", unit="number", better="lower", needed="always"),
        Metric(name="delta1", title="delta 1"),
    ),
    across="metrics",
)
"""An entry for each task, with any name; less is better."""

CLASHING = Board(
    name="clashing",
    title="Clashing",
    caption="",
    metrics=(Metric(name="accuracy", title="accuracy"),),
    across="metrics",
    view="points",
)
"""Its table has the name of another board's."""

NO_BOARD = "not a board"
