"""The library's checks for ``piggyback doctor``: is torch whole, does it compile, and on what does it compute?"""

import os
import shutil
import time
from collections.abc import Iterator
from typing import Final

from piggyback.shell.checks import Check

FAULT = ""  # why torch cannot be imported
try:  # both, as builds that do not belong together fail only then
    import torch
    import torchvision
except (ImportError, OSError, RuntimeError) as fault:  # the last: operators of another torch build
    FAULT = (str(fault).strip().splitlines() or [type(fault).__name__])[0]
else:
    from piggyback.device import describe_device
    from piggyback.methods.binary import Binary
    from piggyback.numerics.update import Coefficients, MaskUpdate

OLDEST_TORCH: Final = (2, 10)


def checks() -> Iterator[Check]:
    """All checks here; without torch the first alone."""
    whole = check_torch()
    yield whole
    if whole.state != "broken":
        yield check_compiler()
        yield check_threads()
        yield check_processor()
        yield check_gpu()


def check_torch() -> Check:
    """Whether torch and torchvision can be imported, and are new enough."""
    advice = "install both together: pip install --upgrade torch torchvision"
    if FAULT:
        return Check(name="torch", state="broken", found=f"does not import: {FAULT}", advice=advice)
    found = f"{torch.__version__}, torchvision {torchvision.__version__}"
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < OLDEST_TORCH:
        wanted = ".".join(map(str, OLDEST_TORCH))
        return Check(name="torch", state="broken", found=found, advice=f"{wanted} or newer is needed; {advice}")
    return Check(name="torch", state="ok", found=found)


def check_compiler() -> Check:
    """Compiles and runs a small mask update, as training does."""
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
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = torch.get_num_threads()
    found = f"{threads}, on {usable} usable processors"
    if threads > usable:
        return Check(name="threads", state="note", found=found, advice=f"too many slow down: OMP_NUM_THREADS={usable}")
    if threads < usable and "OMP_NUM_THREADS" in os.environ:
        advice = f"OMP_NUM_THREADS is {os.environ['OMP_NUM_THREADS']}; without it torch would use more"
        return Check(name="threads", state="note", found=found, advice=advice)
    return Check(name="threads", state="ok", found=found)


def check_processor() -> Check:
    """The processor's name; it computes in float32 unless a recipe says otherwise."""
    return Check(
        name="processor", state="ok", found=f"{describe_device(torch.device('cpu'))}; precision auto is float32"
    )


def check_gpu() -> Check:
    """GPUs that torch can use."""
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
