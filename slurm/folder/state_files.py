"""State files: small JSON files of a sweep and its runs, which may be missing, half written or of a run under way."""

import json
import os
from pathlib import Path
from typing import Any, Final

TAIL: Final = 65536  # bytes in which the last line is looked for


def read_state(path: Path) -> dict[str, Any]:
    """Read a JSON object leniently: empty where it is missing or damaged, as after a crash.

    The strict reader is for files of strangers; here, whatever a crash has left, a sweep must still be asked about.
    """
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def read_last_line(path: Path) -> object:
    """Read the last line of a JSON lines file; None where there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL))
            return json.loads(file.read().splitlines()[-1])
    except (OSError, ValueError, RecursionError, IndexError):
        return None
