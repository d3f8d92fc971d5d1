"""Tensors as flat memory, so that one loop can walk several of them together."""

from torch import Tensor


def is_dense(tensor: Tensor) -> bool:
    """Whether the tensor fills its memory without gaps or overlaps, in any order of dimensions."""
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return tensor.numel() > 1


def flat(tensor: Tensor) -> Tensor:
    """The memory of a dense tensor as one dimension; in two of equal strides the same places belong together."""
    return tensor.as_strided((tensor.numel(),), (1,))
