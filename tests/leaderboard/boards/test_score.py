"""The score's formula, and the paper's Table 8 recomputed by it."""

import math
import subprocess
import sys
from pathlib import Path

import pytest

from leaderboard.boards.published import table8
from leaderboard.boards.score import BASELINE_ERRORS, decathlon_score, points

# Recomputed from the printed accuracies by an independent sum.  The printed scores are 0 to 2.3 lower: the
# server had the exact fractions of right pictures, the paper prints accuracies and baseline with two decimals
# of a percent, and where E_max is small (gtsrb 4.94 %, svhn 6.90 %) half a unit of the last decimal is up to
# half a point.  That band, 2 to 3 points, holds every row but "Feature", which is 0.7 outside and unexplained.
RECOMPUTED = {
    "scratch": (1626.7, 1625),
    "feature": (545.4, 544),
    "finetune": (2500.0, 2500),
    "series": (2119.0, 2118),
    "series-joint": (2644.0, 2643),
    "dan": (2852.5, 2851),
    "piggyback": (2840.2, 2838),
}


def test_table8_is_recomputed() -> None:
    assert [row.method for row in table8()] == list(RECOMPUTED)
    for row in table8():
        score, printed = RECOMPUTED[row.method]
        assert row.score.score is not None
        assert row.score.score == pytest.approx(score, abs=0.05)
        assert row.printed_score == printed
        assert 0 <= row.score.score - printed <= 2.3
        # 0.011 %: the paper cuts one mean off where the others are rounded (77.176 stands as 77.17)
        assert row.score.mean_accuracy == pytest.approx(row.printed_mean, abs=0.00011)
        assert row.citation
        assert row.table.startswith("Table 8")


def test_a_row_holds_its_own_task_for_each_number() -> None:
    # A permutation of two tasks would keep the mean, but not these points (reference, 1.7).
    earned = next(row for row in table8() if row.method == "piggyback").score.points
    expected = {"aircraft": 316.3, "cifar100": 191.0, "daimlerpedcls": 624.7, "dtd": 272.1, "gtsrb": 200.1}
    expected |= {"imagenet12": 223.6, "omniglot": 247.6, "svhn": 360.0, "ucf101": 213.3, "vgg-flowers": 191.5}
    assert {task: round(value, 1) for task, value in earned.items()} == expected


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


def test_leaderboard_is_light() -> None:
    # result.py alone may load pydantic, and nothing here may load torch or our other packages
    code = (
        "import sys; import leaderboard.boards.score; from leaderboard.boards.published import table8; table8();"
        "assert not {'torch', 'numpy', 'pydantic'} & sys.modules.keys();"
        "import leaderboard.result;"
        "assert not {'torch', 'numpy', 'piggyback', 'decathlon', 'slurm'} & sys.modules.keys()"
    )
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
