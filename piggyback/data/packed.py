"""Packed folders: pictures one after the other in files, an index of where each begins, and a manifest.

`prepare` writes the manifest last, so a folder with it is finished.  A benchmark decides what manifest and index say of
its pictures; finding, checking and opening them is done here.
"""

import hashlib
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from piggyback.shell.arrays import Form, read_array
from piggyback.shell.errors import BadInput, Fault, one_line, refusal
from piggyback.shell.files import CHUNK, write_json
from piggyback.shell.strict_json import read_json

LONGEST_SIDE: Final = 1 << 16
"""Rows or columns of a packed picture; an index with more is damaged, and their product could overflow."""

Described = TypeVar("Described")


@dataclass(frozen=True, kw_only=True)
class Packs:
    """Names of a benchmark's packed folders, ``<root>/<name>/``, and their manifests, ``<unit>.json``.

    Attributes:
        benchmark: as on the command line.
        unit: what one folder holds: a task, a split.
        key: field of the manifest with the folder's name.
        version: of the manifest and of the files that it describes.
    """

    benchmark: str
    unit: str
    key: str
    version: int

    def manifest_file(self, root: Path, name: str) -> Path:
        """The file whose presence says that a folder is finished."""
        return root / name / f"{self.unit}.json"

    def command(self, root: Path, name: str) -> str:
        """Command that packs a folder, for messages."""
        out = one_line(shlex.quote(str(root)))
        return f"piggyback {self.benchmark} prepare --source FOLDER --out {out} --{self.unit}s {name}"

    def write(self, root: Path, name: str, fields: Mapping[str, object]) -> None:
        """Write the manifest, which makes the folder finished."""
        write_json(self.manifest_file(root, name), {"version": self.version, **fields})

    def read(self, root: Path, name: str, *, build: Callable[[Mapping[str, Any]], Described]) -> Described | None:
        """Read the manifest; None if the folder is not finished.

        Args:
            root: parent of the packed folders.
            name: the folder's.
            build: makes the description from the fields; may raise KeyError, TypeError, ValueError, OverflowError.

        Raises:
            BadInput: the file is damaged or of another version.
        """
        path = self.manifest_file(root, name)
        if not path.is_file():
            return None
        advice = f"delete {one_line(path.parent)} and run `{self.command(root, name)}`"
        try:
            value = read_json(path)
        except BadInput as fault:
            raise BadInput(f"{fault}: {advice}") from None
        if not isinstance(value, dict) or value.get("version") != self.version or value.get(self.key) != name:
            raise BadInput(f"{one_line(path)} is not a version {self.version} description of {name}: {advice}")
        try:
            return build(cast(dict[str, Any], value))
        except (KeyError, TypeError, ValueError, OverflowError) as fault:
            raise BadInput(f"{one_line(path)} is damaged ({fault!r}): {advice}") from None

    def read_finished(self, root: Path, name: str, *, build: Callable[[Mapping[str, Any]], Described]) -> Described:
        """Read the manifest of a folder that must be finished.

        Raises:
            BadInput: as `read`, or the folder is not finished; the message has the command that packs it.
        """
        found = self.read(root, name, build=build)
        if found is None:
            path = one_line(self.manifest_file(root, name))
            missing = f"{name} is not packed in {one_line(root)}: there is no {path}"
            raise BadInput(f"{missing}. Run `{self.command(root, name)}`")
        return found


@dataclass(frozen=True, kw_only=True)
class PackedPictures:
    """n pictures of any sizes; their pixels stay on disk until they are read.

    Attributes:
        index: n records, with height and width among their fields.
        official: they are those of the official release, as far as can be checked.
        fingerprint: hex sha256 over what is packed.
    """

    index: NDArray[np.void]
    official: bool
    fingerprint: str

    def __len__(self) -> int:
        return len(self.index)

    @property
    def heights(self) -> NDArray[np.int64]:
        """Int64 (n), in pixels."""
        return self.index["height"].astype(np.int64)

    @property
    def widths(self) -> NDArray[np.int64]:
        """Int64 (n), in pixels."""
        return self.index["width"].astype(np.int64)


def count_pixels(index: NDArray[np.void]) -> NDArray[np.int64]:
    """Pixels of each picture of an index, int64 (n)."""
    pixels: NDArray[np.int64] = index["height"].astype(np.int64) * index["width"]
    return pixels


def set_offsets(index: NDArray[np.void], *, step: int) -> None:
    """Fill in the offsets of an index for consecutive pictures with `step` units per pixel."""
    sizes = count_pixels(index) * step
    index["offset"] = np.cumsum(sizes) - sizes


def open_index(
    path: Path, *, kind: "np.dtype[np.void]", count: int, step: int, files: Mapping[Path, int]
) -> NDArray[np.void]:
    """Open an index and compare it with the lengths of its files of pixels; those are not read.

    Args:
        path: of the index.
        kind: dtype of its records; offset, height and width are among their fields.
        count: expected number of pictures.
        step: what a pixel adds to an offset: 3 where offsets count bytes of RGB, 1 where they count pixels.
        files: bytes per pixel of each file.

    Raises:
        BadInput: they do not match; the message names the first fault.
    """
    try:
        index = read_array(path, form=Form(kind, (count,)))
        lengths = {file: file.stat().st_size for file in files}
    except Fault as fault:
        raise BadInput(f"{one_line(path)} is not an index of {count} pictures: it {fault.message}") from None
    except OSError as fault:
        raise BadInput(f"cannot read what belongs to {one_line(path)}: {refusal(fault)}") from None
    if count == 0:
        raise BadInput(f"{one_line(path)} has no picture")
    for side in ("height", "width"):
        if index[side].min() < 1 or index[side].max() > LONGEST_SIDE:
            raise BadInput(f"{one_line(path)} has a {side} that is impossible for a picture")
    expected = index.copy()
    set_offsets(expected, step=step)
    if not np.array_equal(expected["offset"], index["offset"]):
        raise BadInput(f"{one_line(path)} has offsets that do not follow from the sizes")
    pixels = int(count_pixels(index).sum())
    for file, each in files.items():
        if lengths[file] != each * pixels:
            found = f"{one_line(file)} has {lengths[file]:,} bytes"
            raise BadInput(f"{found}, not the {each * pixels:,} of its index")
    return index


def map_bytes(path: Path) -> NDArray[np.uint8]:
    """Bytes of a file, read-only; they stay on disk until they are read."""
    # The base-class view: slicing np.memmap itself costs microseconds per picture.
    return np.asarray(np.memmap(path, dtype=np.uint8, mode="r")).view(np.ndarray)


def fingerprint(parts: Iterable[bytes | Path]) -> str:
    """Hex sha256 over bytes and contents of files, in this order."""
    digest = hashlib.sha256()
    for part in parts:
        for piece in [part] if isinstance(part, bytes) else read_pieces(part):
            digest.update(piece)
    return digest.hexdigest()


def read_pieces(path: Path) -> Iterator[bytes]:
    """Yield the contents of a file in pieces."""
    with path.open("rb") as file:
        while piece := file.read(CHUNK):
            yield piece


def read_flag(value: object) -> bool:
    """A boolean from a manifest.

    Raises:
        TypeError: it is something else.
    """
    if not isinstance(value, bool):
        raise TypeError(f"{value!r:.40} is neither true nor false")
    return value
