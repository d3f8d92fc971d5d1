"""What can be asked of the sweep verbs; imports nothing heavy."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

AnyCluster = Literal["auto", "slurm", "local", "debug"]


@dataclass(frozen=True, kw_only=True)
class NewOptions:
    """Write a sweep to edit.

    Attributes:
        name: one of the examples: smoke, decathlon-table8, segmentation or full.
        out: the file to write; NAME.toml here when not given.
        force: overwrite a file that is there.
    """

    name: Annotated[str, tyro.conf.Positional]
    out: Path | None = None
    force: bool = False


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """Show what a sweep would run.

    Attributes:
        file: the sweep.
        json: print one JSON object instead of a table.
    """

    file: Annotated[Path, tyro.conf.Positional]
    json: bool = False


@dataclass(frozen=True, kw_only=True)
class SubmitOptions:
    """Send what is missing of a sweep.

    Attributes:
        file: the sweep; relative folders in it count from where it lies.
        cluster: slurm, local (a queue on this machine), or debug (here, one after the other); auto is slurm where
            there is sbatch.
        profile: name of the [profile.NAME] in the profiles file; "default" when not given and there is such a file.
        profiles: file of profiles.
        max_parallel: runs at the same time on this machine; 0 is one per GPU, or one.
        wait: stay until all has ended, and show how.
        dry_run: print what would be sent: on slurm the text that sbatch gets.
        json: print one JSON object instead of tables.
    """

    file: Annotated[Path, tyro.conf.Positional]
    cluster: AnyCluster = "auto"
    profile: str | None = None
    profiles: Path = Path("profiles.toml")
    max_parallel: int = 0
    wait: bool = False
    dry_run: bool = False
    json: bool = False


@dataclass(frozen=True, kw_only=True)
class RetryOptions:
    """Send runs again that have failed or were stopped, with what waits for them.

    Attributes:
        sweep: the sweep's file, or its folder; runs as they were submitted.
        runs: of these ids, tasks or methods; * and ? stand for anything; all when not given.
        cluster: as for `sweep submit`.
        profile: as for `sweep submit`.
        profiles: as for `sweep submit`.
        max_parallel: as for `sweep submit`.
        wait: stay until all has ended, and show how.
        dry_run: print what would be sent.
        json: print one JSON object instead of tables.
    """

    sweep: Annotated[Path, tyro.conf.Positional]
    runs: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    cluster: AnyCluster = "auto"
    profile: str | None = None
    profiles: Path = Path("profiles.toml")
    max_parallel: int = 0
    wait: bool = False
    dry_run: bool = False
    json: bool = False


@dataclass(frozen=True, kw_only=True)
class StatusOptions:
    """How a sweep stands.

    Attributes:
        sweep: the sweep's file, or its folder.
        runs: only runs of these ids, tasks or methods; * and ? stand for anything.
        watch: show it again every 5 seconds until all has ended.
        json: print one JSON object instead of a table, once.
    """

    sweep: Annotated[Path, tyro.conf.Positional]
    runs: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    watch: bool = False
    json: bool = False


@dataclass(frozen=True, kw_only=True)
class LogsOptions:
    """What a run printed.

    Attributes:
        sweep: the sweep's file, or its folder.
        run: its id, task or method; * and ? stand for anything.
        follow: stay and show what comes, until the run has ended.
    """

    sweep: Annotated[Path, tyro.conf.Positional]
    run: Annotated[str, tyro.conf.Positional]
    follow: Annotated[bool, tyro.conf.arg(aliases=["-f"])] = False


@dataclass(frozen=True, kw_only=True)
class CancelOptions:
    """End runs that are queued or under way; those under way leave a checkpoint where they can.

    Attributes:
        sweep: the sweep's file, or its folder.
        runs: of these ids, tasks or methods; all when not given.
        json: print one JSON object.
    """

    sweep: Annotated[Path, tyro.conf.Positional]
    runs: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    json: bool = False
