"""The archive that VOC's evaluation server takes, checked before it leaves: ``piggyback segmentation bundle``.

The server scores ``results/VOC2012/Segmentation/comp6_test_cls/<id>.png``: indexed PNGs with the colours of the
ground truth, labels 0..20, one for each test picture and of its size (devkit documentation, sections 5.2 and 5.3;
comp6 is training on any data but the test set, so also on ImageNet or SBD).  It answers days later and takes few
submissions, so everything that can be wrong is looked for here.
"""

import gzip
import hashlib
import io
import tarfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, cast

import numpy as np
from numpy.typing import NDArray

from piggyback.data.pictures import CONVERTED, measure
from piggyback.shell import console
from piggyback.shell.cli import DONE, FAILED
from piggyback.shell.errors import BadInput, one_line
from piggyback.shell.files import CHUNK, atomic_file, read_file
from segmentation.metric.png_folders import SUFFIX, first_names, list_ids, read_ids
from segmentation.options import BundleOptions
from segmentation.release.label_files import LARGEST_FILE, palette_of, read_label_map
from segmentation.release.splits import find_split, published_ids
from segmentation.voc import CLASSES, PALETTE, VOID

FOLDER: Final = "results/VOC2012/Segmentation/comp6_test_cls/"
ARCHIVES: Final = (".tgz", ".tar.gz")
_THREADS: Final = 8  # mostly waiting for small files
_GZIP: Final = b"\x1f\x8b"
_DAMAGED: Final = (tarfile.TarError, EOFError, OSError, zlib.error)

Faults = dict[str, list[str]]
"""By kind of fault: names of the files that have it, or a line about each."""


@dataclass(frozen=True, kw_only=True)
class BundleReport:
    """The outcome of a check, and the archive that was written.

    Attributes:
        pictures: how many there must be.
        faults: names of files by what is wrong with them, or each with its fault; empty when all is well.
        out: the archive that was written, if one was.
    """

    pictures: int
    faults: Mapping[str, Sequence[str]]
    out: Path | None = None

    def as_json(self) -> dict[str, object]:
        """The report for ``--json``; of each fault the first names only."""
        faults = [{"fault": kind, "count": len(names), "first": names[:3]} for kind, names in self.faults.items()]
        out = None if self.out is None else str(self.out)
        return {"ready": not faults, "pictures": self.pictures, "faults": faults, "out": out}

    def summary(self) -> str:
        """All kinds of faults in one line, each with count and first names."""
        return "; ".join(f"{len(names):,} {kind} ({first_names(names)})" for kind, names in self.faults.items())


def run(options: BundleOptions) -> int:
    ids = published_ids(find_split("voc2012_test")) if options.ids is None else read_ids(options.ids)
    report = bundle(options.predictions, pictures=options.pictures, ids=ids, out=options.out)
    if options.json:
        console.print_json(report.as_json())
        return FAILED if report.faults else DONE
    if report.faults:
        raise BadInput(f"{one_line(options.predictions)} is not ready for the server: {report.summary()}")
    what = f"{report.pictures:,} label maps have the right names, mode, palette, sizes and labels"
    wrote = "" if report.out is None else f"; wrote {one_line(report.out)}"
    console.out.print(what + wrote, markup=False, soft_wrap=True)
    return DONE


def bundle(predictions: Path, *, pictures: Path, ids: Sequence[str], out: Path | None = None) -> BundleReport:
    """Check label maps for the server and, where nothing is wrong, write its archive.

    Args:
        predictions: folder of ``<id>.png``, or an archive to check.
        pictures: folder of ``<id>.jpg``, for the sizes.
        ids: exactly the pictures there must be.
        out: the ``.tgz`` to write; the same files give the same bytes.  None to check only.

    Raises:
        BadInput: a path is not what it must be, or an archive is damaged.
    """
    if not pictures.is_dir():
        raise BadInput(f"{one_line(pictures)} is not a folder; give the one with the JPEG files")
    if not ids:
        raise BadInput("the list of ids is empty: there is nothing to bundle")
    if predictions.is_file():
        if out is not None:
            raise BadInput(f"{one_line(predictions)} is an archive, which is only checked: leave --out out")
        return BundleReport(pictures=len(ids), faults=check_archive(predictions, pictures=pictures, ids=ids))
    if out is not None and (not out.name.endswith(ARCHIVES) or out.is_dir()):
        raise BadInput(f"{one_line(out)} cannot be written; --out is a file that ends in .tgz or .tar.gz")
    faults, digests = check_folder(predictions, pictures=pictures, ids=ids)
    if out is None or faults:
        return BundleReport(pictures=len(ids), faults=faults)
    write_archive(out, predictions, digests=digests)
    return BundleReport(pictures=len(ids), faults={}, out=out)


def check_folder(folder: Path, *, pictures: Path, ids: Sequence[str]) -> tuple[Faults, dict[str, bytes]]:
    """Check ``<id>.png`` of a folder; gives back the faults, and the sha256 of each file that was read by id.

    Raises:
        BadInput: it is not a folder.
    """
    there = list_ids(folder)
    wanted = dict.fromkeys(ids)
    faults: Faults = {}
    _note_names(faults, missing=[one for one in ids if one not in there], unknown=[o for o in there if o not in wanted])
    digests: dict[str, bytes] = {}

    def check(one: str) -> tuple[list[tuple[str, str]], bytes]:
        try:
            data = read_file(folder / (one + SUFFIX), limit=LARGEST_FILE)
        except BadInput as fault:
            return [("are unusable", str(fault))], b""
        return find_faults(one, data, pictures=pictures), hashlib.sha256(data).digest()

    present = [one for one in ids if one in there]
    with console.progress_bar() as bar, ThreadPoolExecutor(_THREADS) as pool:
        shown = bar.add_task("label maps", total=len(present))
        for one, (found, digest) in zip(present, pool.map(check, present), strict=True):
            digests[one] = digest
            _note(faults, found)
            bar.advance(shown)
    return faults, digests


def check_archive(path: Path, *, pictures: Path, ids: Sequence[str]) -> Faults:
    """Check a ``.tar`` or ``.tgz`` for the server, in a stream: nothing is unpacked.

    Raises:
        BadInput: it is not such an archive, or is damaged.
    """
    faults: Faults = {}
    wanted, seen = dict.fromkeys(ids), dict[str, None]()
    try:
        with console.progress_bar() as bar:
            shown = bar.add_task("label maps", total=len(ids))
            for name, data in _read_members(path, faults):
                one = name.removeprefix(FOLDER).removesuffix(SUFFIX)
                if name != f"{FOLDER}{one}{SUFFIX}" or "/" in one:
                    _note(faults, [(f"are elsewhere than in {FOLDER}", name[:120])])
                elif one in seen:
                    _note(faults, [("are there twice", one + SUFFIX)])
                else:
                    seen[one] = None
                    _note(faults, find_faults(one, data, pictures=pictures) if one in wanted else [])
                    bar.advance(shown)
    except _DAMAGED as fault:
        raise BadInput(f"{one_line(path)} is damaged or not a tar archive ({fault}): write it again") from None
    _note_names(faults, missing=[one for one in ids if one not in seen], unknown=[o for o in seen if o not in wanted])
    return faults


def find_faults(one: str, data: bytes, *, pictures: Path) -> list[tuple[str, str]]:
    """Faults of one label map: pairs of the kind, and the file with the details."""
    name = one + SUFFIX
    try:
        labels = read_label_map(data, name=name)
    except BadInput as fault:
        return [("are unusable", str(fault))]
    found = [*_fault_of_palette(labels, palette_of(data, name=name), name=name)]
    voids = int(np.count_nonzero(labels == VOID))
    if voids:
        found.append((f"have void ({VOID}), which is no answer", f"{name} in {voids:,} pixels"))
    path = pictures / f"{one}.jpg"
    try:
        size = measure(read_file(path, limit=LARGEST_FILE), name=one_line(path), modes=CONVERTED, formats=("JPEG",))
    except BadInput as fault:
        return [*found, ("have no picture to compare sizes with", str(fault))]
    if size != labels.shape:
        sizes = f"{labels.shape[1]} x {labels.shape[0]}, {path.name} {size[1]} x {size[0]}"
        found.append(("have another size than their picture", f"{name} {sizes}"))
    return found


def write_archive(out: Path, folder: Path, *, digests: Mapping[str, bytes]) -> None:
    """Write the checked files of a folder as the server's archive, whole or not at all, without clock or owner.

    Args:
        folder: of ``<id>.png``.
        digests: sha256 by id, from `check_folder`.

    Raises:
        BadInput: a file changed after it was checked.
    """
    with (
        atomic_file(out) as file,
        gzip.GzipFile(filename="", mode="wb", fileobj=file, compresslevel=6, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for one in sorted(digests):
            path = folder / (one + SUFFIX)
            data = read_file(path, limit=LARGEST_FILE)
            if hashlib.sha256(data).digest() != digests[one]:
                raise BadInput(f"{one_line(path)} changed while it was being bundled: run it again")
            member = tarfile.TarInfo(f"{FOLDER}{path.name}")
            member.size, member.mode = len(data), 0o644
            tar.addfile(member, io.BytesIO(data))


def _fault_of_palette(labels: NDArray[np.uint8], palette: bytes | None, *, name: str) -> Iterator[tuple[str, str]]:
    if palette is None:
        yield "are not mode P: they have no palette", name
        return
    used = labels[labels < len(CLASSES)]
    if not PALETTE.startswith(palette) or 3 * int(used.max(initial=0)) >= len(palette):
        yield "have another palette than VOC's", name


def _read_members(path: Path, faults: Faults) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of an archive's plain files, in its order; the folders above them are passed over."""
    with path.open("rb") as file:
        packed = file.read(2) == _GZIP
        file.seek(0)
        # Not tarfile's own gzip, which does not compare the checksum at the end.
        plain = cast(IO[bytes], gzip.GzipFile(fileobj=file) if packed else file)
        with tarfile.open(fileobj=plain, mode="r|") as tar:
            for member in tar:
                name = member.name.removeprefix("./")
                if member.isdir() and (FOLDER.startswith(f"{name}/") or name in ("", ".")):
                    continue
                if not member.isreg() or member.size > LARGEST_FILE:
                    _note(faults, [("are not plain files of fitting size", name[:120])])
                    continue
                content = tar.extractfile(member)
                yield name, b"" if content is None else content.read()
        while plain.read(CHUNK):
            pass


def _note(faults: Faults, found: Sequence[tuple[str, str]]) -> None:
    for kind, text in found:
        faults.setdefault(kind, []).append(one_line(text))


def _note_names(faults: Faults, *, missing: Sequence[str], unknown: Sequence[str]) -> None:
    _note(faults, [("are missing", one + SUFFIX) for one in missing])
    _note(faults, [("are of no wanted picture", one + SUFFIX) for one in unknown])
