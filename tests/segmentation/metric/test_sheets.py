from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from piggyback.shell.errors import BadInput
from segmentation.metric.sheets import (
    CAPTION,
    COLUMN,
    ERRORS,
    GAP,
    HEADER,
    LEGEND_LINE,
    MARGIN,
    RIGHT,
    TALLEST,
    UNSCORED,
    WRONG,
    SheetRow,
    draw_sheet,
    error_map,
    share_right,
    write_sheet,
)
from segmentation.voc import PALETTE

TOP = MARGIN + HEADER
WIDTH = 2 * MARGIN + 4 * COLUMN + 3 * GAP


@pytest.fixture
def row() -> Callable[..., SheetRow]:
    """A grey picture whose left half is a boat and whose lowest row is void; a bus was seen in the lower half."""

    def build(height: int, width: int, *, title: str = "2010_900001") -> SheetRow:
        truth = np.zeros((height, width), dtype=np.uint8)
        truth[:, : width // 2] = 4
        prediction = truth.copy()
        prediction[height // 2 :] = 6
        truth[-1] = 255
        picture = np.full((height, width, 3), 128, dtype=np.uint8)
        return SheetRow(picture=picture, truth=truth, prediction=prediction, title=title)

    return build


def pixel(sheet: Image.Image, *, column: int, right: float, down: float, size: tuple[int, int]) -> tuple[int, ...]:
    """The sheet's colour at a place of the first row's picture, told in shares of its width and height."""
    left = MARGIN + column * (COLUMN + GAP) + (COLUMN - size[0]) // 2
    found = sheet.getpixel((left + int(right * size[0]), TOP + int(down * size[1])))
    assert isinstance(found, tuple)
    return found


def test_error_map_of_a_case_by_hand() -> None:
    truth = np.array([[0, 4, 255, 4], [255, 0, 4, 0]], dtype=np.uint8)
    prediction = np.array([[0, 0, 0, 4], [255, 4, 6, 0]], dtype=np.uint8)
    expected = [[RIGHT, WRONG, UNSCORED, RIGHT], [UNSCORED, WRONG, WRONG, RIGHT]]
    np.testing.assert_array_equal(error_map(truth, prediction), np.array(expected, dtype=np.uint8))
    assert share_right(truth, prediction) == 0.5
    assert share_right(np.full((2, 2), 255, np.uint8), truth[:, :2]) is None


def test_colours_of_errors_differ_in_lightness_too() -> None:
    """So that they can be told apart without any colour."""
    lightness = sorted(0.299 * red + 0.587 * green + 0.114 * blue for red, green, blue in (RIGHT, WRONG, UNSCORED))
    assert lightness[1] - lightness[0] > 35
    assert lightness[2] - lightness[1] > 35


def test_a_sheet_shows_four_columns(row: Callable[..., SheetRow]) -> None:
    sheet = draw_sheet([row(40, 80)])
    size = (COLUMN, COLUMN // 2)
    assert sheet.mode == "RGB"
    assert sheet.size == (WIDTH, TOP + size[1] + CAPTION + GAP + GAP + 2 * LEGEND_LINE + MARGIN)

    def at(column: int, right: float, down: float) -> tuple[int, ...]:
        return pixel(sheet, column=column, right=right, down=down, size=size)

    assert at(0, 0.25, 0.25) == (128, 128, 128)
    assert at(1, 0.25, 0.25) == at(2, 0.25, 0.25) != at(1, 0.75, 0.25)
    red, green, blue = at(1, 0.25, 0.25)
    assert blue > red == green  # a boat is blue, through which the picture shines
    assert at(1, 0.75, 0.25) == at(1, 0.75, 0.75)  # background
    assert at(2, 0.25, 0.75) == at(2, 0.75, 0.75) != at(1, 0.25, 0.75)  # the bus
    assert at(3, 0.25, 0.25) == at(3, 0.75, 0.25) == RIGHT
    assert at(3, 0.25, 0.75) == at(3, 0.75, 0.75) == WRONG
    assert at(3, 0.5, 0.99) == UNSCORED


def test_the_legend_has_the_classes_that_occur(row: Callable[..., SheetRow]) -> None:
    sheet = np.asarray(draw_sheet([row(40, 80)]))
    legend = sheet[TOP + COLUMN // 2 + CAPTION + GAP :].reshape(-1, 3)
    colours = {tuple(colour) for colour in np.unique(legend, axis=0).tolist()}

    def colour(label: int) -> tuple[int, ...]:
        return tuple(PALETTE[3 * label : 3 * label + 3])

    assert {colour(label) for label in (4, 6, 255)} | {key.colour for key in ERRORS} <= colours
    assert not {colour(label) for label in (5, 7, 17)} & colours


def test_without_truth_only_the_prediction_is_shown(row: Callable[..., SheetRow]) -> None:
    known = row(40, 80)
    unknown = SheetRow(picture=known.picture, truth=None, prediction=known.prediction, title=known.title)
    sheet = np.asarray(draw_sheet([unknown]))
    body = sheet[TOP : TOP + COLUMN // 2]
    for place in (1, 3):
        left = MARGIN + place * (COLUMN + GAP)
        assert len(np.unique(body[1:-1, left + 1 : left + COLUMN - 1].reshape(-1, 3), axis=0)) == 1
    left = MARGIN + 2 * (COLUMN + GAP)
    np.testing.assert_array_equal(
        body[:, left : left + COLUMN], np.asarray(draw_sheet([known]))[TOP : TOP + COLUMN // 2, left : left + COLUMN]
    )


@pytest.mark.parametrize("size", [(1, 1), (3, 700), (900, 2), (375, 500)])
def test_pictures_of_any_size_fit(row: Callable[..., SheetRow], size: tuple[int, int]) -> None:
    sheet = draw_sheet([row(*size), row(20, 20, title="a long\nname " * 40)])
    assert sheet.width == WIDTH
    assert sheet.height <= TOP + TALLEST + COLUMN + 2 * (CAPTION + GAP) + GAP + 3 * LEGEND_LINE + MARGIN


def test_a_sheet_is_a_png_of_the_same_bytes(row: Callable[..., SheetRow], tmp_path: Path) -> None:
    write_sheet(tmp_path / "one.png", [row(30, 20)])
    write_sheet(tmp_path / "two.png", [row(30, 20)])
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    with Image.open(tmp_path / "one.png", formats=("PNG",)) as sheet:
        np.testing.assert_array_equal(np.asarray(sheet), np.asarray(draw_sheet([row(30, 20)])))


def test_rows_that_do_not_fit_are_refused(row: Callable[..., SheetRow], tmp_path: Path) -> None:
    good = row(4, 6)
    short = SheetRow(picture=good.picture, truth=good.truth, prediction=good.prediction[:3], title="2010_900001")
    with pytest.raises(BadInput, match=r"2010_900001: the picture has 6 x 4 pixels, its prediction 6 x 3"):
        write_sheet(tmp_path / "sheet.png", [good, short])
    odd = SheetRow(picture=good.picture, truth=good.prediction + 30, prediction=good.prediction, title="2010_900001")
    with pytest.raises(BadInput, match=r"its truth has the label 3[46]"):
        write_sheet(tmp_path / "sheet.png", [odd])
    with pytest.raises(BadInput, match="at least one"):
        write_sheet(tmp_path / "sheet.png", [])
    assert list(tmp_path.iterdir()) == []
