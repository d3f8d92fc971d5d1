"""Where a folder keeps VOC and SBD: unpacked, or as the official archives.

    VOCdevkit/VOC2012/{JPEGImages,SegmentationClass,ImageSets/Segmentation}   or  VOCtrainval_11-May-2012.tar
    TrainVal/VOCdevkit/VOC2011/...                                            or  VOCtrainval_25-May-2011.tar
    benchmark_RELEASE/dataset/{img,cls,train.txt,val.txt}                     or  benchmark.tgz, benchmark.tar

The folder may also be one of these itself, or one on the way to them.
"""

from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Final, Literal

from piggyback.data.pictures import LARGEST_FILE
from piggyback.data.tars import (
    Refuse,
    check_end,
    check_source,
    find_member_fault,
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
from segmentation.release.archives import ARCHIVES
from segmentation.release.splits import Origin, Split, leave_out, origin_of, parse_ids, published_ids, shipped_name

Kind = Literal["picture", "labels"]
Key = tuple[Kind, str]
"""Names a file: the picture of an id, or its label map."""

_TREES: Final[dict[tuple[Origin, int], tuple[str, ...]]] = {
    ("voc", 2012): ("VOCdevkit/VOC2012", "VOC2012", "TrainVal/VOCdevkit/VOC2012"),
    ("voc", 2011): ("TrainVal/VOCdevkit/VOC2011", "VOCdevkit/VOC2011", "VOC2011"),
    ("sbd", 0): ("benchmark_RELEASE/dataset", "dataset", ""),
}
_ARCHIVES: Final[dict[tuple[Origin, int], tuple[str, ...]]] = {
    ("voc", 2012): (ARCHIVES["voc2012"].name, "VOC2012test.tar"),  # the latter after a login, by hand
    ("voc", 2011): (ARCHIVES["voc2011"].name,),
    ("sbd", 0): (ARCHIVES["sbd"].name, "benchmark.tar"),  # as users rename it
}
_FOLDERS: Final[dict[Origin, dict[Kind, tuple[str, str]]]] = {
    "voc": {"picture": ("JPEGImages", ".jpg"), "labels": ("SegmentationClass", ".png")},
    "sbd": {"picture": ("img", ".jpg"), "labels": ("cls", ".mat")},
}
_LISTS: Final[dict[Origin, tuple[str, ...]]] = {"voc": ("ImageSets", "Segmentation"), "sbd": ("dataset",)}


@dataclass(frozen=True)
class Found:
    """The file of an id: its bytes, and its place, on one line for messages."""

    key: Key
    suffix: str
    data: bytes
    name: str


@dataclass(frozen=True)
class IdList:
    """The ids of a split, and the place of the list."""

    ids: tuple[str, ...]
    name: str


@dataclass(frozen=True)
class Place:
    """A tree, or an archive of one, of VOC or SBD."""

    origin: Origin
    path: Path
    archive: bool


@dataclass(frozen=True)
class Source:
    """A folder with VOC, SBD or both, in any of their forms.

    Raises:
        BadInput: when made, if `folder` is no folder.
    """

    folder: Path
    _lists: dict[Path, dict[str, bytes]] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_source(self.folder, expected="VOCdevkit, or the archives")

    def places(self, split: Split) -> tuple[Place, ...]:
        """All places of a split's files, in the order in which they are searched; of VOC one year only."""
        found: list[Place] = []
        for origin in split.origins:
            for year in split.years if origin == "voc" else (0,):
                of_year = self._places(origin, year)
                found += of_year
                if of_year:
                    break
        return tuple(found)

    def ids(self, split: Split) -> IdList:
        """The folder's own list of a split, or the published one where it has none.

        Raises:
            BadInput: its own list is empty, cannot be read, has an id twice, or a line that is not an id.
        """
        for place in self.places(split):
            for file in split.own:
                data, name = self._own_list(place, file)
                if data is None:
                    continue
                ids = leave_out(split, parse_ids(data, name=name))
                if not ids:
                    raise BadInput(f"{name} lists no picture of {split.name}: fill it, or delete it for all of them")
                return IdList(ids, name)
        return IdList(published_ids(split), shipped_name(split))

    def files(self, split: Split, *, wanted: Collection[Key], refuse: Refuse) -> Iterator[Found]:
        """Each wanted file that is there, once, in the order found.

        Args:
            split: whose.
            wanted: the files.
            refuse: gets a line about each link, strange name, oversized file and damaged archive.
        """
        missing = dict.fromkeys(wanted)  # keeps the order
        for place in self.places(split):
            here = {key: None for key in missing if origin_of(split, key[1]) == place.origin}
            if not here:
                continue
            read = _read_archive if place.archive else _read_tree
            for found in read(place, wanted=here, refuse=refuse):
                del missing[found.key]
                yield found

    def _places(self, origin: Origin, year: int) -> list[Place]:
        folders = [self.folder / part for part in _TREES[origin, year]]
        if origin == "voc" and (self.folder.resolve().name == "VOC2011") == (year == 2011):
            folders.append(self.folder)  # a folder by any other name is taken for 2012's
        trees = [Place(origin, path, archive=False) for path in folders if _is_tree(path, origin)]
        archives = [self.folder / name for name in _ARCHIVES[origin, year]]
        return trees + [Place(origin, path, archive=True) for path in archives if path.is_file()]

    def _own_list(self, place: Place, file: str) -> tuple[bytes | None, str]:
        """The bytes of a list of the folder, or None, and its name for messages."""
        if place.archive:
            if place.path not in self._lists:
                self._lists[place.path] = _read_lists(place)
            return self._lists[place.path].get(file), one_line(f"{place.path}/{file}")
        path = place.path.joinpath(*_LISTS["voc"], file) if place.origin == "voc" else place.path / file
        return read_file(path, limit=LARGEST_FILE) if path.is_file() else None, one_line(path)


def file_name(split: Split, key: Key) -> str:
    """The path of a file below its tree, such as ``SegmentationClass/2007_000033.png``."""
    kind, one = key
    folder, suffix = _FOLDERS[origin_of(split, one)][kind]
    return f"{folder}/{one}{suffix}"


def expected(split: Split) -> str:
    """Files that a source folder needs for a split, in words."""
    needs = []
    for origin in split.origins:
        year = split.years[0] if origin == "voc" else 0
        needs.append(f"{_TREES[origin, year][0]}/ or {_ARCHIVES[origin, year][-1 if not split.labelled else 0]}")
    return "; and ".join(needs)


def _is_tree(path: Path, origin: Origin) -> bool:
    return any((path / folder).is_dir() for folder, _ in _FOLDERS[origin].values())


def _read_tree(place: Place, *, wanted: Collection[Key], refuse: Refuse) -> Iterator[Found]:
    for kind, one in wanted:
        folder, suffix = _FOLDERS[place.origin][kind]
        path = place.path / folder / f"{one}{suffix}"
        data = read_plain_file(path, largest=LARGEST_FILE, refuse=refuse)
        if data is not None:
            yield Found((kind, one), suffix, data, one_line(path))


def _read_archive(place: Place, *, wanted: Collection[Key], refuse: Refuse) -> Iterator[Found]:
    """Wanted files of an archive, the first of each; damage ends the reading."""
    left = set(wanted)
    kinds = {folder: (kind, suffix) for kind, (folder, suffix) in _FOLDERS[place.origin].items()}
    try:
        with reading_archive(place.path), place.path.open("rb") as file, open_stream(file) as tar:
            name = one_line(place.path)
            for member in iterate_files(tar, name=name, refuse=refuse):
                path = PurePosixPath(member.name)
                kind, suffix = kinds.get(path.parent.name, (None, ""))
                if kind is None or path.suffix != suffix or (kind, path.stem) not in left:
                    continue
                data = read_wanted(tar, member, name=name, largest=LARGEST_FILE, refuse=refuse)
                if data is not None:
                    left.remove((kind, path.stem))
                    yield Found((kind, path.stem), suffix, data, one_line(f"{place.path}/{member.name}"))
            check_end(tar)
    except Fault as fault:
        refuse(str(fault))


def _read_lists(place: Place) -> dict[str, bytes]:
    """The id lists of an archive by file name.

    A damaged one gives those before the damage: if it matters, pictures are missing too, and are reported.
    """
    folder = _LISTS[place.origin]
    found: dict[str, bytes] = {}
    with suppress(Fault), reading_archive(place.path), place.path.open("rb") as file, open_stream(file) as tar:
        for member in iterate_members(tar):
            path = PurePosixPath(member.name)
            if path.suffix != ".txt" or path.parent.parts[-len(folder) :] != folder or path.name in found:
                continue
            if find_member_fault(member) is None and member.size <= LARGEST_FILE:
                found[path.name] = read_content(tar, member)
    return found
