"""``piggyback payload show``: a payload's bytes, settings and zeros, in numbers."""

import math
from dataclasses import asdict
from pathlib import Path
from typing import Final

from piggyback.budget import ratio_of_payload
from piggyback.payload import Payload, method_settings, read_payload
from piggyback.shell.console import out, print_json, table
from piggyback.suite.verbs.core_options import ShowOptions

SUCH: Final = 9  # tasks that the parameter ratio is stated for: those the Decathlon adds to its backbone's own


def run_show(options: ShowOptions) -> int:
    """Describe payload files.

    Raises:
        BadInput: a file cannot be read.
        BadPayload: a file is damaged or not a payload; nothing is printed then.
    """
    payloads = {path: read_payload(path) for path in (options.file, *options.more)}
    if options.json:
        print_json({"payloads": [describe(payload, path=path) for path, payload in payloads.items()]})
        return 0
    for path, payload in payloads.items():
        show(payload, path=path)
    return 0


def describe(payload: Payload, *, path: Path) -> dict[str, object]:
    """Everything that is shown, as JSON.

    ``zeros`` are shares of mask values, None without masks; ``bits_per_weight`` divides the coded bits of masks and
    other numbers by the weights that they belong to, None without any; ``coverage`` counts parameters of the trunk.
    """
    weights = sum(math.prod(shape) for name, shape in payload.shapes.items() if name not in payload.without)
    values = sum(mask.weights for mask in payload.masks.values())
    zeros = sum(mask.zeros for mask in payload.masks.values())
    size = payload.bytes_by_kind["mask"] + payload.bytes_by_kind["value"]
    return {
        "file": str(path),
        "task": payload.task,
        "method": payload.method.name,
        "settings": method_settings(payload.method),
        "norm": payload.norm,
        "backbone": payload.fingerprint,
        "recipe": dict(payload.recipe),
        "bytes": {**payload.bytes_by_kind, "file": sum(payload.bytes_by_kind.values())},
        "weights": weights,
        "zeros": zeros / values if values else None,
        "bits_per_weight": 8 * size / weights if weights else None,
        "parameter_ratio": ratio_of_payload(payload, count=SUCH),
        "coverage": describe_coverage(payload),
        "layers": {
            name: {
                "shape": list(mask.shape),
                "weights": mask.weights,
                "zeros": mask.zeros / mask.weights,
                "bytes": mask.bytes,
            }
            for name, mask in payload.masks.items()
        },
    }


def describe_coverage(payload: Payload) -> dict[str, object] | None:
    """How much of the network's trunk the task changes, in shares and numbers of parameters; None in older files."""
    shares = payload.coverage
    if shares is None:
        return None
    return {"masked_share": shares.masked_share, "left_out_share": shares.left_out_share, **asdict(shares)}


def show(payload: Payload, *, path: Path) -> None:
    values = method_settings(payload.method).items()
    settings = "".join(
        f", {key} {value:g}" if isinstance(value, float) else f", {key} {value}" for key, value in values
    )
    out.print(str(path), style="bold", markup=False, soft_wrap=True)
    lines = {
        "task": payload.task,
        "method": payload.method.name + settings,
        "norm layers": payload.norm,
        "backbone": payload.fingerprint,
        "coverage": "not told by the file" if payload.coverage is None else str(payload.coverage),
    }
    for name, value in lines.items():
        out.print(f"  {name:<12}{value}", markup=False, soft_wrap=True)
    total = sum(payload.bytes_by_kind.values())
    rows: list[tuple[str, ...]] = [(kind, f"{count:,}") for kind, count in payload.bytes_by_kind.items()]
    table("bytes by kind", "kind", "bytes", rows=[*rows, ("file", f"{total:,}")])
    if payload.masks:
        show_masks(payload)
    ratio = ratio_of_payload(payload, count=SUCH)
    text = f"{SUCH} such tasks: parameter ratio {ratio:.5f} (the paper's convention: heads and norm layers left out)"
    out.print(text, markup=False, soft_wrap=True)


def show_masks(payload: Payload) -> None:
    rows: list[tuple[str, ...]] = [
        (
            name,
            " x ".join(map(str, mask.shape)),
            f"{mask.weights:,}",
            f"{100 * mask.zeros / mask.weights:.2f}",
            f"{mask.bytes:,}",
        )
        for name, mask in payload.masks.items()
    ]
    values = sum(mask.weights for mask in payload.masks.values())
    zeros = sum(mask.zeros for mask in payload.masks.values())
    size = payload.bytes_by_kind["mask"]
    rows.append(("all", "", f"{values:,}", f"{100 * zeros / values:.2f}", f"{size:,}"))
    weights = sum(math.prod(shape) for name, shape in payload.shapes.items() if name not in payload.without)
    off = {name: mask.zeros for name, mask in payload.masks.items()}
    bits = sum(
        payload.method.bits(shape, masked=off.get(name, 0))
        for name, shape in payload.shapes.items()
        if name in payload.kept
    )
    coded = 8 * (size + payload.bytes_by_kind["value"])
    caption = f"{coded / weights:.3f} bits per weight as coded, {bits / weights:.3f} counted"
    table("masks", "weight", "shape", "weights", "zeros %", "bytes", rows=rows, caption=caption)
