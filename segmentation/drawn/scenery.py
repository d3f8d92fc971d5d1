"""The scenery of drawn scenes: a meadow, the sea, a room.  Cluttered, and no two alike."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from piggyback.data.drawing import Colour, Field, Paper, Window, as_field, bar, capsule, disc, paint
from segmentation.drawn.things import LIGHT, WOOD, any_hue, ellipse, mix, stripes


@dataclass(frozen=True, kw_only=True)
class Scenery:
    """A kind of background.

    Attributes:
        home: names of the classes that belong there.
        painter: gives it as RGB float32 (height, width, 3), about [0, 1].
    """

    home: tuple[str, ...]
    painter: Callable[[Paper], NDArray[np.float32]]


def mottle(paper: Paper, *, cell: float) -> Field:
    """Soft spots about `cell` pixels wide, from -1 to 1."""
    height, width = paper.x.shape
    knots = paper.random.random((int(height / cell) + 2, int(width / cell) + 2), dtype=np.float32) * 2 - 1
    down, right = (np.arange(height, dtype=np.float32) / cell)[:, None], np.arange(width, dtype=np.float32) / cell
    row, column = down.astype(int), right.astype(int)
    low, left = down - row, right - column
    above = knots[row, column] * (1 - left) + knots[row, column + 1] * left
    below = knots[row + 1, column] * (1 - left) + knots[row + 1, column + 1] * left
    return as_field(above * (1 - low) + below * low)


def scatter(paper: Paper, *, count: int, below: float, reach: float) -> list[tuple[Window, Field, Field]]:
    """Windows, and coordinates in them, around `count` points lower than `below`, those farther away first."""
    height, width = paper.x.shape
    spots = [(paper.between(-width / 2, width / 2), paper.between(below, height / 2)) for _ in range(count)]
    ordered = sorted(spots, key=lambda spot: spot[1])
    cuts = [paper.cut(x, y, reach=reach) for x, y in ordered]
    return [(window, near.x, near.y) for window, near in cuts]


def paint_sky(paper: Paper, *, horizon: float) -> NDArray[np.float32]:
    """A gradient, by day or in the evening, and clouds."""
    evening = paper.between(0, 1) < 0.3
    top = any_hue(paper, low=0.55, high=0.64, grey=0.25)
    bottom = any_hue(paper, low=0.03, high=0.11, grey=0.4) if evening else mix(top, LIGHT, 0.75)
    height = len(paper.y)
    sky = mix(top, bottom, np.clip((paper.y + height / 2) / (horizon + height / 2), 0, 1))
    for _ in range(int(paper.random.integers(1, 4))):
        x, y = paper.between(-60, 60), paper.between(-height / 2, horizon - 6)
        puffs = [
            ellipse(paper.x - x - shift, paper.y - y - paper.between(-2, 2), wide=paper.between(6, 11), long=4.5)
            for shift in (-9, -2, 6, 12)
        ]
        sky = paint(sky, mix(LIGHT, bottom, 0.25), np.maximum.reduce(puffs))
    return sky


def paint_meadow(paper: Paper) -> NDArray[np.float32]:
    """Hills, grass with bushes and flowers, and sky above."""
    height, width = paper.x.shape
    horizon = paper.between(-0.22, -0.02) * height
    pixels = paint_sky(paper, horizon=horizon)
    for depth in range(3):
        green = any_hue(paper, low=0.2, high=0.36, grey=0.25) * np.float32(0.75 + 0.1 * depth)
        middle, bend = paper.between(-width / 2, width / 2), paper.between(0.001, 0.003)
        line = horizon + depth * 9 + np.float32(bend) * (paper.x - np.float32(middle)) ** 2
        blades = mottle(paper, cell=2) * np.float32(0.05) + mottle(paper, cell=14) * np.float32(0.07)
        pixels = paint(pixels, as_field(green + blades[..., None]), as_field(paper.y - line))
    leaves = mottle(paper, cell=3)[..., None] * np.float32(0.08)
    for window, x, y in scatter(paper, count=int(paper.random.integers(2, 5)), below=horizon + 8, reach=12):
        bush = any_hue(paper, low=0.24, high=0.42, grey=0.2) * np.float32(0.6)
        lumps = [ellipse(x - shift, y - abs(shift) / 3, wide=5.5, long=4.5) for shift in (-5, 0, 5)]
        pixels[window] = paint(pixels[window], as_field(bush + leaves[window]), np.maximum.reduce(lumps))
    for window, x, y in scatter(paper, count=int(paper.random.integers(10, 30)), below=horizon + 20, reach=3):
        pixels[window] = paint(pixels[window], any_hue(paper, low=0.8, high=1.18), disc(x / 1.6, y / 1.6) * 1.6)
    return pixels


def paint_sea(paper: Paper) -> NDArray[np.float32]:
    """Waves with foam, an island, a buoy or two, perhaps a beach; sky above."""
    height, width = paper.x.shape
    horizon = paper.between(-0.25, -0.08) * height
    pixels = paint_sky(paper, horizon=horizon)
    island = any_hue(paper, low=0.25, high=0.45, grey=0.4) * np.float32(0.7)
    x = paper.x - np.float32(paper.between(-width / 2, width / 2))
    pixels = paint(pixels, island, ellipse(x, paper.y - horizon, wide=paper.between(15, 40), long=paper.between(4, 9)))
    water = any_hue(paper, low=0.5, high=0.6, grey=0.25)
    deep = paper.y - np.float32(horizon)
    zigzag = np.abs(np.mod(paper.x / 9 + mottle(paper, cell=10), 2) - 1)
    wave = np.abs(np.mod(deep / (6 + deep / 12) + zigzag * np.float32(0.5), 2) - 1)
    sea = mix(mix(water, LIGHT, 0.3), water * np.float32(0.65), np.clip(deep / height, 0, 1))
    pixels = paint(pixels, as_field(sea + (wave * np.float32(0.14) - np.float32(0.07))[..., None]), as_field(deep))
    for window, x, y in scatter(paper, count=14, below=horizon + 4, reach=7):
        foam = capsule(x, y, (-paper.between(2, 6), 0), (4, 0), 0.5)
        pixels[window] = paint(pixels[window], mix(water, LIGHT, 0.7), foam)
    for window, x, y in scatter(paper, count=int(paper.random.integers(1, 4)), below=horizon + 8, reach=6):
        buoy = paint(pixels[window], any_hue(paper), ellipse(x, y, wide=4, long=5))
        pixels[window] = paint(buoy, LIGHT, bar(x, y, wide=3.6, long=1.0))
    if paper.between(0, 1) < 0.5:
        shore = height / 2 - paper.between(8, 20) + mottle(paper, cell=30) * 4
        pixels = paint(pixels, LIGHT, as_field(paper.y - shore + 2))
        sand = any_hue(paper, low=0.1, high=0.13, grey=0.45)
        pixels = paint(pixels, as_field(sand + mottle(paper, cell=1.5)[..., None] * 0.06), as_field(paper.y - shore))
    return pixels


def paint_room(paper: Paper) -> NDArray[np.float32]:
    """Wallpaper with small pictures, a skirting board, and a floor of boards or a carpet."""
    height, width = paper.x.shape
    wall = mix(any_hue(paper, grey=0.3), LIGHT, paper.between(0.35, 0.65))
    other = mix(wall, any_hue(paper), 0.25)
    period = paper.between(10, 18)
    dots = np.hypot(np.mod(paper.x, period) - period / 2, np.mod(paper.y, period) - period / 2)
    patterns: tuple[Field, ...] = (
        stripes(paper.x, period=period, share=0.5),
        as_field(np.clip(period / 4.5 - dots, 0, 1)),
        stripes(paper.x + paper.y, period=period, share=0.3) + stripes(paper.x - paper.y, period=period, share=0.3),
    )
    pixels = mix(wall, other, patterns[int(paper.random.integers(len(patterns)))])
    edge = paper.between(0.05, 0.22) * height
    for _ in range(int(paper.random.integers(2, 5))):
        x = paper.x - np.float32(paper.between(-width / 2, width / 2))
        y = paper.y - np.float32(paper.between(-height / 2, edge - 12))
        wide, long = paper.between(4, 8), paper.between(4, 8)
        pixels = paint(pixels, WOOD, bar(x, y, wide=wide + 1.5, long=long + 1.5))
        scene = mix(any_hue(paper), LIGHT, np.clip(y / 12 + np.float32(0.5), 0, 1))
        pixels = paint(pixels, scene, bar(x, y, wide=wide, long=long))
    floor: Colour = mix(WOOD, any_hue(paper, low=0.03, high=0.12), 0.5)
    row = np.floor((paper.y - edge) / 9)
    seams = np.maximum(
        stripes(as_field(paper.y - edge), period=9, share=0.12), stripes(paper.x + row * 17, period=44, share=0.03)
    )
    boards = mix(floor, floor * np.float32(0.6), seams) + mottle(paper, cell=5)[..., None] * np.float32(0.06)
    below = as_field(paper.y - edge)
    pixels = paint(pixels, as_field(boards), below)
    if paper.between(0, 1) < 0.6:
        across, down = paper.x - np.float32(paper.between(-25, 25)), below - np.float32(height * 0.26)
        rug = ellipse(as_field(across), as_field(down), wide=48, long=height * 0.14)
        rings = np.hypot(across / 48, down / np.float32(height * 0.14))
        weave = mix(any_hue(paper), any_hue(paper), stripes(as_field(rings), period=0.3, share=0.5))
        pixels = paint(pixels, weave, as_field(np.minimum(rug, below)))
    return paint(pixels, LIGHT * np.float32(0.92), as_field(2.5 - np.abs(below)))


SCENERIES: Final = (
    Scenery(home=("sheep", "bus"), painter=paint_meadow),
    Scenery(home=("boat", "bottle"), painter=paint_sea),
    Scenery(home=("tvmonitor", "pottedplant"), painter=paint_room),
)
"""Every class of the sketches is at home on one of them."""
