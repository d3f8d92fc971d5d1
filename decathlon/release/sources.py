"""Where a folder keeps annotations and pictures: unpacked, in inner tars or in the official archives.

    source/annotations/<task>_train.json ...           or  decathlon-1.0-devkit.tar.gz
    source/data/<task>/train/0001/000001.jpg ...       or  source/[data/]<task>.tar
                                                       or  decathlon-1.0-data.tar.gz, decathlon-1.0-data-imagenet.tar

Each of these may also lie below ``source/decathlon-1.0/`` or ``source/decathlon-1.0-data/``.
"""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Final

from decathlon.release.annotations import annotation_file
from decathlon.tasks import BACKBONE_TASK, SPLITS, TASKS, Split
from piggyback.data.pictures import LARGEST_FILE
from piggyback.data.tars import (
    Refuse,
    check_source,
    iterate_files,
    iterate_members,
    open_stream,
    read_content,
    read_plain_file,
    read_wanted,
    reading_archive,
)
from piggyback.shell.errors import BadInput, Fault, one_line
from piggyback.shell.files import read_file

DEVKIT: Final = "decathlon-1.0-devkit.tar.gz"
DATA: Final = "decathlon-1.0-data.tar.gz"
IMAGENET: Final = "decathlon-1.0-data-imagenet.tar"

LARGEST_ANNOTATIONS: Final = 1 << 30
"""Bytes of one annotation file; the largest of the release, imagenet12_train, has some 300 MB."""

SUFFIXES: Final = (".tar", ".tar.gz", ".tgz")
PREFIXES: Final = ("", "data/", "decathlon-1.0/data/", "decathlon-1.0-data/")


@dataclass(frozen=True)
class RawAnnotations:
    """Bytes of one annotation file, and its place for messages."""

    name: str
    data: bytes


@dataclass(frozen=True)
class Source:
    """A folder with the release in any of its forms.

    Raises:
        BadInput: when made, if `folder` is no folder.
    """

    folder: Path
    _devkit: dict[str, RawAnnotations] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_source(self.folder, expected="the archives or the unpacked data")

    def _bases(self) -> tuple[Path, ...]:
        return tuple(self.folder / part for part in ("", "decathlon-1.0", "decathlon-1.0-data"))

    def annotations(self, task: str, split: Split) -> RawAnnotations | None:
        """The bytes of one annotation file, or None where there is none.

        Raises:
            BadInput: the file or the devkit archive cannot be read.
        """
        name = annotation_file(task, split)
        for base in self._bases():
            path = base / "annotations" / name
            if path.is_file():
                return RawAnnotations(one_line(path), read_file(path, limit=LARGEST_ANNOTATIONS))
        devkit = self.folder / DEVKIT
        if not self._devkit and devkit.is_file():
            self._devkit.update(_read_devkit(devkit))
        return self._devkit.get(name)

    def trees(self, task: str) -> list[Path]:
        """Folders that hold the task's unpacked pictures: those with a train, val or test below."""
        folders = [base / part / task for base in self._bases() for part in ("data", "")]
        return [folder for folder in folders if any((folder / split).is_dir() for split in SPLITS)]

    def inner_tars(self, task: str) -> list[Path]:
        """Archives of this task alone."""
        folders = [base / part for base in self._bases() for part in ("data", "")]
        found = [folder / (task + suffix) for folder in folders for suffix in SUFFIXES]
        return [path for path in found if path.is_file()]

    def outer_archives(self, task: str) -> list[Path]:
        """The official archive that should hold the task's pictures; it is not opened."""
        path = self.folder / (IMAGENET if task == BACKBONE_TASK else DATA)
        return [path] if path.is_file() else []

    def places(self, task: str) -> list[Path]:
        """All places of the task's pictures, in the order in which they are searched."""
        return [*self.trees(task), *self.inner_tars(task), *self.outer_archives(task)]

    def pictures(self, task: str, *, wanted: Collection[str], refuse: Refuse) -> Iterator[tuple[str, bytes]]:
        """Name and bytes of each wanted picture that is there, once, in the order found.

        Args:
            task: whose pictures.
            wanted: annotation file names, ``data/<task>/...``.
            refuse: gets a line about each link, strange name, oversized member and damaged archive.
        """
        missing = dict.fromkeys(wanted)  # keeps the order of the annotations, unlike a set
        for folder in self.trees(task):
            for name, data in _read_tree(folder, task=task, wanted=list(missing), refuse=refuse):
                del missing[name]
                yield name, data
        for path in (*self.inner_tars(task), *self.outer_archives(task)):
            if not missing:
                return
            for name, data in _read_archive(path, task=task, wanted=missing, refuse=refuse):
                del missing[name]
                yield name, data


def _read_devkit(path: Path) -> dict[str, RawAnnotations]:
    """The annotation files of the devkit archive, by file name; all at once, as it is compressed as a whole."""
    names = {annotation_file(task, split) for task in TASKS for split in SPLITS}
    found: dict[str, RawAnnotations] = {}
    with reading_archive(path), path.open("rb") as file, open_stream(file) as tar:
        for member in iterate_members(tar):
            place = PurePosixPath(member.name)
            if place.name not in names or place.parent.name != "annotations" or not member.isreg():
                continue
            if member.size > LARGEST_ANNOTATIONS:
                claim = f"claims {member.size:,} bytes; an annotation file has at most {LARGEST_ANNOTATIONS:,}"
                raise BadInput(f"{one_line(path)}: {place.name} {claim}")
            found[place.name] = RawAnnotations(one_line(f"{path}/{member.name}"), read_content(tar, member))
    return found


def _read_tree(folder: Path, *, task: str, wanted: Iterable[str], refuse: Refuse) -> Iterator[tuple[str, bytes]]:
    for name in wanted:
        path = folder / name.removeprefix(f"data/{task}/")
        data = read_plain_file(path, largest=LARGEST_FILE, refuse=refuse)
        if data is not None:
            yield name, data


def _read_archive(path: Path, *, task: str, wanted: Collection[str], refuse: Refuse) -> Iterator[tuple[str, bytes]]:
    """Wanted pictures of an inner tar, or of an outer one that holds it; damage ends the reading."""
    try:
        with reading_archive(path), path.open("rb") as file:
            yield from _read_tar(file, task=task, wanted=wanted, refuse=refuse, name=one_line(path), nested=True)
    except Fault as fault:
        refuse(str(fault))


def _read_tar(
    file: IO[bytes], *, task: str, wanted: Collection[str], refuse: Refuse, name: str, nested: bool
) -> Iterator[tuple[str, bytes]]:
    with open_stream(file) as tar:
        for member in iterate_files(tar, name=name, refuse=refuse):
            inner = tar.extractfile(member) if nested and PurePosixPath(member.name).name == f"{task}.tar" else None
            if inner is not None:  # the official archives hold one tar per task: read as a stream in the stream
                place = one_line(f"{name}/{member.name}")
                yield from _read_tar(inner, task=task, wanted=wanted, refuse=refuse, name=place, nested=False)
                return
            picture = _annotation_name(member.name, task=task)
            if picture is None or picture not in wanted:
                continue
            data = read_wanted(tar, member, name=name, largest=LARGEST_FILE, refuse=refuse)
            if data is not None:
                yield picture, data


def _annotation_name(name: str, *, task: str) -> str | None:
    """The annotations' name of a member, ``data/<task>/...``; None for one of another task."""
    name = name.removeprefix("./")
    for prefix in PREFIXES:
        if name.startswith(f"{prefix}{task}/"):
            return "data/" + name.removeprefix(prefix)
    return None
