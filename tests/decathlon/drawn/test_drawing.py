import itertools

import numpy as np
import pytest

from decathlon.drawn.pictures import DIGITS, DRAWN, SIDE, draw_picture
from decathlon.tasks import TASKS


def test_all_ten_tasks_can_be_drawn() -> None:
    assert DRAWN.keys() == TASKS.keys()
    for task in DRAWN.values():
        assert min(task.width, task.height) == SIDE
        assert len(set(task.classes)) == len(task.classes) >= 2
    assert len(DRAWN["daimlerpedcls"].classes) == 2


@pytest.mark.parametrize("task", TASKS)
def test_a_picture_follows_from_its_numbers(task: str) -> None:
    picture = draw_picture(task, 1, number=5, seed=3)
    assert picture.dtype == np.uint8
    assert picture.shape == (DRAWN[task].height, DRAWN[task].width, 3)
    np.testing.assert_array_equal(picture, draw_picture(task, 1, number=5, seed=3))
    assert (picture != draw_picture(task, 1, number=6, seed=3)).any()
    assert (picture != draw_picture(task, 1, number=5, seed=4)).any()


@pytest.mark.parametrize("task", TASKS)
def test_classes_look_different_where_all_else_is_the_same(task: str) -> None:
    """The same numbers are drawn from for every class, so any difference is the class's."""
    pictures = [draw_picture(task, place, number=9).astype(float) for place in range(len(DRAWN[task].classes))]
    for one, other in itertools.combinations(range(len(pictures)), 2):
        assert (np.abs(pictures[one] - pictures[other]).max(axis=2) > 20).mean() > 0.01, (one, other)


def test_digits_are_ten_different_patterns_of_five_by_seven() -> None:
    assert len(set(DIGITS)) == 10
    assert all([len(row) for row in digit.split()] == [5] * 7 for digit in DIGITS)
