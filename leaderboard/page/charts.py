"""The page's few large charts, drawn once per build for the light and the dark theme, the same bytes each time.

Text stays text in the SVG, so that it is drawn with the reader's own fonts.
"""

import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.font_manager import get_font
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from leaderboard.boards.board import Board, Total
from leaderboard.page.evidence import ClassScore
from leaderboard.page.tables import anchor_of
from leaderboard.statistics.entries import Entry

FONTS: Final = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
DPI: Final = 72  # a point of an SVG is a pixel of the page
SMALL: Final = 11  # size of names beside points and bars
LONGEST_LABEL: Final = 28
LONGEST_LEGEND: Final = 70
MOST_BARS: Final = 4  # entries side by side
_SMALL_TEXT: Final = re.compile(rf"font(-size)?: {SMALL}px")
_FAMILY: Final = re.compile(r"'DejaVu Sans'(?:, (?:'[^']*'|[\w-]+))*")


@dataclass(frozen=True, kw_only=True)
class Theme:
    """Colours of a theme, the same as in the page's style sheet."""

    name: str
    ink: str
    faint: str
    rule: str
    ground: str
    series: tuple[str, ...]


LIGHT: Final = Theme(
    name="light", ink="#1b2430", faint="#586473", rule="#e2e7ed", ground="#ffffff",
    series=("#24639c", "#b4540a", "#3d7a3f", "#7a4ba0"),
)  # fmt: skip
DARK: Final = Theme(
    name="dark", ink="#e4e9f0", faint="#9eabba", rule="#2c3643", ground="#171d26",
    series=("#7fb4e6", "#f0a35e", "#86c98a", "#c4a0e8"),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A large picture.

    Attributes:
        name: of its two files.
        under: anchor of the table that it is shown under.
        width, height: in pixels, when not scaled.
        alt: its content in words, for readers who do not see it.
        caption: under it.
        pictures: SVG by theme.
    """

    name: str
    under: str
    width: int
    height: int
    alt: str
    caption: str
    pictures: Mapping[str, bytes]


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Find the points that no other beats: by a higher score at no more cost, or by less cost for the same score.

    Args:
        points: cost, score.

    Returns:
        Their indices, by rising cost.
    """
    order = sorted(range(len(points)), key=lambda place: (points[place][0], -points[place][1]))
    front: list[int] = []
    for place in order:
        cost, score = points[place]
        if not front or score > points[front[-1]][1] or (cost, score) == points[front[-1]]:
            front.append(place)
    return front


def score_chart(board: Board, entries: Sequence[Entry]) -> Chart | None:
    """Totals against parameter ratios, with the Pareto front; None without totals, or with fewer than two entries.

    Args:
        board: has a total and an order across protocols, since the chart shows all of them.
        entries: of the board; those on the official data of that order are drawn, except unverified ones.
    """
    rule, placing = board.total, board.placing
    if rule is None or placing is None:
        return None
    drawn = [
        (entry, entry.parameter_ratio, entry.total.mean)
        for entry in entries
        if entry.evidence != "unverified" and entry.parameter_ratio is not None
        and entry.total is not None and entry.protocol.official and entry.protocol.split == placing.split
    ]  # fmt: skip
    if len(drawn) < 2:
        return None
    points = [(ratio, score) for _, ratio, score in drawn]
    front = pareto_front(points)
    best = "; ".join(
        f"{_label(drawn[place][0])} with {points[place][0]:.3g} and {points[place][1]:.0f}" for place in front
    )

    def draw(axes: Axes, theme: Theme) -> None:
        _draw_scores(axes, theme, rule=rule, labels=[_label(entry) for entry, _, _ in drawn], points=points,
                     front=front, measured=[entry.evidence == "measured" for entry, _, _ in drawn])  # fmt: skip

    return Chart(
        name="score-by-parameters",
        under=anchor_of(board.views[0]),
        width=600,
        height=420,
        alt=f"Scatter of {rule.name} against parameter ratio, {len(drawn)} methods. On the Pareto front: {best}.",
        caption=rule.chart_caption,
        pictures=_in_both_themes(draw, size=(600, 420)),
    )


def class_chart(board: Board, scores: Sequence[tuple[str, Sequence[ClassScore]]]) -> Chart | None:
    """Intersection over union per class, as bars of up to four entries; None without any.

    Args:
        board: of the entries.
        scores: label and classes of each entry; all judge the same classes.
    """
    first = scores[:MOST_BARS]
    judged = {one.name for _, classes in first for one in classes if one.iou is not None}
    if not judged:
        return None
    chosen = [(label, [one for one in classes if one.name in judged]) for label, classes in first]
    names = [one.name for one in chosen[0][1]]
    size = (600, 60 + 16 * len(chosen) + len(names) * (10 + 5 * len(chosen)))

    def draw(axes: Axes, theme: Theme) -> None:
        _draw_classes(axes, theme, names=names, scores=chosen)

    said = "; ".join(f"{_short(label, longest=LONGEST_LEGEND)}: {_extremes(classes)}" for label, classes in chosen)
    rest = f" The first {MOST_BARS} of {len(scores)} rows." if len(scores) > MOST_BARS else ""
    return Chart(
        name="class-scores",
        under=anchor_of(board.views[0]),
        width=size[0],
        height=size[1],
        alt=f"Bars of intersection over union for {len(names)} classes. {said}.",
        caption=f"Intersection over union per class, mean over seeds; classes that no row has are left out.{rest}"
        " The numbers are on the pages of the runs.",
        pictures=_in_both_themes(draw, size=size),
    )


def _extremes(classes: Sequence[ClassScore]) -> str:
    known = [(one.iou, one.name) for one in classes if one.iou is not None]
    if not known:
        return "no class judged"
    (least, worst), (most, best) = min(known), max(known)
    return f"from {100 * least:.0f} % for {worst} to {100 * most:.0f} % for {best}"


def _in_both_themes(draw: Callable[[Axes, Theme], None], *, size: tuple[int, int]) -> dict[str, bytes]:
    return {theme.name: _picture(draw, theme, size=size) for theme in (LIGHT, DARK)}


def _picture(draw: Callable[[Axes, Theme], None], theme: Theme, *, size: tuple[int, int]) -> bytes:
    with _style(theme):
        figure = Figure(figsize=(size[0] / DPI, size[1] / DPI), dpi=DPI, layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
        axes.tick_params(length=0)
        draw(axes, theme)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = _FAMILY.sub(FONTS, buffer.getvalue().decode())
    # a rim of the ground's colour keeps small texts readable on lines
    rim = f"paint-order: stroke; stroke: {theme.ground}; stroke-width: 3px; stroke-linejoin: round; "
    return _SMALL_TEXT.sub(lambda found: rim + found[0], text).encode()


@contextmanager
def _style(theme: Theme) -> Iterator[None]:
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(
            {
                "svg.hashsalt": "piggyback", "svg.fonttype": "none", "font.family": ["DejaVu Sans"], "font.size": 13,
                "text.color": theme.ink, "axes.labelcolor": theme.faint, "axes.edgecolor": theme.rule,
                "xtick.labelcolor": theme.faint, "ytick.labelcolor": theme.faint, "axes.axisbelow": True,
                "grid.color": theme.rule, "text.parse_math": False, "axes.unicode_minus": True,
            }
        )  # fmt: skip
        yield


def _draw_scores(
    axes: Axes, theme: Theme, *, rule: Total, labels: Sequence[str], points: Sequence[tuple[float, float]],
    front: Sequence[int], measured: Sequence[bool],
) -> None:  # fmt: skip
    axes.set_xscale("log")
    axes.grid(axis="y")
    axes.set_xlabel("parameters, in networks (log)")
    axes.set_ylabel(rule.name)
    ratios = [ratio for ratio, _ in points]
    low, high = min(ratios) * 0.9, max(ratios) * 1.15
    axes.set_xlim(low, high)
    marks = [step * 10.0**power for power in range(-3, 5) for step in (1, 1.5, 2, 3, 5, 7)]
    axes.xaxis.set_major_locator(FixedLocator([mark for mark in marks if low <= mark <= high]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_ylim(0, max(rule.most, 1.1 * max(score for _, score in points)))
    line = [points[place] for place in front]
    axes.step([*(x for x, _ in line), high], [*(y for _, y in line), line[-1][1]], where="post",
              color=theme.faint, linewidth=1.2, linestyle=(0, (4, 3)))  # fmt: skip
    for kind, marker, colour, name in (
        (False, "o", theme.series[0], "published"),
        (True, "D", theme.series[1], "measured"),
    ):
        chosen = [point for point, here in zip(points, measured, strict=True) if here is kind]
        if chosen:
            axes.plot(*zip(*chosen, strict=True), linestyle="none", marker=marker, markersize=7, color=colour,
                      markeredgecolor=theme.ground, markeredgewidth=0.8, label=name)  # fmt: skip
    if any(measured):
        axes.legend(frameon=False, loc="lower right", handletextpad=0.2)
    order = [*front, *(place for place in range(len(points)) if place not in front)]
    named = [(labels[place], points[place]) for place in order]
    _write_labels(axes, theme, named, every=points, front=line)


def _write_labels(
    axes: Axes,
    theme: Theme,
    labelled: Sequence[tuple[str, tuple[float, float]]],
    *,
    every: Sequence[tuple[float, float]],
    front: Sequence[tuple[float, float]],
) -> None:
    """Write names beside the points where there is room, the first ones first."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()
    transform, frame = axes.transData, axes.get_window_extent()
    legend = axes.get_legend()
    taken = [] if legend is None else [legend.get_window_extent().extents]
    for point in every:
        x, y = transform.transform(point)
        taken.append((x - 5, y - 5, x + 5, y + 5))
    for text, point in labelled:
        x, y = transform.transform(point)
        wide, tall = 6.6 * len(text), 13.0
        beside = (("left", x + 8, y - 6), ("right", x - 8 - wide, y - 6))
        above = (("left", x + 4, y + 6), ("center", x - wide / 2, y + 8), ("center", x - wide / 2, y - 20))
        for side, left, bottom in (*above, *beside) if point in front else (*beside, *above):
            box = (left, bottom, left + wide, bottom + tall)
            inside = frame.x0 <= box[0] and box[2] <= frame.x1 + 4 and frame.y0 <= box[1] and box[3] <= frame.y1
            if inside and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                start = {"left": left, "right": left + wide, "center": x}[side]
                axes.annotate(text, point, xytext=(start - x, bottom + 3 - y), textcoords="offset points",
                              ha=side, fontsize=SMALL, color=theme.ink, parse_math=False)  # fmt: skip
                break


def _overlap(one: Sequence[float], other: Sequence[float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _draw_classes(
    axes: Axes, theme: Theme, *, names: Sequence[str], scores: Sequence[tuple[str, Sequence[ClassScore]]]
) -> None:
    tall = 0.8 / len(scores)
    for place, (label, classes) in enumerate(scores):
        rows = [row - 0.4 + tall * (place + 0.5) for row in range(len(names))]
        values = [100 * (one.iou or 0.0) for one in classes]
        axes.barh(
            rows, values, height=0.9 * tall, color=theme.series[place], label=_short(label, longest=LONGEST_LEGEND)
        )
    axes.set_yticks(range(len(names)), [_short(name) for name in names], fontsize=SMALL)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlim(0, 100)
    axes.set_xlabel("IoU, %")
    axes.grid(axis="x")
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.legend(frameon=False, loc="outside upper left", fontsize=SMALL)


def _label(entry: Entry) -> str:
    return _short(entry.label)


def _short(text: str, *, longest: int = LONGEST_LABEL) -> str:
    """Shorten a text for a picture, and replace characters that the measuring font does not have."""
    known = _characters()
    text = "".join(one if ord(one) in known and one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in text)
    return text if len(text) <= longest else f"{text[: longest - 1]}\N{HORIZONTAL ELLIPSIS}"


def _characters() -> Mapping[int, int]:
    return get_font(mpl.font_manager.findfont("DejaVu Sans")).get_charmap()
