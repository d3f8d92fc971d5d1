"""The Decathlon's part of ``piggyback demo``: the main job, on pictures it draws itself.

Every step is one of the console command's own verbs: what the demo does can be typed again, and then with real data.
"""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from decathlon.challenge.collection import find_runs
from decathlon.challenge.scoring import ScoreReport, score_file
from decathlon.challenge.summary import MethodSummary, percent, summarise
from decathlon.drawn.release import Amounts, write_release
from decathlon.release.labels import read_labels
from decathlon.tasks import MASKED_TASKS
from piggyback.shell.console import out, table
from piggyback.suite.verbs.demo import DemoFolder, announce, take_step

METHODS: Final = ("piggyback", "feature")
CROPPED: Final = ("cifar100", "dtd")  # wallpapers, where a window is as good as all; the others are one thing


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much the demo does.

    Attributes:
        epochs: of the backbone; its learning rate falls after four fifths of them.
        steps: of each task's training, at least.
    """

    amounts: Amounts = field(default_factory=Amounts)
    epochs: int = 10
    steps: int = 240
    update: Literal["auto", "eager"] = "auto"


@dataclass(frozen=True)
class Folder(DemoFolder):
    """Places of the demo's files."""

    @property
    def pretraining(self) -> Path:
        return self.root / "backbone"

    @property
    def backbone(self) -> Path:
        return self.pretraining / "backbone.safetensors"

    @property
    def submission(self) -> Path:
        """The JSON file; its zip is beside it."""
        return self.root / "results.json"


def run_demo(root: Path) -> None:
    """Draw, prepare, train a backbone, put nine tasks on it with masks and with heads alone, submit, score.

    Args:
        root: folder for everything; a demo that was interrupted there continues, a finished one says so.

    Raises:
        BadInput: the folder holds something else.
    """
    run_scaled(root, scale=Scale())


def run_scaled(root: Path, *, scale: Scale) -> tuple[MethodSummary, ...]:
    """As `run_demo`, of any size; returns what the final table shows."""
    folder = Folder(root)
    announce("draw ten small tasks, in the form of the official release")
    write_release(folder.release, amounts=scale.amounts)
    for title, arguments in plan_commands(folder, scale=scale):
        take_step(title, arguments, root=root)
    summaries = gather(folder)
    show(folder, summaries)
    return summaries


def plan_commands(folder: Folder, *, scale: Scale) -> list[tuple[str, Sequence[str]]]:
    """The steps in order: a title and the console command's arguments each."""
    whole = [task for task in MASKED_TASKS if task not in CROPPED]
    data, runs = ["--data", str(folder.data)], str(folder.runs)
    decay = max(1, round(0.8 * scale.epochs))
    prepare = ["--source", str(folder.release), "--out", str(folder.data)]
    network = ["--recipe", "smoke", "--depth", "10", "--widen", "2", "--size", "32"]
    network += ["--epochs", str(scale.epochs), "--decay-epochs", str(decay)]
    recipe = ["--recipe", "smoke", "--min-steps", str(scale.steps), "--lr", "3e-4", "--head-lr-factor", "30"]
    recipe += ["--precision", "fp32", "--whole", *whole]
    recipe += ["--update", scale.update] if scale.update != "auto" else []
    methods = ["--methods", ",".join(METHODS)]
    backbone = ["--backbone", str(folder.backbone)]
    submit = ["--runs", runs, "--method", METHODS[0], "--out", str(folder.submission)]
    labels = ["--labels", str(folder.data / "labels_test")]
    return [
        ("check every picture and pack the pixels", ["decathlon", "prepare", *prepare]),
        (
            "train a small backbone on the drawn imagenet12: shapes of any colour",
            ["decathlon", "backbone", "train", *data, "--out", str(folder.pretraining), *network],
        ),
        (
            "nine more tasks on the frozen backbone: one bit per weight, and a head alone",
            ["decathlon", "run", *data, *backbone, "--out", runs, *methods, *recipe],
        ),
        ("the file that the challenge's server would take", ["decathlon", "submit", *submit]),
        (
            "its points, by the challenge's rule",
            ["decathlon", "score", str(folder.submission.with_suffix(".zip")), *labels],
        ),
    ]


def gather(folder: Folder) -> tuple[MethodSummary, ...]:
    labels = read_labels(folder.data / "labels_test")
    found = []
    for method in METHODS:
        report: ScoreReport = score_file(folder.runs / "submissions" / f"{method}-seed0.json", labels=labels)
        found.append(summarise(method, find_runs(folder.runs, method=method, seed=0), report=report))
    return tuple(found)


def show(folder: Folder, summaries: Sequence[MethodSummary]) -> None:
    """Print the final table, where things are and what to do next."""
    masks, heads = summaries
    above = sum((masks.tasks[task].test or 0) > (heads.tasks[task].test or 0) for task in MASKED_TASKS)
    rows: list[tuple[str, ...]] = [
        ("mean test accuracy of the nine tasks, %", percent(masks.mean_test), percent(heads.mean_test)),
        ("tasks on which it is the better one", *better(masks, heads)),
        ("sum of points", *(points(summary.report) for summary in summaries)),
        ("parameters for ten tasks, in backbones", *(f"{summary.parameter_ratio:.5f}" for summary in summaries)),
        ("nine payload files, MB", *(f"{summary.megabytes:.2f}" for summary in summaries)),
    ]
    notes = masks.report.notes if masks.report is not None else ()
    announce("what came out")
    table("drawn pictures, no benchmark", "", "masks", "head alone", rows=rows, caption="; ".join(notes))
    task = max(masks.tasks, key=lambda name: (masks.tasks[name].test or 0) - (heads.tasks[name].test or 0))
    payload = next(folder.runs.glob(f"runs/{task}-{METHODS[0]}-*/payload.safetensors"))
    out.print(
        f"masks beat the head alone on {above} of {len(MASKED_TASKS)} tasks, by most on {task}\n"
        f"submission: {folder.submission.with_suffix('.zip')}\n\n"
        "next:\n"
        f"  piggyback payload show {shlex.quote(str(payload))}\n"
        "  piggyback decathlon fetch --out archives        # the official pictures\n"
        "  piggyback decathlon run --help",
        markup=False,
        soft_wrap=True,
    )


def better(one: MethodSummary, other: MethodSummary) -> tuple[str, str]:
    """Counts of the tasks on which each of two methods beats the other."""
    pairs = [(one.tasks[task].test or 0.0, other.tasks[task].test or 0.0) for task in MASKED_TASKS]
    return str(sum(a > b for a, b in pairs)), str(sum(b > a for a, b in pairs))


def points(report: ScoreReport | None) -> str:
    """The sum of points, or a dash."""
    return "-" if report is None or report.score is None else f"{report.score:.1f}"
