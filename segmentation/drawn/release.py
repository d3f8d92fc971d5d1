"""A small release of drawn scenes with all that the official ones have: pictures, label maps and lists.

<folder>/drawn.json                                  what was drawn, written first
<folder>/benchmark_RELEASE/dataset/img/<id>.jpg
<folder>/benchmark_RELEASE/dataset/cls/<id>.mat      the labels in SBD's form, without void
<folder>/benchmark_RELEASE/dataset/{train,val}.txt
<folder>/VOCdevkit/VOC2012/JPEGImages/<id>.jpg
<folder>/VOCdevkit/VOC2012/SegmentationClass/<id>.png   the labels in VOC's form, with void around things
<folder>/VOCdevkit/VOC2012/ImageSets/Segmentation/{train,val,seg11valid}.txt
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.io import savemat

from piggyback.data.drawn_release import encode_jpeg, was_drawn
from piggyback.shell.console import progress_bar
from piggyback.shell.errors import BadInput
from piggyback.shell.files import write_bytes, write_json
from segmentation.drawn.scenes import draw_scene
from segmentation.release.label_files import write_label_map

VERSION: Final = 1  # of the drawings: another one does not continue a folder
SBD: Final = Path("benchmark_RELEASE", "dataset")
VOC: Final = Path("VOCdevkit", "VOC2012")
MAT_HEADER: Final = b"MATLAB 5.0 MAT-file, a drawn scene".ljust(116)
"""In place of scipy's, which has the time in it; 116 bytes of text, as the format says."""


@dataclass(frozen=True, kw_only=True)
class Amounts:
    """Scenes to train on and to evaluate on."""

    train: int = 240
    val: int = 48


def write_release(folder: Path, *, amounts: Amounts | None = None, seed: int = 0) -> None:
    """Draw and write a release; files that are there already are kept, so an interrupted one continues.

    As in the official ones, SBD's part and VOC's overlap: all scenes to train on are SBD's, and every second one
    is VOC's too; all to evaluate on are VOC's, and every second one is SBD's too.

    Args:
        folder: made where it is missing.
        amounts: the defaults of `Amounts` for None.
        seed: of all scenes.

    Raises:
        BadInput: other drawings, or a release that was not drawn, are there.
    """
    amounts = amounts or Amounts()
    _claim(folder, {"version": VERSION, "seed": seed, "amounts": {"train": amounts.train, "val": amounts.val}})
    count = amounts.train + amounts.val
    with progress_bar() as bar:
        for number in bar.track(range(count), total=count, description="drawing scenes"):
            trained = number < amounts.train
            second = (number if trained else number - amounts.train) % 2 == 0
            _write_scene(folder, number, seed=seed, in_sbd=trained or second, in_voc=not trained or second)
    train, val = range(amounts.train), range(amounts.train, count)
    _write_list(folder / SBD / "train.txt", train)
    _write_list(folder / SBD / "val.txt", val[::2])
    sets = folder / VOC / "ImageSets" / "Segmentation"
    _write_list(sets / "train.txt", train[::2])
    _write_list(sets / "val.txt", val)
    _write_list(sets / "seg11valid.txt", val)


def scene_id(number: int) -> str:
    """The id of a scene; no published one has a number as high."""
    return f"2010_9{number:05}"


def _claim(folder: Path, identity: dict[str, object]) -> None:
    """Record in the folder the drawings it is for; raise BadInput where others, or a real release, are there."""
    stamp = folder / "drawn.json"
    if was_drawn(stamp, identity=identity):
        return
    for part in (SBD, VOC):
        if (folder / part).exists():
            raise BadInput(f"{folder / part} exists, and was not drawn here: take another folder for the drawings")
    write_json(stamp, identity)


def _write_scene(folder: Path, number: int, *, seed: int, in_sbd: bool, in_voc: bool) -> None:
    """Write the files of a scene that are missing."""
    name = scene_id(number)
    mat, png = folder / SBD / "cls" / f"{name}.mat", folder / VOC / "SegmentationClass" / f"{name}.png"
    pictures = [folder / SBD / "img" / f"{name}.jpg"] * in_sbd + [folder / VOC / "JPEGImages" / f"{name}.jpg"] * in_voc
    missing = [path for path in (*pictures, *[mat] * in_sbd, *[png] * in_voc) if not path.exists()]
    if not missing:
        return
    scene = draw_scene(number, seed=seed)
    for path in missing:
        if path == mat:
            write_bytes(path, encode_mat(scene.labels))
        elif path == png:
            write_label_map(path, scene.bordered)
        else:
            write_bytes(path, encode_jpeg(scene.pixels))


def encode_mat(labels: NDArray[np.uint8]) -> bytes:
    """A label map as SBD keeps it: struct ``GTcls`` with ``Segmentation`` and ``CategoriesPresent``.

    The official files also have ``Boundaries``, which nothing here reads.

    Args:
        labels: uint8 (height, width), values 0..20.
    """
    present = np.unique(labels[labels > 0]).astype(np.uint8)[:, None]
    buffer = io.BytesIO()
    savemat(buffer, {"GTcls": {"Segmentation": labels, "CategoriesPresent": present}}, do_compression=True)
    return MAT_HEADER + buffer.getvalue()[len(MAT_HEADER) :]


def _write_list(path: Path, numbers: Sequence[int]) -> None:
    write_bytes(path, "".join(f"{scene_id(number)}\n" for number in numbers).encode())
