"""Labels of the test parts, as the organisers published them in 2020; read as untrusted input."""

import hashlib
import io
import reprlib
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Final, cast

from decathlon.tasks import TASKS, Task, find_task
from piggyback.shell.errors import BadInput
from piggyback.shell.files import read_file
from piggyback.shell.strict_json import parse_json

MAX_BYTES: Final = 64 << 20  # the largest official file, imagenet12's labels, has 10 MB
MAX_VALUES: Final = 4_000_000  # imagenet12's labels have 0.7 million
SUFFIX: Final = "_test.json"


@dataclass(frozen=True, kw_only=True)
class TaskLabels:
    """The labels of one task's test part.

    Attributes:
        labels: category id by image id.
        category_ids: all of the task, also those that no test picture shows.
        official: whether count, first id, class names and labels all agree with the official release.
    """

    task: str
    labels: Mapping[int, int]
    category_ids: frozenset[int]
    official: bool


@dataclass(frozen=True, kw_only=True)
class Labels:
    """The labels of some or all tasks' test parts.

    Attributes:
        source: the folder or zip that they come from, for messages.
        tasks: by name, in the order of the names.
    """

    source: str
    tasks: Mapping[str, TaskLabels]

    @property
    def official(self) -> bool:
        """Whether the labels of every task here are the official ones."""
        return all(task.official for task in self.tasks.values())


def read_labels(path: Path) -> Labels:
    """Read test labels from a folder of ``<task>_test.json`` files or from a zip of them.

    Files of other names are passed over; a task may lack its file.

    Raises:
        BadInput: there are no labels, or a file is damaged, too large or contradicts itself.
        UnknownName: a ``*_test.json`` has the name of no task.
    """
    found: dict[str, TaskLabels] = {}
    for file_name, data in _folder_files(path) if path.is_dir() else _zip_files(path):
        task = find_task(file_name.removesuffix(SUFFIX))
        if task.name in found:
            raise BadInput(f"{path} holds {file_name} twice")
        found[task.name] = parse_labels(data, task=task, name=f"{path}: {file_name}")
    if not found:
        raise BadInput(f"{path} holds no labels: no file there is called <task>{SUFFIX}, such as dtd{SUFFIX}")
    return Labels(source=str(path), tasks=MappingProxyType({name: found[name] for name in sorted(found)}))


def parse_labels(data: bytes, *, task: Task, name: str) -> TaskLabels:
    """Read one ``<task>_test.json``.

    Args:
        data: its bytes.
        task: whose labels they must be.
        name: of the file, for messages.

    Raises:
        BadInput: it is not such a file, or its images, annotations and categories do not fit together.
    """
    document = parse_json(data, name=name, values=MAX_VALUES)
    if not isinstance(document, dict) or not isinstance(document.get("images"), list):
        raise BadInput(f"{name} is not an annotation file: an object with images, annotations and categories")
    if "annotations" not in document:
        raise BadInput(f"{name} has no annotations: it is a stripped file; the labels are in labels_test.zip")
    names = _categories(document, task=task, name=name)
    labels: dict[int, int] = {}
    for record in _records(document, "annotations", name=name):
        image, category = _number(record, "image_id", name=name), _number(record, "category_id", name=name)
        if category not in names:
            raise BadInput(f"{name} gives picture {image} the category {category}, which it does not define")
        if image in labels:
            raise BadInput(f"{name} has two annotations of picture {image}")
        labels[image] = category
    images = [_number(record, "id", name=name) for record in _records(document, "images", name=name)]
    if len(set(images)) < len(images) or set(images) != set(labels):
        raise BadInput(f"{name} must have one annotation for each of its {len(images)} images; it has {len(labels)}")
    outside = next((image for image in images if task_of(image) is not task), None)
    if outside is not None or not images:
        raise BadInput(
            f"{name} has picture {outside}, which is not an id of {task.name}" if images else f"{name} has no pictures"
        )
    return TaskLabels(
        task=task.name,
        labels=MappingProxyType(labels),
        category_ids=frozenset(names),
        official=_is_official(task, names=names, labels=labels),
    )


def task_of(number: int) -> Task | None:
    """The task whose range a picture's or category's id lies in, or None."""
    return next((task for task in TASKS.values() if number in task.category_ids), None)


def zip_members(data: bytes, *, name: str) -> list[zipfile.ZipInfo]:
    """The members of an untrusted zip, folders left out.

    Raises:
        BadInput: it is not a zip, or is damaged.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return [member for member in archive.infolist() if not member.filename.endswith("/")]
    except _ZIP_FAULTS:
        raise BadInput(f"{name} is not a zip, or is truncated or damaged") from None


def read_member(data: bytes, member: zipfile.ZipInfo, *, name: str) -> bytes:
    """One member of an untrusted zip; at most `MAX_BYTES` are unpacked, whatever the zip states.

    Raises:
        BadInput: it is encrypted, damaged, too large or packed in another way than stored or deflated.
    """
    inside = f"{member.filename[:80]!r} in {name}"
    if member.flag_bits & 0x1:
        raise BadInput(f"{inside} is encrypted; make the zip without a password")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise BadInput(f"{inside} is packed by method {member.compress_type}; make the zip with deflate")
    too_large = BadInput(f"{inside} unpacks to more than {MAX_BYTES >> 20} MiB; no file of the decathlon does")
    if member.file_size > MAX_BYTES:
        raise too_large
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive, archive.open(member) as file:
            unpacked = file.read(MAX_BYTES + 1)
    except _ZIP_FAULTS:
        raise BadInput(f"{inside} is damaged; make the zip again") from None
    if len(unpacked) > MAX_BYTES:  # the size that the zip states may be wrong
        raise too_large
    return unpacked


# What zipfile lets out on damaged archives, found by flipping bytes.
_ZIP_FAULTS: Final = (
    *(zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError),
    *(NotImplementedError, RuntimeError, ValueError, OverflowError),
)


def _folder_files(path: Path) -> Iterator[tuple[str, bytes]]:
    for file in sorted(path.glob(f"[!.]*{SUFFIX}")):
        yield file.name, read_file(file, limit=MAX_BYTES)


def _zip_files(path: Path) -> Iterator[tuple[str, bytes]]:
    data = read_file(path, limit=MAX_BYTES)
    for member in zip_members(data, name=str(path)):
        file_name = PurePosixPath(member.filename).name
        if file_name.endswith(SUFFIX) and not file_name.startswith("."):
            yield file_name, read_member(data, member, name=str(path))


def _records(document: Mapping[str, object], key: str, *, name: str) -> list[dict[str, object]]:
    records = document.get(key)
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise BadInput(f"{name}: {key} must be a list of objects")
    return cast(list[dict[str, object]], records)


def _number(record: Mapping[str, object], key: str, *, name: str) -> int:
    value = record.get(key)
    if type(value) is not int or not 0 < value < 1 << 40:
        raise BadInput(f"{name}: {key} must be a positive whole number in {reprlib.repr(record)}")
    return value


def _categories(document: Mapping[str, object], *, task: Task, name: str) -> dict[int, str]:
    """Class names by category id."""
    names: dict[int, str] = {}
    for record in _records(document, "categories", name=name):
        number, title = _number(record, "id", name=name), record.get("name")
        if number not in task.category_ids:
            raise BadInput(f"{name} has category {number}, which is not an id of {task.name}")
        if number in names or not isinstance(title, str):
            raise BadInput(f"{name} has category {number} twice or without a name")
        names[number] = title
    return names


def _is_official(task: Task, *, names: Mapping[int, str], labels: Mapping[int, int]) -> bool:
    def digest(lines: Iterator[str]) -> str:
        return hashlib.sha256("\n".join(lines).encode(errors="surrogatepass")).hexdigest()

    return (
        len(labels) == task.pictures[2]
        and min(labels) == task.first_image_id("test")
        and digest(names[number] for number in sorted(names)) == task.names_sha256
        and digest(f"{image} {labels[image]}" for image in sorted(labels)) == task.labels_sha256
    )


def find_labels(data: Path) -> Path:
    """The place of the test labels that `prepare` found in its source.

    Raises:
        BadInput: there are none.
    """
    for name in ("labels_test", "labels_test.zip"):
        if (data / name).exists():
            return data / name
    raise BadInput(f"{data} has no labels of the test parts: give --labels, such as the organisers' labels_test.zip")
