"""VOC's four numbers for palette PNGs of any program: ``piggyback segmentation miou``."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import numpy as np

from piggyback.shell import console
from piggyback.shell.errors import BadInput, one_line
from segmentation.metric.confusion import Matrix, count_pairs
from segmentation.metric.miou import score, show, warn_if_background, write_csv
from segmentation.options import MiouOptions
from segmentation.release.label_files import read_label_file
from segmentation.release.splits import parse_ids
from segmentation.voc import CLASSES

SUFFIX: Final = ".png"
NAMED: Final = 3  # names in a message, of however many there are
_THREADS: Final = 8  # more than cores: on a network's disk most of the time is waiting for small files
_BATCH: Final = 256  # pictures handed to the threads at a time, so that a failure comes soon


def run(options: MiouOptions) -> int:
    ids = chosen_ids(options)
    matrix = count_folders(options.truth, options.predictions, ids=ids)
    scores = score(matrix, pictures=len(ids))
    warn_if_background(matrix)
    if options.csv is not None:
        write_csv(options.csv, scores)
    if options.json:
        console.print_json(scores.as_json())
    else:
        show(scores, title=f"{one_line(options.predictions)} against {one_line(options.truth)}")
    return 0


def chosen_ids(options: MiouOptions) -> tuple[str, ...]:
    """The pictures to score: those of the list, or every PNG of the predictions.

    Without a list, a notice says how many label maps have no prediction: leaving pictures out changes the numbers.

    Raises:
        BadInput: a path is not a folder, the list is not one of ids, files are missing, or nothing is to be scored.
    """
    there = {folder: list_ids(folder) for folder in (options.truth, options.predictions)}
    truth, predictions = there[options.truth], there[options.predictions]
    ids = read_ids(options.ids) if options.ids is not None else tuple(predictions)
    if not ids:
        place = options.predictions if options.ids is None else options.ids
        raise BadInput(f"nothing to score: {one_line(place)} has no {'PNG' if options.ids is None else 'id'}")
    missing = [
        f"{len(absent):,} of {len(ids):,} files are not in {one_line(folder)}: {first_names(absent)}"
        for folder, found in there.items()
        if (absent := [one + SUFFIX for one in ids if one not in found])
    ]
    if missing:
        hint = "" if options.ids is not None else "; give --ids, a list of the pictures to score"
        raise BadInput("; ".join(missing) + hint)
    if options.ids is None and len(truth) > len(ids):
        left = [one for one in truth if one not in predictions]
        console.notice(
            f"{len(ids):,} of {len(truth):,} label maps of {one_line(options.truth)} are scored: the others, such as "
            f"{one_line(left[0])}, have no prediction"
        )
    return ids


def count_folders(truth: Path, predictions: Path, *, ids: Sequence[str]) -> Matrix:
    """One confusion matrix over all pictures, int64 (21, 21); only a few label maps are in memory at a time.

    Args:
        truth, predictions: folders that hold ``<id>.png`` for each of `ids`.

    Raises:
        BadInput: of the first picture, in order of `ids`, whose two files cannot be compared; it names both.
    """

    def count(one: str) -> Matrix:
        paths = truth / (one + SUFFIX), predictions / (one + SUFFIX)
        pair = [read_label_file(path) for path in paths]
        try:
            return count_pairs(*pair)
        except BadInput as fault:
            raise BadInput(f"{one_line(paths[1])} does not fit {one_line(paths[0])}: {fault}") from None

    total = np.zeros((len(CLASSES), len(CLASSES)), dtype=np.int64)
    with console.progress_bar() as bar, ThreadPoolExecutor(_THREADS) as pool:
        shown = bar.add_task("label maps", total=len(ids))
        for begin in range(0, len(ids), _BATCH):
            for matrix in pool.map(count, ids[begin : begin + _BATCH]):
                total += matrix
                bar.advance(shown)
    return total


def list_ids(folder: Path) -> dict[str, None]:
    """The names of a folder's PNGs without their ending, sorted; hidden files are left out.

    Raises:
        BadInput: it is not a folder.
    """
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "is not there"
        raise BadInput(f"{one_line(folder)} {what}; a folder of PNGs is expected")
    names = (path.name for path in folder.iterdir())
    return dict.fromkeys(sorted(name[: -len(SUFFIX)] for name in names if name.endswith(SUFFIX) and name[0] != "."))


def read_ids(path: Path) -> tuple[str, ...]:
    """The ids of a list, one per line.

    Raises:
        BadInput: it cannot be read, a line is not an id, or an id is there twice.
    """
    try:
        data = path.read_bytes()
    except OSError as fault:
        raise BadInput(f"cannot read {one_line(path)}: {fault.strerror}") from None
    return parse_ids(data, name=one_line(path))


def first_names(names: Sequence[str]) -> str:
    return ", ".join(map(one_line, names[:NAMED])) + (", ..." if len(names) > NAMED else "")
