"""Small line and bar charts as SVG inside a page: ten thousand of them in seconds, coloured by the page's own style.

Everything is drawn with classes, never with a style attribute, which the page's content security policy forbids.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from operator import itemgetter
from typing import Final

from markupsafe import Markup

from leaderboard.page.evidence import Layer
from leaderboard.page.templating import escape_all

WIDTH: Final = 340
HEIGHT: Final = 190
LEFT, RIGHT, TOP, BOTTOM = 48, 10, 10, 34
LOSS: Final = "loss"
MOST_POINTS: Final = 300
MOST_CURVES: Final = 4
FEW_POINTS: Final = 30  # so many are marked one by one
LARGEST: Final = 1e15  # what is larger is not drawn: differences of huge numbers are infinite


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A picture with its words.

    Attributes:
        title: above it.
        svg: markup, already escaped.
        summary: its content in words, for readers who do not see it.
    """

    title: str
    svg: Markup
    summary: str


def ticks(low: float, high: float, *, about: int = 4) -> list[float]:
    """Round numbers from at most `low` to at least `high`, about `about` of them.

    Args:
        low: finite.
        high: finite; an empty range is widened.
        about: number of steps to aim at.
    """
    if high - low <= 1e-12 * max(1.0, abs(high)):
        pad = abs(high) / 2 if abs(high) > 1e-9 else 0.5
        low, high = low - pad, high + pad
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(one for one in (1, 2, 2.5, 5, 10) if one * power >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [index * step for index in range(first, last + 1)]


def training_curves(epochs: Sequence[Mapping[str, float]]) -> tuple[Figure, ...]:
    """Charts of the training loss and of each number measured on val, against epochs."""
    names = [name for name in {name: 0 for one in epochs for name in one} if _is_drawn(name)]
    figures = []
    for name in names[:MOST_CURVES]:
        found = [(one.get("epoch", place), one[name]) for place, one in enumerate(epochs, 1) if name in one]
        points = [point for point in found if -LARGEST < point[0] < LARGEST and -LARGEST < point[1] < LARGEST]
        if points:
            fraction = name != LOSS and all(0 <= value <= 1 for _, value in points)
            figures.append(_line_figure(name, points, fraction=fraction))
    return tuple(figures)


def _is_drawn(name: str) -> bool:
    return name == LOSS or name.startswith("val_")


def _line_figure(name: str, points: Sequence[tuple[float, float]], *, fraction: bool) -> Figure:
    title = "Training loss" if name == LOSS else f"Val {name.removeprefix('val_').replace('_', ' ')}"
    write: Callable[[float], str] = _percent if fraction else _number
    first, last = points[0], points[-1]
    best = (max if fraction else min)(points, key=itemgetter(1))
    summary = (
        f"From {write(first[1])} to {write(last[1])} over epochs {first[0]:g} to {last[0]:g}; "
        f"{'highest' if fraction else 'lowest'} {write(best[1])} at epoch {best[0]:g}."
    )
    mark = _short_percent if fraction else _number
    return Figure(title=title, svg=line_chart(points, write=mark, label=f"{title}. {summary}"), summary=summary)


def line_chart(points: Sequence[tuple[float, float]], *, write: Callable[[float], str], label: str) -> Markup:
    """One line against epochs.

    Args:
        points: epoch and value, finite, at least one.
        write: how a value is written at the axis.
        label: the picture's content in words, for readers who do not see it.
    """
    if len(points) > MOST_POINTS:
        stride = math.ceil(len(points) / MOST_POINTS)
        points = [*points[::stride], points[-1]]
    epochs, heights = [x for x, _ in points], [y for _, y in points]
    x_low, x_high = min(epochs), max(epochs)
    marks = ticks(min(heights), max(heights))
    scale = (WIDTH - LEFT - RIGHT) / (x_high - x_low) if x_high > x_low else 0.0
    start = LEFT if scale else LEFT + (WIDTH - LEFT - RIGHT) / 2
    top, drop = marks[-1], (HEIGHT - TOP - BOTTOM) / (marks[-1] - marks[0])
    parts = _rules([(TOP + drop * (top - mark), write(mark)) for mark in marks])
    places = [(start + scale * (x - x_low), TOP + drop * (top - y)) for x, y in points]
    line = " ".join(["%.1f,%.1f" % place for place in places])  # noqa: UP031 - a third faster, and most of the work
    parts.append(f'<polyline class="line" points="{line}"/>')
    if len(points) <= FEW_POINTS:
        parts += [f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="2.5"/>' for x, y in places]
    for x in dict.fromkeys((x_low, x_high)):
        anchor = "middle" if not scale else "start" if x == x_low else "end"
        place = f'x="{start + scale * (x - x_low):.1f}" y="{HEIGHT - 18}" text-anchor="{anchor}"'
        parts.append(f'<text class="tick" {place}>{x:g}</text>')
    parts.append(_under("epoch"))
    return _svg(parts, label=label)


def layer_figure(layers: Sequence[Layer]) -> Figure:
    """Fraction of each layer's weights that a mask switches off, in network order, as in figure 3 of the paper."""
    total = sum(layer.weights for layer in layers)
    least, most = min(layers, key=lambda one: one.zeros), max(layers, key=lambda one: one.zeros)
    summary = f"From {_percent(least.zeros)} in {least.name} to {_percent(most.zeros)} in {most.name}"
    if total:
        overall = math.fsum(layer.zeros * layer.weights for layer in layers) / total
        summary += f"; {_percent(overall)} of all {total:,} weights"
    summary += "."
    marks = ticks(0.0, max(most.zeros, 0.01))
    width, height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    parts = _rules([(TOP + height * (1 - mark / marks[-1]), _short_percent(mark)) for mark in marks])
    pitch, unit, ground = width / len(layers), height / marks[-1], TOP + height
    wide = f"{0.8 * pitch:.2f}"
    bars = [
        f"M{LEFT + pitch * (place + 0.1):.1f} {ground}v-{unit * layer.zeros:.1f}h{wide}V{ground}z"
        for place, layer in enumerate(layers)
    ]
    parts += [
        f'<path class="bar" d="{"".join(bars)}"/>',
        f'<text class="tick" x="{LEFT + pitch * 0.1:.1f}" y="{HEIGHT - 18}">1</text>',
        f'<text class="tick" x="{WIDTH - RIGHT}" y="{HEIGHT - 18}" text-anchor="end">{len(layers)}</text>',
        _under("layer, from input to output"),
    ]
    title = "Weights switched off, layer by layer"
    return Figure(title=title, svg=_svg(parts, label=f"{title}. {summary}"), summary=summary)


def layer_rows(layers: Sequence[Layer]) -> Markup:
    """The layers as rows of a table: name, percent, weights."""
    names = escape_all([layer.name for layer in layers])
    rows = [
        f'<tr><th scope="row" class="head">{name}</th><td class="count">{100 * layer.zeros:.2f}</td>'
        f'<td class="count">{layer.weights:,}</td></tr>\n'
        for name, layer in zip(names, layers, strict=True)
    ]
    return Markup("".join(rows))


def bar(share: float | None) -> Markup:
    """A bar of a fraction of its cell's width; the number is written beside it."""
    if share is None:
        return Markup()
    wide = 100 * min(1.0, max(0.0, share))
    return Markup(
        '<svg class="share" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true" focusable="false">'
        f'<rect class="ground" width="100" height="10"/><rect class="bar" width="{wide:.1f}" height="10"/></svg>'
    )


def _rules(marks: Sequence[tuple[float, str]]) -> list[str]:
    parts = []
    for y, text in marks:
        parts.append(f'<line class="rule" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{escape(text)}</text>')
    return parts


def _under(text: str) -> str:
    middle = LEFT + (WIDTH - LEFT - RIGHT) / 2
    return f'<text class="axis" x="{middle:.1f}" y="{HEIGHT - 4}" text-anchor="middle">{escape(text)}</text>'


def _svg(parts: Sequence[str], *, label: str) -> Markup:
    head = f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label, quote=True)}">'
    return Markup(f"{head}{''.join(parts)}</svg>")


def _number(value: float) -> str:
    return f"{value:.3g}"


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _short_percent(value: float) -> str:
    return f"{100 * value:.3g} %"
