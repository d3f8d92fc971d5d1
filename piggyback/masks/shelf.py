"""Tensors of finished tasks side by side in one piece of memory, since a thousand tasks have a hundred small ones each.

A tensor of its own costs torch some 700 bytes beside its values; a norm layer's have a few hundred values each.
"""

from collections.abc import Iterator, Mapping
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from piggyback.numerics.flat import flat, is_dense


class Place(NamedTuple):
    """Where a tensor lies on a shelf."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int


class Shelf(Mapping[str, Tensor]):
    """Copies of tensors of one device, by name.  What it gives is its own memory, as new tensors at each access."""

    __slots__ = ("boards", "places")

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        ready = {name: tensor.detach() for name, tensor in tensors.items()}
        ready = {name: tensor if is_dense(tensor) else tensor.contiguous() for name, tensor in ready.items()}
        self.places = lay_out(tuple((name, t.dtype, tuple(t.shape), t.stride()) for name, t in ready.items()))
        pieces: dict[torch.dtype, list[Tensor]] = {}
        for tensor in ready.values():
            pieces.setdefault(tensor.dtype, []).append(flat(tensor))
        self.boards = {dtype: torch.cat(several) for dtype, several in pieces.items()}

    def __getitem__(self, name: str) -> Tensor:
        dtype, shape, stride, offset = self.places[name]
        return self.boards[dtype].as_strided(shape, stride, offset)

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)


@cache  # the same for all tasks on a network
def lay_out(
    tensors: tuple[tuple[str, torch.dtype, tuple[int, ...], tuple[int, ...]], ...],
) -> Mapping[str, Place]:
    """The places of tensors, given by name, data type, shape and stride, one after the other in each type."""
    used: dict[torch.dtype, int] = {}
    places = {}
    for name, dtype, shape, stride in tensors:
        places[name] = Place(dtype, shape, stride, used.get(dtype, 0))
        used[dtype] = used.get(dtype, 0) + torch.Size(shape).numel()
    return places
