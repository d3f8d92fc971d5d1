"""Packed tasks, as `prepare` writes them.

<root>/<task>/task.json   written last: a task with it is finished
<root>/<task>/            the pixels and the index of each split, as `piggyback.data.labelled` has them
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from decathlon.tasks import SPLITS, Split
from piggyback.data.labelled import PackedSplit, open_labelled_index, open_part
from piggyback.data.packed import Packs, read_flag
from piggyback.shell.errors import BadInput

PACKS: Final = Packs(benchmark="decathlon", unit="task", key="task", version=1)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The content of ``task.json``.

    Attributes:
        category_ids, category_names: in the order of the labels.
        counts: pictures of each split.
        official: counts, id ranges and class names are those of the official release.
        folder_mismatches: classes whose folder number is not the category's place.
        fingerprint: hex sha256 over index and pixels of train, val and test.
        annotations: hex sha256 of each split's annotation file.
        source: place that the pictures were read from.
        refused: files of that place that were left out, such as links.
    """

    task: str
    category_ids: tuple[int, ...]
    category_names: tuple[str, ...]
    counts: dict[str, int]
    official: bool
    folder_mismatches: int
    fingerprint: str
    annotations: dict[str, str]
    source: str
    refused: tuple[str, ...] = ()


def write_manifest(root: Path, manifest: Manifest) -> None:
    """Write ``task.json``, which makes the task finished."""
    PACKS.write(root, manifest.task, vars(manifest))


def read_manifest(root: Path, task: str) -> Manifest | None:
    """The content of ``task.json``; None where the task is not finished.

    Raises:
        BadInput: the file is damaged or of another version.
    """
    return PACKS.read(root, task, build=_build)


def _build(fields: Mapping[str, Any]) -> Manifest:
    return Manifest(
        task=str(fields["task"]),
        category_ids=tuple(int(number) for number in fields["category_ids"]),
        category_names=tuple(str(name) for name in fields["category_names"]),
        counts={split: int(fields["counts"][split]) for split in SPLITS},
        official=read_flag(fields["official"]),
        folder_mismatches=int(fields["folder_mismatches"]),
        fingerprint=str(fields["fingerprint"]),
        annotations={split: str(fields["annotations"][split]) for split in SPLITS},
        source=str(fields["source"]),
        refused=tuple(str(line) for line in fields["refused"]),
    )


def open_split(root: Path, task: str, split: Split) -> PackedSplit:
    """Open a split that `prepare` has packed.

    Raises:
        BadInput: it is not there, or its files disagree; the message has the command that makes it.
    """
    manifest = PACKS.read_finished(root, task, build=_build)
    folder, count = root / task, manifest.counts[split]
    try:
        index = open_labelled_index(folder, split, count=count, classes=len(manifest.category_ids))
    except BadInput as fault:
        raise BadInput(f"{fault}. Run `{PACKS.command(root, task)}` to pack it again") from None
    return PackedSplit(
        task=task,
        split=split,
        index=index,
        parts=(open_part(folder, split, count=count),),
        category_ids=np.array(manifest.category_ids, dtype=np.int64),
        official=manifest.official,
        fingerprint=manifest.fingerprint,
    )
