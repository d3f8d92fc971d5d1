import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import piggyback.data.packing
import segmentation.release.official
from piggyback.data.packing import Packing
from piggyback.shell.errors import BadInput, UnknownName, one_line
from piggyback.shell.lock import hold
from segmentation.options import PrepareOptions
from segmentation.release.official import GOLDEN
from segmentation.release.packed import open_split
from segmentation.release.prepare import prepare, run
from segmentation.release.splits import find_split, published_ids

BOTH = ("sbd_train", "seg11valid")


def left_behind(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*"))


def encode(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def check_pixels(out: Path, tiny: Any, pixels_of: Any, name: str, *, ids: tuple[str, ...], void: bool) -> None:
    split = open_split(out, name)
    assert split.ids == ids
    for place, one in enumerate(ids):
        assert np.array_equal(split.picture(place), pixels_of(one))
        assert np.array_equal(split.label_map(place), tiny.draw_labels(one, void=void))


def test_trees_and_archives_give_the_same_packs(tiny: Any, tmp_path: Path, pixels_of: Any, capsys: Any) -> None:
    source, out = tiny.write(), tmp_path / "out"
    assert run(PrepareOptions(source=source, out=out, json=True)) == 0
    report = json.loads(capsys.readouterr().out)["splits"]
    labels = [tiny.draw_labels(one, void=True) for one in tiny.evaluated]
    counts = np.bincount(np.concatenate([one.ravel() for one in labels]), minlength=256)
    assert report["seg11valid"] == {
        "pictures": 4,
        "published": 736,
        "completeness": "4 of 736",
        "official": False,
        "labelled": True,
        "listed_in": str(tiny.voc / "ImageSets" / "Segmentation" / "seg11valid.txt"),
        "pixels": int(counts.sum()),
        "void_pixels": int(counts[255]),
        "class_pixels": counts[:21].tolist(),
        "problems": [],
        "remarks": ["4 of 736: numbers on it compare with no others"],
        "fresh": True,
    }
    assert report["sbd_train"]["completeness"] == "5 of 8498"
    check_pixels(out, tiny, pixels_of, "sbd_train", ids=tiny.trained, void=False)
    check_pixels(out, tiny, pixels_of, "seg11valid", ids=tiny.evaluated, void=True)
    kept = [".lock", "index.npy", "labels.u8", "pictures.u8", "split.json"]
    assert left_behind(out) == sorted([*kept, *kept, *BOTH])

    packed = tmp_path / "archives"
    for name, folder, files in [
        ("benchmark.tgz", "benchmark_RELEASE/dataset", tiny.sbd),
        ("VOCtrainval_11-May-2012.tar", "VOCdevkit/VOC2012", tiny.voc),
    ]:
        paths = sorted(path for path in files.rglob("*") if path.is_file())
        tiny.write_tar(packed / name, {f"{folder}/{path.relative_to(files)}": path.read_bytes() for path in paths})
    again = tmp_path / "again"
    assert prepare(packed, again, splits=BOTH).good
    for name in BOTH:
        assert open_split(again, name).fingerprint == open_split(out, name).fingerprint
        assert (again / name / "pictures.u8").read_bytes() == (out / name / "pictures.u8").read_bytes()


def missing(kind: str) -> Callable[[Any, str], None]:
    def spoil(tiny: Any, one: str) -> None:
        (tiny.voc / (f"JPEGImages/{one}.jpg" if kind == "picture" else f"SegmentationClass/{one}.png")).unlink()

    return spoil


def picture(data: Callable[[Any, str], bytes]) -> Callable[[Any, str], None]:
    return lambda tiny, one: (tiny.voc / "JPEGImages" / f"{one}.jpg").write_bytes(data(tiny, one)) and None


def labels(data: Callable[[Any, str], bytes]) -> Callable[[Any, str], None]:
    return lambda tiny, one: (tiny.voc / "SegmentationClass" / f"{one}.png").write_bytes(data(tiny, one)) and None


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (missing("picture"), "1 of the 4 pictures listed in {list} are missing in {tree}: JPEGImages/{one}.jpg"),
        (missing("labels"), "1 of the 4 label maps listed in {list} are missing in {tree}: SegmentationClass/{one}"),
        (picture(lambda tiny, one: tiny.encode_picture(one)[:-40]), "{one}.jpg cannot be decoded (image file is trunc"),
        (picture(lambda tiny, one: b"no picture"), "{one}.jpg is not a JPEG or PNG picture"),
        (picture(lambda tiny, one: b""), "{one}.jpg is not a JPEG or PNG picture"),
        (picture(lambda tiny, one: encode(np.zeros((8, 8), np.uint16))), "{one}.jpg is a picture of mode I;16"),
        (picture(lambda tiny, one: encode(np.zeros((9000, 1), np.uint8))), "{one}.jpg claims 1 x 9,000 pixels"),
        (labels(lambda tiny, one: encode(np.zeros((8, 8), np.uint16))), "{one}.png is 16-bit"),
        (labels(lambda tiny, one: encode(np.zeros((*tiny.size_of(one), 3), np.uint8))), "{one}.png is RGB"),
        (labels(lambda tiny, one: encode(np.full(tiny.size_of(one), 21, np.uint8))), "{one}.png has the value 21"),
        (labels(lambda tiny, one: encode(np.zeros((3, 4), np.uint8))), "{one}.png is 4 x 3, but its picture "),
    ],
)
def test_a_bad_file_is_named_and_nothing_of_its_split_stays(
    tiny: Any, tmp_path: Path, pixels_of: Any, spoil: Any, message: str
) -> None:
    tiny.folder = tmp_path / "a source\nof two lines"
    source, out = tiny.write(), tmp_path / "out"
    one = tiny.evaluated[2]
    spoil(tiny, one)
    report = prepare(source, out, splits=BOTH)
    assert not report.good
    train, valid = report.splits
    assert train.problems == ()
    check_pixels(out, tiny, pixels_of, "sbd_train", ids=tiny.trained, void=False)
    (problem,) = valid.problems
    said = message.format(one=one, list=valid.listed_in, tree=one_line(tiny.voc))
    assert said.replace("'", "") in problem.replace("'", "")  # quotes stand around a name with a line break
    assert "\n" not in problem
    assert not (out / "seg11valid").exists()
    with pytest.raises(BadInput, match="not packed"):
        open_split(out, "seg11valid")


def test_many_bad_files_are_counted_and_every_kind_is_told(tiny: Any, tmp_path: Path, capsys: Any) -> None:
    source, out = tiny.write(), tmp_path / "out"
    for one in tiny.trained[:4]:
        (tiny.sbd / "cls" / f"{one}.mat").write_bytes(b"no such file")
    (tiny.sbd / "img" / f"{tiny.trained[0]}.jpg").unlink()
    (tiny.sbd / "img" / f"{tiny.trained[1]}.jpg").write_bytes(b"")
    assert run(PrepareOptions(source=source, out=out, splits=("sbd_train",))) == 1
    shown = capsys.readouterr().out
    assert "sbd_train: 1 of the 5 pictures listed" in shown
    assert "sbd_train: 1 of the 5 pictures are unusable" in shown
    assert "sbd_train: 4 of the 5 label maps are unusable" in shown
    assert "; and 1 more" in shown
    assert left_behind(out) == []


def test_lists_and_folders_that_do_not_do_are_problems_of_their_splits(tiny: Any, tmp_path: Path) -> None:
    source, out = tiny.write(), tmp_path / "out"
    report = prepare(source, out, splits=["sbd_val", "seg11valid", "voc2012_train"])
    empty, good, published = report.splits
    assert "val.txt lists no picture of sbd_val" in empty.problems[0]
    assert good.problems == ()
    assert "1464 of the 1464 pictures listed in segmentation/lists/voc2012_seg_train.txt are" in published.problems[0]
    assert published.problems[0].endswith(", and 1461 more")
    shutil.rmtree(tiny.sbd)
    absent = prepare(source, out, splits=["sbd_train", "seg11valid"]).splits[0]
    assert "SBD not found" in absent.problems[0]
    assert "benchmark.tgz" in absent.problems[0]
    with pytest.raises(BadInput, match="holds no part of sbd_train: expected benchmark_RELEASE/dataset/"):
        prepare(source, out, splits=["sbd_train"])
    with pytest.raises(UnknownName, match="seg11valid"):
        prepare(source, out, splits=["seg11vald"])
    (tiny.voc / "ImageSets" / "Segmentation" / "val.txt").write_text("a\nb\na\n")
    assert (
        "val.txt, line 3: the id a is there twice" in prepare(source, out, splits=["voc2012_val"]).splits[0].problems[0]
    )


def test_twice_is_free_and_another_list_packs_again(tiny: Any, tmp_path: Path, pixels_of: Any, capsys: Any) -> None:
    source, out = tiny.write(), tmp_path / "out"
    assert prepare(source, out, splits=BOTH).splits[1].fresh
    before = open_split(out, "seg11valid").fingerprint
    assert not prepare(source, out, splits=BOTH).splits[1].fresh
    (tiny.voc / "ImageSets" / "Segmentation" / "seg11valid.txt").write_text("\n".join(tiny.evaluated[::-1]))
    assert prepare(source, out, splits=BOTH).splits[1].fresh
    assert "does not list what was packed; packing it again" in capsys.readouterr().err
    assert open_split(out, "seg11valid").fingerprint != before
    os.truncate(out / "seg11valid" / "labels.u8", 7)
    assert prepare(source, out, splits=BOTH).splits[1].fresh
    check_pixels(out, tiny, pixels_of, "seg11valid", ids=tiny.evaluated[::-1], void=True)


def test_the_fingerprint_is_of_ids_sizes_pixels_and_labels(tiny: Any, tmp_path: Path) -> None:
    plain, found = np.zeros((6, 4), np.uint8), set()
    first = ("a", plain, plain)
    others = [("b", plain, plain), ("a", plain.T, plain.T), ("a", plain + 9, plain), ("a", plain, plain + 9)]
    for number, (one, grey, classes) in enumerate([first, *others]):
        source, out = tmp_path / f"{number}", tmp_path / f"{number}" / "out"
        files = {f"JPEGImages/{one}.jpg": encode(grey), f"SegmentationClass/{one}.png": encode(classes)}
        tiny.write_tree(source / "VOC2012", {**files, "ImageSets/Segmentation/val.txt": one.encode()})
        assert prepare(source, out, splits=["voc2012_val"]).good
        found.add(open_split(out, "voc2012_val").fingerprint)
    assert len(found) == 5


@pytest.mark.parametrize("stop", [0, 1, 4, 7])
def test_a_killed_run_continues_where_it_was(
    tiny: Any, tmp_path: Path, pixels_of: Any, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    source, out = tiny.write(), tmp_path / "out"
    monkeypatch.setattr(piggyback.data.packing, "NOTED_EVERY", 1)
    add, added, close = Packing.add, [], Packing.__exit__

    def counted(self: Packing[Any], piece: Any, decode: Any) -> None:
        added.append(piece)
        add(self, piece, decode)
        self._writers.drain()
        self.note()

    def killed(self: Packing[Any], piece: Any, decode: Any) -> None:
        if len(added) == stop:
            raise MemoryError
        counted(self, piece, decode)

    monkeypatch.setattr(Packing, "add", killed)
    monkeypatch.setattr(Packing, "__exit__", lambda self, *_: self._held.close())  # a kill leaves no time for a note
    with pytest.raises(MemoryError):
        prepare(source, out, splits=["seg11valid"])
    with pytest.raises(BadInput, match="not packed"):
        open_split(out, "seg11valid")
    monkeypatch.setattr(Packing, "__exit__", close)
    monkeypatch.setattr(Packing, "add", counted)
    assert prepare(source, out, splits=["seg11valid"]).good
    assert len(added) == len(set(added)) == 8  # none was decoded twice
    check_pixels(out, tiny, pixels_of, "seg11valid", ids=tiny.evaluated, void=True)
    assert not (out / "seg11valid" / ".partial").exists()


def test_only_one_process_packs_a_split(tiny: Any, tmp_path: Path) -> None:
    source, out = tiny.write(), tmp_path / "out"
    (out / "seg11valid").mkdir(parents=True)
    with hold(out / "seg11valid", work="packing into"), pytest.raises(BadInput, match="another process is packing"):
        prepare(source, out, splits=["seg11valid"])


def test_a_split_without_label_maps_is_packed_for_prediction(tiny: Any, tmp_path: Path, pixels_of: Any) -> None:
    ids = published_ids(find_split("voc2012_test"))[:3]
    files = {name: data for name, data in tiny.files_of_voc(ids, lists={"test": ids}).items() if "Class" not in name}
    tiny.write_tar(tmp_path / "VOC2012test.tar", {f"VOCdevkit/VOC2012/{name}": data for name, data in files.items()})
    (report,) = prepare(tmp_path, tmp_path / "out", splits=["voc2012_test"]).splits
    assert report.problems == ()
    assert (report.pixels, report.class_pixels) == (0, ())
    split = open_split(tmp_path / "out", "voc2012_test")
    assert not split.labelled
    assert np.array_equal(split.picture(2), pixels_of(ids[2]))


def test_official_needs_every_id_and_the_released_counts(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    released, void = GOLDEN["seg11valid"]
    assert (len(released), sum(released) + void, void) == (21, 131591167, 7051801)

    source, out = tmp_path / "source", tmp_path / "out"
    tiny.write_tree(source / "VOC2011", tiny.files_of_voc(published_ids(find_split("seg11valid"))))
    (report,) = prepare(source, out, splits=["seg11valid"]).splits
    assert report.completeness == "736"
    assert not report.official
    assert report.remarks[0].startswith("the label maps are not the released ones: pixels of background ")
    assert not open_split(out, "seg11valid").official

    monkeypatch.setattr(
        segmentation.release.official, "GOLDEN", {"seg11valid": (report.class_pixels, report.void_pixels)}
    )
    (official,) = prepare(source, tmp_path / "other", splits=["seg11valid"]).splits
    assert official.official
    assert official.remarks == ()
    assert open_split(tmp_path / "other", "seg11valid").official


def test_the_real_sample_is_a_part_of_the_published_splits(shared_data: Path, tmp_path: Path) -> None:
    report = prepare(shared_data / "segmentation", tmp_path, splits=[*BOTH, "voc2012_val_minus_sbd"])
    assert report.good
    assert [(one.completeness, one.official) for one in report.splits] == [
        ("120 of 8498", False),
        ("100 of 736", False),
        ("100 of 904", False),
    ]
    train, valid = (open_split(tmp_path, name) for name in BOTH)
    assert set(valid.ids) <= set(published_ids(find_split("seg11valid")))
    place = valid.ids.index("2007_000033") if "2007_000033" in valid.ids else 0
    folder = shared_data / "segmentation" / "VOCdevkit" / "VOC2012"
    with Image.open(folder / "SegmentationClass" / f"{valid.ids[place]}.png") as image:
        assert np.array_equal(valid.label_map(place), np.asarray(image))
    assert (train.label_map(0) == 255).sum() == 0
