"""State files: small JSON files of a sweep and its runs, which may be missing or half written."""

import json
import os
from pathlib import Path
from typing import Any, Final

TAIL: Final = 65536  # bytes in which the last line is looked for


def read_state(path: Path) -> dict[str, Any]:
    """Read a JSON object leniently: empty if it is missing or damaged, as after a crash.

    The strict reader is for untrusted files; here a sweep must stay readable whatever a crash has left.
    """
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def read_last_line(path: Path) -> object:
    """Read the last line of a JSON lines file; None if there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL))
            return json.loads(file.read().splitlines()[-1])
    except (OSError, ValueError, RecursionError, IndexError):
        return None
