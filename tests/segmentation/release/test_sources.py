import io
import struct
import tarfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io

from piggyback.shell.errors import BadInput
from segmentation.release.mat_files import read_mat
from segmentation.release.sources import Found, Key, Source, file_name
from segmentation.release.splits import find_split, published_ids

TRAIN, VALID = find_split("sbd_train"), find_split("seg11valid")


def read_all(folder: Path, split: Any, ids: Any, refused: list[str] | None = None) -> dict[Key, Found]:
    wanted: list[Key] = [(kind, one) for one in ids for kind in ("picture", "labels")]
    refused = [] if refused is None else refused
    found = list(Source(folder).files(split, wanted=wanted, refuse=refused.append))
    assert len(found) == len({one.key for one in found})
    assert all("\n" not in text for text in (*refused, *(one.name for one in found)))
    return {one.key: one for one in found}


def prefixed(prefix: str, files: dict[str, bytes]) -> dict[str, Any]:
    return {f"{prefix}/{name}": data for name, data in files.items()}


@pytest.mark.parametrize(
    "base",
    [
        "VOCdevkit/VOC2012",
        "VOC2012",
        "",
        "TrainVal/VOCdevkit/VOC2011",
        "VOCdevkit/VOC2011",
        "VOCtrainval_11-May-2012.tar:VOCdevkit/VOC2012",
        "VOCtrainval_25-May-2011.tar:TrainVal/VOCdevkit/VOC2011",
    ],
)
def test_voc_is_found_in_every_shape(tiny: Any, tmp_path: Path, base: str) -> None:
    folder = tmp_path / "a folder\nof two lines"
    files = tiny.files_of_voc(tiny.evaluated, lists={"seg11valid": tiny.evaluated[::-1]})
    archive, _, prefix = base.rpartition(":")
    if archive:
        tiny.write_tar(folder / archive, prefixed(prefix, files))
    else:
        tiny.write_tree(folder / base, files)
    found = read_all(folder, VALID, tiny.evaluated)
    assert {file_name(VALID, key): one.data for key, one in found.items()} == {
        name: data for name, data in files.items() if not name.endswith(".txt")
    }
    listed = Source(folder).ids(VALID)
    assert listed.ids == tiny.evaluated[::-1]
    assert "seg11valid.txt" in listed.name
    assert "\n" not in listed.name


@pytest.mark.parametrize(
    "base", ["benchmark_RELEASE/dataset", "dataset", "", "benchmark.tgz:x", "benchmark.tar:./benchmark_RELEASE"]
)
def test_sbd_is_found_in_every_shape(tiny: Any, tmp_path: Path, base: str) -> None:
    files = tiny.files_of_sbd(tiny.trained, lists={"train": tiny.trained[:3], "val": ()})
    archive, _, prefix = base.rpartition(":")
    if archive:
        tiny.write_tar(tmp_path / archive, prefixed(f"{prefix}/dataset", files))
    else:
        tiny.write_tree(tmp_path / base, files)
    found = read_all(tmp_path, TRAIN, tiny.trained)
    assert {file_name(TRAIN, key): one.data for key, one in found.items()} == {
        name: data for name, data in files.items() if not name.endswith(".txt")
    }
    assert Source(tmp_path).ids(TRAIN).ids == tiny.trained[:3]
    with pytest.raises(BadInput, match=r"val\.txt lists no picture of sbd_val"):  # and train did not mind it
        Source(tmp_path).ids(find_split("sbd_val"))


def test_the_published_list_fills_in_and_only_2012s_lists_are_2012s(tiny: Any, tmp_path: Path) -> None:
    tiny.write_tree(tmp_path / "VOCdevkit" / "VOC2011", tiny.files_of_voc(["a"], lists={"train": ["a"]}))
    assert Source(tmp_path).ids(VALID).ids == published_ids(VALID)
    assert Source(tmp_path).ids(VALID).name == "segmentation/lists/seg11valid.txt"
    train = find_split("voc2012_train")
    assert Source(tmp_path).places(train) == ()
    assert Source(tmp_path).ids(train).ids == published_ids(train)
    tiny.write_tree(tmp_path / "VOCdevkit" / "VOC2012", tiny.files_of_voc(["b"], lists={"train": ["b"]}))
    assert Source(tmp_path).ids(train).ids == ("b",)
    assert read_all(tmp_path, VALID, ["a"]) == {}  # one year only: 2011's label maps are not mixed in


def test_a_list_of_val_serves_the_part_of_it_that_sbd_does_not_train_on(tiny: Any, tmp_path: Path) -> None:
    val = find_split("voc2012_val")
    some = published_ids(val)[-40:]
    tiny.write_tree(tmp_path / "VOC2012", tiny.files_of_voc(["a"], lists={"val": some}))
    trained = set(published_ids(TRAIN))
    left = Source(tmp_path).ids(find_split("voc2012_val_minus_sbd")).ids
    assert left == tuple(one for one in some if one not in trained)
    assert 0 < len(left) < 40


def test_train_aug_reads_each_id_where_its_labels_are(tiny: Any, tmp_path: Path) -> None:
    split = find_split("train_aug")
    of_voc = published_ids(find_split("voc2012_train"))[0]
    of_sbd = next(one for one in published_ids(split) if one in published_ids(TRAIN) and one != of_voc)
    tiny.write_tree(tmp_path / "VOC2012", tiny.files_of_voc([of_voc, of_sbd]))
    tiny.write_tree(tmp_path / "dataset", tiny.files_of_sbd([of_voc, of_sbd]))
    found = read_all(tmp_path, split, [of_voc, of_sbd])
    assert found["labels", of_voc].name.endswith(".png")
    assert found["labels", of_sbd].name.endswith(".mat")


def test_what_an_archive_must_not_hold_is_refused_and_the_rest_read(tiny: Any, tmp_path: Path) -> None:
    first, second, third, fourth = tiny.evaluated
    files = prefixed("VOCdevkit/VOC2012", tiny.files_of_voc(tiny.evaluated))
    link = tarfile.TarInfo(f"VOCdevkit/VOC2012/JPEGImages/{first}.jpg")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    files[link.name] = link
    files[f"../JPEGImages/{second}.jpg"] = files.pop(f"VOCdevkit/VOC2012/JPEGImages/{second}.jpg")
    files[f"VOCdevkit/VOC2012/JPEGImages/{third}.jpg"] = bytes((16 << 20) + 1)
    tiny.write_tar(tmp_path / "VOCtrainval_11-May-2012.tar", files)
    refused: list[str] = []
    found = read_all(tmp_path, VALID, tiny.evaluated, refused)
    assert {one for kind, one in found if kind == "picture"} == {fourth}
    assert len([key for key in found if key[0] == "labels"]) == 4
    assert sorted(text.split("jpg ")[1][:18] for text in refused) == [
        "has 16,777,217 byt",
        "is a link",
        "leaves the archive",
    ]


@pytest.mark.parametrize("cut", [6000, 1536, 6144, -1])
def test_a_cut_archive_is_told_of_and_what_lies_unpacked_beside_it_suffices(
    tiny: Any, tmp_path: Path, cut: int
) -> None:
    files = tiny.files_of_voc(tiny.evaluated, lists={"seg11valid": tiny.evaluated})
    path = tiny.write_tar(tmp_path / "VOCtrainval_11-May-2012.tar", prefixed("VOCdevkit/VOC2012", files))
    with tarfile.open(path) as tar:
        last = tar.getmembers()[-1]
    path.write_bytes(path.read_bytes()[: cut if cut > 0 else last.offset_data + 5])
    refused: list[str] = []
    assert len(read_all(tmp_path, VALID, tiny.evaluated, refused)) < 8
    assert len(refused) == 1
    assert "11-May-2012.tar is damaged" in refused[0]
    tiny.write_tree(tmp_path / "VOCdevkit" / "VOC2012", files)
    assert len(read_all(tmp_path, VALID, tiny.evaluated)) == 8


def test_a_source_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="there is no folder"):
        Source(tmp_path / "none")
    (tmp_path / "some.tar").touch()
    with pytest.raises(BadInput, match=r"some\.tar is a file: give the folder it lies in"):
        Source(tmp_path / "some.tar")


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.float32, np.float64])
def test_sbds_labels_are_what_scipy_reads(tiny: Any, compressed: bool, kind: type) -> None:
    labels = tiny.draw_labels("a", void=False)
    data = tiny.encode_mat(labels.astype(kind), compressed=compressed)
    read = read_mat(data, name="a.mat")
    assert read.dtype == np.uint8
    assert np.array_equal(read, labels)
    assert np.array_equal(read, scipy.io.loadmat(io.BytesIO(data))["GTcls"]["Segmentation"][0, 0])


def test_real_labels_are_what_scipy_reads(shared_data: Path) -> None:
    folder = shared_data / "segmentation" / "benchmark_RELEASE" / "dataset" / "cls"
    paths = sorted(folder.glob("*.mat"))[::12]
    assert paths
    for path in paths:
        expected = scipy.io.loadmat(path)["GTcls"]["Segmentation"][0, 0]
        assert np.array_equal(read_mat(path.read_bytes(), name=path.name), expected)


def encode(**variables: Any) -> bytes:
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, variables)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "header has no byte order mark"),
        (b"\x89PNG" + bytes(200), "header has no byte order mark"),
        (b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\2ZZ" + bytes(400), "version 7.3, which is HDF5: save it with -v7"),
        (b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\2IM\x89HDF" + bytes(400), "version 7.3, which is HDF5"),
        (encode(GTinst=1), "has no GTcls.Segmentation"),
        (encode(GTcls=3), "has no GTcls.Segmentation"),
        (encode(GTcls={"Boundaries": 1}), "has no GTcls.Segmentation"),
        (encode(GTcls={"Segmentation": np.array([[3, 21]], np.uint8)}), "has the value 21 in row 0, column 1"),
        (encode(GTcls={"Segmentation": np.array([[3], [255]], np.uint8)}), "has the value 255 in row 1, column 0"),
        (encode(GTcls={"Segmentation": np.array([[-1]], np.int16)}), "has the value -1 in row 0, column 0"),
        (encode(GTcls={"Segmentation": "person"}), "not a matrix of numbers"),
        (encode(GTcls={"Segmentation": np.array([[3, 0.5]])}), "has numbers that are not labels"),
        (encode(GTcls={"Segmentation": np.array([[np.nan, np.inf]])}), "has numbers that are not labels"),
        (encode(GTcls={"Segmentation": np.array([[3.0, 21.0]])}), "has the value 21 in row 0, column 1"),
        (encode(GTcls={"Segmentation": np.zeros((0, 3), np.uint8)}), "claims 3 x 0"),
    ],
)
def test_a_file_that_is_no_label_map_of_sbd_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(BadInput, match=message) as caught:
        read_mat(data, name="2008\n1.mat")
    assert "2008\\n1.mat" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("data", "message"), [(bytes(65 << 20), "claims too much"), (bytes(64), "ends early")])
def test_what_unpacks_to_too_much_or_lacks_its_checksum_is_refused(data: bytes, message: str) -> None:
    packed = zlib.compress(data)
    packed = packed if len(data) > 64 else packed[:-4]
    file = bytes(124) + b"\0\1IM" + struct.pack("<II", 15, len(packed)) + packed
    with pytest.raises(BadInput, match=message):
        read_mat(file, name="a.mat")


@pytest.mark.parametrize("compressed", [True, False])
def test_damage_is_told_and_never_ends_the_process(tiny: Any, compressed: bool) -> None:
    """loadmat of scipy 1.17 ends with a segmentation fault on some of these."""
    labels = tiny.draw_labels("a", void=False)
    data = tiny.encode_mat(labels, compressed=compressed)
    random = np.random.default_rng(0)
    for _ in range(400):
        place, value = int(random.integers(116, min(len(data), 500))), int(random.integers(256))
        for damaged in (data[:place], data[:place] + bytes([value]) + data[place + 1 :]):
            try:
                read = read_mat(damaged, name="a.mat")
            except BadInput as fault:
                assert str(fault).startswith("a.mat ")  # noqa: PT017
            else:  # without a checksum a changed label is a label
                assert read.max() <= 20
                assert not compressed or damaged == data or np.array_equal(read, labels)
