"""Candidates: results of a store that have not passed a check yet."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Final

from leaderboard.boards.board import Board
from leaderboard.result import Result
from leaderboard.store.truth import Truths
from piggyback.shell.errors import Fault, shown
from piggyback.shell.files import read_file

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
"""The names that folders may have."""

RECORD: Final = "result.json"
LIMITS: Final[Mapping[str, int]] = {
    RECORD: 1 << 20,
    "predictions.npz": 4 << 20,  # the largest that we know, of 97,000 pictures, takes 1.6 MB
    "confusion.json": 1 << 20,
    "metrics.jsonl": 4 << 20,
    "sparsity.json": 1 << 20,
    "log.txt": 64 << 10,
    "sheet.png": 8 << 20,
    "recipe.json": 1 << 20,
}
"""The files of a result's folder, with the bytes that each may have."""

EVIDENCE: Final = tuple(name for name in LIMITS if name != RECORD)


def run_key(result: Result) -> str:
    """Key of a run, 12 hexadecimal digits: the same for every attempt at it, whatever its numbers."""
    prints = result.fingerprints
    recipe = None if result.recipe is None else {key: result.recipe[key] for key in result.recipe if key != "seed"}
    parts = {
        **{key: getattr(result, key) for key in ("benchmark", "task", "task_version", "split", "method", "seed")},
        **{"trained_on": result.trained_on, "selected_on": result.selected_on, "recipe": recipe},
        **{"data": None if prints is None else prints.data, "backbone": None if prints is None else prints.backbone},
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:12]


def attempt_key(data: bytes) -> str:
    """Key of one attempt at a run, 8 hexadecimal digits: from the bytes of its ``result.json``."""
    return hashlib.sha256(data).hexdigest()[:8]


def find_place(result: Result, data: bytes, *, run: str | None = None) -> str:
    """Place of a result, below the store.

    Args:
        result: the record.
        data: bytes of its ``result.json``.
        run: its `run_key`, if it is known already.

    Raises:
        Fault: ``bad-name``: one of its names cannot be a folder's name.
    """
    for key in ("benchmark", "task", "method", "split"):
        name = getattr(result, key)
        if not NAME.fullmatch(name):
            allowed = "letters, digits, dot, dash and underscore, at most 100, the first a letter or digit"
            raise Fault("bad-name", f"has the {key} {shown(name, longest=60)!r}; a name has {allowed}")
    seed = "noseed" if result.seed is None else f"seed{result.seed}"
    return f"{result.benchmark}/{result.task}/{result.method}/{seed}-{run or run_key(result)}-{attempt_key(data)}"


@dataclass(frozen=True, kw_only=True, eq=False)
class Candidate:
    """A result that could be read, with the files beside it.

    Attributes:
        folder: where it is now.
        place: below the store, where it is or will be.
        data: bytes of ``result.json``.
        result: what they say.
        files: names of the files in the folder that are known, ``result.json`` left out.
        board: what is known of its benchmark; None where nothing is.
        truths: labels to count right pictures with.
    """

    folder: Path
    place: str
    data: bytes
    result: Result
    files: tuple[str, ...]
    board: Board | None
    truths: Truths = field(default_factory=dict)

    @cached_property
    def run(self) -> str:
        return run_key(self.result)

    def read(self, name: str) -> bytes:
        """Bytes of one of the files.

        Raises:
            Fault: it cannot be read, or is too large.
        """
        return read_file(f"{self.folder}/{name}", limit=LIMITS[name], follow=False, name=name)
