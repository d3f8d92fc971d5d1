"""From packed pictures to batches of one shape each.

Pictures are never padded to fit into a batch: what stands beside a picture reaches its pixels through a field of
view of 404 pixels, so padding would change scored ones.  A batch holds pictures that have one shape, and an epoch has
a smaller batch at the end of each shape.  The order, and which pictures are mirrored, follow from (seed, epoch)
alone, so a run that is resumed in the middle of an epoch sees what the whole run would have seen.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segmentation.release.packed import PackedSplit

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Batch:
    """n pictures of one shape.

    Attributes:
        pictures: uint8 (n, h, w, 3), RGB.
        labels: uint8 (n, h, w); void is 255.
        places: of the pictures in the split.
    """

    pictures: Pixels
    labels: Pixels
    places: tuple[int, ...]


def scaled_shape(height: int, width: int, *, size: int) -> tuple[int, int]:
    """Rows and columns with a longer side of `size`, at least one each; as they are for 0."""
    if size == 0:
        return height, width
    scale = size / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def scale_picture(picture: Pixels, *, size: int) -> Pixels:
    """A picture (h, w, 3) at that size: bilinear with antialiasing, as Pillow resizes."""
    height, width = scaled_shape(*picture.shape[:2], size=size)
    if (height, width) == picture.shape[:2]:
        return picture
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BILINEAR))


def scale_labels(labels: Pixels, *, size: int) -> Pixels:
    """A label map (h, w) at that size: the nearest pixel's label, never a mixture."""
    height, width = scaled_shape(*labels.shape, size=size)
    if (height, width) == labels.shape:
        return labels
    return np.asarray(Image.fromarray(labels).resize((width, height), Image.Resampling.NEAREST))


def group_by_shape(split: PackedSplit, places: Sequence[int], *, size: int) -> list[NDArray[np.int64]]:
    """Places of pictures that have one shape at that size, in a fixed order."""
    groups: dict[tuple[int, int], list[int]] = {}
    heights, widths = split.heights.tolist(), split.widths.tolist()
    for place in places:
        groups.setdefault(scaled_shape(heights[place], widths[place], size=size), []).append(place)
    return [np.array(groups[shape], dtype=np.int64) for shape in sorted(groups)]


def epoch_length(split: PackedSplit, places: Sequence[int], *, size: int, batch_size: int) -> int:
    return sum(-(-len(group) // batch_size) for group in group_by_shape(split, places, size=size))


def training_batches(
    split: PackedSplit,
    *,
    places: Sequence[int],
    size: int,
    batch_size: int,
    flip: bool,
    seed: int,
    epoch: int,
    start: int = 0,
) -> Iterator[Batch]:
    """The shuffled batches of one epoch.

    Args:
        split: with label maps.
        places: the pictures to train on.
        size: longer side in pixels; 0 leaves pictures as they are.
        batch_size: pictures in a batch, at most.
        flip: mirror every other picture by chance.
        seed, epoch: not negative; they determine everything random.
        start: number of the first batch to yield, for resuming; earlier ones are not made.
    """
    generator = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, epoch])))
    rows: list[NDArray[np.int64]] = []
    for group in group_by_shape(split, places, size=size):
        order = generator.permutation(group)
        rows += [order[first : first + batch_size] for first in range(0, len(order), batch_size)]
    order = generator.permutation(len(rows))
    mirrored = generator.random(len(split)) < 0.5 if flip else np.zeros(len(split), dtype=np.bool_)
    for number in order[start:]:
        row = rows[number]
        pictures = [scale_picture(split.picture(place), size=size) for place in row]
        labels = [scale_labels(split.label_map(place), size=size) for place in row]
        turned = [bool(mirrored[place]) for place in row]
        yield Batch(
            np.stack([one[:, ::-1] if turn else one for one, turn in zip(pictures, turned, strict=True)]),
            np.stack([one[:, ::-1] if turn else one for one, turn in zip(labels, turned, strict=True)]),
            tuple(row.tolist()),
        )
