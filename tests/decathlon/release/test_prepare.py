import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import piggyback.data.packing
from decathlon.release.packed import open_split
from decathlon.release.prepare import decode, prepare
from piggyback.data.labelled import whole
from piggyback.data.packing import Packing
from piggyback.shell.errors import BadInput, UnknownName
from piggyback.shell.lock import hold


def check_pixels(root: Path, task: str, built: tuple[dict[str, Any], dict[str, bytes]]) -> None:
    """Every packed picture is the decoded file of its own annotation."""
    documents, pictures = built
    for split in ("train", "val", "test"):
        packed = open_split(root, task, split)
        name = f"{task}_test_stripped.json" if split == "test" else f"{task}_{split}.json"
        images = documents[name]["images"]
        assert packed.image_ids.tolist() == [image["id"] for image in images]
        for place, image in enumerate(images):
            file = io.BytesIO(pictures[image["file_name"].removeprefix("data/")])
            assert np.array_equal(packed.picture(place), np.asarray(Image.open(file)))


@pytest.mark.parametrize("layout", ["tar", "tree", "loose", "official"])
def test_every_layout_gives_the_same_pack(tiny: Any, tmp_path: Path, tiny_pictures: Any, layout: str) -> None:
    tasks = ("aircraft", "svhn")
    source = tiny.write_official(*tasks) if layout == "official" else tiny.write(*tasks, layout=layout)
    report = prepare(source, tmp_path / "out")
    assert report.good
    assert len(report.absent) == 8
    assert report.as_json()["tasks"]["svhn"] == {
        "classes": 4,
        "train": 8,
        "val": 4,
        "test": 5,
        "official": False,
        "problems": [],
        "refused": [],
        "folder_mismatches": 4,
    }
    for task in tasks:
        check_pixels(tmp_path / "out", task, tiny_pictures(task))
    assert not (tmp_path / "out" / "svhn" / ".partial").exists()


def test_twice_is_free_and_changed_annotations_are_noticed(
    tiny: Any, tmp_path: Path, tiny_pictures: Any, capsys: Any
) -> None:
    source, out = tiny.write("svhn"), tmp_path / "out"
    assert prepare(source, out).tasks[0].fresh
    stale = whole(open_split(out, "svhn", "train"), size=16)
    before = open_split(out, "svhn", "train").fingerprint
    (source / "data" / "svhn.tar").rename(tmp_path / "svhn.tar")  # finished: the pictures are not needed again
    again = prepare(source, out)
    assert again.good
    assert not again.tasks[0].fresh
    (tmp_path / "svhn.tar").rename(source / "data" / "svhn.tar")

    path = source / "annotations" / "svhn_train.json"
    document = json.loads(path.read_text())
    document["images"].reverse()
    path.write_text(json.dumps(document))
    assert prepare(source, out).tasks[0].fresh
    assert "annotations changed" in capsys.readouterr().err
    packed = open_split(out, "svhn", "train")
    assert packed.fingerprint != before
    assert packed.image_ids.tolist() == [image["id"] for image in document["images"]]
    assert not np.array_equal(whole(packed, size=16).picture(0), stale.picture(0))


def test_a_truncated_pack_is_made_again(tiny: Any, tmp_path: Path, tiny_pictures: Any) -> None:
    source, out = tiny.write("svhn"), tmp_path / "out"
    prepare(source, out)
    os.truncate(out / "svhn" / "val.u8", 1000)
    with pytest.raises(BadInput, match=r"val\.u8 has 1,000 bytes.*decathlon prepare"):
        open_split(out, "svhn", "val")
    assert prepare(source, out).tasks[0].fresh
    check_pixels(out, "svhn", tiny_pictures("svhn"))


def test_a_killed_run_continues_where_it_was(
    tiny: Any, tmp_path: Path, tiny_pictures: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = tiny.write("svhn"), tmp_path / "out"
    monkeypatch.setattr(piggyback.data.packing, "NOTED_EVERY", 1)
    add, added = Packing.add, []

    def counted(self: Packing[Any], piece: Any, decode: Any) -> None:
        added.append(piece)
        add(self, piece, decode)

    def killed(self: Packing[Any], piece: Any, decode: Any) -> None:
        if len(added) == 6:
            raise KeyboardInterrupt
        counted(self, piece, decode)

    monkeypatch.setattr(Packing, "add", killed)
    with pytest.raises(KeyboardInterrupt):
        prepare(source, out)
    with pytest.raises(BadInput, match="not packed"):
        open_split(out, "svhn", "train")
    monkeypatch.setattr(Packing, "add", counted)
    assert prepare(source, out).good
    assert len(added) == len(set(added)) == 17  # none was decoded twice
    check_pixels(out, "svhn", tiny_pictures("svhn"))


def rewrite_tar(path: Path, edit: Any) -> None:
    with tarfile.open(path) as tar:
        files = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    with tarfile.open(path, "w") as tar:
        for name, data in edit(files).items():
            member = tarfile.TarInfo(name) if isinstance(data, bytes) else data
            member.size = len(data) if isinstance(data, bytes) else 0
            tar.addfile(member, io.BytesIO(data) if isinstance(data, bytes) else None)


def test_missing_and_unusable_pictures_are_named_and_the_other_tasks_are_done(tiny: Any, tmp_path: Path) -> None:
    source, out = tiny.write("aircraft", "svhn"), tmp_path / "out"
    kept: dict[str, bytes] = {}

    def edit(files: dict[str, bytes]) -> dict[str, bytes]:
        kept.update(files)
        names = [name for name in files if "/train/" in name]
        cut, absent, wrong, text = names[:4]
        picture = io.BytesIO()
        Image.new("RGB", (100, 100)).save(picture, "JPEG")
        changed = {**files, cut: files[cut][:-300], wrong: picture.getvalue(), text: b"no picture"}
        del changed[absent]
        return changed

    rewrite_tar(source / "data" / "aircraft.tar", edit)
    report = prepare(source, out)
    assert not report.good
    aircraft, svhn = report.tasks
    assert svhn.problems == ()
    missing, unusable = aircraft.problems
    place = f"{source}/annotations/aircraft_train.json are missing in {source}/data/aircraft.tar: data/aircraft/train/"
    assert missing.startswith(f"1 of the 8 pictures of train listed in {place}")
    assert unusable.startswith("3 of the 8 pictures of train are unusable: data/aircraft/train/")
    assert "cannot be decoded" in unusable
    assert "is 100 x 100, but the annotations say" in unusable
    assert "is not a JPEG or PNG" in unusable
    assert not (out / "aircraft" / "task.json").exists()
    rewrite_tar(source / "data" / "aircraft.tar", lambda files: kept)
    assert prepare(source, out).good


def test_links_and_escapes_are_refused_and_nothing_is_written_beside_the_pack(tiny: Any, tmp_path: Path) -> None:
    source, out = tiny.write("svhn"), tmp_path / "out"
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(b"secret")

    def edit(files: dict[str, bytes]) -> dict[str, Any]:
        link = tarfile.TarInfo(next(iter(files)))
        link.type, link.linkname = tarfile.SYMTYPE, str(secret)
        escapes = {"svhn/../../../evil.jpg": b"x", "/svhn/evil.jpg": b"x"}
        return {**escapes, **files, next(iter(files)): link}

    rewrite_tar(source / "data" / "svhn.tar", edit)
    report = prepare(source, out)
    text = "\n".join(report.tasks[0].problems)
    assert "1 of the 8 pictures of train listed in" in text
    assert "is a link" in text
    assert "leaves the archive" in text
    assert not list(tmp_path.rglob("evil.jpg"))


def test_a_damaged_archive_says_so(tiny: Any, tmp_path: Path) -> None:
    source = tiny.write_official("svhn")
    path = source / "decathlon-1.0-data.tar.gz"
    path.write_bytes(path.read_bytes()[:-2000])
    report = prepare(source, tmp_path / "out")
    assert len(report.tasks) == 1
    assert "is damaged" in "\n".join(report.tasks[0].problems)


def test_pictures_without_any_annotations_ask_for_the_devkit(tiny: Any, tmp_path: Path) -> None:
    source = tiny.write_official("svhn")
    (source / "decathlon-1.0-devkit.tar.gz").unlink()
    with pytest.raises(BadInput, match=r"put decathlon-1\.0-devkit\.tar\.gz there"):
        prepare(source, tmp_path / "out")


def test_what_cannot_be_prepared_is_said(tiny: Any, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no folder"):
        prepare(tmp_path / "none", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="holds no part of the decathlon"):
        prepare(tmp_path / "empty", tmp_path / "out")
    source = tiny.write("svhn")
    with pytest.raises(UnknownName, match="'svhn'"):
        prepare(source, tmp_path / "out", tasks=["shvn"])
    assert "neither annotations nor pictures" in prepare(source, tmp_path / "out", tasks=["dtd"]).tasks[0].problems[0]
    (source / "data" / "svhn.tar").unlink()
    assert "no pictures" in prepare(source, tmp_path / "out").tasks[0].problems[0]
    (source / "annotations" / "svhn_val.json").unlink()
    assert prepare(source, tmp_path / "out").tasks[0].problems == ("val: no annotation file",)


def test_a_second_process_is_kept_out(tiny: Any, tmp_path: Path) -> None:
    source, out = tiny.write("svhn"), tmp_path / "out"
    (out / "svhn").mkdir(parents=True)
    with hold(out / "svhn", work="packing into"), pytest.raises(BadInput, match="another process is packing"):
        prepare(source, out)
    assert prepare(source, out).good


def test_other_colour_modes_become_rgb() -> None:
    pixels = np.linspace(0, 255, 40 * 30).astype(np.uint8).reshape(30, 40)
    for mode, kind in (("L", "JPEG"), ("CMYK", "JPEG"), ("P", "PNG"), ("RGBA", "PNG"), ("L", "PNG")):
        grey = Image.fromarray(pixels)
        picture = grey.convert(mode) if mode in ("L", "P") else grey.convert("RGB").convert(mode)
        buffer = io.BytesIO()
        picture.save(buffer, kind)
        rgb = decode(buffer.getvalue(), name="x.jpg", size=(30, 40))
        assert rgb.shape == (30, 40, 3)
        assert np.abs(rgb.astype(int) - pixels[:, :, None]).max() < 16


def test_published_test_labels_come_along_unread(tiny: Any, tmp_path: Path) -> None:
    source = tiny.write("svhn")
    (source / "labels_test").mkdir()
    (source / "labels_test" / "svhn_test.json").write_bytes(b"not JSON, not read")
    (source / "labels_test.zip").write_bytes(b"not a zip")
    prepare(source, tmp_path / "out")
    assert (tmp_path / "out" / "labels_test" / "svhn_test.json").read_bytes() == b"not JSON, not read"
    assert (tmp_path / "out" / "labels_test.zip").read_bytes() == b"not a zip"


def test_the_mini_decathlon_gets_its_labels_from_the_json(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "mini-decathlon"
    report = prepare(source, tmp_path, tasks=["svhn", "ucf101", "vgg-flowers"])
    assert report.good
    assert [(one.classes, *one.counts.values()) for one in report.tasks] == [
        (36, 1597, 420, 851),
        (7, 560, 180, 300),
        (17, 340, 340, 680),
    ]
    annotations = json.loads((source / "annotations" / "svhn_train.json").read_text())["annotations"]
    packed = open_split(tmp_path, "svhn", "train")
    assert packed.category_ids[packed.labels].tolist() == [entry["category_id"] for entry in annotations]
