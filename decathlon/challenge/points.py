"""The decathlon score: points per task from errors, and their sum.

The rule is the challenge's (S. Rebuffi, H. Bilen, A. Vedaldi, "Learning multiple visual domains with
residual adapters", NIPS 2017): a task earns ``1000 * max(0, 1 - E / E_max)^2`` points, where E_max is twice
the error of a fully fine-tuned network.  That network so earns 250 points a task, no error at all earns 1000.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray

BASELINE_ERRORS: Final[Mapping[str, float]] = MappingProxyType(
    {
        "aircraft": 0.3966,
        "cifar100": 0.1788,
        "daimlerpedcls": 0.0718,
        "dtd": 0.4447,
        "gtsrb": 0.0247,
        "imagenet12": 0.4013,
        "omniglot": 0.1231,
        "svhn": 0.0345,
        "ucf101": 0.4880,
        "vgg-flowers": 0.1859,
    }
)
"""Test errors of the organisers' fully fine-tuned networks on the official tasks, fractions in [0, 1].

Published to two decimals of a percent: 100 minus the row "Finetune" of Table 8 of Mallya et al., ECCV 2018;
the same ten stand in cell 25 of the notebook of github.com/rosenfeldamir/incremental_learning.
"""


@dataclass(frozen=True, kw_only=True)
class Score:
    """Points for the errors of some or all tasks.

    Attributes:
        points: per task, in [0, 1000], for the tasks given, in the order of their names.
        score: the sum, in [0, 10000]; None unless all ten tasks are there.
        mean_accuracy: fraction in [0, 1], every task with the same weight; None unless all ten tasks are there.
    """

    points: Mapping[str, float]
    score: float | None
    mean_accuracy: float | None


def points(error: float, *, worst: float) -> float:
    """Points of one task, in [0, 1000].

    Args:
        error: fraction in [0, 1].
        worst: the error from which on there are no points, E_max.

    Raises:
        ValueError: `error` is no fraction (NaN is none), or `worst` is not positive and finite.
    """
    if not 0.0 <= error <= 1.0:
        raise ValueError(f"an error is a fraction in [0, 1], not {error}")
    if not 0.0 < worst < math.inf:
        raise ValueError(f"the error that earns no points must be positive and finite, not {worst}")
    return 1000.0 * max(0.0, 1.0 - error / worst) ** 2


def points_of(task: str, errors: NDArray[np.float64]) -> NDArray[np.float64]:
    """The points of one of the ten tasks for many errors at once, by the same formula, without its checks."""
    return np.asarray(1000.0 * np.maximum(0.0, 1.0 - errors / (2.0 * BASELINE_ERRORS[task])) ** 2, dtype=np.float64)


def decathlon_score(errors: Mapping[str, float]) -> Score:
    """Points per task, their sum and the mean accuracy.

    Args:
        errors: per task a fraction in [0, 1]; tasks may be missing, then there is no sum and no mean.

    Raises:
        ValueError: a task is not one of the ten, or an error is no fraction; the message names the task.
    """
    unknown = sorted(set(errors) - set(BASELINE_ERRORS))
    if unknown:
        raise ValueError(f"not a task of the decathlon: {', '.join(unknown)}; the ten: {', '.join(BASELINE_ERRORS)}")
    earned: dict[str, float] = {}
    for task in sorted(errors):
        try:
            earned[task] = points(errors[task], worst=2.0 * BASELINE_ERRORS[task])
        except ValueError as fault:
            raise ValueError(f"{task}: {fault}") from None
    if len(earned) < len(BASELINE_ERRORS):
        return Score(points=MappingProxyType(earned), score=None, mean_accuracy=None)
    return Score(
        points=MappingProxyType(earned),
        score=math.fsum(earned.values()),
        mean_accuracy=math.fsum(1.0 - error for error in errors.values()) / len(errors),
    )
