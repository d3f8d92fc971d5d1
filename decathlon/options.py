"""What can be asked of the Decathlon's verbs; imports nothing heavy."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from piggyback.shell.arguments import Names


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
class OwnEvaluate:
    """What ``decathlon evaluate`` has beside the suite's options.

    Attributes:
        split: the part to measure on.
        labels: labels of the test part, a folder or a zip; those beside the data when not given.
    """

    split: Literal["val", "test"] = "val"
    labels: Path | None = None


@dataclass(frozen=True, kw_only=True)
class OwnReport:
    """What ``decathlon run`` and ``decathlon report`` have beside the suite's options.

    Attributes:
        labels: labels of the test parts, read once, after all training; those beside the data when not given.
    """

    labels: Path | None = None


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
