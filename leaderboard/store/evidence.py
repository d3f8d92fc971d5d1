"""Checks of the files beside a record; each reads one file and yields the faults that it finds."""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Final, cast

from leaderboard.store.candidates import Candidate
from leaderboard.store.recounting import check_confusion, check_predictions
from piggyback.shell.errors import Fault, shown
from piggyback.shell.strict_json import is_count, is_number, parse_json

MAX_EPOCHS: Final = 10_000
MAX_LAYERS: Final = 10_000
MAX_SIDE: Final = 20_000  # pixels of a picture
MAX_AREA: Final = 64_000_000
_NUMBERS: Final = {int, float}  # and not bool, which is an int elsewhere
_KEY: Final = re.compile(r"[a-z][a-z0-9_]{0,39}")
_LAYER: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}")
_OF_LAYER: Final = frozenset({"name", "zeros", "weights"})
_FRACTIONS: Final = ("accuracy", "error", "iou")
_PNG: Final = b"\x89PNG\r\n\x1a\n"
_DEPTHS: Final = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
"""Bits by colour type, table 12 of w3.org/TR/png-3."""

_STREAMS: Final = {"piggyback": 1, "piggyback-ternary": 2}
"""Masks per layer; each takes at most ceil(n / 8) bytes (``docs/payload-format.md``)."""


def read_metrics(data: bytes) -> list[dict[str, float]]:
    """Read the bytes of a ``metrics.jsonl``: an object of numbers per line, with rising ``epoch``.

    Raises:
        Fault: of the JSON, or ``bad-metrics``.
    """
    lines = data.splitlines()
    if not lines or len(lines) > MAX_EPOCHS:
        raise Fault("bad-metrics", f"has {len(lines):,} lines; there must be one per epoch, at most {MAX_EPOCHS:,}")
    # One call for all lines is three times as fast as one for each.  Each line is an object of its own: it has braces
    # at its ends, there are as many objects as lines, and no object is inside another.
    rows = parse_json(b"[" + b",".join(lines) + b"]")
    whole = all(line.startswith(b"{") and line.endswith(b"}") for line in lines)
    if not isinstance(rows, list) or len(rows) != len(lines) or not whole:
        raise Fault("bad-metrics", "must have one JSON object on each line, and nothing else")
    last, named, known = 0, tuple[str, ...](), False
    fractions: list[str] = []
    for number, row in enumerate(rows, start=1):
        keys = tuple(row) if isinstance(row, dict) else ("",)
        if keys != named:  # mostly they are the same on every line
            named, known = keys, all(_KEY.fullmatch(key) for key in keys)
            fractions = [key for key in keys if key.endswith(_FRACTIONS)]
        if not known or not _NUMBERS.issuperset(map(type, row.values())):
            raise Fault("bad-metrics", f"line {number} must be an object of numbers with names such as val_accuracy")
        epoch = row.get("epoch")
        if not is_count(epoch) or epoch <= last:
            raise Fault("bad-metrics", f"line {number} has the epoch {shown(epoch, longest=40)}; epochs rise from 1")
        for key in fractions:
            if not 0 <= row[key] <= 1:
                raise Fault("bad-metrics", f"line {number} has {key} {row[key]}; it must be a fraction in [0, 1]")
        last = epoch
    return cast(list[dict[str, float]], rows)


def check_metrics(candidate: Candidate, data: bytes) -> Iterator[Fault]:
    """The epochs are lines of numbers, and the last one's loss is the record's."""
    last, stated = read_metrics(data)[-1], candidate.result.metrics.get("train_loss")
    if stated is not None and "loss" in last and last["loss"] != stated:
        yield Fault("sums", f"ends with the loss {last['loss']}; the record says train_loss {stated}")


def read_sparsity(data: bytes) -> list[tuple[str, float, int]]:
    """Read the bytes of a ``sparsity.json``.

    Returns:
        Per layer, in the network's order: name, share of its weights that are set to zero, number of its weights.

    Raises:
        Fault: of the JSON, or ``bad-sparsity``.
    """
    document = parse_json(data)
    layers = document.get("layers") if isinstance(document, dict) and len(document) == 1 else None
    if not isinstance(layers, list) or not 0 < len(layers) <= MAX_LAYERS:
        raise Fault("bad-sparsity", "must be an object of one list, layers")
    found: list[tuple[str, float, int]] = []
    for place, layer in enumerate(layers):
        if not isinstance(layer, dict) or layer.keys() != _OF_LAYER:
            raise Fault("bad-sparsity", f"layer {place} must have exactly {', '.join(sorted(_OF_LAYER))}")
        name, zeros, weights = layer["name"], layer["zeros"], layer["weights"]
        if not isinstance(name, str) or not _LAYER.fullmatch(name):
            raise Fault("bad-sparsity", f"layer {place} has the name {shown(name, longest=40)!r}, which is not plain")
        if not is_number(zeros) or not 0 <= zeros <= 1:
            raise Fault(
                "bad-sparsity", f"layer {place} has zeros {shown(zeros, longest=40)}; it is a fraction in [0, 1]"
            )
        if not is_count(weights) or not weights:
            raise Fault("bad-sparsity", f"layer {place} has {shown(weights, longest=40)} weights; that is no count")
        found.append((name, float(zeros), weights))
    return found


def check_sparsity(candidate: Candidate, data: bytes) -> Iterator[Fault]:
    """The layers add up to the record's share of zeros, and its masks are no larger than they can be."""
    layers, result = read_sparsity(data), candidate.result
    weights = sum(count for _, _, count in layers)
    total, stated = sum(zeros * count for _, zeros, count in layers) / weights, result.metrics.get("zeros")
    if stated is not None and abs(total - stated) > 1e-6:
        yield Fault("sums", f"has {total:.6f} zeros over all layers; the record says {stated:.6f}")
    streams, masks = _STREAMS.get(result.method), result.bits.get("mask")
    if streams is not None and masks is not None:
        most = 8 * streams * sum(-(-count // 8) for _, _, count in layers)
        if masks > most:
            yield Fault("sums", f"has {weights:,} weights, whose masks take {most:,} bits; the record says {masks:,}")


def check_log(candidate: Candidate, data: bytes) -> Iterator[Fault]:
    """The log is printable text."""
    try:
        text = data.decode()
    except UnicodeDecodeError as fault:
        yield Fault("bad-log", f"is not UTF-8 at byte {fault.start}")
        return
    strange = next((one for one in set(text) if not one.isprintable() and one not in "\n\t"), None)
    if strange is not None:
        yield Fault("bad-log", f"has the character {shown(strange)}, which does not print")


def check_sheet(candidate: Candidate, data: bytes) -> Iterator[Fault]:
    """The sheet has a PNG's beginning with a sensible size; it is not decoded."""
    header, (width, height) = data[8:29], (int.from_bytes(data[at : at + 4]) for at in (16, 20))
    if not data.startswith(_PNG) or header[:8] != b"\0\0\0\x0dIHDR" or len(data) < 45:
        yield Fault("bad-png", "is no PNG: it does not begin as one")
    elif not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE and width * height <= MAX_AREA):
        yield Fault("bad-png", f"is {width:,} x {height:,} pixels; at most {MAX_AREA:,} are shown")
    elif data[24] not in _DEPTHS.get(data[25], ()) or data[26:28] != b"\0\0" or data[28] > 1:
        yield Fault("bad-png", "is no PNG: its header has values that the format does not know")


def check_recipe(candidate: Candidate, data: bytes) -> Iterator[Fault]:
    """The recipe that the run was started with is the record's."""
    document, result = parse_json(data), candidate.result
    if not isinstance(document, dict) or not isinstance(document.get("recipe"), dict):
        yield Fault("bad-recipe", "must be an object with the run's recipe")
        return
    stated: Mapping[str, object] = result.recipe or {}
    for key, value in document["recipe"].items():
        if key not in stated or stated[key] != value:
            yield Fault("recipe-differs", f"has another {shown(key, longest=40)} than the record")
            return
    for key in ("task", "method"):
        if key in document and document[key] != getattr(result, key):
            yield Fault("recipe-differs", f"is of {key} {shown(document[key], longest=40)}, the record is not")


FileCheck = Callable[[Candidate, bytes], Iterator[Fault]]

FILE_CHECKS: Final[Mapping[str, FileCheck]] = {
    "predictions.npz": check_predictions,
    "confusion.json": check_confusion,
    "metrics.jsonl": check_metrics,
    "sparsity.json": check_sparsity,
    "log.txt": check_log,
    "sheet.png": check_sheet,
    "recipe.json": check_recipe,
}


def check_files(candidate: Candidate) -> Iterator[Fault]:
    """Check all files that are there."""
    for name in candidate.files:
        try:
            for fault in FILE_CHECKS[name](candidate, candidate.read(name)):
                yield Fault(fault.kind, fault.message, file=name)
        except Fault as fault:
            yield Fault(fault.kind, fault.message, file=name)
