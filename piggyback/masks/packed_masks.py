"""Masks of finished tasks in memory, one bit per weight, and the weights that they let through.

Bits lie in planes: a block of B bytes holds 8 B values, and bit k of its byte j is value k B + j, so that a loop over
memory takes B values at a time through one bit of B bytes.  `piggyback.masks.bits` has the coding of payload files.

What a mask lets through has the bits of ``torch.where(mask, weight, 0)``, which are also those of a bitwise *and* of
the weight with ones or zeros.  Compiled, that is one pass over memory (``docs/performance.md``).
"""

import logging
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final

import torch
from torch import Tensor

from piggyback.numerics.flat import flat, is_dense
from piggyback.shell.console import notice

LONGEST: Final = 1024  # bytes of a block: its weights, 32 KB in float32, stay in the processor's first cache
SHORTEST: Final = 32  # blocks below this are not worth a loop
AS_BITS: Final = {  # integers of the same size, whose operations are on bits
    **{torch.float32: torch.int32, torch.float64: torch.int64},
    **{torch.float16: torch.int16, torch.bfloat16: torch.int16},
}
PATIENCE: Final = 50_000_000  # values taken through masks uncompiled before compiling, which takes seconds, pays


@dataclass(frozen=True, slots=True)
class PackedMask:
    """A boolean tensor as bits.

    Attributes:
        bits: uint8, of ceil(n / 8) bytes for n values in the order of their memory: n // 8 in blocks, then one with
            what is left, the first in the lowest bit.
        shape: of the boolean tensor.
        stride: likewise.
    """

    bits: Tensor
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def count(self) -> int:
        """Number of values."""
        return torch.Size(self.shape).numel()

    def blocks(self) -> Tensor:
        """The blocks, shape (blocks, bytes of a block)."""
        whole = self.count // 8
        return self.bits[:whole].view(-1, block_length(whole))

    def unpack(self) -> Tensor:
        """The boolean tensor, on the bits' device."""
        values = torch.empty(self.count, dtype=torch.uint8, device=self.bits.device)
        blocks, whole = self.blocks(), self.count // 8 * 8
        planes = values[:whole].view(len(blocks), 8, blocks.shape[1])
        for plane in range(8):
            torch.bitwise_right_shift(blocks, plane, out=planes[:, plane])
        if whole < self.count:
            places = torch.arange(self.count - whole, dtype=torch.uint8, device=values.device)
            torch.bitwise_right_shift(self.bits[-1:], places, out=values[whole:])
        return values.bitwise_and_(1).view(torch.bool).as_strided(self.shape, self.stride)

    def is_elsewhere(self, target: Tensor) -> bool:
        """Whether it differs from a tensor in device or, where the shapes are the same, in memory layout."""
        return self.bits.device != target.device or (
            self.shape == tuple(target.shape) and is_dense(target) and self.stride != target.stride()
        )


def pack_mask(mask: Tensor) -> PackedMask:
    """A boolean tensor as bits, in the order of its memory where it fills that without gaps."""
    if not is_dense(mask):
        mask = mask.contiguous()
    values = flat(mask.detach()).view(torch.uint8)
    whole = values.numel() // 8
    bits = torch.zeros((values.numel() + 7) // 8, dtype=torch.uint8, device=mask.device)
    blocks = bits[:whole].view(-1, block_length(whole))
    planes = values[: 8 * whole].view(len(blocks), 8, blocks.shape[1])
    for plane in range(8):
        blocks |= planes[:, plane] << plane
    for place, value in enumerate(values[8 * whole :]):
        bits[-1] |= value << place
    return PackedMask(bits, tuple(mask.shape), mask.stride())


def move_mask(mask: PackedMask, target: Tensor) -> PackedMask:
    """The mask on the device of a tensor and, where the shapes are the same, in its memory layout."""
    values = mask.unpack().to(target.device)
    if values.shape == target.shape:
        values = torch.empty_like(target, dtype=torch.bool, requires_grad=False).copy_(values)
    return pack_mask(values)


@cache
def block_length(count: int) -> int:
    """Bytes of a block where so many are to be divided into blocks of one length: the longest that is not too long.

    There are two or more where that is possible, since torch compiles once more for a single one.
    """
    length = next((length for length in range(min(LONGEST, count // 2), 0, -1) if count % length == 0), 1)
    return length if length >= SHORTEST else max(1, count)


# -- weights through masks ----------------------------------------------------------------------------------


def write_masked(parameter: Tensor, weight: Tensor, mask: PackedMask) -> None:
    """Put what the mask lets through of the frozen weight into the parameter."""
    found = run("write", parameter, weight, mask)
    if found is None:
        parameter.copy_(torch.where(mask.unpack(), weight, 0.0))


def shows_masked(parameter: Tensor, weight: Tensor, mask: PackedMask) -> bool:
    """Whether the parameter holds, bit for bit, what `write_masked` puts there."""
    found = run("compare", parameter, weight, mask)
    return same_bits(parameter, torch.where(mask.unpack(), weight, 0.0)) if found is None else found


def exchange_masked(parameter: Tensor, weight: Tensor, before: PackedMask, after: PackedMask) -> bool:
    """Put what `after` lets through in the place of what `before` does, and tell whether the latter was there.

    One pass over memory for `shows_masked` and `write_masked`.  It turns over the bits in which the two differ, so
    where other values were there nothing is lost: an exchange the other way round puts those back.  Only a parameter
    of another data type than the weight then stays as it is.
    """
    found = run("exchange", parameter, weight, before, after)
    if found is not None:
        return found
    old, new = (torch.where(mask.unpack(), weight, 0.0) for mask in (before, after))
    shown = same_bits(parameter, old)
    if shown:
        parameter.copy_(new)
    elif parameter.dtype == weight.dtype and weight.dtype in AS_BITS:
        kind = AS_BITS[weight.dtype]
        parameter.detach().view(kind).bitwise_xor_(old.view(kind) ^ new.view(kind))
    return shown


def same_bits(parameter: Tensor, wanted: Tensor) -> bool:
    """Whether a parameter holds exactly what copying `wanted` into it would leave there, NaN and -0.0 included."""
    wanted = wanted.to(parameter.dtype)
    kind = AS_BITS.get(parameter.dtype)
    if kind is None:
        return torch.equal(parameter, wanted)
    return torch.equal(parameter.detach().view(kind), wanted.view(kind))


def take_bits(weight: Tensor, blocks: Tensor) -> Tensor:
    """Integers (blocks, 8, bytes of a block), zero where their bit in the blocks is."""
    places = torch.arange(8, dtype=weight.dtype, device=weight.device)[:, None]
    return weight & -((blocks[:, None].to(weight.dtype) >> places) & 1)


def write_bits(parameter: Tensor, weight: Tensor, blocks: Tensor) -> None:
    parameter.copy_(take_bits(weight, blocks))


def compare_bits(parameter: Tensor, weight: Tensor, blocks: Tensor) -> Tensor:
    return (parameter != take_bits(weight, blocks)).any()


def exchange_bits(parameter: Tensor, weight: Tensor, before: Tensor, after: Tensor) -> Tensor:
    other = parameter ^ take_bits(weight, before)
    parameter.copy_(other ^ take_bits(weight, after))
    return (other != 0).sum((1, 2), dtype=torch.int32).sum()  # in this form, block by block, beside the copy


@dataclass
class Compiled:
    """The three loops as far as they are compiled in this process.

    Attributes:
        patience: values that may still go through masks uncompiled.
        loops: by name.
        warm: loops, with data types, that have run.
        failed: whether the compiler does not work here.
    """

    patience: int = PATIENCE
    loops: dict[str, Callable[..., Any]] = field(default_factory=dict)
    warm: set[tuple[str, torch.dtype]] = field(default_factory=set)
    failed: bool = False


LOOPS: Final[Mapping[str, Callable[..., Any]]] = {
    "write": write_bits,
    "compare": compare_bits,
    "exchange": exchange_bits,
}
COMPILED: Final = Compiled()


def run(name: str, parameter: Tensor, weight: Tensor, *masks: PackedMask) -> bool | None:
    """A compiled loop's answer, True where it has none to give; None where it cannot be had, and nothing is done.

    It runs on the processor, over dense float tensors of one layout that are worth it, once so many values have gone
    the slow way that compiling pays.
    """
    if not is_fit(parameter, weight, *masks):
        return None
    if COMPILED.patience > 0:
        COMPILED.patience -= weight.numel()
        return None
    kind = AS_BITS[weight.dtype]
    length = block_length(weight.numel() // 8)
    shape, stride = (weight.numel() // (8 * length), 8, length), (8 * length, length, 1)
    # detach() and not .data: autograd must see that the parameter has changed
    tensors = [parameter.detach().view(kind).as_strided(shape, stride), weight.view(kind).as_strided(shape, stride)]
    tensors += [mask.bits.view(-1, length) for mask in masks]
    with torch.no_grad():
        try:
            differs = COMPILED.loops[name](*tensors) if (name, kind) in COMPILED.warm else run_first(name, tensors)
        except Exception as fault:  # whatever a missing or broken compiler raises, before it has run anything
            text = str(fault).strip()
            reason = text.splitlines()[0][:120] if text else type(fault).__name__
            notice(f"note: finished tasks are shown by uncompiled loops, the compiler failed: {reason}")
            COMPILED.failed = True
            return None
    return True if differs is None else not bool(differs)


def run_first(name: str, tensors: list[Tensor]) -> Any:
    """The same, where it is compiled for it."""
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # warns of a CUDA without a GPU
    if name not in COMPILED.loops:
        COMPILED.loops[name] = torch.compile(LOOPS[name], dynamic=True, fullgraph=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # inductor warns about what it finds on the machine
        found = COMPILED.loops[name](*tensors)
    COMPILED.warm.add((name, tensors[0].dtype))
    return found


def is_fit(parameter: Tensor, weight: Tensor, *masks: PackedMask) -> bool:
    """Whether the compiled loops can walk these tensors together, with nothing left over, and are worth it."""
    whole = weight.numel() // 8
    return (
        not COMPILED.failed
        and weight.numel() == 8 * whole
        and SHORTEST <= block_length(whole) < whole
        and weight.device.type == "cpu"
        and parameter.device == weight.device
        and parameter.dtype == weight.dtype
        and weight.dtype in AS_BITS
        and (parameter.shape, parameter.stride()) == (weight.shape, weight.stride())
        and all((mask.shape, mask.stride) == (weight.shape, weight.stride()) for mask in masks)
        and all(mask.bits.device == weight.device for mask in masks)
        and is_dense(weight)
    )
