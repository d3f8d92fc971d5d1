"""Result of one check by a doctor, of this machine or a cluster."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

State = Literal["ok", "unknown", "note", "broken"]
ORDER: Final[tuple[State, ...]] = ("ok", "unknown", "note", "broken")


@dataclass(frozen=True, kw_only=True)
class Check:
    """Result of one check.

    Attributes:
        name: what was checked.
        state: ``ok``; ``note``: it works, but could be better; ``broken``: something needed does not work;
            ``unknown``: it could not be determined.
        found: in words.
        advice: what to change; empty if nothing.
    """

    name: str
    state: State
    found: str
    advice: str = ""


def find_worst(checks: Iterable[Check]) -> Check:
    """The first check in the worst state; there must be one."""
    return max(checks, key=lambda check: ORDER.index(check.state))
