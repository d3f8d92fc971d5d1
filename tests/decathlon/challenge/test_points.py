"""The score's formula; `tests/decathlon/test_board.py` recomputes the paper's Table 8 by it."""

import math

import pytest

from decathlon.challenge.points import BASELINE_ERRORS, decathlon_score, points


def test_ends_of_the_scale() -> None:
    assert decathlon_score(dict.fromkeys(BASELINE_ERRORS, 0.0)).score == 10000.0
    assert decathlon_score(dict.fromkeys(BASELINE_ERRORS, 1.0)).score == 0.0
    assert decathlon_score(BASELINE_ERRORS).score == 2500.0
    # beyond E_max the square must not rise again
    assert points(0.9, worst=0.1) == 0.0


def test_missing_tasks_have_points_but_no_score() -> None:
    found = decathlon_score({"svhn": 0.0345})
    assert dict(found.points) == {"svhn": 250.0}
    assert found.score is None
    assert found.mean_accuracy is None


@pytest.mark.parametrize("error", [math.nan, -1e-9, 1.0 + 1e-9, math.inf, 3.45])
def test_an_error_that_is_no_fraction_is_refused_by_task(error: float) -> None:
    with pytest.raises(ValueError, match=r"svhn: an error is a fraction in \[0, 1\], not "):
        decathlon_score({"svhn": error})


def test_unknown_task_and_senseless_worst_are_refused() -> None:
    with pytest.raises(ValueError, match="not a task of the decathlon: mnist"):
        decathlon_score({"mnist": 0.1})
    for worst in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="positive and finite"):
            points(0.1, worst=worst)
