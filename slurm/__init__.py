"""Sweeps: many runs of many benchmarks, on this machine or on a Slurm cluster through submitit.

Benchmarks plan the runs (entry points ``piggyback.benchmarks``).  Of a run, this package knows its command line, its
folder, and two files in there, ``status.json`` and ``result.json``.

>>> import slurm
>>> planned = slurm.plan(slurm.read_sweep(Path("sweep.toml")))  # doctest: +SKIP
>>> jobs = slurm.submit(planned, target=slurm.Target(cluster="local"))  # doctest: +SKIP
>>> [one.state for one in slurm.find_standings(planned.folder, planned.runs)]  # doctest: +SKIP
['running', 'queued', 'queued']
"""

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from piggyback.shell.errors import SweepError as SweepError
    from slurm.planning.plans import Estimate as Estimate
    from slurm.planning.plans import Plan as Plan
    from slurm.planning.plans import estimate as estimate
    from slurm.planning.plans import plan as plan
    from slurm.planning.plans import submitted_plan as submitted_plan
    from slurm.planning.profiles import Profile as Profile
    from slurm.planning.profiles import read_profile as read_profile
    from slurm.planning.sweep_files import Sweep as Sweep
    from slurm.planning.sweep_files import read_sweep as read_sweep
    from slurm.sending.cancellation import cancel as cancel
    from slurm.sending.submission import Target as Target
    from slurm.sending.submission import stay as stay
    from slurm.sending.submission import submit as submit
    from slurm.states import Standing as Standing
    from slurm.states import choose as choose
    from slurm.states import find_standings as find_standings

# The verbs' texts are in this package too, and --help must load nothing else: names are looked up when used.
_HOME: Final = {
    "Estimate": "slurm.planning.plans",
    "Plan": "slurm.planning.plans",
    "Profile": "slurm.planning.profiles",
    "Standing": "slurm.states",
    "Sweep": "slurm.planning.sweep_files",
    "SweepError": "piggyback.shell.errors",
    "Target": "slurm.sending.submission",
    "cancel": "slurm.sending.cancellation",
    "choose": "slurm.states",
    "estimate": "slurm.planning.plans",
    "find_standings": "slurm.states",
    "plan": "slurm.planning.plans",
    "read_profile": "slurm.planning.profiles",
    "read_sweep": "slurm.planning.sweep_files",
    "stay": "slurm.sending.submission",
    "submit": "slurm.sending.submission",
    "submitted_plan": "slurm.planning.plans",
}

__all__ = [  # noqa: RUF022 -- in the order of use
    "read_sweep",
    "Sweep",
    "plan",
    "submitted_plan",
    "Plan",
    "estimate",
    "Estimate",
    "read_profile",
    "Profile",
    "Target",
    "submit",
    "stay",
    "find_standings",
    "Standing",
    "choose",
    "cancel",
    "SweepError",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
