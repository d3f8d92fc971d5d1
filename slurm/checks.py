"""What one look at a cluster found."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

CheckState = Literal["ok", "unknown", "warn", "fail"]
ORDER: Final[tuple[CheckState, ...]] = ("ok", "unknown", "warn", "fail")


@dataclass(frozen=True, kw_only=True)
class Check:
    """One promise, and whether it holds.

    Attributes:
        name: what was looked at.
        state: ``ok``; ``warn``: sweeps work, but less than they could; ``fail``: they do not; ``unknown``: nothing
            that was asked could tell.
        found: in words.
        advice: what to change; empty when nothing.
    """

    name: str
    state: CheckState
    found: str
    advice: str = ""


def find_worst(checks: Iterable[Check]) -> Check:
    """The first of those in the worst state; there must be one."""
    return max(checks, key=lambda check: ORDER.index(check.state))
