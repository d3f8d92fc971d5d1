"""The C library's memory: kept where it is needed again in a moment, given back where it is not."""

import ctypes
from typing import Final

import torch

LARGEST_KEPT: Final = 32_000_000  # bytes; glibc's own limit of the threshold is 32 MiB on 64 bits


def keep_freed_memory() -> None:
    """Let glibc keep memory that is freed in one step of a training for the next one.

    It returns large blocks to the system and has them zeroed again a moment later, unless a block as large was freed
    before (mallopt(3), M_MMAP_THRESHOLD: the threshold is dynamic).  That costs a page fault for every 4 KB of
    gradients, a tenth of a step; the block here is never touched.
    """
    torch.empty(LARGEST_KEPT, dtype=torch.uint8, device="cpu")


def return_memory() -> None:
    """Give memory that is free back to the system.

    glibc keeps it between what is still in use, where a thousand finished tasks would lie far apart; other libraries
    have no such function.
    """
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):  # no such function, or no such way to the C library
        return
