"""What the benchmarks' plans for sweeps share.

A benchmark offers ``plan(spec)`` by an entry point of the group ``piggyback.sweeps``.  The spec is its part of a
sweep's file; the answer is a list of mappings with the fields that ``slurm.planned.PlannedRun`` documents.  Nothing
here or in a plan loads torch.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from piggyback.errors import BadInput

Planned = dict[str, Any]


def take(spec: Mapping[str, Any], name: str, kind: type | tuple[type, ...], *, default: Any) -> Any:
    """A field of a spec.

    Raises:
        BadInput: it is of another type, or missing where `default` is None.
    """
    value = spec.get(name, default)
    if value is None:
        raise BadInput(f"the sweep's file must give {name}")
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise BadInput(f"the sweep's {name} cannot be {value!r:.60}")
    return value


def refuse_unknown(spec: Mapping[str, Any], *, known: Sequence[str]) -> None:
    """Raise BadInput for a field that no plan asks for: a typing error would pass unseen."""
    unknown = sorted(spec.keys() - {*known, "name", "out"})
    if unknown:
        raise BadInput(f"the sweep has {unknown[0]!r}, which means nothing here; known: {', '.join(sorted(known))}")


def short_id(*parts: object) -> str:
    """Ten hexadecimal digits of everything that tells a run from others."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:10]


def planned_run(  # noqa: PLR0913 -- the fields of a planned run
    run: str,
    *,
    title: str,
    kind: str,
    argv: Sequence[str],
    folder: Path,
    proof: Path | None = None,
    needs: Sequence[str] = (),
    after: str = "done",
    cost: str = "",
) -> Planned:
    """One planned run."""
    return {
        "id": run,
        "title": title,
        "kind": kind,
        "argv": [str(word) for word in argv],
        "folder": str(folder),
        "proof": None if proof is None else str(proof),
        "needs": list(needs),
        "after": after,
        "cost": cost,
    }
