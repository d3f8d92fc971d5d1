"""Six things to draw, under labels of VOC: the parts of each, in its own coordinates.

They differ in outline and in texture, and fill their outline, as a network that sees every 32nd pixel needs.
"""

import colorsys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from piggyback.data.drawing import Colour, Field, Paper, as_field, bar, capsule
from segmentation.voc import CLASSES

DARK: Final = as_field((0.13, 0.13, 0.16))
LIGHT: Final = as_field((0.97, 0.96, 0.92))
GLASS: Final = as_field((0.72, 0.87, 0.95))
WOOD: Final = as_field((0.50, 0.34, 0.20))


class Part(NamedTuple):
    """One colour of a thing.

    Attributes:
        inside: float32 (height, width), how far a point lies inside, in the thing's units.
        colour: float32 (3,), or (height, width, 3).
    """

    inside: Field
    colour: NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Thing:
    """A thing that can be drawn.

    Attributes:
        parts: what it consists of, later ones over earlier ones, at coordinates to the right and down; what varies
            comes from the paper.  Their union is its outline.
        width, height: of its outline, halved, in units.
        sizes: pixels that a unit may have.
    """

    parts: Callable[[Paper, Field, Field], list[Part]]
    width: float
    height: float
    sizes: tuple[float, float]


def any_hue(paper: Paper, *, low: float = 0.0, high: float = 1.0, grey: float = 0.0) -> Colour:
    """A clear colour with a hue from an interval; `grey`, from 0 to 1, makes it paler."""
    saturation = paper.between(0.5, 0.85) * (1 - grey)
    return as_field(colorsys.hsv_to_rgb(paper.between(low, high) % 1, saturation, paper.between(0.6, 0.95)))


def mix(one: Colour, other: Colour, share: Field | float) -> NDArray[np.float32]:
    """`share` of the other colour; a share for each pixel gives a colour for each."""
    weight = np.asarray(share, dtype=np.float32)[..., None]
    return as_field((one + weight * (other - one)).squeeze())


def rounded(u: Field, v: Field, *, long: float, wide: float, corner: float) -> Field:
    """A rectangle along v with round corners; `corner` is their radius."""
    across, along = np.abs(u) - np.float32(wide - corner), np.abs(v) - np.float32(long - corner)
    outside = np.hypot(np.maximum(across, 0), np.maximum(along, 0))
    return as_field(np.float32(corner) - outside - np.minimum(np.maximum(across, along), 0))


def ellipse(u: Field, v: Field, *, wide: float, long: float) -> Field:
    """About how far a point lies inside an ellipse: the radius less 1, over its slope, so edges are evenly sharp."""
    radius = np.hypot(u / np.float32(wide), v / np.float32(long))
    slope = np.hypot(u / np.float32(wide * wide), v / np.float32(long * long))
    return as_field((1 - radius) * np.maximum(radius, np.float32(1e-6)) / np.maximum(slope, np.float32(1e-6)))


def stripes(along: Field, *, period: float, share: float) -> Field:
    """1 in the first part of every period, else 0."""
    return as_field(np.mod(along, np.float32(period)) < np.float32(period * share))


def boat(paper: Paper, u: Field, v: Field) -> list[Part]:
    """A hull of planks, a mast and two sails, one of them striped."""
    paint, cloth = any_hue(paper), any_hue(paper)
    hull = np.minimum(np.minimum(v - 0.42, 0.95 - v), (0.98 - np.float32(0.75) * (v - 0.42) - np.abs(u)) * 0.8)
    planks = mix(paint, paint * np.float32(0.6), stripes(v - 0.42, period=0.17, share=0.25))
    main = np.minimum(np.minimum(u - 0.03, 0.44 - v), ((v + 0.92) * np.float32(0.64) - u + 0.03) * 0.84)
    jib = np.minimum(np.minimum(-0.03 - u, 0.44 - v), ((v + 0.72) * np.float32(0.6) + u + 0.03) * 0.86)
    sail = mix(LIGHT, cloth, stripes(v + paper.between(0, 1), period=paper.between(0.26, 0.4), share=0.45))
    flag = np.minimum(np.minimum(-u, u + 0.28), 0.09 - np.abs(v + 0.87))
    return [
        Part(bar(u, v + 0.25, wide=0.06, long=0.72), WOOD * np.float32(0.7)),
        Part(as_field(flag), cloth),
        Part(as_field(jib), mix(LIGHT, DARK, 0.08)),
        Part(as_field(main), sail),
        Part(as_field(hull), planks),
        Part(as_field(np.minimum(hull, 0.53 - v)), LIGHT * np.float32(0.95)),
    ]


def bottle(paper: Paper, u: Field, v: Field) -> list[Part]:
    """Glass with light on it, a cap and a label."""
    glass = any_hue(paper, low=0.05, high=0.6)
    cap, paper_label = any_hue(paper), mix(LIGHT, any_hue(paper), 0.12)
    body = rounded(u, v - 0.34, long=0.64, wide=0.42, corner=0.24)
    neck = np.minimum(0.15 + np.maximum(v + 0.42, 0) ** 2 * np.float32(1.6) - np.abs(u), 0.3 - np.abs(v + 0.5))
    shade = np.clip(np.float32(0.45) + u, 0, 1)
    lit = mix(mix(glass, LIGHT, 0.15), glass * np.float32(0.45), shade)
    low, high = paper.between(0.02, 0.12), paper.between(0.58, 0.72)
    label = np.minimum(0.425 - np.abs(u), np.minimum(v - low, high - v))
    mark = any_hue(paper)
    middle = (low + high) / 2
    emblem = ellipse(u, v - middle, wide=paper.between(0.14, 0.26), long=(high - low) * 0.33)
    gloss = capsule(u, v, (-0.26, -0.02), (-0.26, 0.82), 0.045)
    return [
        Part(body, lit),
        Part(as_field(neck), lit),
        Part(as_field(label), mix(paper_label, paper_label * np.float32(0.7), shade)),
        Part(emblem, mark),
        Part(as_field(np.minimum(label, 0.05 - np.minimum(v - low, high - v))), mark),
        Part(gloss, mix(glass, LIGHT, 0.75)),
        Part(rounded(u, v + 0.87, long=0.12, wide=0.2, corner=0.05), cap),
    ]


def bus(paper: Paper, u: Field, v: Field) -> list[Part]:
    """A long body with a row of windows, a stripe and two wheels."""
    paint, band = any_hue(paper), mix(LIGHT, any_hue(paper), paper.between(0, 0.5))
    body = rounded(u, v + 0.06, long=0.54, wide=1.0, corner=0.13)
    count = int(paper.random.integers(4, 6))
    pitch = 1.42 / count
    column = np.mod(u + 0.9, np.float32(pitch)) - np.float32(pitch / 2)
    windows = rounded(column, v + 0.24, long=0.17, wide=pitch * 0.41, corner=0.04)
    windows = np.where((u > -0.9) & (u < 0.52), windows, np.float32(-1))
    sky = mix(GLASS, GLASS * np.float32(0.55), np.clip((v + 0.45 + u * np.float32(0.2)) * 2, 0, 1))
    door = rounded(u - 0.75, v + 0.02, long=0.39, wide=0.17, corner=0.04)
    parts = [
        Part(body, paint),
        Part(as_field(np.minimum(body - 0.02, 0.055 - np.abs(v - 0.14))), band),
        Part(as_field(np.minimum(body - 0.02, -0.5 - v)), mix(paint, LIGHT, 0.5)),
        Part(as_field(windows), sky),
        Part(door, sky * np.float32(0.9)),
        Part(as_field(np.minimum(door, 0.02 - np.abs(u - 0.75))), paint * np.float32(0.7)),
        Part(ellipse(u + 0.96, v - 0.32, wide=0.05, long=0.07), as_field((1.0, 0.85, 0.35))),
    ]
    for place in (-0.56, 0.42):
        parts.append(Part(ellipse(u - place, v - 0.44, wide=0.22, long=0.22), DARK))
        parts.append(Part(ellipse(u - place, v - 0.44, wide=0.1, long=0.1), as_field((0.75, 0.75, 0.78))))
    return parts


def pottedplant(paper: Paper, u: Field, v: Field) -> list[Part]:
    """Leaves with a light rib each, in a pot with a rim."""
    clay = any_hue(paper, low=-0.02, high=0.1) if paper.between(0, 1) < 0.6 else any_hue(paper, grey=0.4)
    green = any_hue(paper, low=0.22, high=0.4)
    parts: list[Part] = []
    for angle in (-1.1, 1.05, -0.72, 0.7, -0.38, 0.36, 0.0):
        lean = angle + paper.between(-0.12, 0.12)
        length, wide = paper.between(0.54, 0.64), paper.between(0.15, 0.2)
        across = u * np.float32(np.cos(lean)) + (v - 0.3) * np.float32(np.sin(lean))
        along = (0.3 - v) * np.float32(np.cos(lean)) + u * np.float32(np.sin(lean))
        shade = mix(green * np.float32(paper.between(0.65, 1.0)), LIGHT, paper.between(0, 0.12))
        leaf = ellipse(across, along - np.float32(length), wide=wide, long=length)
        parts.append(Part(leaf, shade))
        rib = np.minimum(leaf - 0.05, 0.02 - np.abs(across))
        veins = np.minimum(leaf - 0.03, 0.012 - np.abs(np.mod(along - np.abs(across), 0.2) - 0.1))
        parts.append(Part(as_field(np.maximum(rib, veins)), mix(shade, LIGHT, 0.45)))
    pot = np.minimum(np.minimum(v - 0.35, 0.98 - v), (0.46 - np.float32(0.28) * (v - 0.35) - np.abs(u)) * 0.96)
    lit = mix(clay, clay * np.float32(0.55), np.clip(np.float32(0.4) + u, 0, 1))
    parts.append(Part(as_field(pot), lit))
    parts.append(Part(rounded(u, v - 0.37, long=0.11, wide=0.54, corner=0.04), mix(clay, LIGHT, 0.18)))
    return parts


def sheep(paper: Paper, u: Field, v: Field) -> list[Part]:
    """A woolly cloud on four legs, with a dark face."""
    fleece = mix(LIGHT, any_hue(paper, low=0.05, high=0.12), paper.between(0, 0.35))
    skin = mix(DARK, any_hue(paper, low=0.02, high=0.1), paper.between(0, 0.4))
    wool = [ellipse(u + 0.1, v + 0.1, wide=0.68, long=0.42)]
    for turn in np.arange(11) * (2 * np.pi / 11) + paper.between(0, 0.5):
        wool.append(
            ellipse(
                u + 0.1 - np.float32(0.62 * np.cos(turn)),
                v + 0.1 - np.float32(0.38 * np.sin(turn)),
                wide=0.2,
                long=0.2,
            )
        )
    shift = stripes(v, period=0.4, share=0.5) * np.float32(0.1)
    curl = np.hypot(np.mod(u + shift, 0.2) - 0.1, np.mod(v, 0.2) - 0.1)
    curls = np.float32(0.028) - np.abs(curl - np.float32(0.07))
    texture = mix(fleece, fleece * np.float32(0.72), np.clip(curls * 30, 0, 1))
    legs = [capsule(u, v, (place, 0.2), (place, 0.68), 0.075) for place in (-0.52, -0.28, 0.1, 0.33)]
    head = ellipse(u - 0.72, v + 0.24, wide=0.22, long=0.28)
    return [
        Part(np.maximum.reduce(legs), skin),
        Part(np.maximum.reduce(wool), texture),
        Part(capsule(u, v, (0.55, -0.38), (0.42, -0.3), 0.075), skin),
        Part(head, skin),
        Part(ellipse(u - 0.68, v + 0.49, wide=0.2, long=0.12), fleece),
        Part(ellipse(u - 0.76, v + 0.3, wide=0.06, long=0.06), LIGHT),
        Part(ellipse(u - 0.775, v + 0.3, wide=0.03, long=0.03), np.zeros(3, np.float32)),
    ]


def tvmonitor(paper: Paper, u: Field, v: Field) -> list[Part]:
    """A frame on a foot; on the screen, through its lines, coloured bars or a landscape."""
    case = mix(DARK, any_hue(paper), paper.between(0, 0.3))
    screen = rounded(u, v + 0.2, long=0.51, wide=0.89, corner=0.03)
    if paper.between(0, 1) < 0.5:
        colours = np.stack([any_hue(paper) for _ in range(6)])
        shown: NDArray[np.float32] = colours[np.clip((u + 0.9) / 0.3, 0, 5).astype(int)]
    else:
        sky, land, sun = any_hue(paper, low=0.5, high=0.7), any_hue(paper), any_hue(paper, low=0.08, high=0.16)
        shown = mix(sky, LIGHT, np.clip(v + 0.65, 0, 1))
        disc = np.hypot(u - np.float32(paper.between(-0.5, 0.5)), v + 0.35) < 0.17
        slope = np.abs(u - np.float32(paper.between(-0.6, 0.6))) * np.float32(0.5)
        shown = np.where(disc[..., None], sun, shown)
        shown = np.where((v > slope - 0.2)[..., None], land, shown)
    lines = 1 - stripes(v, period=0.11, share=0.4) * np.float32(0.22)
    glare = np.clip(0.12 - np.abs(u * np.float32(0.7) + v + 0.55), 0, 0.12)[..., None]
    return [
        Part(bar(u, v - 0.55, wide=0.12, long=0.2), case * np.float32(0.8)),
        Part(rounded(u, v - 0.74, long=0.08, wide=0.45, corner=0.06), case),
        Part(rounded(u, v + 0.2, long=0.62, wide=1.0, corner=0.09), case),
        Part(screen, as_field(shown * lines[..., None] + glare)),
        Part(ellipse(u - 0.85, v - 0.36, wide=0.035, long=0.035), as_field((0.3, 0.9, 0.4))),
    ]


THINGS: Final[Mapping[int, Thing]] = MappingProxyType(
    {
        CLASSES.index(name): thing
        for name, thing in (
            ("boat", Thing(parts=boat, width=0.98, height=0.97, sizes=(27, 38))),
            ("bottle", Thing(parts=bottle, width=0.42, height=1.0, sizes=(33, 42))),
            ("bus", Thing(parts=bus, width=1.0, height=0.66, sizes=(30, 40))),
            ("pottedplant", Thing(parts=pottedplant, width=0.95, height=1.0, sizes=(29, 38))),
            ("sheep", Thing(parts=sheep, width=0.95, height=0.78, sizes=(28, 38))),
            ("tvmonitor", Thing(parts=tvmonitor, width=1.0, height=0.82, sizes=(26, 36))),
        )
    }
)
"""What can be drawn, by VOC's label."""
