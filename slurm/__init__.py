"""Sweeps: many runs of many benchmarks, on this machine or on a Slurm cluster through submitit.

Benchmarks say what they would run (entry points ``piggyback.sweeps``); of a run this package sees its command line,
its folder, and two files in it, ``status.json`` and ``result.json``.

>>> import slurm
>>> planned = slurm.plan(slurm.read_sweep(Path("sweep.toml")))  # doctest: +SKIP
>>> jobs = slurm.submit(planned, target=slurm.Target(cluster="local"))  # doctest: +SKIP
>>> [one.state for one in slurm.find_standings(planned.folder, planned.runs)]  # doctest: +SKIP
['running', 'queued', 'queued']
"""

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from slurm.cancellation import cancel as cancel
    from slurm.errors import SweepError as SweepError
    from slurm.plans import Estimate as Estimate
    from slurm.plans import Plan as Plan
    from slurm.plans import estimate as estimate
    from slurm.plans import plan as plan
    from slurm.plans import submitted_plan as submitted_plan
    from slurm.sending import Target as Target
    from slurm.sending import stay as stay
    from slurm.sending import submit as submit
    from slurm.states import Standing as Standing
    from slurm.states import choose as choose
    from slurm.states import find_standings as find_standings
    from slurm.sweep_files import Profile as Profile
    from slurm.sweep_files import Sweep as Sweep
    from slurm.sweep_files import read_profile as read_profile
    from slurm.sweep_files import read_sweep as read_sweep

# The verbs' texts lie in this package too, and --help is to load nothing else: names are looked up when used.
_HOME: Final = {
    "Estimate": "plans",
    "Plan": "plans",
    "Profile": "sweep_files",
    "Standing": "states",
    "Sweep": "sweep_files",
    "SweepError": "errors",
    "Target": "sending",
    "cancel": "cancellation",
    "choose": "states",
    "estimate": "plans",
    "find_standings": "states",
    "plan": "plans",
    "read_profile": "sweep_files",
    "read_sweep": "sweep_files",
    "stay": "sending",
    "submit": "sending",
    "submitted_plan": "plans",
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
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
