"""A check: one thing a doctor looks at, on this machine or on a cluster."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

State = Literal["ok", "unknown", "note", "broken"]
ORDER: Final[tuple[State, ...]] = ("ok", "unknown", "note", "broken")


@dataclass(frozen=True, kw_only=True)
class Check:
    """What one look found.

    Attributes:
        name: what was looked at.
        state: ``ok``; ``note``: it works, but could be better; ``broken``: something needed does not work;
            ``unknown``: nothing that was asked could tell.
        found: in words.
        advice: what to change; empty when nothing.
    """

    name: str
    state: State
    found: str
    advice: str = ""


def find_worst(checks: Iterable[Check]) -> Check:
    """The first of those in the worst state; there must be one."""
    return max(checks, key=lambda check: ORDER.index(check.state))
