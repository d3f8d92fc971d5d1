"""``piggyback doctor``: is this machine fit, and what should be changed?

A package offers checks by an entry point of the group ``piggyback.doctor``: a function without arguments
that yields `Check`.
"""

import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Final, cast

from piggyback.shell.checks import Check
from piggyback.shell.console import out, print_json
from piggyback.shell.options import DoctorOptions

GROUP: Final = "piggyback.doctor"
GROUPS: Final = ("piggyback.commands", "piggyback.demo", GROUP, "piggyback.methods", "piggyback.sweeps")
OLDEST_PYTHON: Final = (3, 11)
OLDEST_TORCH: Final = (2, 10)
LITTLE: Final = 2 << 30  # bytes of disk or memory under which even the demo may not fit
MARKS: Final = {
    "ok": ("ok    ", "green"),
    "unknown": ("?     ", "yellow"),
    "note": ("note  ", "yellow"),
    "broken": ("BROKEN", "red"),
}


def run(options: DoctorOptions) -> int:
    """Print all checks of all packages; 1 where something needed is broken."""
    found = list(all_checks(show=None if options.json else show))
    broken = [check.name for check in found if check.state == "broken"]
    if options.json:
        print_json({"ok": not broken, "checks": [asdict(check) for check in found]})
    else:
        out.print(f"broken: {', '.join(broken)}" if broken else "nothing needed is broken", markup=False)
    return 1 if broken else 0


def show(check: Check) -> None:
    """Print one check: a line, and one more where something should be changed."""
    text, style = MARKS[check.state]
    out.print(text, style=style, end=" ")
    out.print(f"{check.name}: {check.found}", markup=False, soft_wrap=True)
    if check.advice:
        out.print(f"       -> {check.advice}", markup=False, soft_wrap=True)


def all_checks(*, show: Callable[[Check], None] | None) -> Iterator[Check]:
    """The checks of all packages; each is shown as soon as it is known, as some take seconds."""
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        for check in cast(Callable[[], Iterable[Check]], point.load())():
            if show is not None:
                show(check)
            yield check


def checks() -> Iterator[Check]:
    """The core's own checks."""
    yield check_python()
    torch_check = check_torch()
    yield torch_check
    if torch_check.state != "broken":
        yield check_compiler()
        yield check_threads()
        yield check_bf16()
        yield check_gpu()
    yield check_disk(Path.cwd())
    yield check_memory()
    yield check_entry_points()


def check_python() -> Check:
    """The interpreter's version."""
    found = f"{platform.python_version()} at {sys.executable}"
    if sys.version_info < OLDEST_PYTHON:
        wanted = ".".join(map(str, OLDEST_PYTHON))
        return Check(name="python", state="broken", found=found, advice=f"install Python {wanted} or newer")
    return Check(name="python", state="ok", found=found)


def check_torch() -> Check:
    """torch and torchvision: imported together, as builds that do not belong together fail only then."""
    advice = "install both together: pip install --upgrade torch torchvision"
    try:
        import torch
        import torchvision
    except (ImportError, OSError, RuntimeError) as fault:  # the last: operators of another torch build
        reason = (str(fault).strip().splitlines() or [type(fault).__name__])[0]
        return Check(name="torch", state="broken", found=f"does not import: {reason}", advice=advice)
    found = f"{torch.__version__}, torchvision {torchvision.__version__}"
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < OLDEST_TORCH:
        wanted = ".".join(map(str, OLDEST_TORCH))
        return Check(name="torch", state="broken", found=found, advice=f"{wanted} or newer is needed; {advice}")
    return Check(name="torch", state="ok", found=found)


def check_compiler() -> Check:
    """Compiles and runs a small mask update, as training does."""
    import torch

    from piggyback.methods.binary import Binary
    from piggyback.update import Coefficients, MaskUpdate

    begun = time.monotonic()
    weight, method = torch.ones(4096), Binary()
    parameter = torch.nn.Parameter(weight.clone())
    parameter.grad = torch.ones(4096)
    trained, first, second = method.start(weight), {}, {}
    for key, tensor in trained.items():
        first[key], second[key] = torch.zeros_like(tensor), torch.zeros_like(tensor)
    update = MaskUpdate(method, mode="compiled")
    try:
        with torch.no_grad():  # one step of 0.1 takes every real mask below the threshold
            update.adam(parameter, weight, trained, first, second, Coefficients(1.0, 1.0, 0.9, 0.999, 1e-8))
    except Exception as fault:  # whatever a missing or broken compiler raises; reported, not swallowed
        reason = (str(fault).strip().splitlines() or [type(fault).__name__])[0][:160]
        return Check(
            name="compiler",
            state="note",
            found=f"mask updates cannot be compiled: {reason}",
            advice="they run uncompiled and slower; install a C++ compiler, such as the package g++",
        )
    if bool(parameter.any()):
        return Check(
            name="compiler",
            state="broken",
            found="a compiled mask update gave a wrong result",
            advice="train with --update eager and report this torch version",
        )
    return Check(name="compiler", state="ok", found=f"a mask update compiled in {time.monotonic() - begun:.1f} s")


def check_threads() -> Check:
    """Threads that torch computes with, against the processors this process may use."""
    import torch

    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = torch.get_num_threads()
    found = f"{threads}, on {usable} usable processors"
    if threads > usable:
        return Check(name="threads", state="note", found=found, advice=f"too many slow down: OMP_NUM_THREADS={usable}")
    if threads < usable and "OMP_NUM_THREADS" in os.environ:
        advice = f"OMP_NUM_THREADS is {os.environ['OMP_NUM_THREADS']}; without it torch would use more"
        return Check(name="threads", state="note", found=found, advice=advice)
    return Check(name="threads", state="ok", found=found)


def check_bf16() -> Check:
    """Whether the processor has bfloat16 arithmetic."""
    import torch

    from piggyback.device import describe_device, has_native_bf16

    processor = torch.device("cpu")
    how = "bfloat16 native" if has_native_bf16(processor) else "bfloat16 only emulated, so precision auto is float32"
    return Check(name="processor", state="ok", found=f"{describe_device(processor)}; {how}")


def check_gpu() -> Check:
    """GPUs that torch can use."""
    import torch

    if torch.cuda.is_available():
        cards = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
        found = ", ".join(f"{card.name} ({card.total_memory / 2**30:.0f} GiB)" for card in cards)
        return Check(name="gpu", state="ok", found=found)
    if shutil.which("nvidia-smi") is not None:
        return Check(
            name="gpu",
            state="note",
            found=f"nvidia-smi is there, but torch {torch.__version__} sees no GPU",
            advice="install a torch build for the driver's CUDA version, or update the driver",
        )
    return Check(name="gpu", state="ok", found="none, the processor is used")


def check_disk(folder: Path) -> Check:
    """Room on the disk of a folder."""
    free = shutil.disk_usage(folder).free
    return room("disk", free, where=f" at {folder}", advice="the demo takes some 200 MB, the official data many GiB")


def check_memory() -> Check:
    """Memory that can be had without swapping."""
    return room("memory", available_memory(), where="", advice="end other programs, or train with smaller batches")


def room(name: str, free: int | None, *, where: str, advice: str) -> Check:
    """A check of free bytes; None where the system does not tell."""
    if free is None:
        return Check(name=name, state="ok", found="not told by this system")
    found = f"{free / 2**30:.1f} GiB free{where}"
    if free < LITTLE:
        return Check(name=name, state="note", found=found, advice=advice)
    return Check(name=name, state="ok", found=found)


def available_memory() -> int | None:
    """Bytes, by Linux's own estimate."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def check_entry_points() -> Check:
    """What the installed packages offer to the console command."""
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
    """Why an entry point cannot be loaded, or None."""
    try:
        point.load()
    except (ImportError, AttributeError) as fault:
        return str(fault)
    return None
