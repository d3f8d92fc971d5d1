"""The mask update: pull back, Adam, new effective weight, in one pass over memory where it is compiled.

The same few lines run eagerly or compiled.  ``torch.compile`` fuses them into one loop over flat memory, so
that masking costs little more than fused Adam on the weights themselves (``docs/performance.md``).
"""

import logging
import warnings
from collections.abc import Callable, Mapping
from typing import Final, Literal, NamedTuple

import torch
from torch import Tensor

from piggyback.methods.contract import Method
from piggyback.numerics.flat import flat, is_dense
from piggyback.numerics.precision import wide, wide_type
from piggyback.shell.console import notice
from piggyback.shell.errors import BadInput

Tensors = Mapping[str, Tensor]
Kernel = Callable[[Tensor, Tensor, Tensor, Tensors, Tensors, Tensors, Tensor], None]


class Coefficients(NamedTuple):
    """Scalars of one Adam step.

    Attributes:
        step_size: learning rate over the first bias correction.
        correction: square root of the second bias correction.
        beta1, beta2, eps: Adam's.
    """

    step_size: float
    correction: float
    beta1: float
    beta2: float
    eps: float

    def pack(self, like: Tensor) -> Tensor:
        """A tensor of ``step_size, correction, 1 - beta1, beta2, 1 - beta2, eps`` for the compiled kernel.

        A tensor, because a Python number of another value would compile the kernel again.  The differences are
        taken here, where numbers have double precision.  Its type is that of real masks and moments.
        """
        values = (self.step_size, self.correction, 1 - self.beta1, self.beta2, 1 - self.beta2, self.eps)
        return torch.tensor(values, dtype=wide_type(like.dtype), device=like.device)


class MaskUpdate:
    """The update of one weight at a time by one method.

    Args:
        method: of the task.
        mode: ``eager``, ``compiled``, or ``auto``: compiled where a compiler works, else eager after one line
            of notice.
    """

    def __init__(self, method: Method, *, mode: Literal["auto", "compiled", "eager"]) -> None:
        self.method = method
        self.mode = mode
        self.elementwise = is_elementwise(method)
        self.kernel: Kernel | None = None
        self.packed: tuple[Coefficients, Tensor] | None = None

    def __getstate__(self) -> dict[str, object]:
        """For copies and pickles; what is compiled is found again by the method."""
        return self.__dict__ | {"kernel": None, "packed": None}

    def settle(self, weight: Tensor) -> Literal["compiled", "eager"]:
        """The form in which updates run; where it is not settled yet, compiling settles it.

        Args:
            weight: any that will be updated, for its device and data type.

        Raises:
            BadInput: compiled updates were asked for, but the method or the compiler does not allow them.
        """
        if not self.elementwise:
            if self.mode == "compiled":
                raise BadInput(f"updates of method {self.method.name!r} are not compiled: take update auto or eager")
            return "eager"
        if self.mode != "eager" and self.kernel is None:
            self.kernel = self._compile(weight)
        return "compiled" if self.kernel is not None else "eager"

    def pull_back(self, parameter: Tensor, weight: Tensor, trained: Tensors) -> dict[str, Tensor]:
        """The gradients for the trained tensors."""
        gradient = parameter.grad
        assert gradient is not None  # the optimizer asks only for parameters that have one
        weight = wide(weight)
        return self.method.pull_back(gradient.to(weight.dtype), weight, trained)

    def write(self, parameter: Tensor, weight: Tensor, trained: Tensors) -> None:
        """Put the effective weight into the parameter."""
        parameter.copy_(self.method.apply(wide(weight), self.method.keep(trained)))

    def adam(
        self,
        parameter: Tensor,
        weight: Tensor,
        trained: Tensors,
        first: Tensors,
        second: Tensors,
        coefficients: Coefficients,
    ) -> None:
        """One Adam step on the trained tensors (same shape as `weight`), then the effective weight."""
        gradient = parameter.grad
        assert gradient is not None
        if gradient.stride() != parameter.stride():
            gradient = torch.empty_like(parameter).copy_(gradient)
        if self.settle(weight) == "compiled" and is_dense(parameter):
            packed = self._pack(coefficients, weight)
            one, two, three = ({key: flat(t) for key, t in group.items()} for group in (trained, first, second))
            assert self.kernel is not None
            self.kernel(flat(parameter.data), flat(gradient), flat(weight), one, two, three, packed)
            return
        self._adam_eager(parameter, gradient, weight, (trained, first, second), coefficients)

    def _pack(self, coefficients: Coefficients, weight: Tensor) -> Tensor:
        """The packed coefficients, made once a step: a copy to the GPU for each weight would make it wait."""
        if self.packed is not None:
            known, packed = self.packed
            if known == coefficients and packed.dtype == wide_type(weight.dtype) and packed.device == weight.device:
                return packed
        packed = coefficients.pack(weight)
        self.packed = (coefficients, packed)
        return packed

    def _adam_eager(
        self,
        parameter: Tensor,
        gradient: Tensor,
        weight: Tensor,
        states: tuple[Tensors, Tensors, Tensors],
        coefficients: Coefficients,
    ) -> None:
        """The same, one operation at a time, in the order of torch's single-tensor Adam."""
        trained, first, second = states
        c, weight = coefficients, wide(weight)
        for key, pulled in self.method.pull_back(gradient.to(weight.dtype), weight, trained).items():
            first[key].lerp_(pulled, 1 - c.beta1)
            second[key].mul_(c.beta2).addcmul_(pulled, pulled, value=1 - c.beta2)
            denominator = (second[key].sqrt() / c.correction).add_(c.eps)
            trained[key].addcdiv_(first[key], denominator, value=-c.step_size)
        self.write(parameter, weight, trained)

    def _compile(self, weight: Tensor) -> Kernel | None:
        """A compiled kernel that has run once; None where there is none, and updates stay eager from then on.

        Raises:
            BadInput: compiled updates were asked for, but the compiler fails.
        """
        reason = FAILURES.get(self.method)
        if reason is None:
            kernel = compiled_kernel(self.method)
            one, two, three = (torch.zeros(4096, dtype=weight.dtype, device=weight.device) for _ in range(3))
            states = tuple(self.method.start(wide(three)) for _ in range(3))
            packed = Coefficients(0.0, 1.0, 0.9, 0.999, 1e-8).pack(weight)
            logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # warns of a CUDA without a GPU
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # inductor warns about what it finds on the machine
                    kernel(one, two, three, states[0], states[1], states[2], packed)
            except Exception as fault:  # whatever a missing or broken compiler raises; reported, not swallowed
                reason = str(fault).strip().splitlines()[0][:120] if str(fault).strip() else type(fault).__name__
                FAILURES[self.method] = reason
                if self.mode == "auto":
                    notice(f"note: mask updates run uncompiled, the compiler failed: {reason}")
            else:
                return kernel
        if self.mode == "compiled":
            raise BadInput(f"mask updates cannot be compiled: {reason}. Install a C++ compiler, or take update eager")
        self.mode = "eager"
        return None


FAILURES: Final[dict[Method, str]] = {}  # why compiling failed, so that it is tried and reported once per process
KERNELS: Final[dict[Method, Kernel]] = {}  # compiled once per method and process, whatever the optimizers


def compiled_kernel(method: Method) -> Kernel:
    """The compiled update of a method over flat tensors of any length."""

    def update(
        parameter: Tensor,
        gradient: Tensor,
        weight: Tensor,
        trained: Tensors,
        first: Tensors,
        second: Tensors,
        coefficients: Tensor,
    ) -> None:
        step_size, correction, rate1, beta2, rate2, eps = coefficients.unbind()
        weight = weight.to(coefficients.dtype)  # as `wide`, which would cost guards in every call
        new = dict(trained)  # a tensor without a gradient stays as it is
        for key, pulled in method.pull_back(gradient.to(weight.dtype), weight, trained).items():
            exp_avg = first[key] + rate1 * (pulled - first[key])
            exp_avg_sq = beta2 * second[key] + rate2 * pulled * pulled
            new[key] = trained[key] - step_size * exp_avg / (exp_avg_sq.sqrt() / correction + eps)
            first[key].copy_(exp_avg)
            second[key].copy_(exp_avg_sq)
            trained[key].copy_(new[key])
        parameter.copy_(method.apply(weight, method.keep(new)))

    if method not in KERNELS:
        KERNELS[method] = torch.compile(update, dynamic=True, fullgraph=True)
    return KERNELS[method]


def is_elementwise(method: Method) -> bool:
    """Whether a method treats every value by itself, so that its update can be one loop over flat memory.

    It is tried out as the kernel would do it: some values of a small weight, picked at random and without its shape,
    must come out as they do within the whole.  Where they do not, or where that fails, updates run uncompiled.
    """
    if method.adapts != "weights":
        return False
    random = torch.Generator().manual_seed(0)
    weight, gradient, noise = torch.randn(3, 4, 4, 3, 3, generator=random, dtype=torch.float32, device="cpu")
    picked = torch.randperm(weight.numel(), generator=random, device="cpu")[:71]

    def pick(tensor: Tensor) -> Tensor:
        return tensor.reshape(-1)[picked]

    def update(weight: Tensor, gradient: Tensor, trained: Tensors) -> list[Tensor]:
        pulled = method.pull_back(gradient, weight, trained)
        return [*pulled.values(), method.apply(weight, method.keep(trained))]

    try:
        started = method.start(weight)
        if any(tensor.shape != weight.shape for tensor in started.values()):
            return False
        for size in (0.02, 2.0):  # noise to both sides of small thresholds, and of others
            trained = {key: t + size * noise if t.is_floating_point() else t for key, t in started.items()}
            parts = update(pick(weight), pick(gradient), {key: pick(tensor) for key, tensor in trained.items()})
            wholes = update(weight, gradient, trained)
            if not all(torch.allclose(part, pick(whole)) for part, whole in zip(parts, wholes, strict=True)):
                return False
    except Exception:  # whatever a method of another package raises on values without a shape; it means no
        return False
    return True
