"""Label maps as COCO's run-length encoding: ``piggyback segmentation rle``.

One entry per picture and class in it, in the form of detectron2's semantic segmentation results: ``file_name``,
``category_id`` (VOC's label, background included), ``segmentation`` with ``size`` (height, width) and ``counts``.
``image_id`` is there for readers of COCO results.  Void is no class and has no entry.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from piggyback.shell import console
from piggyback.shell.errors import BadInput, one_line
from piggyback.shell.files import write_bytes
from segmentation.metric.png_folders import SUFFIX, list_ids
from segmentation.options import RleOptions
from segmentation.release.label_files import read_label_file
from segmentation.voc import VOID


def run(options: RleOptions) -> int:
    if options.out.is_dir():
        raise BadInput(f"{one_line(options.out)} is a folder; --out is the JSON file to write")
    ids = list(list_ids(options.predictions))
    if not ids:
        raise BadInput(f"{one_line(options.predictions)} has no PNG: give a folder of label maps")
    entries = encode_folder(options.predictions, ids=ids)
    write_bytes(options.out, (json.dumps(entries, separators=(",", ":")) + "\n").encode())
    if options.json:
        console.print_json({"pictures": len(ids), "entries": len(entries), "out": str(options.out)})
    else:
        console.out.print(
            f"{one_line(options.out)}: {len(entries):,} masks of {len(ids):,} pictures", markup=False, soft_wrap=True
        )
    return 0


def encode_folder(folder: Path, *, ids: Sequence[str]) -> list[dict[str, object]]:
    """The entries of a folder's pictures ``<id>.png``, in order of `ids` and of labels.

    Raises:
        BadInput: a file is missing or not a label map.
    """
    entries: list[dict[str, object]] = []
    with console.progress_bar() as bar:
        shown = bar.add_task("label maps", total=len(ids))
        for one in ids:
            name = one + SUFFIX
            for label, segmentation in encode_labels(read_label_file(folder / name)).items():
                entry = {"image_id": one, "file_name": name, "category_id": label, "segmentation": segmentation}
                entries.append(entry)
            bar.advance(shown)
    return entries


def encode_labels(labels: NDArray[np.uint8]) -> dict[int, dict[str, object]]:
    """COCO RLE of each label of a map, ready for JSON.

    Args:
        labels: uint8 (height, width), 0..20 and 255.

    Returns:
        By label, without void: ``{"size": [height, width], "counts": str}``.
    """
    present = [label for label in np.unique(labels).tolist() if label != VOID]
    if not present:
        return {}
    # One plane per label; COCO's runs go down the columns, so the planes are in Fortran's order.
    planes = np.asfortranarray(labels[..., None] == np.array(present, dtype=np.uint8)).view(np.uint8)
    return {
        label: {"size": list(map(int, run["size"])), "counts": run["counts"].decode("ascii")}
        for label, run in zip(present, coco.encode(planes), strict=True)
    }
