import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from decathlon.batches import Augmentation, Batch, evaluation_batches, normalise, training_batches
from decathlon.release.packed import open_split
from piggyback.data.labelled import PackedSplit, join
from piggyback.shell.errors import BadInput


@pytest.fixture
def split(packed_root: Path) -> PackedSplit:
    return join(open_split(packed_root, "svhn", "train"), open_split(packed_root, "svhn", "val"))


def collect(split: PackedSplit, **changes: object) -> list[Batch]:
    wanted = {"augmentation": Augmentation(size=64, flip=True), "batch_size": 5, "seed": 3, "epoch": 1, **changes}
    return list(training_batches(split, **wanted))  # type: ignore[arg-type]


def same(first: Batch, second: Batch) -> bool:
    alike = torch.equal(first.pixels, second.pixels) and torch.equal(first.labels, second.labels)
    return alike and np.array_equal(first.image_ids, second.image_ids)


def test_an_epoch_has_every_picture_once_with_its_own_label(split: PackedSplit) -> None:
    batches = collect(split)
    assert [len(batch) for batch in batches] == [5, 5, 2]
    label = dict(zip(split.image_ids.tolist(), split.labels.tolist(), strict=True))
    seen = [(i, y) for batch in batches for i, y in zip(batch.image_ids.tolist(), batch.labels.tolist(), strict=True)]
    assert sorted(seen) == sorted(label.items())
    assert [i for i, _ in seen] != split.image_ids.tolist()
    pixels = batches[0].pixels
    assert (pixels.shape, pixels.dtype) == ((5, 3, 64, 64), torch.uint8)
    assert pixels.is_contiguous(memory_format=torch.channels_last)


def test_windows_lie_in_their_picture_and_flips_mirror_them(split: PackedSplit) -> None:
    place = {image: number for number, image in enumerate(split.image_ids.tolist())}
    mirrored, corners = 0, set()
    for epoch in range(6):
        for batch in collect(split, epoch=epoch):
            for image, pixels in zip(batch.image_ids.tolist(), batch.pixels, strict=True):
                windows = np.lib.stride_tricks.sliding_window_view(split.picture(place[image]), (64, 64, 3))[:, :, 0]
                window = pixels.permute(1, 2, 0).numpy()
                plain = np.argwhere((windows == window).all((2, 3, 4)))
                turned = np.argwhere((windows == window[:, ::-1]).all((2, 3, 4)))
                assert len(plain) + len(turned) >= 1
                mirrored += len(turned) > 0
                corners.add(tuple((*plain, *turned)[0]))
    assert 20 < mirrored < 52  # of 72, each with chance one half
    assert len(corners) > 20


def test_resuming_and_threads_change_nothing(split: PackedSplit) -> None:
    full = collect(split, batch_size=2)
    rest = collect(split, batch_size=2, start=2, prefetch=0)
    assert len(rest) == 4
    assert all(same(a, b) for a, b in zip(full[2:], rest, strict=True))
    whole_epoch = torch.cat([batch.pixels for batch in full])
    assert torch.equal(torch.cat([batch.pixels for batch in collect(split, batch_size=7)]), whole_epoch)
    for other in ({"seed": 4}, {"epoch": 2}):
        assert not torch.equal(
            torch.cat([batch.pixels for batch in collect(split, batch_size=2, **other)]), whole_epoch
        )


def test_limit_takes_the_first_of_the_shuffled_epoch(split: PackedSplit) -> None:
    full, few = collect(split), collect(split, limit=7)
    assert [len(batch) for batch in few] == [5, 2]
    assert same(few[0], full[0])
    assert few[1].image_ids.tolist() == full[1].image_ids[:2].tolist()
    assert [len(batch) for batch in collect(split, drop_last=True)] == [5, 5]
    assert collect(split, start=3) == []


def test_evaluation_keeps_the_order_and_takes_the_centre(split: PackedSplit) -> None:
    batches = list(evaluation_batches(split, augmentation=Augmentation(size=64, flip=True), batch_size=5))
    assert [i for batch in batches for i in batch.image_ids] == split.image_ids.tolist()
    pixels = torch.cat([batch.pixels for batch in batches])
    for place in range(len(split)):
        top, left = (split.heights[place] - 64) // 2, (split.widths[place] - 64) // 2
        expected = split.picture(place)[top : top + 64, left : left + 64]
        assert np.array_equal(pixels[place].permute(1, 2, 0).numpy(), expected)


def test_the_whole_view_has_all_of_the_picture(split: PackedSplit) -> None:
    (batch,) = evaluation_batches(split, augmentation=Augmentation(size=64, view="whole"), batch_size=99)
    means = batch.pixels.double().mean((2, 3)).numpy()
    expected = [split.picture(place).mean((0, 1)) for place in range(len(split))]
    assert np.abs(means - expected).max() < 2


def test_a_picture_smaller_than_the_window_is_named_at_once(split: PackedSplit) -> None:
    with pytest.raises(BadInput, match=r'picture 80000001 is 90 x 72, smaller than a window of 80 px.*view "whole"'):
        training_batches(split, augmentation=Augmentation(size=80), batch_size=4, seed=0, epoch=0)


def test_leaving_early_ends_the_thread_and_its_faults_arrive(
    split: PackedSplit, monkeypatch: pytest.MonkeyPatch
) -> None:
    def alive() -> int:
        return sum(thread.name == "batches" for thread in threading.enumerate())

    for batch in training_batches(split, augmentation=Augmentation(), batch_size=1, seed=0, epoch=0):
        assert len(batch) == 1
        assert alive() == 1
        break
    assert alive() == 0

    class Broken:
        def __getitem__(self, _: object) -> None:
            raise OSError("the disk went away")

    part = split.parts[0]
    object.__setattr__(part, "pixels", Broken())
    with pytest.raises(OSError, match="the disk went away"):
        collect(split)
    assert alive() == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_normalise_is_scale_then_shift_per_channel(dtype: torch.dtype) -> None:
    pixels = torch.randint(0, 256, (4, 5, 6, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.5)
    found = normalise(pixels, mean=mean, std=std, dtype=dtype)
    expected = (pixels.double() / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    assert found.dtype == dtype
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert (found - expected).abs().max() < (1e-5 if dtype == torch.float32 else 0.02)
    assert pixels.dtype == torch.uint8
