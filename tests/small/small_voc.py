"""A little of VOC and of SBD, drawn by chance from the ids, in every shape a user may have them in; and packed scenes
beside the smallest VGG, for everything that trains on them."""

import hashlib
import io
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
import torch
from PIL import Image

from piggyback.weight_files import write_backbone
from segmentation.network.backbone_file import CONVENTIONS, Header
from segmentation.network.fcn import FCN32s, Shape
from segmentation.release.label_files import encode_label_map
from segmentation.release.prepare import prepare
from segmentation.release.splits import find_split, overlap, published_ids
from segmentation.voc import PALETTE

SIDES = ((7, 9), (9, 7), (8, 8), (5, 12))


def generator(one: str) -> np.random.Generator:
    return np.random.default_rng(list(hashlib.sha256(one.encode()).digest()[:8]))


def size_of(one: str) -> tuple[int, int]:
    """Height and width of an id's picture."""
    return SIDES[int(generator(one).integers(len(SIDES)))]


def draw_labels(one: str, *, void: bool) -> np.ndarray:
    """Classes by chance; a frame of void, as VOC has, where asked for."""
    random = generator(one)
    random.integers(len(SIDES))
    labels = random.integers(0, 21, size_of(one), dtype=np.uint8)
    if void:
        labels[0] = 255
    return labels


def encode_picture(one: str) -> bytes:
    pixels = generator(one + " picture").integers(0, 256, (*size_of(one), 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def encode_mat(labels: np.ndarray, *, compressed: bool = True) -> bytes:
    """As SBD's: a struct with the boundaries of 20 classes, the labels and the classes that are there."""
    boundaries = np.empty((20, 1), dtype=object)
    for place in range(20):
        boundaries[place, 0] = scipy.sparse.csc_matrix(labels == place + 1)
    present = np.setdiff1d(labels, [0]).reshape(-1, 1)
    fields = {"Boundaries": boundaries, "Segmentation": labels, "CategoriesPresent": present}
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, {"GTcls": fields}, do_compression=compressed)
    return buffer.getvalue()


def files_of_voc(ids: Iterable[str], *, lists: dict[str, Iterable[str]] | None = None) -> dict[str, bytes]:
    """Files of a tree such as VOC2012; `lists` by name without its suffix."""
    files = {f"ImageSets/Segmentation/{name}.txt": "\n".join(some).encode() for name, some in (lists or {}).items()}
    for one in ids:
        files[f"JPEGImages/{one}.jpg"] = encode_picture(one)
        files[f"SegmentationClass/{one}.png"] = encode_label_map(draw_labels(one, void=True))
    return files


def files_of_sbd(ids: Iterable[str], *, lists: dict[str, Iterable[str]] | None = None) -> dict[str, bytes]:
    files = {f"{name}.txt": "\n".join(some).encode() for name, some in (lists or {}).items()}
    for one in ids:
        files[f"img/{one}.jpg"] = encode_picture(one)
        files[f"cls/{one}.mat"] = encode_mat(draw_labels(one, void=False))
    return files


def write_tree(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def write_tar(path: Path, files: dict[str, bytes | tarfile.TarInfo]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name) if isinstance(data, bytes) else data
            member.size = len(data) if isinstance(data, bytes) else 0
            tar.addfile(member, io.BytesIO(data) if isinstance(data, bytes) else None)
    return path


class Tiny:
    """What the tests draw with; `folder` is where `write` puts a source of both."""

    trained = published_ids(find_split("sbd_train"))[:5]
    evaluated = published_ids(find_split("seg11valid"))[:4]
    size_of = staticmethod(size_of)
    draw_labels = staticmethod(draw_labels)
    encode_picture = staticmethod(encode_picture)
    encode_mat = staticmethod(encode_mat)
    files_of_voc = staticmethod(files_of_voc)
    files_of_sbd = staticmethod(files_of_sbd)
    write_tree = staticmethod(write_tree)
    write_tar = staticmethod(write_tar)

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def voc(self) -> Path:
        return self.folder / "VOCdevkit" / "VOC2012"

    @property
    def sbd(self) -> Path:
        return self.folder / "benchmark_RELEASE" / "dataset"

    def write(self) -> Path:
        """Five pictures of sbd_train and four of seg11valid, unpacked, with lists of their own."""
        lists: Any = {"seg11valid": self.evaluated, "val": self.evaluated}
        write_tree(self.voc, files_of_voc(self.evaluated, lists=lists))
        write_tree(self.sbd, files_of_sbd(self.trained, lists={"train": self.trained, "val": ()}))
        return self.folder


# -- what trains ----------------------------------------------------------------------------------------

SCENE_SIDES = ((40, 56), (56, 40), (48, 48))
WIDTHS = Shape(channels=((2,), (2,), (3, 3), (4,), (4,)), hidden=6)


def draw_scene(one: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels, labels, and labels with void around the thing: a rectangle in the colour of its class."""
    random = generator(one)
    height, width = SCENE_SIDES[int(random.integers(len(SCENE_SIDES)))]
    top, left = random.integers(3, 8, 2)
    bottom, right = top + 2 * height // 3, left + 2 * width // 3
    labels = np.zeros((height, width), dtype=np.uint8)
    bordered = labels.copy()
    bordered[top - 2 : bottom + 2, left - 2 : right + 2] = 255
    labels[top:bottom, left:right] = bordered[top:bottom, left:right] = 1 + random.integers(3)
    colours = np.frombuffer(PALETTE, dtype=np.uint8).reshape(256, 3)[labels]
    noise = random.integers(0, 60, (height, width, 3), dtype=np.uint8)
    return 127 - colours // 2 + noise, labels, bordered


def encode_jpeg(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def write_scenes(folder: Path) -> Path:
    """Eight pictures of sbd_train, one of which is in voc2012_val too; five of seg11valid; two without label maps."""
    sbd, voc, test = (published_ids(find_split(name)) for name in ("sbd_train", "voc2012_val", "voc2012_test"))
    both = overlap(voc, sbd)[:1]
    alone = [one for one in sbd if one not in both]
    trained, evaluated = (*alone[:7], *both), published_ids(find_split("seg11valid"))[:5]
    lists = {"seg11valid": evaluated, "val": (*evaluated[:2], *both), "test": test[:2]}
    files: dict[str, bytes] = {}
    for one in trained:
        pixels, labels, _ = draw_scene(one)
        files[f"benchmark_RELEASE/dataset/img/{one}.jpg"] = encode_jpeg(pixels)
        files[f"benchmark_RELEASE/dataset/cls/{one}.mat"] = encode_mat(labels)
    for one in (*evaluated, *both, *test[:2]):
        pixels, _, bordered = draw_scene(one)
        files[f"VOCdevkit/VOC2012/JPEGImages/{one}.jpg"] = encode_jpeg(pixels)
        if one not in test:
            files[f"VOCdevkit/VOC2012/SegmentationClass/{one}.png"] = encode_label_map(bordered)
    for name, ids in lists.items():
        files[f"VOCdevkit/VOC2012/ImageSets/Segmentation/{name}.txt"] = "\n".join(ids).encode()
    files["benchmark_RELEASE/dataset/train.txt"] = "\n".join(trained).encode()
    return write_tree(folder, files)


def pack_scenes(scenes: Path, out: Path) -> Path:
    report = prepare(scenes, out, splits=("sbd_train", "seg11valid", "voc2012_val", "voc2012_test"))
    assert report.good, report
    return out


def write_vgg(path: Path, *, hidden: bool, convention: str = "torchvision", seed: int = 2) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = FCN32s(WIDTHS, hidden=hidden)
        for parameter in network.parameters():  # default initialisation lets so narrow a network die out
            torch.nn.init.uniform_(parameter, -0.2, 0.4)
    normalise, width = CONVENTIONS[convention], WIDTHS.hidden if hidden else None
    write_backbone(
        path, network.state_dict(), header=Header(channels=WIDTHS.channels, hidden=width, normalise=normalise)
    )
    return path
