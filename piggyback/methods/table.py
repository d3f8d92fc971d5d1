"""Our methods by name, with what plans and lists must know of them; nothing here loads torch.

A test compares each entry with what the method's class declares.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType
from typing import Final, Literal

StandsOn = Literal["backbone", "pruned", "joint"]
GROUP: Final = "piggyback.methods"  # entry points: methods of other packages


@dataclass(frozen=True, kw_only=True)
class MethodEntry:
    """One method of ours.

    Attributes:
        name: in recipes, payloads and tables.
        home: its class, as ``module:Class``.
        summary: one line for lists.
        stands_on: the network whose weights are frozen (`piggyback.methods.contract.Method`).
        follows: whether each task builds on the one before it (`piggyback.methods.contract.Follows`).
    """

    name: str
    home: str
    summary: str
    stands_on: StandsOn = "backbone"
    follows: bool = False


def entry(
    name: str, home: str, summary: str, *, stands_on: StandsOn = "backbone", follows: bool = False
) -> MethodEntry:
    """An entry whose class lives in a module of this package."""
    home = f"piggyback.methods.{home}"
    return MethodEntry(name=name, home=home, summary=summary, stands_on=stands_on, follows=follows)


TABLE: Final[Mapping[str, MethodEntry]] = MappingProxyType(
    {
        row.name: row
        for row in (
            entry("piggyback", "binary:Binary", "a learned 0/1 mask on every weight"),
            entry("piggyback-ternary", "ternary:Ternary", "a learned mask of -1, 0 and 1 on every weight"),
            entry("feature", "feature:Feature", "nothing but a head on the frozen network"),
            entry("finetune", "finetune:Finetune", "a network of its own for each task, from the backbone"),
            entry("scratch", "scratch:Scratch", "a network of its own for each task, from random weights"),
            entry("norm", "norm:Norms", "norm layers of its own for each task"),
            entry("affine", "affine:Affine", "masked and unmasked weights, mixed by four numbers per layer"),
            entry("ksm", "ksm:KSM", "a learned soft mask on every kernel"),
            entry(
                "packnet",
                "packnet:PackNet",
                "the weights dealt out to tasks, one task after the other",
                stands_on="pruned",
                follows=True,
            ),
            entry("joint", "joint:Joint", "one network trained on all tasks together", stands_on="joint"),
            entry("series", "series:Series", "small modules behind the larger convolutions"),
            entry(
                "series-joint",
                "series_joint:SeriesJoint",
                "the same on one network trained on all tasks together with them",
                stands_on="joint",
            ),
            entry("parallel", "parallel:Parallel", "1x1 convolutions beside the larger ones"),
            entry("dan", "dan:DAN", "a matrix per layer that recombines its filters"),
        )
    }
)


def offered_methods() -> dict[str, EntryPoint]:
    """Methods of installed packages by name; none of them is loaded."""
    return {point.name: point for point in entry_points(group=GROUP)}


def known_methods() -> tuple[str, ...]:
    """The names of our methods, then those of other packages."""
    return (*TABLE, *offered_methods())


def stands_on(method: str) -> StandsOn:
    """The network that a method's tasks are built on.

    A method of another package is not loaded to be asked, so it is taken to use the backbone itself.
    """
    return TABLE[method].stands_on if method in TABLE else "backbone"


def follows(method: str) -> bool:
    """Whether each task of a method builds on the one before it; no, for a method of another package."""
    return method in TABLE and TABLE[method].follows
