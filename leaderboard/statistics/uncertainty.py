"""Uncertainty of a number, had other pictures been judged; and tests between two methods.

Pictures are resampled with replacement, within each task (the tasks are strata), and the percentiles of the resampled
numbers bound the interval: B. Efron, R. J. Tibshirani, "An introduction to the bootstrap", Chapman & Hall 1993,
chapter 13.  A picture is drawn with the answers of all runs on it, of all seeds and of both methods, so that what they
share stays shared.  Seeds are not resampled: the spread over seeds is shown beside the interval, and is not in it.

Whether two classifiers differ on the same pictures is McNemar's test (Q. McNemar, Psychometrika 12, 1947), here exact:
of the pictures that only one of the two has right, each would have half if there were no difference.  T. G.
Dietterich, "Approximate statistical tests for comparing supervised classification learning algorithms", Neural
Computation 10(7), 1998, found its rate of false alarms low where algorithms run once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from leaderboard.boards.board import Numbers, Total

RESAMPLES: Final = 2000
CONFIDENCE: Final = 0.95
SEED: Final = 2018
_AT_ONCE: Final = 4 << 20  # numbers drawn at a time, so that memory stays below some 100 MB

Interval = tuple[float, float]


@dataclass(frozen=True, kw_only=True, eq=False)
class Sample:
    """The pictures of one task, by how several runs answered them.

    Pictures with the same answers are the same to the bootstrap, so each kind of picture is here once: to draw n
    pictures with replacement is to draw the counts of the kinds from a multinomial distribution.

    Attributes:
        kinds: bool [kinds, runs], whether each run is right on pictures of that kind.
        counts: int64 [kinds], pictures of each kind, at least one in all.
    """

    kinds: NDArray[np.bool_]
    counts: NDArray[np.int64]

    @classmethod
    def of(cls, right: NDArray[np.bool_]) -> "Sample":
        """Make a sample from bool [pictures, runs]."""
        kinds, counts = np.unique(right, axis=0, return_counts=True)
        return cls(kinds=kinds, counts=counts.astype(np.int64))

    @classmethod
    def of_counts(cls, n: int, correct: int) -> "Sample":
        """Make a sample from the counts of a single run, which are all that matters of it."""
        return cls(kinds=np.array([[True], [False]]), counts=np.array([correct, n - correct], dtype=np.int64))

    @property
    def accuracies(self) -> Numbers:
        """The accuracy of each run, float64 [runs]."""
        return np.asarray(self.counts @ self.kinds / self.counts.sum(), dtype=np.float64)

    def resampled(self, rng: np.random.Generator, *, resamples: int = RESAMPLES) -> Numbers:
        """Accuracies of each run on resampled pictures, float64 [resamples, runs]."""
        n = int(self.counts.sum())
        shares = self.counts / n
        step = max(1, _AT_ONCE // len(self.counts))
        parts = [
            rng.multinomial(n, shares, size=min(step, resamples - start)) @ self.kinds
            for start in range(0, resamples, step)
        ]
        return np.concatenate(parts).astype(np.float64) / n


@dataclass(frozen=True, kw_only=True)
class Resampled:
    """The accuracies of an entry's runs on resampled pictures.

    Attributes:
        accuracies: by task, float64 [resamples, runs].
    """

    accuracies: Mapping[str, Numbers]

    @property
    def means(self) -> Numbers:
        """Mean accuracy over the tasks, float64 [resamples, runs]."""
        return np.asarray(np.mean(np.stack(np.broadcast_arrays(*self.accuracies.values())), axis=0), dtype=np.float64)

    def totals(self, rule: Total) -> Numbers:
        """The totals by a board's rule, or the points of those tasks that are there, float64 [resamples, runs]."""
        points = (rule.points(task, 1.0 - drawn) for task, drawn in self.accuracies.items())
        return np.asarray(sum(points), dtype=np.float64)


def resample(samples: Mapping[str, Sample], *, resamples: int = RESAMPLES, seed: int = SEED) -> Resampled:
    """Resample the pictures of every task; the same samples and seed give the same numbers.

    Args:
        samples: by task; all with as many runs, or with one run that serves for all.
        resamples: how often.
        seed: of the generator.
    """
    generators = np.random.default_rng(seed).spawn(len(samples))
    return Resampled(
        accuracies={
            task: samples[task].resampled(rng, resamples=resamples)
            for task, rng in zip(sorted(samples), generators, strict=True)
        }
    )


def percentile_interval(drawn: Numbers, *, confidence: float = CONFIDENCE) -> Interval:
    """The interval that holds the middle share of the numbers; of several runs, of their mean.

    Args:
        drawn: float64 [resamples] or [resamples, runs].
        confidence: the share, in (0, 1).
    """
    numbers = drawn.mean(axis=1) if drawn.ndim == 2 else drawn
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(numbers, [tail, 1.0 - tail])
    return float(low), float(high)


def mcnemar(only_first: int, only_second: int) -> float:
    """Probability, if there were no difference, of a division at least as uneven: exact, two-sided.

    Args:
        only_first: pictures that only the first method has right.
        only_second: pictures that only the second has right.
    """
    from scipy.stats import binomtest  # half a second, which `leaderboard show` need not wait for

    together = only_first + only_second
    return float(binomtest(only_first, together, 0.5).pvalue) if together else 1.0


def holm(probabilities: Sequence[float]) -> list[float]:
    """Probabilities adjusted for multiple tests, in the same order.

    S. Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6, 1979.
    """
    order = sorted(range(len(probabilities)), key=lambda place: probabilities[place])
    adjusted = [0.0] * len(probabilities)
    largest = 0.0
    for done, place in enumerate(order):
        largest = max(largest, min(1.0, (len(probabilities) - done) * probabilities[place]))
        adjusted[place] = largest
    return adjusted
