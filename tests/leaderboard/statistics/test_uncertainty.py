"""Intervals and tests against hand-made cases, plain resampling and scipy."""

import math

import numpy as np
import pytest
from scipy.stats import binom, bootstrap

import leaderboard.statistics.uncertainty
from decathlon.board import BOARD
from decathlon.challenge.points import BASELINE_ERRORS, decathlon_score
from leaderboard.statistics.uncertainty import Sample, holm, mcnemar, percentile_interval, resample

RUNS = 3
assert BOARD.total is not None
RULE = BOARD.total


def answers(n: int, *, runs: int = RUNS, seed: int = 1) -> np.ndarray:
    """Runs that share much of what they have right."""
    rng = np.random.default_rng(seed)
    hard = rng.random((n, 1))
    return np.asarray(rng.random((n, runs)) * 0.6 + 0.4 * hard < 0.6)


def test_a_sample_keeps_the_accuracies() -> None:
    right = answers(500)
    assert Sample.of(right).accuracies == pytest.approx(right.mean(axis=0))
    assert Sample.of(right).counts.sum() == 500
    assert Sample.of_counts(1000, 900).accuracies == pytest.approx([0.9])


def test_the_interval_of_one_accuracy_is_the_binomials() -> None:
    # The number of right pictures among n drawn with replacement is binomial: its quantiles are known exactly.
    drawn = resample({"svhn": Sample.of_counts(1000, 900)}, resamples=200_000).accuracies["svhn"]
    low, high = percentile_interval(drawn)
    assert low == pytest.approx(binom.ppf(0.025, 1000, 0.9) / 1000, abs=0.001)
    assert high == pytest.approx(binom.ppf(0.975, 1000, 0.9) / 1000, abs=0.001)


def test_the_interval_over_seeds_is_scipys() -> None:
    right = answers(400)
    ours = percentile_interval(resample({"dtd": Sample.of(right)}, resamples=20_000).accuracies["dtd"])
    theirs = bootstrap((right.mean(axis=1),), np.mean, n_resamples=20_000, method="percentile").confidence_interval
    assert ours == pytest.approx((theirs.low, theirs.high), abs=0.003)
    # Runs that err together tell less than as many pictures more would.
    alone = percentile_interval(resample({"dtd": Sample.of_counts(1200, int(right.sum()))}).accuracies["dtd"])
    assert ours[1] - ours[0] > 1.1 * (alone[1] - alone[0])


def test_the_score_is_drawn_task_by_task_as_plain_resampling_does() -> None:
    tasks = {"svhn": answers(300, seed=1), "dtd": answers(100, seed=2)}
    drawn = resample({task: Sample.of(right) for task, right in tasks.items()}, resamples=4000)
    rng = np.random.default_rng(7)
    plain = []
    for _ in range(4000):
        picked = {task: right[rng.integers(len(right), size=len(right))] for task, right in tasks.items()}
        scores = [
            sum(decathlon_score({task: 1 - one[:, run].mean() for task, one in picked.items()}).points.values())
            for run in range(RUNS)
        ]
        plain.append(np.mean(scores))
    assert percentile_interval(drawn.totals(RULE)) == pytest.approx(np.quantile(plain, [0.025, 0.975]), abs=8)
    assert drawn.means.shape == drawn.totals(RULE).shape == (4000, RUNS)


def test_a_single_run_stands_for_all() -> None:
    drawn = resample({"imagenet12": Sample.of_counts(100, 60), "dtd": Sample.of(answers(50))}, resamples=10)
    assert drawn.totals(RULE).shape == (10, RUNS)


def test_points_are_those_of_the_score() -> None:
    for task in BASELINE_ERRORS:
        numbers = np.array([0.0, 0.3, 0.6, 0.99, 1.0])
        expected = [decathlon_score({task: 1.0 - accuracy}).points[task] for accuracy in numbers]
        assert RULE.points(task, 1.0 - numbers) == pytest.approx(expected)
        assert [RULE.earned(task, 1.0 - accuracy) for accuracy in numbers] == expected


def test_drawing_is_repeatable_and_does_not_depend_on_how_much_is_drawn_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    samples = {"dtd": Sample.of(answers(200))}
    first = resample(samples).accuracies["dtd"]
    assert np.array_equal(first, resample(samples).accuracies["dtd"])
    monkeypatch.setattr(leaderboard.statistics.uncertainty, "_AT_ONCE", 64)
    assert np.array_equal(first, resample(samples).accuracies["dtd"])


def test_sure_things_have_no_width() -> None:
    for correct in (0, 50):
        drawn = resample({"dtd": Sample.of_counts(50, correct)})
        assert percentile_interval(drawn.accuracies["dtd"]) == (correct / 50, correct / 50)


@pytest.mark.parametrize(("first", "second"), [(10, 2), (2, 10), (0, 5), (7, 7), (1, 0)])
def test_mcnemar_by_hand(first: int, second: int) -> None:
    together, fewer = first + second, min(first, second)
    tail = sum(math.comb(together, k) for k in range(fewer + 1)) / 2**together
    assert mcnemar(first, second) == pytest.approx(min(1.0, 2 * tail))


def test_mcnemar_of_equal_answers() -> None:
    assert mcnemar(0, 0) == 1.0
    # The textbook pair of 300 and 220, of 10,000 pictures: clearly different.
    assert mcnemar(300, 220) == pytest.approx(0.000523, abs=2e-5)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []
