"""Sizes of pictures that no list states: measured from the headers before packing, and noted."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from piggyback.data.packing import partial_folder
from piggyback.data.pictures import Size, measure
from piggyback.shell.arrays import Form, read_array
from piggyback.shell.console import progress_bar
from piggyback.shell.errors import BadInput, Fault
from piggyback.shell.files import atomic_file


def measure_all(
    folder: Path, pictures: Iterable[tuple[str, bytes, str]], *, ids: Sequence[str], title: str
) -> tuple[dict[str, Size], dict[str, str]]:
    """Height and width of each picture, and the faults of pictures without, by id.

    Measured sizes are noted, so that the next run need not read the pictures.

    Args:
        folder: that is packed into, after `begin`.
        pictures: id, file and name for messages of those that exist; consumed only if sizes are not noted yet.
        ids: of all pictures that there should be.
        title: of the progress bar.
    """
    noted = load_sizes(folder, count=len(ids))
    if noted is not None:
        return dict(zip(ids, zip(*noted.T.tolist(), strict=True), strict=True)), {}
    sizes: dict[str, Size] = {}
    faults: dict[str, str] = {}
    with progress_bar() as bar:
        for one, data, name in bar.track(pictures, total=len(ids), description=title):
            try:
                sizes[one] = measure(data, name=name)
            except BadInput as fault:
                faults[one] = str(fault)
    if len(sizes) == len(ids):
        save_sizes(folder, np.array([sizes[one] for one in ids], dtype=np.int64))
    return sizes, faults


def load_sizes(folder: Path, *, count: int) -> NDArray[np.int64] | None:
    """Heights and widths, int64 (n, 2), that an earlier run noted for as many pictures; None if it did not."""
    try:
        return read_array(_size_file(folder), form=Form(np.dtype(np.int64), (count, 2)))
    except Fault:
        return None


def save_sizes(folder: Path, sizes: NDArray[np.int64]) -> None:
    with atomic_file(_size_file(folder)) as file:
        np.save(file, sizes, allow_pickle=False)


def _size_file(folder: Path) -> Path:
    return partial_folder(folder) / "sizes.npy"
