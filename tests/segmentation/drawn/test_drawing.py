import itertools
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import loadmat

from piggyback.shell.errors import BadInput
from segmentation.drawn.release import Amounts, encode_mat, scene_id, write_release
from segmentation.drawn.scenes import LABELS, MOST, SIZES, draw_scene, draw_scenery, draw_thing
from segmentation.release.splits import SPLITS, published_ids
from segmentation.voc import PALETTE, VOID

AMOUNTS = Amounts(train=3, val=2)


def test_a_scene_follows_from_its_numbers() -> None:
    scene, again = draw_scene(5, seed=3), draw_scene(5, seed=3)
    for name in ("pixels", "things", "labels"):
        np.testing.assert_array_equal(getattr(scene, name), getattr(again, name))
        assert getattr(scene, name).dtype == np.uint8
    assert (scene.pixels != draw_scene(5 + len(SIZES), seed=3).pixels).any()
    assert (scene.pixels != draw_scene(5, seed=4).pixels).any()


def test_things_are_large_mostly_seen_and_of_all_classes() -> None:
    firsts: list[int] = []
    for number in range(36):
        scene = draw_scene(number)
        assert scene.pixels.shape == (*scene.labels.shape, 3)
        assert scene.labels.shape == SIZES[number % len(SIZES)][::-1]
        assert set(np.unique(scene.labels)) <= {0, *LABELS}
        np.testing.assert_array_equal(scene.labels > 0, scene.things > 0)
        count = int(scene.things.max())
        assert 1 <= count <= MOST
        for thing in range(1, count + 1):
            rows, columns = np.nonzero(scene.things == thing)
            assert max(np.ptp(rows), np.ptp(columns)) >= 40, (number, thing)
            assert len(rows) >= 500, (number, thing)
            (label,) = np.unique(scene.labels[rows, columns])
            firsts.append(int(label))
    assert min(firsts.count(label) for label in LABELS) >= 6


@pytest.mark.parametrize("number", [0, 10])
def test_void_is_where_two_things_touch(number: int) -> None:
    """Against a slow look at the neighbours of every pixel; the border is a pixel on either side."""
    scene = draw_scene(number)
    assert scene.things.max() >= 2
    height, width = scene.things.shape
    expected = scene.labels.copy()
    for row, column in itertools.product(range(height), range(width)):
        around = scene.things[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2]
        if len(set(around.ravel().tolist())) > 1:
            expected[row, column] = VOID
    np.testing.assert_array_equal(scene.bordered, expected)
    assert (expected == VOID).any()
    assert VOID not in scene.labels


@pytest.mark.parametrize("number", range(8))
def test_labels_are_where_something_was_drawn(number: int) -> None:
    scene = draw_scene(number)
    change = np.abs(scene.pixels.astype(int) - draw_scenery(number)).max(axis=2)
    inside = scene.labels > 0
    assert (change[inside] > 12).mean() > 0.9
    outside = (scene.bordered == 0) & (change > 0)  # only shadows, below things
    assert outside.mean() < 0.08
    assert (scene.pixels[outside].astype(int).mean(axis=1) <= draw_scenery(number)[outside].mean(axis=1)).all()


def test_objects_tell_classes_apart_in_any_colours() -> None:
    pictures = [draw_thing(label, number=2, side=48) for label in LABELS]
    assert all(picture.shape == (48, 48, 3) and picture.dtype == np.uint8 for picture in pictures)
    np.testing.assert_array_equal(pictures[1], draw_thing(LABELS[1], number=2, side=48))
    for one, other in itertools.combinations([*pictures, draw_thing(LABELS[0], number=3, side=48)], 2):
        assert (np.abs(one.astype(int) - other).max(axis=2) > 20).mean() > 0.2


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_release_is_in_the_official_layouts(tmp_path: Path) -> None:
    write_release(tmp_path, amounts=AMOUNTS, seed=1)
    sbd, voc = tmp_path / "benchmark_RELEASE" / "dataset", tmp_path / "VOCdevkit" / "VOC2012"
    sets = voc / "ImageSets" / "Segmentation"
    ids = [scene_id(number) for number in range(5)]
    assert (sbd / "train.txt").read_text().split() == ids[:3]
    assert (sbd / "val.txt").read_text().split() == [ids[3]]
    assert (sets / "train.txt").read_text().split() == [ids[0], ids[2]]
    assert (sets / "val.txt").read_text() == (sets / "seg11valid.txt").read_text() == f"{ids[3]}\n{ids[4]}\n"
    assert {path.stem for path in (sbd / "img").iterdir()} == {path.stem for path in (sbd / "cls").iterdir()}
    for number, one in enumerate(ids):
        scene = draw_scene(number, seed=1)
        pictures = [path for path in (sbd / "img" / f"{one}.jpg", voc / "JPEGImages" / f"{one}.jpg") if path.exists()]
        for path in pictures:
            with Image.open(path) as picture:
                assert picture.format == "JPEG"
                difference = np.asarray(picture).mean(axis=2) - scene.pixels.mean(axis=2)  # JPEG blurs the colours
                assert np.abs(difference).mean() < 6
        if number < 4:
            truth = loadmat(sbd / "cls" / f"{one}.mat")["GTcls"][0]
            np.testing.assert_array_equal(truth["Segmentation"][0], scene.labels)
            assert truth["Segmentation"][0].dtype == np.uint8
            assert truth["CategoriesPresent"][0].ravel().tolist() == sorted(set(np.unique(scene.labels)) - {0})
        if number in (0, 2, 3, 4):
            with Image.open(voc / "SegmentationClass" / f"{one}.png") as labels:
                assert labels.mode == "P"
                assert bytes(labels.getpalette() or ()) == PALETTE
                np.testing.assert_array_equal(np.asarray(labels), scene.bordered)


def test_drawn_ids_are_not_published_ones() -> None:
    drawn = {scene_id(number) for number in range(10_000)}
    assert not any(drawn & set(published_ids(split)) for split in SPLITS.values())


def test_an_interrupted_release_continues_with_the_same_bytes(tmp_path: Path) -> None:
    write_release(tmp_path / "one", amounts=AMOUNTS)
    write_release(tmp_path / "other", amounts=AMOUNTS)
    whole = contents(tmp_path / "one")
    assert contents(tmp_path / "other") == whole
    for name in whole:
        if name.endswith(("1.jpg", "2.mat", "3.png", "train.txt")):
            (tmp_path / "other" / name).unlink()
    kept = tmp_path / "other" / "benchmark_RELEASE" / "dataset" / "img" / f"{scene_id(0)}.jpg"
    before = kept.stat().st_mtime_ns
    write_release(tmp_path / "other", amounts=AMOUNTS)
    assert contents(tmp_path / "other") == whole
    assert kept.stat().st_mtime_ns == before


def test_a_mat_file_does_not_tell_the_time() -> None:
    data = encode_mat(np.eye(4, dtype=np.uint8))
    assert data[:116].rstrip() == b"MATLAB 5.0 MAT-file, a drawn scene"
    assert b"Created on" not in data


def test_nothing_is_drawn_over_something_else(tmp_path: Path) -> None:
    write_release(tmp_path / "drawn", amounts=AMOUNTS)
    with pytest.raises(BadInput, match="holds other drawings"):
        write_release(tmp_path / "drawn", amounts=AMOUNTS, seed=1)
    (tmp_path / "real" / "VOCdevkit" / "VOC2012").mkdir(parents=True)
    with pytest.raises(BadInput, match="VOC2012 exists, and was not drawn here"):
        write_release(tmp_path / "real", amounts=AMOUNTS)
    assert contents(tmp_path / "real") == {}
