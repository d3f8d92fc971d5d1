"""The pictures of the page: curves and bars inside it, and the large ones beside it."""

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from drawn_board import make_board

from decathlon.board import BOARD as DECATHLON
from leaderboard.page.charts import class_chart, pareto_front, score_chart
from leaderboard.page.curves import layer_figure, layer_rows, ticks, training_curves
from leaderboard.page.evidence import ClassScore, Layer
from segmentation.board import BOARD as SEGMENTATION


def test_ticks_are_round_and_hold_the_range() -> None:
    assert ticks(0.0, 0.37) == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])
    assert ticks(2.0, 2.0) == pytest.approx([1.0, 1.5, 2.0, 2.5, 3.0])
    for low, high in ((-1e14, 1e14), (0.0, 5e-324), (3e-9, 4e-9), (0.999, 1.0)):
        marks = ticks(low, high)
        assert 2 <= len(marks) <= 12
        assert marks[0] <= low + 1e-9
        assert marks[-1] >= high - 1e-9


def test_curves_are_drawn_of_any_numbers() -> None:
    """SVG that parses and holds no NaN, from one epoch to thousands, with numbers that nobody would draw."""
    for epochs in (
        [{"epoch": 1, "loss": 2.0}],
        [{"epoch": n, "loss": 1e300, "val_accuracy": 0.5} for n in (1, 2)],
        [{"epoch": n, "loss": -(1e14**n)} for n in (1, 2)],
        [{"epoch": n, "loss": 1 / n, "val_<b>": n} for n in range(1, 5001)],
        [{"epoch": 1}],
        [{"epoch": n, "loss": (-1) ** n * 1.7e308} for n in (1, 2)],
        [{"epoch": n * 1e308, "loss": 1.0} for n in (-1, 1)],
    ):
        for figure in training_curves(epochs):
            drawn = ET.fromstring(figure.svg)
            assert "nan" not in figure.svg
            assert len((drawn.find("polyline").attrib["points"]).split()) <= 301  # type: ignore[union-attr]
    assert training_curves([]) == ()


def test_layers_are_bars_with_escaped_names() -> None:
    layers = [Layer("<b>", 0.5, 10), Layer("fc", 0.0, 30)]
    figure = layer_figure(layers)
    bars = ET.fromstring(figure.svg).find("path").attrib["d"]  # type: ignore[union-attr]
    first, second = (float(tall) for tall in re.findall(r"v-([0-9.]+)", bars))
    assert first > 100
    assert second == 0
    assert "&lt;b&gt;</th>" in layer_rows(layers)
    assert "50.0 % in <b>" in figure.summary
    assert "12.5 % of all 40 weights" in figure.summary


def test_no_point_of_the_front_is_beaten() -> None:
    assert pareto_front([(1, 100), (2, 90), (2, 300), (1.5, 100), (10, 300), (10, 301), (1, 50)]) == [0, 2, 5]
    assert pareto_front([]) == []
    assert pareto_front([(1, 1), (1, 1)]) == [0, 1]


def test_the_scatter_is_safe_and_always_the_same(tmp_path: Path) -> None:
    entries = [row.entry for row in make_board(tmp_path / "store", hostile=True).views[0].rows]
    chart, again = score_chart(DECATHLON, entries), score_chart(DECATHLON, entries)
    assert chart is not None
    assert chart == again
    assert score_chart(SEGMENTATION, entries) is None
    for picture in chart.pictures.values():
        assert b"<!ENTITY" not in picture
        drawn = ET.fromstring(picture)
        tags = {one.tag.rpartition("}")[2] for one in drawn.iter()}
        assert not tags & {"script", "image", "foreignObject", "a"}
        addresses = [one.attrib[name] for one in drawn.iter() for name in one.attrib if name.endswith("href")]
        assert all(address.startswith("#") for address in addresses)
        assert "'><plaintext>" in {one.text for one in drawn.iter() if one.tag.endswith("}text")}


def test_bars_of_classes_are_named_as_they_are_and_leave_out_what_nobody_judged() -> None:
    scores = [("$\\frac{a}{b}$ <i>", [ClassScore("cat", 0.5), ClassScore("dog", None), ClassScore("cow", 0.25)])]
    chart = class_chart(SEGMENTATION, scores)
    assert chart is not None
    assert "from 25 % for cow to 50 % for cat" in chart.alt
    texts = {one.text for one in ET.fromstring(chart.pictures["dark"]).iter() if one.tag.endswith("}text")}
    assert {"cat", "cow", "$\\frac{a}{b}$ <i>"} <= texts
    assert "dog" not in texts
    assert class_chart(SEGMENTATION, [("nothing", [ClassScore("cat", None)])]) is None
    assert class_chart(SEGMENTATION, []) is None
