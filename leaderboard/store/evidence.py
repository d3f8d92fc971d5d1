"""Checks of the files beside a record: each reads one, and yields what does not fit the record."""

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, cast

import numpy as np

from leaderboard.boards.tasks import DECATHLON, DECATHLON_SPLITS, PREDICTED
from leaderboard.faults import Fault, shown
from leaderboard.store.candidates import Candidate
from leaderboard.store.rescoring import Predictions, count_right, read_confusion, read_predictions, score_confusion
from leaderboard.store.truth import Truth
from leaderboard.strict_json import is_count, is_number, parse

MAX_EPOCHS: Final = 10_000
MAX_LAYERS: Final = 10_000
MAX_SIDE: Final = 20_000  # pixels of a picture
MAX_AREA: Final = 64_000_000
_ROUNDING: Final = 1e-9
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


def check_fingerprint(candidate: Candidate, data: bytes) -> Iterator[Fault]:
    """The record names the digest of what it was counted from."""
    prints = candidate.result.fingerprints
    told, found = (prints.predictions if prints is not None else None), hashlib.sha256(data).hexdigest()
    if told != found:
        yield Fault("fingerprint", f"has the sha256 {found[:12]}..., the record says {shown(told, longest=12)}...")


def check_predictions(candidate: Candidate, data: bytes) -> Iterator[Fault]:
    """The predictions are the record's, of this task, complete, and say what the record says."""
    result = candidate.result
    if result.benchmark != "decathlon":
        yield Fault("foreign-file", f"is no evidence of {result.benchmark}")
        return
    yield from check_fingerprint(candidate, data)
    predictions = read_predictions(data)
    if predictions.task != result.task:
        yield Fault(
            "foreign-predictions", f"are of {shown(predictions.task, longest=40)}, the record is of {result.task}"
        )
        return
    if result.task not in DECATHLON or result.split not in DECATHLON_SPLITS:
        return  # told elsewhere
    faults = [*check_ids(candidate, predictions), *check_categories(candidate, predictions)]
    yield from faults
    if not faults:
        yield from check_score(candidate, predictions)


def find_truth(candidate: Candidate, split: str) -> Truth | None:
    """The labels of a split, where they are those of the release that the record was measured on."""
    truth = candidate.truths.get((candidate.result.task, split))
    return truth if truth is not None and truth.official == candidate.result.official_data else None


def check_ids(candidate: Candidate, predictions: Predictions) -> Iterator[Fault]:
    """Every picture of the test part is predicted, once, and no others; a record of val has these beside it too."""
    result, ids = candidate.result, np.sort(predictions.image_ids)
    task = DECATHLON[result.task]
    twice = ids[1:][ids[1:] == ids[:-1]]
    if len(twice):
        yield Fault("duplicate-id", f"has the picture {twice[0]} twice")
    if ids[0] < task.ids.start or ids[-1] >= task.ids.stop:
        yield Fault("foreign-id", f"has a picture that is none of {result.task}, from {ids[0]} to {ids[-1]}")
    wanted = split_ids(candidate, PREDICTED)
    if wanted is None:
        if result.split == "test" and result.counts is not None and len(ids) < result.counts.n:
            yield Fault("missing-id", f"has {len(ids)} pictures, the record says {result.counts.n}")
        return
    missing = np.setdiff1d(wanted, ids)
    if len(missing):
        yield Fault("missing-id", f"lacks {len(missing)} of {len(wanted)} pictures of {PREDICTED}: {missing[0]}")
    strange = np.setdiff1d(ids, wanted)
    if len(strange):
        yield Fault("foreign-id", f"has {len(strange)} pictures that are not in its {PREDICTED} part: {strange[0]}")


def split_ids(candidate: Candidate, split: str) -> "np.ndarray[Any, np.dtype[np.int64]] | None":
    """The pictures of a split, int64 ascending: by its labels or by the official release; None where nobody knows."""
    truth = find_truth(candidate, split)
    if truth is not None:
        return truth.ids
    if candidate.result.official_data:
        ids = DECATHLON[candidate.result.task].official_ids(split)
        return np.arange(ids.start, ids.stop, dtype=np.int64)
    return None


def check_categories(candidate: Candidate, predictions: Predictions) -> Iterator[Fault]:
    """Every category is one of the task's."""
    result, chosen = candidate.result, predictions.category_ids
    task, truth = DECATHLON[result.task], find_truth(candidate, PREDICTED)
    known = task.categories if result.official_data else task.ids
    strange = chosen[(chosen < known.start) | (chosen >= known.stop)]
    if not len(strange) and truth is not None and truth.categories is not None:
        strange = np.setdiff1d(chosen, sorted(truth.categories))
    if len(strange):
        yield Fault("foreign-category", f"has the category {strange[0]}, which {result.task} does not have")


def check_score(candidate: Candidate, predictions: Predictions) -> Iterator[Fault]:
    """The pictures that are right are as many as the record says."""
    result = candidate.result
    truth = find_truth(candidate, PREDICTED)
    if result.split != PREDICTED or truth is None or result.counts is None:
        return
    right = count_right(predictions, truth)
    if (right, len(truth.ids)) != (result.counts.correct, result.counts.n):
        told = f"the record says {result.counts.correct} of {result.counts.n}"
        yield Fault("rescored", f"has {right} of {len(truth.ids)} right when counted again; {told}")


def check_confusion(candidate: Candidate, data: bytes) -> Iterator[Fault]:
    """The matrix is the record's, and its numbers are the record's."""
    result = candidate.result
    if result.benchmark != "segmentation":
        yield Fault("foreign-file", f"is no evidence of {result.benchmark}")
        return
    yield from check_fingerprint(candidate, data)
    scores = score_confusion(read_confusion(data))
    if result.counts is not None and (scores.n, scores.correct) != (result.counts.n, result.counts.correct):
        told = f"the record says {result.counts.correct} of {result.counts.n}"
        yield Fault("rescored", f"has {scores.correct} of {scores.n} pixels right when counted again; {told}")
    for name, value in scores.metrics.items():
        stated = result.metrics.get(name, value)
        if abs(stated - value) > _ROUNDING:
            yield Fault("rescored", f"gives {name} {value!r} when counted again; the record says {stated!r}")


def read_metrics(data: bytes) -> list[dict[str, float]]:
    """Take in the bytes of a ``metrics.jsonl``: an object of numbers per line, with rising ``epoch``.

    Raises:
        Fault: of the JSON, or ``bad-metrics``.
    """
    lines = data.splitlines()
    if not lines or len(lines) > MAX_EPOCHS:
        raise Fault("bad-metrics", f"has {len(lines):,} lines; there must be one per epoch, at most {MAX_EPOCHS:,}")
    # One call for all lines is three times as fast as one for each.  That each is an object of its own follows from
    # the braces at its ends, as many objects as lines, and none inside another.
    rows = parse(b"[" + b",".join(lines) + b"]")
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
    last, told = read_metrics(data)[-1], candidate.result.metrics.get("train_loss")
    if told is not None and "loss" in last and last["loss"] != told:
        yield Fault("sums", f"ends with the loss {last['loss']}; the record says train_loss {told}")


def read_sparsity(data: bytes) -> list[tuple[str, float, int]]:
    """Take in the bytes of a ``sparsity.json``.

    Returns:
        Per layer, in the network's order: name, share of its weights that are set to zero, number of its weights.

    Raises:
        Fault: of the JSON, or ``bad-sparsity``.
    """
    document = parse(data)
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
    total, told = sum(zeros * count for _, zeros, count in layers) / weights, result.metrics.get("zeros")
    if told is not None and abs(total - told) > 1e-6:
        yield Fault("sums", f"has {total:.6f} zeros over all layers; the record says {told:.6f}")
    streams, masks = _STREAMS.get(result.method), result.bits.get("mask")
    if streams is not None and masks is not None:
        most = 8 * streams * sum(-(-count // 8) for _, _, count in layers)
        if masks > most:
            yield Fault("sums", f"has {weights:,} weights, whose masks take {most:,} bits; the record says {masks:,}")


def check_log(candidate: Candidate, data: bytes) -> Iterator[Fault]:
    """The log is text that can be printed."""
    try:
        text = data.decode()
    except UnicodeDecodeError as fault:
        yield Fault("bad-log", f"is not UTF-8 at byte {fault.start}")
        return
    strange = next((one for one in set(text) if not one.isprintable() and one not in "\n\t"), None)
    if strange is not None:
        yield Fault("bad-log", f"has the character {shown(strange)}, which does not print")


def check_sheet(candidate: Candidate, data: bytes) -> Iterator[Fault]:
    """The sheet begins as a PNG of sane size does; it is not decoded."""
    header, (width, height) = data[8:29], (int.from_bytes(data[at : at + 4]) for at in (16, 20))
    if not data.startswith(_PNG) or header[:8] != b"\0\0\0\x0dIHDR" or len(data) < 45:
        yield Fault("bad-png", "is no PNG: it does not begin as one")
    elif not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE and width * height <= MAX_AREA):
        yield Fault("bad-png", f"is {width:,} x {height:,} pixels; at most {MAX_AREA:,} are shown")
    elif data[24] not in _DEPTHS.get(data[25], ()) or data[26:28] != b"\0\0" or data[28] > 1:
        yield Fault("bad-png", "is no PNG: its header has values that the format does not know")


def check_recipe(candidate: Candidate, data: bytes) -> Iterator[Fault]:
    """What the run was started with is in the record."""
    document, result = parse(data), candidate.result
    if not isinstance(document, dict) or not isinstance(document.get("recipe"), dict):
        yield Fault("bad-recipe", "must be an object with the run's recipe")
        return
    told: Mapping[str, object] = result.recipe or {}
    for key, value in document["recipe"].items():
        if key not in told or told[key] != value:
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
    """All of these, of the files that are there."""
    for name in candidate.files:
        try:
            for fault in FILE_CHECKS[name](candidate, candidate.read(name)):
                yield Fault(fault.kind, fault.message, file=name)
        except Fault as fault:
            yield Fault(fault.kind, fault.message, file=name)
