"""Options of the core's verbs; imports nothing heavy."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """The main job, on data it makes itself.

    Attributes:
        out: folder for everything the demo makes; the same command again continues there.
    """

    out: Path = Path("demo")


@dataclass(frozen=True, kw_only=True)
class ShowOptions:
    """Say what payload files hold.

    Attributes:
        file: a payload file.
        more: further ones.
        json: print one JSON object instead of tables.
    """

    file: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    more: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="FILE")] = ()
    json: bool = False
