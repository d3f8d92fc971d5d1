"""Pictures for the demo, drawn from random numbers: ten small problems in the form of the Decathlon's tasks.

The backbone's problem is shapes, whatever their colour, place and background.  The other nine ask for what
a network for that has little use for: colour, orientation, counting, strokes, motion.  A head on frozen
features gets some of it, a mask on the weights more.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from decathlon.tasks import find_task
from piggyback.data.drawing import (
    SHAPES,
    Field,
    Paper,
    any_colour,
    arrow,
    as_bytes,
    bar,
    busy_background,
    capsule,
    colour_apart,
    disc,
    hue_colour,
    paint,
    plain_background,
    polygon,
)

SIDE: Final = 72
"""Pixels of a picture's short side, as in the release."""

Draw = Callable[[Paper, int], NDArray[np.float32]]


@dataclass(frozen=True, kw_only=True)
class DrawnTask:
    """A problem that can be drawn.

    Attributes:
        classes: their names; a picture's class is a place in them.
        draw: of paper and class, RGB float32 (height, width, 3), about [0, 1].
        width, height: of its pictures, pixels.
    """

    classes: tuple[str, ...]
    draw: Draw
    width: int = SIDE
    height: int = SIDE


def draw_picture(task: str, place: int, *, number: int, seed: int = 0) -> NDArray[np.uint8]:
    """One picture, the same for the same arguments.

    Args:
        task: one of the ten names.
        place: its class, a place in ``DRAWN[task].classes``.
        number: tells the task's pictures apart.
        seed: of all pictures.

    Returns:
        RGB, uint8 (height, width, 3).
    """
    drawn = DRAWN[task]
    random = np.random.default_rng([seed, find_task(task).number, number])
    paper = Paper.of_size(drawn.width, drawn.height, random)
    pixels = drawn.draw(paper, place)
    pixels = pixels + random.standard_normal(pixels.shape, dtype=np.float32) * np.float32(paper.between(0.01, 0.04))
    return as_bytes(pixels)


# -- the ten problems ---------------------------------------------------------------------------------------


def wallpaper(paper: Paper, *, radius: float) -> tuple[Field, Field]:
    """Coordinates that begin again in every cell of a turned grid, so that a window shows a whole shape."""
    cell = paper.between(2.2, 2.6)
    u, v = paper.turned(angle=paper.between(0, 6.28), scale=radius, shift=6)
    return np.mod(u + cell / 2, cell) - cell / 2, np.mod(v + cell / 2, cell) - cell / 2


def draw_shape(paper: Paper, place: int) -> NDArray[np.float32]:
    """The backbone's problem: ten shapes, solid or in outline, on a busy background."""
    radius = paper.between(9, 13)
    background = any_colour(paper)
    distance = list(SHAPES.values())[place // 2](*wallpaper(paper, radius=radius))
    if place % 2:
        distance = np.float32(0.08) - np.abs(distance - np.float32(0.08))
    return paint(busy_background(paper, background), colour_apart(paper, background), distance * np.float32(radius))


def draw_aircraft(paper: Paper, place: int) -> NDArray[np.float32]:
    """Aeroplanes from above: what differs is how the wings stand."""
    sweep, fore, extra = ((0.0, -0.1, 0.0), (0.55, -0.4, 0.0), (-0.4, 0.15, 0.0), (0.0, -0.1, 0.4), (0.55, -0.4, -0.6))[
        place
    ]
    size = paper.between(24, 32)
    u, v = paper.turned(angle=paper.between(-0.5, 0.5), scale=size, shift=5)
    body = capsule(u, v, (0, -0.85), (0, 0.85), 0.11)
    across = np.abs(u)
    wings = np.minimum(0.16 - 0.08 * across - np.abs(v - fore - sweep * across), 1.05 - across)
    tail = np.minimum(0.09 - np.abs(v - 0.8 - 0.4 * sweep * across), 0.4 - across)
    distance = np.maximum(np.maximum(body, wings), tail)
    if extra:  # a second pair of wings
        second = np.minimum(0.09 - np.abs(v - fore - extra), (0.45 if extra < 0 else 1.0) - across)
        distance = np.maximum(distance, second)
    background = any_colour(paper)
    return paint(
        busy_background(paper, background, strength=0.15), colour_apart(paper, background), distance * np.float32(size)
    )


def draw_coloured(paper: Paper, place: int) -> NDArray[np.float32]:
    """Five colours of squares or discs; to the backbone colour meant nothing."""
    hue, square = divmod(place, 2)
    radius = paper.between(9, 14)
    u, v = wallpaper(paper, radius=radius)
    distance = polygon(u, v, 4) if square else disc(u, v)
    background = np.full(3, paper.between(0.1, 0.9), dtype=np.float32)
    return paint(busy_background(paper, background), hue_colour(paper, hue / 5), distance * np.float32(radius))


def draw_walker(paper: Paper, place: int) -> NDArray[np.float32]:
    """Grey: somebody walking, or a lamp, a tree or posts that look alike."""
    background = np.full(3, paper.between(0.1, 0.9), dtype=np.float32)
    pixels = busy_background(paper, background, strength=0.2).mean(axis=2, keepdims=True).repeat(3, axis=2)
    size = paper.between(38, 50)
    u, v = paper.turned(angle=paper.between(-0.08, 0.08), scale=size, shift=6)
    if place:
        step, swing = paper.between(0.08, 0.4), paper.between(0.1, 0.35)
        feet, hands = [(step, 0.95), (-step, 0.95)], [(swing, 0.1), (-swing, 0.1)]
        parts = [capsule(u, v, (0, -0.5), (0, 0.1), 0.15), 0.16 - np.hypot(u, v + 0.85)]
        parts += [capsule(u, v, (0, 0.1), foot, 0.07) for foot in feet]
        parts += [capsule(u, v, (0, -0.5), hand, 0.07) for hand in hands]
    else:
        kind = paper.random.integers(3)
        parts = [capsule(u, v, (0, -0.6), (0, 0.95), paper.between(0.06, 0.16))]
        if kind == 0:  # a tree or a lamp
            parts.append(paper.between(0.16, 0.4) - np.hypot(u, v + 0.8))
        elif kind == 1:  # a second post
            beside = paper.between(0.25, 0.5)
            parts.append(capsule(u, v, (beside, -0.6), (beside, 0.95), 0.08))
        else:  # a sign
            parts.append(bar(u, v + 0.7, long=0.16, wide=paper.between(0.2, 0.4)))
    distance = np.maximum.reduce(parts)
    shade = np.float32(paper.between(0.25, 0.4)) * (1 if background[0] < 0.5 else -1)
    return paint(pixels, background + shade, distance * np.float32(size))


def draw_texture(paper: Paper, place: int) -> NDArray[np.float32]:
    """Eight textures, at any angle and in any two colours."""
    u, v = paper.turned(angle=paper.between(0, 6.28), scale=paper.between(1.6, 2.6), shift=36)
    waves: dict[int, Callable[[], Field]] = {
        0: lambda: np.sin(u),
        1: lambda: np.sin(u) * np.sin(v),
        2: lambda: np.cos(u) + np.cos(v) - 1,
        3: lambda: np.maximum(np.cos(u), np.cos(v)) - np.float32(0.8),
        4: lambda: np.sin(np.hypot(u, v)),
        5: lambda: np.sin(u + np.abs(np.mod(v / 5, 2) - 1) * 5),
        6: lambda: np.sin(u + 2 * np.sin(v / 3)),
        7: lambda: np.sin(u + 2 * np.sin(v * np.float32(0.7))) * np.sin(v + 2 * np.sin(u * np.float32(0.6))),
    }
    one = any_colour(paper)
    return paint(plain_background(paper, one), colour_apart(paper, one), waves[place]() * np.float32(2))


def draw_sign(paper: Paper, place: int) -> NDArray[np.float32]:
    """Traffic signs: what differs is the symbol more than the outline."""
    size = paper.between(22, 31)
    u, v = paper.turned(angle=paper.between(-0.2, 0.2), scale=size, shift=5)
    outline = disc(u, v) if place < 4 else polygon(v, u, 3) * np.float32(1.1)
    hue = 0.0 if place % 4 != 3 else 0.62
    small = np.float32(0.45)
    if place % 4 == 0:
        symbol = bar(v / small, u / small) * small
    else:
        turn = ((u, v), (v, u), (v, -u), (u, v))[place % 4]
        symbol = arrow(turn[0] / small, turn[1] / small) * small
    pixels = paint(busy_background(paper, any_colour(paper)), hue_colour(paper, hue), outline * np.float32(size))
    light = np.full(3, paper.between(0.75, 1.0), dtype=np.float32)
    pixels = paint(pixels, light, (outline - np.float32(0.2)) * np.float32(size))
    return paint(pixels, np.full(3, 0.1, dtype=np.float32), symbol * np.float32(size))


def draw_glyph(paper: Paper, place: int) -> NDArray[np.float32]:
    """Characters of an invented alphabet: three strokes each, written a little differently each time."""
    strokes = np.random.default_rng([1, place]).uniform(-0.85, 0.85, (3, 3, 2))
    strokes = strokes + paper.random.normal(0, 0.06, strokes.shape)
    size = paper.between(24, 31)
    u, v = paper.turned(angle=paper.between(-0.2, 0.2), scale=size, shift=4)
    pieces = [(stroke[i].tolist(), stroke[i + 1].tolist()) for stroke in strokes for i in range(2)]
    distance = np.maximum.reduce([capsule(u, v, start, end, 0.07) for start, end in pieces])
    white = np.full((*paper.x.shape, 3), 1.0, dtype=np.float32)
    return paint(white, np.zeros(3, dtype=np.float32), distance * np.float32(size))


DIGITS: Final = (
    *("01110 10001 10011 10101 11001 10001 01110", "00100 01100 00100 00100 00100 00100 01110"),
    *("01110 10001 00001 00110 01000 10000 11111", "11111 00010 00100 00010 00001 10001 01110"),
    *("00010 00110 01010 10010 11111 00010 00010", "11111 10000 11110 00001 00001 10001 01110"),
    *("00110 01000 10000 11110 10001 10001 01110", "11111 00001 00010 00100 01000 01000 01000"),
    *("01110 10001 10001 01110 10001 10001 01110", "01110 10001 10001 01111 00001 00010 01100"),
)
"""Ten digits of 5 x 7 dots."""


def digit(u: Field, v: Field, value: int) -> Field:
    """A digit seven units high, of the dots of `DIGITS`."""
    dots = np.array([[mark == "1" for mark in row] for row in DIGITS[value].split()])
    padded = np.pad(dots, 1)
    row, column = np.floor(v + 3.5).astype(int) + 1, np.floor(u + 2.5).astype(int) + 1
    found: Field = padded[np.clip(row, 0, 8), np.clip(column, 0, 6)].astype(np.float32) - np.float32(0.5)
    return found


def draw_number(paper: Paper, place: int) -> NDArray[np.float32]:
    """House numbers: the digit in the middle counts, those beside it do not."""
    background = any_colour(paper)
    ink = colour_apart(paper, background)
    u, v = paper.turned(angle=paper.between(-0.15, 0.15), scale=paper.between(6, 8), shift=3)
    pixels = paint(busy_background(paper, background, strength=0.15), ink, digit(u, v, place) * 2)
    for side in (-1, 1):
        if paper.between(0, 1) < 0.6:
            pixels = paint(pixels, ink, digit(u + side * paper.between(6, 7), v, int(paper.random.integers(10))) * 2)
    return pixels


def draw_motion(paper: Paper, place: int) -> NDArray[np.float32]:
    """Traces of something that moved, on grey: along, across, round, inward, to and fro, not at all."""
    size, reach = paper.between(5, 8), paper.between(16, 24)
    steps = np.linspace(-1, 1, 7)
    angle, sign = paper.between(0, 6.28), 1.0 if paper.between(0, 1) < 0.5 else -1.0
    tracks: dict[int, tuple[NDArray[np.float64], NDArray[np.float64]]] = {
        0: (steps, steps * 0),
        1: (steps * 0, steps),
        2: (np.cos(angle + steps * 2), np.sin(angle + steps * 2)),
        3: (steps * 0, steps * 0),
        4: (steps, np.abs(np.mod(steps * 1.5, 2) - 1) - 0.5),
        5: (paper.random.uniform(-1, 1, 7), paper.random.uniform(-1, 1, 7)),
    }
    across, down = tracks[place]
    left, top = paper.between(-8, 8), paper.between(-8, 8)
    pixels = busy_background(paper, np.full(3, 0.5, dtype=np.float32), strength=0.08)
    for number, (right, low) in enumerate(zip(across * reach * sign, down * reach, strict=True)):
        radius = size * (0.5 + 0.4 * number) if place == 3 else size
        strength = np.float32(0.06 * (number - 3) + (0.08 if number >= 3 else -0.08)) * np.float32(1.6)
        edge = np.float32(radius) - np.hypot(paper.x - left - right, paper.y - top - low)
        pixels += (np.clip(edge + 0.5, 0, 1) * strength)[..., None]
    return pixels


def draw_flower(paper: Paper, place: int) -> NDArray[np.float32]:
    """Flowers: four, five, six or eight petals, round or pointed."""
    petals, pointed = (4, 5, 6, 8)[place // 2], place % 2
    size = paper.between(22, 32)
    u, v = paper.turned(angle=paper.between(0, 6.28), scale=size, shift=5)
    around = np.arctan2(v, u) * petals / 2
    if pointed:
        length = 1 - np.abs(np.sin(around)) * np.float32(0.75)
    else:
        length = np.float32(0.35) + np.float32(0.65) * np.abs(np.cos(around)) ** np.float32(0.6)
    background = any_colour(paper)
    distance = (length - np.hypot(u, v)) * np.float32(size * 0.7)
    pixels = paint(busy_background(paper, background), colour_apart(paper, background), distance)
    return paint(pixels, hue_colour(paper, 0.15), (np.float32(0.2) - np.hypot(u, v)) * np.float32(size))


DRAWN: Final[Mapping[str, DrawnTask]] = MappingProxyType(
    {
        "imagenet12": DrawnTask(
            classes=tuple(f"{form} {name}" for name in SHAPES for form in ("solid", "outlined")), draw=draw_shape
        ),
        "aircraft": DrawnTask(
            classes=("straight wings", "swept wings", "forward wings", "four wings", "canard"),
            draw=draw_aircraft,
            width=96,
        ),
        "cifar100": DrawnTask(
            classes=tuple(
                f"{hue} {form}" for hue in ("red", "yellow", "green", "blue", "violet") for form in ("discs", "squares")
            ),
            draw=draw_coloured,
        ),
        "daimlerpedcls": DrawnTask(classes=("something else", "pedestrian"), draw=draw_walker, height=144),
        "dtd": DrawnTask(
            classes=("striped", "chequered", "dotted", "grid", "ringed", "zigzag", "wavy", "marbled"), draw=draw_texture
        ),
        "gtsrb": DrawnTask(
            classes=tuple(
                f"{symbol} in a {outline}"
                for outline in ("circle", "triangle")
                for symbol in ("bar", "arrow left", "arrow right", "arrow up")
            ),
            draw=draw_sign,
        ),
        "omniglot": DrawnTask(classes=tuple(f"glyph {place + 1}" for place in range(10)), draw=draw_glyph),
        "svhn": DrawnTask(classes=tuple(str(value) for value in range(10)), draw=draw_number),
        "ucf101": DrawnTask(
            classes=("along", "across", "round", "growing", "to and fro", "all over"), draw=draw_motion, width=88
        ),
        "vgg-flowers": DrawnTask(
            classes=tuple(f"{count} {form} petals" for count in (4, 5, 6, 8) for form in ("round", "pointed")),
            draw=draw_flower,
        ),
    }
)
