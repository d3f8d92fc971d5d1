"""Colours, backgrounds and shapes of drawn pictures, as arrays of numbers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float32]
Colour = NDArray[np.float32]
Window = tuple[slice, slice]
"""Rows and columns of a part of a picture."""

FULL: Final = np.float32(2 * np.pi)


@dataclass(frozen=True, eq=False)
class Paper:
    """A sheet to draw a picture on.

    Attributes:
        x, y: float32 (height, width), in pixels from the middle to the right and down.
        random: source of all variation within a class.
    """

    x: Field
    y: Field
    random: np.random.Generator

    def between(self, low: float, high: float) -> float:
        """A random number from an interval."""
        return float(self.random.uniform(low, high))

    def turned(self, *, angle: float, scale: float, shift: float = 0.0) -> tuple[Field, Field]:
        """Coordinates turned by `angle`, moved by up to `shift` pixels and divided by `scale` pixels."""
        x = self.x - self.between(-shift, shift)
        y = self.y - self.between(-shift, shift)
        cosine, sine = np.float32(np.cos(angle) / scale), np.float32(np.sin(angle) / scale)
        return x * cosine + y * sine, y * cosine - x * sine

    @classmethod
    def of_size(cls, width: int, height: int, random: np.random.Generator) -> "Paper":
        rows, columns = np.mgrid[:height, :width].astype(np.float32)
        return cls(columns - (width - 1) / 2, rows - (height - 1) / 2, random)

    def cut(self, x: float, y: float, *, reach: float) -> tuple[Window, "Paper"]:
        """The part at most `reach` pixels from a point, with that point as its middle; may be empty."""
        height, width = self.x.shape
        middle_x, middle_y = x + (width - 1) / 2, y + (height - 1) / 2
        rows = slice(max(0, int(middle_y - reach)), max(0, int(middle_y + reach) + 2))
        columns = slice(max(0, int(middle_x - reach)), max(0, int(middle_x + reach) + 2))
        right, down = self.x[rows, columns] - np.float32(x), self.y[rows, columns] - np.float32(y)
        return (rows, columns), Paper(right, down, self.random)


def as_field(values: object) -> Field:
    """The values as float32."""
    return np.asarray(values, dtype=np.float32)


def as_bytes(pixels: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Pixels of about [0, 1] as bytes, 0 to 255."""
    return (np.clip(pixels, 0, 1) * 255 + 0.5).astype(np.uint8)


# -- colours and backgrounds ---------------------------------------------------------------------------------


def any_colour(paper: Paper) -> Colour:
    return paper.random.random(3, dtype=np.float32)


def colour_apart(paper: Paper, other: Colour) -> Colour:
    """A colour that differs clearly from another in brightness."""
    colour = any_colour(paper)
    while abs(float(colour.mean() - other.mean())) < 0.3:
        colour = any_colour(paper)
    return colour


def hue_colour(paper: Paper, hue: float) -> Colour:
    """A colour of a hue in [0, 1), varied a little in paleness and darkness."""
    turns = np.array([0, 1 / 3, 2 / 3], dtype=np.float32)
    pure = np.clip(0.5 + np.cos((hue + paper.between(-0.03, 0.03) - turns) * FULL), 0, 1)
    return as_field(pure * paper.between(0.6, 1.0) + paper.between(0.0, 0.2))


def paint(pixels: NDArray[np.float32], colour: Colour, distance: Field) -> NDArray[np.float32]:
    """Colour the pixels with a positive distance into the shape, in pixels; its edge is one pixel soft."""
    return as_field(pixels + np.clip(distance + 0.5, 0, 1)[..., None] * (colour - pixels))


def plain_background(paper: Paper, colour: Colour) -> NDArray[np.float32]:
    """One colour that changes slowly over the picture."""
    angle, strength = paper.between(0, 6.28), paper.between(0.0, 0.004)
    slope = (paper.x * np.cos(angle) + paper.y * np.sin(angle)) * np.float32(strength)
    return as_field(colour + slope[..., None])


def busy_background(paper: Paper, colour: Colour, *, strength: float = 0.25) -> NDArray[np.float32]:
    """One colour with faint waves in two directions."""
    background = plain_background(paper, colour)
    for _ in range(2):
        u, _ = paper.turned(angle=paper.between(0, 6.28), scale=paper.between(1.5, 8.0))
        background += np.sin(u + paper.between(0, 6.28))[..., None] * ((any_colour(paper) - 0.5) * np.float32(strength))
    return background


# -- shapes: how far a point lies inside, where the shape has about radius 1 ---------------------------------


def polygon(u: Field, v: Field, corners: int) -> Field:
    step = FULL / corners
    angle = np.mod(np.arctan2(v, u), step) - step / 2
    return as_field(np.float32(np.cos(np.pi / corners)) - np.hypot(u, v) * np.cos(angle))


def star(u: Field, v: Field, points: int, *, inner: float = 0.45) -> Field:
    """A star whose edges are nearly straight."""
    wave = np.abs(np.mod(np.arctan2(v, u) * (points / FULL), 1) * 2 - 1)
    return as_field(np.float32(inner) + np.float32(1 - inner) * wave - np.hypot(u, v))


def disc(u: Field, v: Field) -> Field:
    return as_field(1 - np.hypot(u, v))


def bar(u: Field, v: Field, *, long: float = 1.0, wide: float = 0.4) -> Field:
    """A rectangle along v."""
    return as_field(np.minimum(wide - np.abs(u), long - np.abs(v)))


def cross(u: Field, v: Field) -> Field:
    return as_field(np.maximum(bar(u, v), bar(v, u)))


def crescent(u: Field, v: Field) -> Field:
    return as_field(np.minimum(disc(u, v), np.hypot(u - 0.5, v) - np.float32(0.75)))


def arrow(u: Field, v: Field) -> Field:
    """An arrow that points towards v = -1."""
    head = (v + 1) * np.float32(0.9) - np.abs(u)
    return as_field(
        np.maximum(np.minimum(head, -v), np.minimum(np.float32(0.35) - np.abs(u), np.minimum(v + 0.5, 1 - v)))
    )


def capsule(u: Field, v: Field, start: tuple[float, float], end: tuple[float, float], wide: float) -> Field:
    """Points at most `wide` from a straight line between two points."""
    along = (end[0] - start[0], end[1] - start[1])
    length = max(along[0] ** 2 + along[1] ** 2, 1e-6)
    part = np.clip(((u - start[0]) * along[0] + (v - start[1]) * along[1]) / length, 0, 1)
    return as_field(np.float32(wide) - np.hypot(u - start[0] - part * along[0], v - start[1] - part * along[1]))


SHAPES: Final[Mapping[str, Callable[[Field, Field], Field]]] = MappingProxyType(
    {
        "disc": disc,
        "triangle": lambda u, v: polygon(u, v, 3) * np.float32(1.2),
        "square": lambda u, v: polygon(u, v, 4),
        "hexagon": lambda u, v: polygon(u, v, 6),
        "star": lambda u, v: star(u, v, 5),
        "cross": cross,
        "crescent": crescent,
        "arrow": arrow,
        "bar": bar,
        "moulinet": lambda u, v: star(u, v, 3, inner=0.25),
    }
)
