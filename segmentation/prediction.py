"""Label maps from a network, kept as PNGs: what is on the disk is not predicted again."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import interpolate

from piggyback.device import autocast
from piggyback.shell.console import notice
from piggyback.shell.errors import BadInput, Diverged, Requeue, one_line
from piggyback.shell.files import write_json
from piggyback.shell.strict_json import read_json
from piggyback.suite.training.checkpoints import StopFlag
from segmentation.batches import scale_picture
from segmentation.metric.confusion import Matrix, count_pairs
from segmentation.release.label_files import read_label_file, write_label_map
from segmentation.release.packed import PackedSplit
from segmentation.voc import CLASSES

OF = "of.json"  # in a folder of predictions: the source that they are of


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A split's predictions.

    Attributes:
        folder: of the PNGs, ``<id>.png``.
        matrix: confusion over all pictures, rows truth, columns prediction; all zero where there are no label maps.
    """

    folder: Path
    matrix: Matrix
    pictures: int


@dataclass(frozen=True, kw_only=True)
class Predictor:
    """The way from a picture to a network's input.

    Attributes:
        feed: the network's input from RGB pixels ``(n, h, w, 3)``, uint8, on the device.
        size: longer side of what the network sees; 0 leaves pictures as they are.
        precision: of the forward pass, as in `piggyback.device.autocast`.
    """

    feed: Callable[[Tensor], Tensor]
    size: int
    device: torch.device
    precision: str


def predict_picture(predictor: Predictor, network: nn.Module, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The most likely class of every pixel, uint8 (h, w), of a picture (h, w, 3); the network is in evaluation mode.

    One picture at a time, unpadded, at the predictor's size; logits are scaled to the picture's own size before the
    best class is taken, so that label maps are never resized.

    Raises:
        Diverged: a logit is not finite.
    """
    seen = scale_picture(picture, size=predictor.size)
    with torch.inference_mode(), autocast(predictor.device, precision=predictor.precision):
        pixels = torch.from_numpy(np.array(seen)).to(predictor.device)  # a copy: packed pictures cannot be written
        logits = network(predictor.feed(pixels[None]))
        if seen.shape != picture.shape:
            logits = interpolate(logits.float(), size=picture.shape[:2], mode="bilinear", align_corners=False)
        if not torch.isfinite(logits).all():
            raise Diverged("logits are not finite: the training diverged")
        labels: NDArray[np.uint8] = logits.argmax(1)[0].to(torch.uint8).cpu().numpy()
        return labels


def count_places(predictor: Predictor, network: nn.Module, split: PackedSplit, places: Sequence[int]) -> Matrix:
    """Confusion over some pictures of a labelled split; no prediction is written."""
    network.eval()
    matrix = np.zeros((len(CLASSES), len(CLASSES)), dtype=np.int64)
    for place in places:
        matrix += count_place(split, place, predict_picture(predictor, network, split.picture(place)))
    return matrix


def count_place(split: PackedSplit, place: int, labels: NDArray[np.uint8]) -> Matrix:
    """The pairs of one picture's truth and prediction.

    Raises:
        BadInput: the split has no label maps, or damaged ones; the message names the picture.
    """
    truth = split.label_map(place)
    try:
        return count_pairs(truth, labels)
    except BadInput as fault:
        raise BadInput(
            f"{split.name}, {split.ids[place]}: {fault}; the packed files are damaged: delete and prepare them again"
        ) from None


def predict_split(
    predictor: Predictor,
    network: nn.Module,
    split: PackedSplit,
    *,
    folder: Path,
    source: Mapping[str, Any],
    stop: StopFlag | None = None,
    on_picture: Callable[[int], None] = lambda done: None,
) -> Scored:
    """Predict every picture of a split into a folder, or continue there, and count against the truth.

    Args:
        predictor, network: the network with the task's masks and head in place.
        split: with or without label maps.
        folder: for the PNGs and a record of their `source`; PNGs of another source are removed first.
        source: what the predictions depend on, as JSON.
        stop: asks for an end after the picture under way.
        on_picture: called with how many are done.

    Raises:
        BadInput: the folder holds something else.
        Requeue: a stop was asked for; what is done stays.
    """
    claim(folder, source=source)
    network.eval()
    matrix = np.zeros((len(CLASSES), len(CLASSES)), dtype=np.int64)
    for place, labels in predictions(predictor, network, split, folder=folder):
        if split.labelled:
            matrix += count_place(split, place, labels)
        on_picture(place + 1)
        if stop is not None and stop.requested and place + 1 < len(split):
            raise Requeue
    return Scored(folder=folder, matrix=matrix, pictures=len(split))


def predictions(
    predictor: Predictor, network: nn.Module, split: PackedSplit, *, folder: Path
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Each picture's place and label map: read from its PNG where that is whole and fits, else predicted."""
    for place, one in enumerate(split.ids):
        path, picture = folder / f"{one}.png", split.picture(place)
        labels = read_prediction(path, shape=picture.shape[:2])
        if labels is None:
            labels = predict_picture(predictor, network, picture)
            write_label_map(path, labels)
        yield place, labels


def read_prediction(path: Path, *, shape: tuple[int, ...]) -> NDArray[np.uint8] | None:
    """A prediction from an earlier call; None where there is none, or one that is damaged or of another picture."""
    if not path.exists():
        return None
    try:
        labels = read_label_file(path)
    except BadInput as fault:
        notice(f"{fault}: predicted again")
        return None
    if labels.shape != shape or labels.max() >= len(CLASSES):  # nothing is ever predicted to be void
        notice(f"{one_line(path)} is not a prediction of this picture: predicted again")
        return None
    return labels


def claim(folder: Path, *, source: Mapping[str, Any]) -> None:
    """Reserve a folder for predictions from `source`; those from another payload, split or machine are removed.

    Raises:
        BadInput: the folder holds files that no run wrote; none are removed.
    """
    if (folder / OF).exists():
        try:
            known = read_json(folder / OF)
        except BadInput:
            known = None
        if known == dict(source):
            return
        notice(f"{one_line(folder)} holds predictions of another payload, data or machine: they are made again")
        for path in (*folder.glob("*.png"), *folder.glob(".*.tmp")):  # a kill here leaves the old `OF`
            path.unlink(missing_ok=True)
    elif folder.is_dir() and any(not path.name.startswith(".") for path in folder.iterdir()):
        raise BadInput(
            f"{one_line(folder)} holds files that are not a run's predictions: move them, or take another --out"
        )
    write_json(folder / OF, dict(source))
