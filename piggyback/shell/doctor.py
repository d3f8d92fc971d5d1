"""``piggyback doctor``: checks of this machine, and what to change.

A package offers checks by an entry point of the group ``piggyback.doctor``: a function without arguments
that yields `Check`.  Torch's are the library's (``piggyback/torch_checks.py``).
"""

import platform
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from importlib.metadata import entry_points
from itertools import chain
from pathlib import Path
from typing import Any, Final, cast

from piggyback.shell.checks import Check
from piggyback.shell.console import out, print_json
from piggyback.shell.options import DoctorOptions

GROUP: Final = "piggyback.doctor"
GROUPS: Final = ("piggyback.benchmarks", "piggyback.commands", GROUP, "piggyback.methods")
OLDEST_PYTHON: Final = (3, 11)
LITTLE: Final = 2 << 30  # bytes of disk or memory under which even the demo may not fit
MARKS: Final = {
    "ok": ("ok    ", "green"),
    "unknown": ("?     ", "yellow"),
    "note": ("note  ", "yellow"),
    "broken": ("BROKEN", "red"),
}


def run(options: DoctorOptions) -> int:
    """Print all checks of all packages; returns 1 if something needed is broken."""
    found = list(all_checks(show=None if options.json else show))
    broken = [check.name for check in found if check.state == "broken"]
    if options.json:
        print_json({"ok": not broken, "checks": [asdict(check) for check in found]})
    else:
        out.print(f"broken: {', '.join(broken)}" if broken else "nothing needed is broken", markup=False)
    return 1 if broken else 0


def show(check: Check) -> None:
    """Print one check, with its advice on a second line."""
    text, style = MARKS[check.state]
    out.print(text, style=style, end=" ")
    out.print(f"{check.name}: {check.found}", markup=False, soft_wrap=True)
    if check.advice:
        out.print(f"       -> {check.advice}", markup=False, soft_wrap=True)


def all_checks(*, show: Callable[[Check], None] | None) -> Iterator[Check]:
    """The checks of all packages; `show` is called with each as soon as it is known, as some take seconds."""
    for check in chain([check_python()], offered_checks(), machine_checks()):
        if show is not None:
            show(check)
        yield check


def offered_checks() -> Iterator[Check]:
    """The checks that packages offer, in the order of the entry points' names."""
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        if load_fault(point) is None:  # else the check of entry points says so
            yield from cast(Callable[[], Iterable[Check]], point.load())()


def machine_checks() -> Iterator[Check]:
    """Checks of the machine's disk and memory, and of what is installed."""
    yield check_disk(Path.cwd())
    yield check_memory()
    yield check_entry_points()


def check_python() -> Check:
    found = f"{platform.python_version()} at {sys.executable}"
    if sys.version_info < OLDEST_PYTHON:
        wanted = ".".join(map(str, OLDEST_PYTHON))
        return Check(name="python", state="broken", found=found, advice=f"install Python {wanted} or newer")
    return Check(name="python", state="ok", found=found)


def check_disk(folder: Path) -> Check:
    free = shutil.disk_usage(folder).free
    return room("disk", free, where=f" at {folder}", advice="the demo takes some 200 MB, the official data many GiB")


def check_memory() -> Check:
    """Memory that is free without swapping."""
    return room("memory", available_memory(), where="", advice="end other programs, or train with smaller batches")


def room(name: str, free: int | None, *, where: str, advice: str) -> Check:
    """Check free bytes; None means that the system does not say."""
    if free is None:
        return Check(name=name, state="ok", found="this system does not say")
    found = f"{free / 2**30:.1f} GiB free{where}"
    if free < LITTLE:
        return Check(name=name, state="note", found=found, advice=advice)
    return Check(name=name, state="ok", found=found)


def available_memory() -> int | None:
    """Free bytes by Linux's own estimate; None elsewhere."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def check_entry_points() -> Check:
    """Check that the verbs that installed packages offer can be loaded."""
    groups: dict[str, list[str]] = {group: sorted(entry_points(group=group).names) for group in GROUPS}
    lines = [f"{group.removeprefix('piggyback.')}: {', '.join(names)}" for group, names in groups.items() if names]
    found = "; ".join(lines)
    if not groups["piggyback.commands"]:
        advice = "install the package again: pip install -e ."
        return Check(name="entry points", state="broken", found=found or "none", advice=advice)
    faults = []
    for group in GROUPS:
        for point in entry_points(group=group):
            fault = load_fault(point)
            if fault is not None:
                faults.append(f"{group} {point.name} ({fault})")
    if faults:
        advice = "install the package again, or remove the one that is broken"
        return Check(name="entry points", state="broken", found=f"cannot load {'; '.join(faults)}", advice=advice)
    return Check(name="entry points", state="ok", found=found)


def load_fault(point: Any) -> str | None:
    """Describe why an entry point cannot be loaded; None if it can."""
    try:
        point.load()
    except (ImportError, AttributeError) as fault:
        return str(fault)
    return None
