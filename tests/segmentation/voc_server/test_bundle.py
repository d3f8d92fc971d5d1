"""The server's archive: its bytes, and every fault that the check must find before the server does."""

import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from piggyback.shell.errors import BadInput
from segmentation.options import BundleOptions
from segmentation.release.label_files import encode_label_map, read_label_map, write_label_map
from segmentation.release.splits import find_split, published_ids
from segmentation.voc import PALETTE
from segmentation.voc_server.bundle import FOLDER, run, write_archive

IDS = tuple(f"2008_00000{number}" for number in range(1, 7))


def write_pair(options: BundleOptions, one: str, number: int) -> None:
    height, width = 5 + number % 3, 8
    labels = np.random.default_rng(number).integers(0, 21, (height, width), dtype=np.uint8)
    write_label_map(options.predictions / f"{one}.png", labels)
    options.pictures.mkdir(exist_ok=True)
    Image.new("RGB", (width, height)).save(options.pictures / f"{one}.jpg")


@pytest.fixture
def good(tmp_path: Path) -> BundleOptions:
    (tmp_path / "ids.txt").write_text("\n".join(IDS))
    options = BundleOptions(
        predictions=tmp_path / "label maps",
        pictures=tmp_path / "JPEGImages",
        out=tmp_path / "sent" / "results.tgz",
        ids=tmp_path / "ids.txt",
    )
    for number, one in enumerate(IDS):
        write_pair(options, one, number)
    return options


def changed(options: BundleOptions, **change: Any) -> BundleOptions:
    return BundleOptions(**{**vars(options), **change})


def fails(options: BundleOptions, *matches: str) -> None:
    with pytest.raises(BadInput) as caught:
        run(options)
    for match in matches:
        assert match in str(caught.value)
    assert "\n" not in str(caught.value)
    if options.out is not None:
        assert not options.out.exists()
        assert not list(options.out.parent.glob(".*.tmp"))


def archive(path: Path, files: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def test_the_archive(good: BundleOptions, capsys: pytest.CaptureFixture[str]) -> None:
    assert good.out is not None
    assert run(good) == 0
    assert "6 label maps" in capsys.readouterr().out
    first = good.out.read_bytes()
    assert first[3:8] == bytes(5)  # gzip's flags, so no file name, and its clock
    assert [path.name for path in good.out.parent.iterdir()] == ["results.tgz"]
    with tarfile.open(good.out) as tar:
        members = tar.getmembers()
        assert [member.name for member in members] == [
            f"results/VOC2012/Segmentation/comp6_test_cls/{i}.png" for i in IDS
        ]
        assert {(member.mtime, member.uid, member.gid, member.uname, member.mode) for member in members} == {
            (0, 0, 0, "", 0o644)
        }
        for member, one in zip(members, IDS, strict=True):
            content = tar.extractfile(member)
            assert content is not None
            data = content.read()
            assert data == (good.predictions / f"{one}.png").read_bytes()
            assert read_label_map(data, name="x").max() <= 20
    good.out.rename(good.out.with_name("before.tgz"))
    assert good.ids is not None
    good.ids.write_text("\n".join(IDS[::-1]))  # neither order nor clock nor the file's name matter
    other = changed(good, out=good.out.with_name("other.tgz"))
    assert run(other) == 0
    assert other.out is not None
    assert other.out.read_bytes() == first
    assert run(changed(good, predictions=other.out, out=None)) == 0


def edit(edit_labels: Callable[[np.ndarray], bytes]) -> Callable[[BundleOptions], None]:
    def change(options: BundleOptions) -> None:
        path = options.predictions / f"{IDS[2]}.png"
        path.write_bytes(edit_labels(read_label_map(path.read_bytes(), name="x")))

    return change


def with_palette(labels: np.ndarray, palette: bytes) -> bytes:
    picture = Image.fromarray(labels)
    picture.putpalette(palette)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def as_mode(labels: np.ndarray, mode: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(labels).convert(mode).save(buffer, "PNG")
    return buffer.getvalue()


def grow(labels: np.ndarray) -> bytes:
    return encode_label_map(np.pad(labels, ((0, 1), (0, 0))))


def void(labels: np.ndarray) -> bytes:
    labels[0, :3] = 255
    return encode_label_map(labels)


def write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


FAULTS: dict[str, Callable[[BundleOptions], None]] = {
    "1 are missing (2008_000003.png)": lambda options: (options.predictions / f"{IDS[2]}.png").unlink(),
    "1 are of no wanted picture (2008_000009.png)": lambda options: write_pair(options, "2008_000009", 9),
    "1 are unusable (2008_000003.png is RGB": edit(lambda labels: as_mode(labels, "RGB")),
    "1 are not mode P: they have no palette (2008_000003.png)": edit(lambda labels: as_mode(labels, "L")),
    "1 have another palette than VOC's (2008_000003.png)": edit(
        lambda labels: with_palette(labels, bytes(range(256)) * 3)
    ),
    "1 have void (255), which is no answer (2008_000003.png in 3 pixels)": edit(void),
    "1 have another size than their picture (2008_000003.png 8 x 8, 2008_000003.jpg 8 x 7)": edit(grow),
    "1 have no picture to compare sizes with (": lambda options: (options.pictures / f"{IDS[2]}.jpg").unlink(),
    "2008_000003.jpg is not a JPEG picture)": lambda options: write(options.pictures / f"{IDS[2]}.jpg", b"no picture"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_is_found_and_nothing_written(good: BundleOptions, fault: str, tmp_path: Path) -> None:
    FAULTS[fault](good)
    fails(good, "not ready for the server", fault)
    files = {f"{FOLDER}{path.name}": path.read_bytes() for path in good.predictions.iterdir()}
    fails(changed(good, predictions=archive(tmp_path / "by_hand.tar", files), out=None), fault)


def test_all_kinds_are_told_at_once(good: BundleOptions, capsys: pytest.CaptureFixture[str]) -> None:
    for number in (0, 1, 3, 4):
        (good.predictions / f"{IDS[number]}.png").unlink()
    edit(void)(good)
    fails(good, "4 are missing (2008_000001.png, 2008_000002.png, 2008_000004.png, ...); 1 have void")
    assert run(changed(good, json=True)) == 1
    report = json.loads(capsys.readouterr().out)
    assert (report["ready"], report["pictures"], report["out"]) == (False, 6, None)
    assert [(fault["fault"], fault["count"]) for fault in report["faults"]] == [
        ("are missing", 4),
        ("have void (255), which is no answer", 1),
    ]


def test_a_short_palette_of_vocs_colours_will_do(good: BundleOptions) -> None:
    edit(lambda labels: with_palette(labels, PALETTE[:63]))(good)
    assert run(good) == 0
    edit(lambda labels: with_palette(np.minimum(labels, 20), PALETTE[:60]))(good)
    with pytest.raises(BadInput, match="another palette"):
        run(good)


def test_archives_of_others(good: BundleOptions, tmp_path: Path) -> None:
    files = {path.name: path.read_bytes() for path in sorted(good.predictions.iterdir())}

    def check(names: dict[str, bytes], mode: str = "w") -> BundleOptions:
        return changed(good, predictions=archive(tmp_path / "other.tar", names, mode), out=None)

    right = {FOLDER + name: data for name, data in files.items()}
    assert run(check(right)) == 0
    assert run(check({f"./{name}": data for name, data in right.items()}, "w:gz")) == 0
    fails(check(files), f"6 are elsewhere than in {FOLDER} (2008_000001.png", "6 are missing")
    fails(check({**right, f"{FOLDER}a/{IDS[0]}.png": b""}), "1 are elsewhere")
    fails(check({**right, "../../x\n": b""}), "1 are elsewhere")
    twice = check(right)
    with tarfile.open(twice.predictions, "a") as tar:
        tar.add(good.predictions / f"{IDS[0]}.png", arcname=f"{FOLDER}{IDS[0]}.png")
        link = tarfile.TarInfo(f"{FOLDER}{IDS[1]}.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    fails(twice, "1 are there twice", "1 are not plain files")
    fails(check({}), "6 are missing")
    whole = check(right, "w:gz").predictions.read_bytes()
    checksum = whole[:-8] + bytes(4) + whole[-4:]
    for data in (whole[: len(whole) // 2], whole[:-4], checksum, b"no archive at all" * 100, b"\x1f\x8bmore"):
        twice.predictions.write_bytes(data)
        fails(twice, "is damaged or not a tar archive")


def test_a_file_that_changes_meanwhile(good: BundleOptions) -> None:
    assert good.out is not None
    digests = {one: hashlib.sha256((good.predictions / f"{one}.png").read_bytes()).digest() for one in IDS}
    edit(void)(good)
    with pytest.raises(BadInput, match=r"2008_000003\.png changed"):
        write_archive(good.out, good.predictions, digests=digests)
    assert not list(good.out.parent.iterdir())


def test_paths_that_are_none(good: BundleOptions, tmp_path: Path) -> None:
    fails(changed(good, pictures=tmp_path / "none"), "JPEG files")
    fails(changed(good, predictions=tmp_path / "none"), "is not there")
    fails(changed(good, out=tmp_path / "results.zip"), ".tgz or .tar.gz")
    fails(changed(good, predictions=archive(tmp_path / "a.tar", {})), "leave --out out")
    assert good.ids is not None
    good.ids.write_text("")
    fails(good, "nothing to bundle")


def test_without_a_list_it_is_the_test_part(good: BundleOptions) -> None:
    assert len(published_ids(find_split("voc2012_test"))) == 1456
    fails(changed(good, ids=None), "1,455 are missing", "5 are of no wanted picture")  # the list has one of the six
