"""Backbone files with another entry in their header, as damage or a stranger makes them."""

import json
import struct
from pathlib import Path


def change_header(path: Path, change: dict[str, object]) -> Path:
    """A copy beside the file whose ``piggyback_backbone`` has other values."""
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    entry = json.loads(header["__metadata__"]["piggyback_backbone"])
    header["__metadata__"]["piggyback_backbone"] = json.dumps({**entry, **change})
    text = json.dumps(header).encode()
    changed = path.with_name("changed.safetensors")
    changed.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])
    return changed
