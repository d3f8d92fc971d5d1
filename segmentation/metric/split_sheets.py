"""Overlay sheets of a split's pictures."""

from pathlib import Path

import numpy as np

from segmentation.metric.sheets import SheetRow, write_sheet
from segmentation.packed import PackedSplit
from segmentation.release.label_files import read_label_file


def write_sheets(path: Path, split: PackedSplit, *, predictions: Path, pictures: int) -> None:
    """An overlay sheet of pictures spread evenly over a split."""
    places = np.unique(np.linspace(0, len(split) - 1, num=min(pictures, len(split))).round().astype(int)).tolist()
    rows = [
        SheetRow(
            picture=split.picture(place),
            truth=split.label_map(place) if split.labelled else None,
            prediction=read_label_file(predictions / f"{split.ids[place]}.png"),
            title=split.ids[place],
        )
        for place in places
    ]
    write_sheet(path, rows)
