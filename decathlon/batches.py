"""From packed pixels to batches: windows are copied, nothing is decoded, nothing depends on thread timing.

What a picture looks like in an epoch follows from (seed, epoch, its place in the split) alone, and the order
of the epoch from (seed, epoch), so a run that is resumed in the middle of an epoch sees what the whole run
would have seen.
"""

import queue
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from piggyback.data.labelled import PackedSplit, whole
from piggyback.shell.errors import BadInput

View = Literal["crop", "whole"]

ORDER: Final = 0
APPEARANCE: Final = 1
"""Streams of random numbers: the order stays the same when a draw is added to the appearance."""


@dataclass(frozen=True)
class Batch:
    """n pictures.

    Attributes:
        pixels: uint8 (n, 3, size, size), RGB, in channels_last memory format.
        labels: int64 (n); -1 for test pictures.
        image_ids: int64 (n).
    """

    pixels: Tensor
    labels: Tensor
    image_ids: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.image_ids)


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How a picture becomes a network's input.

    Attributes:
        size: side of the input, pixels.
        view: "crop" takes a window of the packed picture, at random in training and the centre otherwise;
            "whole" squeezes all of it to size x size.
        flip: in training, mirror every other picture by chance.
    """

    size: int = 64
    view: View = "crop"
    flip: bool = False


@dataclass(frozen=True)
class _Plan:
    """Rows of the split in the order to copy them, each with its window's corner and mirroring."""

    places: NDArray[np.int64]
    tops: NDArray[np.int64]
    lefts: NDArray[np.int64]
    flips: NDArray[np.bool_] | None


def training_batches(  # noqa: PLR0913 -- each says which pictures, and none can be left to another
    split: PackedSplit,
    *,
    augmentation: Augmentation,
    batch_size: int,
    seed: int,
    epoch: int,
    start: int = 0,
    drop_last: bool = False,
    limit: int | None = None,
    prefetch: int = 2,
) -> Iterator[Batch]:
    """The shuffled, augmented batches of one epoch.

    Args:
        split: what to train on.
        augmentation: window or whole picture, flips.
        batch_size: pictures in a batch; the last one of the epoch may have fewer.
        seed, epoch: not negative; with a picture's place they determine everything random.
        start: number of the first batch to yield, for resuming; earlier ones are not made.
        drop_last: leave a last batch out that is not full.
        limit: use at most so many pictures, the first of the shuffled epoch.
        prefetch: batches made ahead in one background thread; 0 makes each when asked for.

    Raises:
        BadInput: a picture is smaller than the window.
        ValueError: a number is out of its range.
    """
    if batch_size < 1 or start < 0 or (limit is not None and limit < 1):
        raise ValueError(f"batch_size {batch_size}, start {start}, limit {limit}: not a piece of an epoch")
    seen = _seen(split, augmentation)
    order = _generator(seed, epoch, ORDER).permutation(len(seen))[:limit]
    draws = _generator(seed, epoch, APPEARANCE).random((3, len(seen)))  # one column per picture, used or not
    room_down, room_right = seen.heights - augmentation.size, seen.widths - augmentation.size
    plan = _Plan(
        places=order,
        tops=np.floor(draws[0] * (room_down + 1)).astype(np.int64),
        lefts=np.floor(draws[1] * (room_right + 1)).astype(np.int64),
        flips=draws[2] < 0.5 if augmentation.flip else None,
    )
    batches = epoch_length(len(order), batch_size=batch_size, drop_last=drop_last)
    return _batches(
        seen, plan, size=augmentation.size, batch_size=batch_size, numbers=range(start, batches), ahead=prefetch
    )


def evaluation_batches(
    split: PackedSplit, *, augmentation: Augmentation, batch_size: int, prefetch: int = 2
) -> Iterator[Batch]:
    """Every picture once, in the order of the split: its centre window or all of it, never mirrored.

    Raises:
        BadInput: a picture is smaller than the window.
        ValueError: `batch_size` is not positive.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be positive, not {batch_size}")
    seen = _seen(split, augmentation)
    plan = _Plan(
        places=np.arange(len(seen)),
        tops=(seen.heights - augmentation.size) // 2,
        lefts=(seen.widths - augmentation.size) // 2,
        flips=None,
    )
    batches = epoch_length(len(seen), batch_size=batch_size)
    return _batches(seen, plan, size=augmentation.size, batch_size=batch_size, numbers=range(batches), ahead=prefetch)


def epoch_length(pictures: int, *, batch_size: int, drop_last: bool = False) -> int:
    return pictures // batch_size if drop_last else -(-pictures // batch_size)


def normalise(
    pixels: Tensor, *, mean: Sequence[float], std: Sequence[float], dtype: torch.dtype = torch.float32
) -> Tensor:
    """A network's input from uint8 pixels: scaled to [0, 1], then (x - mean) / std per channel.

    Works where the pixels are, computes in float32 and keeps the memory format.

    Args:
        pixels: uint8 (n, 3, h, w).
        mean, std: three numbers each, of pixels in [0, 1].
        dtype: of the result.
    """
    shift, scale = _channels(tuple(mean), tuple(std), pixels.device)
    return pixels.to(torch.float32).sub_(shift).mul_(scale).to(dtype)


@lru_cache(maxsize=64)
def _channels(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Shift and factor for bytes, (3, 1, 1) each; cached, as a copy to a GPU makes it wait."""
    shift = torch.tensor(mean, dtype=torch.float64).mul(255).view(3, 1, 1)
    scale = torch.tensor(std, dtype=torch.float64).mul(255).reciprocal().view(3, 1, 1)
    return shift.to(device, torch.float32), scale.to(device, torch.float32)


def _generator(seed: int, epoch: int, stream: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, epoch, stream])))


def _seen(split: PackedSplit, augmentation: Augmentation) -> PackedSplit:
    """The split as the augmentation sees it, after a check that every picture is large enough."""
    if augmentation.size < 1:
        raise ValueError(f"the side of the input must be positive, not {augmentation.size}")
    if augmentation.view == "whole":
        return whole(split, size=augmentation.size)
    heights, widths = split.heights, split.widths
    small = np.flatnonzero(np.minimum(heights, widths) < augmentation.size)
    if len(small):
        first = small[0]
        raise BadInput(
            f"{split.task} {split.split}: picture {split.image_ids[first]} is {widths[first]} x {heights[first]}, "
            f"smaller than a window of {augmentation.size} px ({len(small)} such pictures); "
            'use view "whole" or a smaller size'
        )
    return split


def _batches(
    split: PackedSplit, plan: _Plan, *, size: int, batch_size: int, numbers: range, ahead: int
) -> Iterator[Batch]:
    copy = _copier(split, plan, size=size)
    labels, image_ids = torch.from_numpy(split.labels), split.image_ids
    rows = [plan.places[number * batch_size : (number + 1) * batch_size] for number in numbers]
    with closing(_copied(copy, rows, ahead=ahead)) as copied:
        for places, pixels in zip(rows, copied, strict=True):
            if plan.flips is not None:
                # Here and not in the background: there torch would start a second pool of threads.
                chosen = np.flatnonzero(plan.flips[places])
                pixels[chosen] = _channels_first(pixels[chosen]).flip(3).permute(0, 2, 3, 1).numpy()
            yield Batch(_channels_first(pixels), labels[torch.from_numpy(places)], image_ids[places])


def _channels_first(pixels: NDArray[np.uint8]) -> Tensor:
    """Pixels (n, h, w, 3) seen as a channels_last tensor (n, 3, h, w), for which torch has a fast flip."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


Copy = Callable[[NDArray[np.int64]], NDArray[np.uint8]]


def _copier(split: PackedSplit, plan: _Plan, *, size: int) -> Copy:
    """A function from n places in the split to their windows, uint8 (n, size, size, 3)."""
    parts = [part.pixels for part in split.parts]
    part_of = np.searchsorted([part.first for part in split.parts], np.arange(len(split)), side="right") - 1
    strides = split.widths * 3  # bytes of a row
    table = np.stack([part_of, split.index["offset"], split.heights, strides, plan.tops, plan.lefts * 3], axis=1)

    def copy(places: NDArray[np.int64]) -> NDArray[np.uint8]:
        windows = np.empty((len(places), size, size * 3), dtype=np.uint8)
        for window, (part, offset, height, stride, top, left) in zip(windows, table[places].tolist(), strict=True):
            rows = parts[part][offset : offset + height * stride].reshape(height, stride)
            window[:] = rows[top : top + size, left : left + size * 3]
        return windows.reshape(len(places), size, size, 3)

    return copy


def _copied(copy: Copy, rows: Sequence[NDArray[np.int64]], *, ahead: int) -> Generator[NDArray[np.uint8], None, None]:
    """The results of `copy` for `rows`, in order, made by one thread that ends when the generator is closed."""
    if ahead < 1:
        yield from map(copy, rows)
        return
    ready: queue.Queue[NDArray[np.uint8] | BaseException] = queue.Queue()
    room = threading.Semaphore(ahead)
    closed = threading.Event()

    def work() -> None:
        try:
            for places in rows:
                room.acquire()
                if closed.is_set():
                    return
                ready.put(copy(places))
        except BaseException as fault:  # raised again where the batches are used
            ready.put(fault)

    thread = threading.Thread(target=work, name="batches", daemon=True)
    thread.start()
    try:
        for _ in rows:
            found = ready.get()
            room.release()
            if isinstance(found, BaseException):
                raise found
            yield found
    finally:
        closed.set()
        room.release()
        thread.join()
