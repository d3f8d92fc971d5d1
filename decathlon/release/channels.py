"""Channel statistics: from the organisers' table, from their pickle, or measured on a task's own train part."""

import io
import math
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from decathlon.tasks import find_task
from piggyback.data.labelled import PackedSplit
from piggyback.shell.errors import BadInput

LARGEST_FILE: Final = 1 << 20  # bytes; the organisers' has 2,403
PIXELS_AT_ONCE: Final = 1 << 22  # 12 MiB of bytes: a split itself may not fit into memory


@dataclass(frozen=True)
class Statistics:
    """Mean and standard deviation of the channels red, green and blue, of pixels in [0, 1]."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def official_statistics(task: str) -> Statistics:
    """The organisers' statistics of a task, from the table in `decathlon.tasks`.

    Raises:
        UnknownName: there is no such task.
    """
    found = find_task(task)
    return Statistics(found.mean, found.std)


def measure_statistics(split: PackedSplit) -> Statistics:
    """Mean and standard deviation over every pixel of a split; exact, as sums of bytes are integers."""
    counts = np.zeros((3, 256), dtype=np.int64)
    for part in split.parts:
        pixels = part.pixels.reshape(-1, 3)
        for start in range(0, len(pixels), PIXELS_AT_ONCE):
            piece = pixels[start : start + PIXELS_AT_ONCE]
            for channel in range(3):
                counts[channel] += np.bincount(piece[:, channel], minlength=256)
    levels = np.arange(256)
    total, first, second = counts.sum(1), counts @ levels, counts @ levels**2
    mean = first / total
    # n * sum(x^2) - (sum x)^2 in Python's unbounded integers: nothing cancels.
    spread = [
        math.sqrt(int(n) * int(squares) - int(linear) ** 2) / int(n)
        for n, linear, squares in zip(total, first, second, strict=True)
    ]
    return Statistics(_triple(mean / 255, name="mean"), _triple(np.array(spread) / 255, name="std"))


def read_statistics(path: Path) -> dict[str, Statistics]:
    """The organisers' ``decathlon_mean_std.pickle``: statistics by task, also of tasks that are none of the ten.

    Loading a pickle can run any code.  This one gets nothing of Python or numpy: the four names that it needs are
    stand-ins that only keep what they get, and any other name is refused.

    Raises:
        BadInput: the file is missing, damaged, or asks for any other name.
    """
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise BadInput(f"{path} is too large to be the organisers' decathlon_mean_std.pickle")
        data = path.read_bytes()
    except OSError as fault:
        raise BadInput(f"cannot read {path}: {fault.strerror}") from None
    try:
        table = _Restricted(io.BytesIO(data), encoding="latin1").load()
    except BadInput as fault:
        raise BadInput(f"{path}: {fault}") from None
    except (
        pickle.UnpicklingError,
        ArithmeticError,
        AttributeError,
        EOFError,
        ImportError,
        LookupError,
        MemoryError,
        TypeError,
        ValueError,
    ) as fault:  # what pickle raises on damaged files, by its documentation and by trial
        raise BadInput(f"{path} is not a readable pickle ({type(fault).__name__}: {fault})") from None
    if not isinstance(table, dict) or not all(isinstance(key, str) for key in table):
        raise BadInput(f"{path} must hold a dict with names as keys")
    tasks = sorted(key.removesuffix("mean") for key in table if key.endswith("mean"))
    if not tasks or set(table) != {task + kind for task in tasks for kind in ("mean", "std")}:
        raise BadInput(f"{path} must hold <task>mean and <task>std for each task and nothing else")
    return {task: Statistics(_values(table, task + "mean", path), _values(table, task + "std", path)) for task in tasks}


class _Kind:
    """A stand-in for ``numpy.dtype`` that keeps its arguments."""

    def __init__(self, *arguments: object) -> None:
        self.name = arguments[0] if arguments else None
        self.order: object = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1]


class _Array:
    """A stand-in for ``numpy.ndarray`` that keeps shape, kind and bytes."""

    def __init__(self) -> None:
        self.state: tuple[Any, ...] = ()

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.state = state


def _reconstruct(*_: object) -> _Array:
    """A stand-in for numpy's function that makes the empty array which the pickle then fills."""
    return _Array()


STAND_INS: Final[dict[tuple[str, str], Any]] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Kind,
}


class _Restricted(pickle.Unpickler):
    """An unpickler that knows the stand-ins and no other name."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return STAND_INS[module, name]
        except KeyError:
            raise BadInput(f"the pickle asks for {module}.{name}, which statistics do not need: refused") from None


def _values(table: dict[str, Any], key: str, path: Path) -> tuple[float, float, float]:
    """Three numbers from an array of float64, or from a plain sequence."""
    value = table[key]
    if isinstance(value, _Array):
        value = _numbers(value, f"{path}: {key}")
    try:
        return _triple(np.asarray(value, dtype=np.float64), name=f"{path}: {key}")
    except (TypeError, ValueError):
        raise BadInput(f"{path}: {key} must be a list of three numbers") from None


def _numbers(array: _Array, name: str) -> NDArray[np.float64]:
    try:
        _, shape, kind, _, data = array.state
    except ValueError:
        raise BadInput(f"{name} is a damaged array") from None
    plain = isinstance(kind, _Kind) and kind.name == "f8" and kind.order in ("<", ">")
    data = data.encode("latin1") if isinstance(data, str) else data  # Python 2 had one type for both
    if not plain or shape != (3,) or not isinstance(data, bytes) or len(data) != 24:
        raise BadInput(f"{name} must be an array of three float64")
    return np.frombuffer(data, dtype=f"{kind.order}f8").astype(np.float64)


def _triple(values: NDArray[np.float64], *, name: str) -> tuple[float, float, float]:
    if values.shape != (3,) or not np.isfinite(values).all() or values.min() < 0 or values.max() > 1:
        raise BadInput(f"{name} must be three numbers from 0 to 1, not {str(values)[:80]}")
    red, green, blue = values.tolist()
    return red, green, blue
