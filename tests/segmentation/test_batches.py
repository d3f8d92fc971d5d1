import random
from itertools import chain

import numpy as np
import pytest

from segmentation.batches import (
    Batch,
    epoch_length,
    group_by_shape,
    scale_labels,
    scale_picture,
    scaled_shape,
    training_batches,
)
from segmentation.release.packed import PackedSplit, build_index

SIDES = [(6, 8)] * 7 + [(8, 6)] * 4 + [(5, 5)] + [(12, 16)] * 3  # the last three have the first ones' shape at size 8
KEPT = range(15)


@pytest.fixture
def split() -> PackedSplit:
    """Pictures whose red is their label map, green their place, blue the column."""
    rng = np.random.default_rng(0)
    labels = [rng.choice(np.array([0, 3, 20, 255], np.uint8), side) for side in SIDES]
    pictures = [
        np.stack(
            [one, np.full_like(one, place), np.broadcast_to(np.arange(one.shape[1], dtype=np.uint8), one.shape)], 2
        )
        for place, one in enumerate(labels)
    ]
    heights, widths = np.array(SIDES, dtype=np.int64).T
    pixels, classes = (np.concatenate([one.ravel() for one in parts]) for parts in (pictures, labels))
    pixels.setflags(write=False)
    classes.setflags(write=False)
    return PackedSplit(
        name="sbd_train",
        ids=tuple(f"2008_{place:06}" for place in range(len(SIDES))),
        index=build_index(heights, widths),
        pixels=pixels,
        labels=classes,
        official=False,
        published=8498,
        fingerprint="f",
    )


def epoch(split: PackedSplit, **settings: object) -> list[Batch]:
    defaults = {"places": KEPT, "size": 0, "batch_size": 3, "flip": False, "seed": 5, "epoch": 2}
    return list(training_batches(split, **{**defaults, **settings}))  # type: ignore[arg-type]


def places_of(batches: list[Batch]) -> list[int]:
    return list(chain.from_iterable(batch.places for batch in batches))


@pytest.mark.parametrize("size", [0, 8, 5])
@pytest.mark.parametrize("batch_size", [1, 3, 4, 100])
def test_every_place_once_in_batches_of_one_shape(split: PackedSplit, size: int, batch_size: int) -> None:
    batches = epoch(split, size=size, batch_size=batch_size)
    assert sorted(places_of(batches)) == list(KEPT)
    for batch in batches:
        assert 1 <= len(batch.places) <= batch_size
        shapes = {scaled_shape(*SIDES[place], size=size) for place in batch.places}
        assert len(shapes) == 1
        assert batch.pictures.shape == (len(batch.places), *shapes.pop(), 3)
        assert batch.labels.shape == batch.pictures.shape[:-1]
        assert batch.pictures.dtype == batch.labels.dtype == np.uint8
    assert len(batches) == epoch_length(split, KEPT, size=size, batch_size=batch_size)


def test_pictures_of_different_sizes_share_a_shape_once_scaled(split: PackedSplit) -> None:
    assert [len(group) for group in group_by_shape(split, KEPT, size=0)] == [1, 7, 4, 3]
    assert [len(group) for group in group_by_shape(split, KEPT, size=8)] == [10, 4, 1]
    assert epoch_length(split, KEPT, size=8, batch_size=4) == 3 + 1 + 1
    assert epoch_length(split, KEPT, size=0, batch_size=1) == len(SIDES)
    assert [group.tolist() for group in group_by_shape(split, (9, 2, 1, 8), size=0)] == [[2, 1], [9, 8]]


def same(one: list[Batch], other: list[Batch]) -> bool:
    return len(one) == len(other) and all(
        a.places == b.places and np.array_equal(a.pictures, b.pictures) and np.array_equal(a.labels, b.labels)
        for a, b in zip(one, other, strict=True)
    )


def test_a_resumed_epoch_goes_on_where_it_was(split: PackedSplit) -> None:
    whole = epoch(split, flip=True, size=8)
    for start in range(len(whole) + 2):
        random.seed(start)
        np.random.seed(start)  # nothing may come from the global generators
        assert same(epoch(split, flip=True, size=8, start=start), whole[start:]), start


def test_seed_and_epoch_make_the_order_and_nothing_else_does(split: PackedSplit) -> None:
    orders = {tuple(places_of(epoch(split, seed=seed, epoch=number))) for seed in range(4) for number in range(4)}
    assert len(orders) == 16
    shapes = {
        tuple(batch.pictures.shape[1:3] for batch in epoch(split, batch_size=2, epoch=number)) for number in range(8)
    }
    assert len(shapes) > 4  # shapes do not come one after the other
    assert same(epoch(split, flip=True), epoch(split, flip=True))
    assert places_of(epoch(split, flip=True)) == places_of(epoch(split, flip=False))


def test_only_the_places_asked_for(split: PackedSplit) -> None:
    assert sorted(places_of(epoch(split, places=(14, 0, 11)))) == [0, 11, 14]


def test_at_size_0_the_pixels_are_the_splits_own(split: PackedSplit) -> None:
    for batch in epoch(split):
        for number, place in enumerate(batch.places):
            assert np.array_equal(batch.pictures[number], split.picture(place))
            assert np.array_equal(batch.labels[number], split.label_map(place))


def test_pictures_and_label_maps_are_mirrored_together_and_half_of_them(split: PackedSplit) -> None:
    turned: list[tuple[int, int]] = []
    for number in range(40):
        for batch in epoch(split, flip=True, epoch=number):
            assert np.array_equal(batch.pictures[..., 0], batch.labels)
            mirrored = batch.pictures[:, 0, 0, 2] > 0  # blue counts the columns
            assert np.array_equal(batch.pictures[..., 2][:, 0, -1] == 0, mirrored)
            turned += [(place, number) for place, turn in zip(batch.places, mirrored, strict=True) if turn]
            for place, labels, turn in zip(batch.places, batch.labels, mirrored, strict=True):
                assert np.array_equal(labels[:, ::-1] if turn else labels, split.label_map(place))
    assert 0.4 < len(turned) / (40 * len(SIDES)) < 0.6
    assert {place for place, _ in turned} == set(KEPT)
    assert len({number for place, number in turned if place == 0}) not in (0, 40)


def test_batches_can_be_written_to(split: PackedSplit) -> None:
    """As torch asks of arrays that it wraps."""
    batches = [*epoch(split), *epoch(split, flip=True), *epoch(split, size=8), *epoch(split, size=8, flip=True)]
    assert all(array.flags.writeable for batch in batches for array in (batch.pictures, batch.labels))


@pytest.mark.parametrize(
    ("side", "size", "shape"),
    [
        ((375, 500), 128, (96, 128)),
        ((500, 333), 128, (128, 85)),
        ((375, 500), 0, (375, 500)),
        ((375, 500), 500, (375, 500)),
        ((10, 20), 40, (20, 40)),
        ((1, 500), 64, (1, 64)),
        ((500, 1), 64, (64, 1)),
    ],
)
def test_the_longer_side_has_the_size_asked_for(side: tuple[int, int], size: int, shape: tuple[int, int]) -> None:
    assert scaled_shape(*side, size=size) == shape
    assert scale_picture(np.zeros((*side, 3), np.uint8), size=size).shape == (*shape, 3)
    assert scale_labels(np.zeros(side, np.uint8), size=size).shape == shape


@pytest.mark.parametrize("size", [11, 40, 64, 150])
def test_scaled_labels_are_labels(size: int) -> None:
    rng = np.random.default_rng(0)
    labels = rng.choice(np.array([0, 3, 20, 255], np.uint8), (50, 64))
    scaled = scale_labels(labels, size=size)
    assert set(np.unique(scaled)) <= {0, 3, 20, 255}
    assert scaled.shape == scaled_shape(50, 64, size=size)


@pytest.mark.parametrize("size", [16, 128])
def test_scaled_pictures_and_labels_stay_on_each_other(size: int) -> None:
    """A bright right-hand half of label 7: the edge is at the same place in both, to half a pixel."""
    labels = np.zeros((48, 64), np.uint8)
    labels[:, 32:] = 7
    picture = np.repeat((labels > 0).astype(np.uint8)[..., None] * 200, 3, axis=2)
    bright = scale_picture(picture, size=size)[..., 1] > 100
    assert np.array_equal(bright, scale_labels(labels, size=size) == 7)
    assert bright.mean() == 0.5


def test_shrinking_averages_the_pixels() -> None:
    """Without antialiasing a checkerboard would come out as its corner's colour."""
    board = (np.indices((64, 64)).sum(0) % 2 * 200).astype(np.uint8)
    scaled = scale_picture(np.repeat(board[..., None], 3, axis=2), size=8)
    assert np.abs(scaled.astype(int) - 100).max() <= 4
