"""Scenes for the demo and the tests, drawn from random numbers, with a label for every pixel.

Every random number comes from a counter (Philox), so a scene depends on its number and the seed alone, whatever was
drawn before it.  The scenery, the things in it and the grain of the film come from streams of their own: a scene
without its things is `draw_scenery`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from piggyback.data.drawing import Field, Paper, any_colour, as_bytes, as_field, busy_background, paint
from segmentation.drawn.scenery import SCENERIES
from segmentation.drawn.things import THINGS, ellipse
from segmentation.voc import CLASSES, VOID

LABELS: Final = tuple(THINGS)
"""VOC's labels of what can be drawn."""

SIZES: Final = ((128, 96), (112, 112), (96, 128), (128, 128))
"""Width and height of the scenes, in turn."""

MOST: Final = 3
"""Things in one scene."""

_SCENERY, _ARRANGED, _GRAIN, _SINGLE = range(4)  # streams of random numbers
_HOME: Final = 0.7  # the share of things that stand where one expects them
_HIDDEN: Final = 0.3  # of a thing, the most that another one may cover
_TRIES: Final = 40  # places tried for the things of a scene; after them it may have fewer than wanted


@dataclass(frozen=True, eq=False)
class Scene:
    """A drawn picture and its labels.

    Attributes:
        pixels: RGB, uint8 (height, width, 3).
        things: uint8 (height, width), 0 for the scenery and from 1 the number of a thing.
        labels: uint8 (height, width), 0 for the scenery, else VOC's label; as SBD, without void.
    """

    pixels: NDArray[np.uint8]
    things: NDArray[np.uint8]
    labels: NDArray[np.uint8]

    @property
    def bordered(self) -> NDArray[np.uint8]:
        """The labels with void, as VOC: pixels that touch, straight or across, another thing or the scenery."""
        padded = np.pad(self.things, 1, mode="edge")
        height, width = self.things.shape
        around = [padded[down : down + height, right : right + width] for down in range(3) for right in range(3)]
        edge = np.maximum.reduce(around) != np.minimum.reduce(around)
        return np.where(edge, np.uint8(VOID), self.labels)


class Place(NamedTuple):
    """Place of a thing: its label, middle and unit in pixels."""

    label: int
    x: float
    y: float
    size: float


def draw_scene(number: int, *, seed: int = 0) -> Scene:
    """One scene of one to three things, the same for the same arguments.

    Args:
        number: tells the scenes apart, from 0; it also says the size, one of `SIZES` in turn.
        seed: of all scenes.
    """
    home, pixels = _paint_scenery(number, seed=seed)
    paper = _open_paper(number, stream=_ARRANGED, seed=seed, size=SIZES[number % len(SIZES)])
    things = np.zeros(paper.x.shape, dtype=np.uint8)
    labels = np.zeros_like(things)
    for place, spot in enumerate(_arrange(paper, home, first=LABELS[number % len(LABELS)]), start=1):
        pixels, inside = _put(paper, pixels, spot)
        things[inside > 0], labels[inside > 0] = place, spot.label
    return Scene(_develop(pixels, number, seed=seed), things, labels)


def draw_scenery(number: int, *, seed: int = 0) -> NDArray[np.uint8]:
    """The scene of that number without its things: RGB, uint8 (height, width, 3)."""
    return _develop(_paint_scenery(number, seed=seed)[1], number, seed=seed)


def draw_thing(label: int, *, number: int, side: int = 64, seed: int = 0) -> NDArray[np.uint8]:
    """One thing in the middle of a plain picture, in colours that no scene has, to pretrain a classifier on.

    Args:
        label: one of `LABELS`.
        number: tells the pictures of a label apart.
        side: of the picture, in pixels.
        seed: of all pictures.

    Returns:
        RGB, uint8 (side, side, 3).
    """
    paper = _open_paper(number * 256 + label, stream=_SINGLE, seed=seed, size=(side, side))
    behind = busy_background(paper, any_colour(paper), strength=0.3)
    thing = THINGS[label]
    unit = side * paper.between(0.36, 0.46) / max(thing.width, thing.height)
    shift = side * 0.08
    spot = Place(label, paper.between(-shift, shift), paper.between(-shift, shift), unit)
    channels = paper.random.permutation(3)
    negative = paper.between(0, 1) < 0.5

    def recolour(ink: NDArray[np.float32]) -> NDArray[np.float32]:
        return as_field(1 - ink[..., channels] if negative else ink[..., channels])

    pixels, _ = _put(paper, behind, spot, recolour=recolour, shadow=0)
    return as_bytes(pixels)


# -- from numbers to pixels ----------------------------------------------------------------------------------


def _open_paper(number: int, *, stream: int, seed: int, size: tuple[int, int]) -> Paper:
    """A sheet of a size (width, height) with a stream of random numbers of its own."""
    random = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, stream, number])))
    return Paper.of_size(*size, random)


def _paint_scenery(number: int, *, seed: int) -> tuple[Sequence[int], NDArray[np.float32]]:
    """Labels that are at home in a scenery, and the scenery, RGB about [0, 1]."""
    paper = _open_paper(number, stream=_SCENERY, seed=seed, size=SIZES[number % len(SIZES)])
    scenery = SCENERIES[int(paper.random.integers(len(SCENERIES)))]
    return [CLASSES.index(name) for name in scenery.home], scenery.painter(paper)


def _develop(pixels: NDArray[np.float32], number: int, *, seed: int) -> NDArray[np.uint8]:
    """Add the grain of the film."""
    paper = _open_paper(number, stream=_GRAIN, seed=seed, size=(1, 1))
    grain = paper.random.random((*pixels.shape[:2], 1), dtype=np.float32) - np.float32(0.5)
    return as_bytes(pixels + grain * np.float32(paper.between(0.02, 0.06)))


def _put(
    paper: Paper,
    pixels: NDArray[np.float32],
    spot: Place,
    *,
    recolour: Callable[[NDArray[np.float32]], NDArray[np.float32]] = as_field,
    shadow: float = 0.35,
) -> tuple[NDArray[np.float32], Field]:
    """Draw a thing; also gives how far each pixel lies inside of it, in pixels."""
    thing, size = THINGS[spot.label], np.float32(spot.size)
    window, near = paper.cut(spot.x, spot.y, reach=spot.size * max(thing.width, thing.height) * 1.25)
    tilt = paper.between(-0.06, 0.06)
    flip = np.float32(1 if paper.between(0, 1) < 0.5 else -1)
    u, v = near.turned(angle=tilt, scale=spot.size)
    parts = thing.parts(paper, as_field(u * flip), v)
    behind = pixels[window]
    ink = as_field(np.broadcast_to(parts[0].colour, behind.shape))
    for part in parts:
        ink = paint(ink, part.colour, part.inside * size)
    inside = as_field(np.maximum.reduce([part.inside for part in parts]) * size)
    # Light from above, and a darker rim as far as the outline is soft.
    light = np.float32(1.06) - np.float32(0.14) * (v + 1) / 2 - np.float32(0.25) * np.clip(1.6 - inside, 0, 1)
    fall = ellipse(u, v - np.float32(thing.height * 0.96), wide=thing.width * 1.1, long=0.14) * size
    behind = as_field(behind * (1 - np.float32(shadow) * np.clip(fall / 4, 0, 1))[..., None])
    drawn, whole = pixels.copy(), np.full(paper.x.shape, -np.inf, dtype=np.float32)
    drawn[window] = paint(behind, recolour(as_field(ink * light[..., None])), inside)
    whole[window] = inside
    return drawn, whole


def _arrange(paper: Paper, home: Sequence[int], *, first: int) -> list[Place]:
    """Places of the things, those farther away first; of every one most is seen.

    Args:
        paper: of the scene.
        home: the labels that belong in its scenery.
        first: one that is there in any case, so that all labels are equally often.
    """
    height, width = paper.x.shape
    wanted = int(paper.random.choice(MOST, p=(0.25, 0.35, 0.4))) + 1
    found: list[Place] = []
    for _ in range(_TRIES):
        belongs = home if paper.between(0, 1) < _HOME else LABELS
        label = int(paper.random.choice(belongs)) if found else first
        thing = THINGS[label]
        size = paper.between(*thing.sizes)
        reach_x = max(0.0, width / 2 - thing.width * size * 0.9)
        top, bottom = thing.height * size - height / 2, height / 2 - thing.height * size * 0.95
        spot = Place(label, paper.between(-reach_x, reach_x), paper.between((top + bottom) / 2, bottom), size)
        if all(_overlap(spot, other) < _HIDDEN for other in found):
            found.append(spot)
        if len(found) == wanted:
            break
    return sorted(found, key=lambda spot: spot.y + THINGS[spot.label].height * spot.size)


def _overlap(one: Place, other: Place) -> float:
    """The share of the smaller of two things' boxes that the other one covers."""

    def sides(spot: Place) -> tuple[float, float]:
        thing = THINGS[spot.label]
        return thing.width * spot.size, thing.height * spot.size

    (a, b), (c, d) = sides(one), sides(other)
    across = min(2 * min(a, c), a + c - abs(one.x - other.x))
    down = min(2 * min(b, d), b + d - abs(one.y - other.y))
    return max(0.0, across) * max(0.0, down) / (4 * min(a * b, c * d))
