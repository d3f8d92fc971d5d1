"""Options of the leaderboard's verbs; imports nothing heavy."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

# ---- add and check: leaderboard/verbs/storing.py


@dataclass(frozen=True, kw_only=True)
class AddOptions:
    """Put finished runs into a store, with what shows that they are true.

    Attributes:
        runs: run folders, or folders that hold some, such as a sweep's; looked through five levels deep.
        store: the folder that keeps results; made where it is not there.
        json: print one JSON object.
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    store: Path
    json: bool = False


@dataclass(frozen=True, kw_only=True)
class CheckOptions:
    """Check every file of a store; ends with 1 where something is wrong.

    Attributes:
        store: the folder that keeps results.
        labels: labels of test parts, to count again what is right: a zip of <task>_test.json such as the organisers'
            labels_test.zip, or a folder of such files.
        json: print one JSON object.
    """

    store: Annotated[Path, tyro.conf.Positional]
    labels: Path | None = None
    json: bool = False


# ---- show and compare: leaderboard/verbs/showing.py, leaderboard/verbs/comparing.py


@dataclass(frozen=True, kw_only=True)
class ShowOptions:
    """Show a table of results.

    Attributes:
        store: the folder that keeps results; the published rows alone when not given.
        view: which table: a benchmark's, by its name; of points, by the name points; or reproduced. The first
            benchmark's when not given.
        format: table, Markdown, CSV, JSON or LaTeX; CSV and JSON hold fractions and all digits.
        published: what others published is shown too; leave it out by --no-published.
        unverified: show also published rows that nobody of this project has read in their source.
        protocol: official shows only results on official data.
        method: only methods or labels like this; * and ? stand for anything.
        same_backbone: for the view reproduced: DIGITS=NETWORK, such as 4fe2b0=WRN-28-4, for a backbone that you hold
            for a published network: the first digits of its fingerprint, at least 4, and the beginning of the name.
        json: the same as --format json.
    """

    store: Annotated[Path | None, tyro.conf.Positional] = None
    view: str | None = None
    format: Literal["table", "md", "csv", "json", "latex"] = "table"
    published: bool = True
    unverified: bool = False
    protocol: Literal["official", "all"] = "all"
    method: str = "*"
    same_backbone: tuple[str, ...] = ()
    json: bool = False


@dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """Compare two methods on the same pictures, under every protocol that both have.

    Attributes:
        first: method, or an entry's label as `leaderboard show` prints it.
        second: the same of the other.
        store: the folder that keeps results.
        benchmark: of which benchmark; all when not given.
        json: print one JSON object.
    """

    first: Annotated[str, tyro.conf.Positional]
    second: Annotated[str, tyro.conf.Positional]
    store: Path
    benchmark: str | None = None
    json: bool = False


# ---- build: leaderboard/verbs/building.py


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """Build a static page of a store: tables, charts, and a page for each result with its evidence.

    It works from the disk and asks for nothing from anywhere; a result with a fault is left out and counted.

    Attributes:
        store: the folder that keeps results.
        runs: folders whose finished runs are put into the store first, as `leaderboard add` does.
        out: folder of the page, which is replaced as a whole; only a page of ours is.
        unverified: whether to show published rows that nobody of this project has read in their source.
        same_backbone: DIGITS=NETWORK, such as 4fe2b0=WRN-28-4, for a backbone that you hold for a published network:
            the first digits of its fingerprint, at least 4, and the beginning of the name.
        json: print one JSON object.
    """

    store: Annotated[Path, tyro.conf.Positional]
    runs: tuple[Path, ...] = ()
    out: Path = Path("site")
    unverified: bool = False
    same_backbone: tuple[str, ...] = ()
    json: bool = False
