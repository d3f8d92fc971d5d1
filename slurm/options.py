"""Options of the sweep verbs; imports nothing heavy."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

AnyCluster = Literal["auto", "slurm", "local", "debug"]


@dataclass(frozen=True, kw_only=True)
class NewOptions:
    """Write a sweep's file to edit, or the profiles file, which says how your cluster is asked for resources.

    Attributes:
        name: one of smoke, decathlon-table8, packnet-orders, segmentation and full, which are sweeps, and profiles.
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
        profile: count the hours in GPUs or processors as this [profile.NAME] asks for them.
        profiles: file of profiles; profiles.toml here, or beside the sweep's file, when not given.
        records: another sweep's folder, whose finished runs tell how long such runs take.
        json: print one JSON object instead of a table.
    """

    file: Annotated[Path, tyro.conf.Positional]
    profile: str | None = None
    profiles: Path | None = None
    records: Path | None = None
    json: bool = False


@dataclass(frozen=True, kw_only=True)
class SubmitOptions:
    """Send what is missing of a sweep.

    Attributes:
        file: the sweep; relative folders in it count from where it lies.
        cluster: slurm, local (a queue on this machine), or debug (here, one after the other); auto is slurm where
            there is sbatch.
        profile: name of the [profile.NAME] in the profiles file; "default" when not given and there is such a file.
        profiles: file of profiles; profiles.toml here, or beside the sweep's file, when not given.
        max_parallel: runs at the same time on this machine; 0 is one per GPU, or one.
        snapshot: run from a copy of the code made now, in the sweep's folder, whatever is edited later.
        wait: stay until all has ended, and show how.
        dry_run: print what would be sent: on slurm the text that sbatch gets.
        json: print one JSON object instead of tables.
    """

    file: Annotated[Path, tyro.conf.Positional]
    cluster: AnyCluster = "auto"
    profile: str | None = None
    profiles: Path | None = None
    max_parallel: int = 0
    snapshot: bool = False
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
        snapshot: as for `sweep submit`.
        wait: stay until all has ended, and show how.
        dry_run: print what would be sent.
        json: print one JSON object instead of tables.
    """

    sweep: Annotated[Path, tyro.conf.Positional]
    runs: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    cluster: AnyCluster = "auto"
    profile: str | None = None
    profiles: Path | None = None
    max_parallel: int = 0
    snapshot: bool = False
    wait: bool = False
    dry_run: bool = False
    json: bool = False


@dataclass(frozen=True, kw_only=True)
class StatusOptions:
    """Show how a sweep stands.

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
    """Show what a run printed.

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


@dataclass(frozen=True, kw_only=True)
class DoctorOptions:
    """Check what this cluster promises to sweeps.

    Attributes:
        profile: as for `sweep submit`.
        profiles: as for `sweep submit`.
        folder: where a sweep's files will be, its `out`; the current folder when not given.
        node_check: look at a node too, by a small job that is cancelled if it does not begin within 2 minutes.
        json: print one JSON object instead of a table.
    """

    profile: str | None = None
    profiles: Path | None = None
    folder: Path = Path()
    node_check: bool = True
    json: bool = False
