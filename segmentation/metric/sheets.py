"""Overlay sheets: pictures, their truth, their prediction and where the two differ, side by side in one PNG."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from piggyback.shell.errors import BadInput
from piggyback.shell.files import write_bytes
from segmentation.release.label_files import read_label_file
from segmentation.release.packed import PackedSplit
from segmentation.voc import CLASSES, PALETTE, VOID

COLUMN: Final = 232
"""Width of a picture on a sheet, in pixels."""

TALLEST: Final = 348
"""Height of a picture on a sheet, at most; a taller one is narrower than its column."""

GAP: Final = 14
MARGIN: Final = 22
HEADER: Final = 34
CAPTION: Final = 26
LEGEND_LINE: Final = 26
SWATCH: Final = 14

LONGEST: Final = 160
"""Characters of a title that are looked at; there is room for about as many narrow ones."""

Shade = tuple[int, int, int]

PAPER: Final[Shade] = (252, 252, 250)
INK: Final[Shade] = (34, 38, 46)
FAINT: Final[Shade] = (110, 116, 126)
RULE: Final[Shade] = (222, 224, 226)
RIGHT: Final[Shade] = (203, 221, 238)
WRONG: Final[Shade] = (213, 94, 0)
UNSCORED: Final[Shade] = (62, 62, 68)
"""Colours of the error map.  Vermilion is of Okabe and Ito's set (Color Universal Design, 2008); beside pale blue
and dark grey it stands out by hue for all kinds of colour blindness, and all three differ in lightness."""

_COLOURS: Final = np.frombuffer(PALETTE, dtype=np.uint8).reshape(256, 3)
_TITLES: Final = ("picture", "truth", "prediction", "errors")


@dataclass(frozen=True, eq=False, kw_only=True)
class SheetRow:
    """One picture of a sheet.

    Attributes:
        picture: RGB, uint8 (height, width, 3).
        truth: labels, uint8 (height, width), 0..20 and 255; None where it is not public.
        prediction: labels, uint8 (height, width).
    """

    picture: NDArray[np.uint8]
    truth: NDArray[np.uint8] | None
    prediction: NDArray[np.uint8]
    title: str


class Key(NamedTuple):
    """An entry of the legend."""

    colour: Shade
    name: str


ERRORS: Final = (Key(RIGHT, "right"), Key(WRONG, "wrong"), Key(UNSCORED, "void, not scored"))


def write_sheets(path: Path, split: PackedSplit, *, predictions: Path, pictures: int) -> None:
    """Write a sheet of some pictures, spread evenly over a split."""
    places = np.unique(np.linspace(0, len(split) - 1, num=min(pictures, len(split))).round().astype(int)).tolist()
    rows = [
        SheetRow(
            picture=split.picture(place),
            truth=split.label_map(place) if split.labelled else None,
            prediction=read_label_file(predictions / f"{split.ids[place]}.png"),
            title=split.ids[place],
        )
        for place in places
    ]
    write_sheet(path, rows)


def write_sheet(path: Path, rows: Sequence[SheetRow]) -> None:
    """Write a sheet as PNG, whole or not at all; raises as `draw_sheet` does."""
    buffer = io.BytesIO()
    draw_sheet(rows).save(buffer, "PNG", optimize=True)
    write_bytes(path, buffer.getvalue())


def draw_sheet(rows: Sequence[SheetRow]) -> Image.Image:
    """A sheet with a row for each picture, and a legend of the classes on it.

    Raises:
        BadInput: there is no row, the sizes in a row differ, or a label is not one of VOC's.
    """
    if not rows:
        raise BadInput("a sheet needs at least one picture")
    for row in rows:
        _check(row)
    width = 2 * MARGIN + len(_TITLES) * COLUMN + (len(_TITLES) - 1) * GAP
    entries = _lay_out(_classes_on(rows), ERRORS, width=width - 2 * MARGIN)
    legend = GAP + entries[-1][1] + LEGEND_LINE
    heights = [_scaled(row)[1] + CAPTION + GAP for row in rows]
    sheet = Image.new("RGB", (width, MARGIN + HEADER + sum(heights) + legend + MARGIN), PAPER)
    canvas = ImageDraw.Draw(sheet)
    for place, title in enumerate(_TITLES):
        canvas.text((_left(place), MARGIN), title, fill=INK, font=_font(17))
    canvas.line((MARGIN, MARGIN + HEADER - 8, width - MARGIN, MARGIN + HEADER - 8), fill=RULE)
    top = MARGIN + HEADER
    for row, height in zip(rows, heights, strict=True):
        _draw_row(sheet, row, top=top)
        top += height
    canvas.line((MARGIN, top, width - MARGIN, top), fill=RULE)
    for left, below, key in entries:
        _draw_key(canvas, key, left=MARGIN + left, top=top + GAP + below)
    return sheet


def error_map(truth: NDArray[np.uint8], prediction: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """RGB, uint8 (height, width, 3): `RIGHT`, `WRONG`, or `UNSCORED` where the truth is void."""
    colours = np.array([WRONG, RIGHT, UNSCORED], dtype=np.uint8)
    kinds = np.where(truth == VOID, 2, truth == prediction)
    return colours[kinds]


def share_right(truth: NDArray[np.uint8], prediction: NDArray[np.uint8]) -> float | None:
    """The share of scored pixels, in [0, 1], that have the right label; None where no pixel is scored."""
    scored = truth != VOID
    return float((truth == prediction)[scored].mean()) if scored.any() else None


def overlay(picture: Image.Image, labels: NDArray[np.uint8]) -> Image.Image:
    """A picture, paler, under the colours of its labels; they are stronger where two labels meet.

    Args:
        picture: RGB, of the size of the sheet.
        labels: uint8 (height, width) of any size, scaled to the picture's without mixing.
    """
    wide = np.asarray(Image.fromarray(labels).resize(picture.size, Image.Resampling.NEAREST))
    pixels = np.asarray(picture, dtype=np.float32)
    grey = pixels.mean(axis=2, keepdims=True)
    pale = (0.35 * pixels + 0.65 * grey) * 0.6 + 255 * 0.4
    strength = np.where(wide == 0, 0, 0.62)[..., None]
    strength[_edges(wide) & (wide > 0)] = 1
    mixed = pale + strength * (_COLOURS[wide].astype(np.float32) - pale)
    return Image.fromarray((mixed + 0.5).astype(np.uint8))


def _edges(labels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Pixels with another label to their right or left, above or below."""
    padded = np.pad(labels, 1, mode="edge")
    sides = (padded[1:-1, 2:], padded[1:-1, :-2], padded[2:, 1:-1], padded[:-2, 1:-1])
    found = np.zeros(labels.shape, dtype=np.bool_)
    for side in sides:
        found |= side != labels
    return found


def _check(row: SheetRow) -> None:
    height, width = row.picture.shape[:2]
    for name, labels in (("truth", row.truth), ("prediction", row.prediction)):
        if labels is None:
            continue
        if labels.shape != (height, width):
            size = " x ".join(map(str, labels.shape[::-1]))
            raise BadInput(f"{row.title}: the picture has {width} x {height} pixels, its {name} {size}")
        wrong = labels[(labels >= len(CLASSES)) & (labels != VOID)]
        if wrong.size:
            raise BadInput(f"{row.title}: its {name} has the label {wrong[0]}, which is not one of VOC's")


def _scaled(row: SheetRow) -> tuple[int, int]:
    """Width and height of a row's pictures on the sheet."""
    height, width = row.picture.shape[:2]
    scale = min(COLUMN / width, TALLEST / height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _left(place: int) -> int:
    return MARGIN + place * (COLUMN + GAP)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _draw_row(sheet: Image.Image, row: SheetRow, *, top: int) -> None:
    """Four pictures and a line below them."""
    size = _scaled(row)
    larger = size[0] > row.picture.shape[1]
    picture = Image.fromarray(row.picture).resize(size, Image.Resampling.BICUBIC if larger else Image.Resampling.BOX)
    shown: list[Image.Image | None] = [picture, None, overlay(picture, row.prediction), None]
    caption = "truth not known"
    if row.truth is not None:
        shown[1] = overlay(picture, row.truth)
        errors = Image.fromarray(error_map(row.truth, row.prediction))
        shown[3] = errors.resize(size, Image.Resampling.NEAREST)
        share = share_right(row.truth, row.prediction)
        caption = "no pixel is scored" if share is None else f"{share:.1%} of pixels right"
    canvas = ImageDraw.Draw(sheet)
    for place, image in enumerate(shown):
        left = _left(place) + (COLUMN - size[0]) // 2
        box = (left, top, left + size[0] - 1, top + size[1] - 1)
        if image is None:
            canvas.rectangle(box, fill=None, outline=RULE)
        else:
            sheet.paste(image, (left, top))
    below = top + size[1] + 6
    room = 4 * COLUMN + 3 * GAP - canvas.textlength(caption, font=_font(14)) - 3 * GAP
    canvas.text((MARGIN, below), _shorten(canvas, row.title, room=room), fill=INK, font=_font(14))
    canvas.text((sheet.width - MARGIN, below), caption, fill=FAINT, font=_font(14), anchor="ra")


def _shorten(canvas: ImageDraw.ImageDraw, title: str, *, room: float) -> str:
    """A title on one line, cut where there is no room for it."""
    title = " ".join(title[:LONGEST].split())
    if canvas.textlength(title, font=_font(14)) <= room:
        return title
    while title and canvas.textlength(f"{title}...", font=_font(14)) > room:
        title = title[:-1]
    return f"{title}..."


def _classes_on(rows: Sequence[SheetRow]) -> list[Key]:
    """The classes in truth or prediction, in VOC's order, and void; background has no colour here."""
    labels = [array for row in rows for array in (row.truth, row.prediction) if array is not None]
    found = np.bincount(np.concatenate([np.unique(array) for array in labels]), minlength=256) > 0
    return [_key_of(label) for label in range(1, 256) if found[label]]


def _key_of(label: int) -> Key:
    red, green, blue = _COLOURS[label].tolist()
    return Key((red, green, blue), "void" if label == VOID else CLASSES[label])


def _lay_out(*groups: Sequence[Key], width: int) -> list[tuple[int, int, Key]]:
    """Places of the legend's entries from its corner, line by line; every group starts on a line of its own."""
    found: list[tuple[int, int, Key]] = []
    top = 0
    for group in groups:
        left = 0
        for key in group:
            needed = SWATCH + 7 + round(_font(14).getlength(key.name))
            if left and left + needed > width:
                left, top = 0, top + LEGEND_LINE
            found.append((left, top, key))
            left += needed + 20
        top += LEGEND_LINE if group else 0
    return found


def _draw_key(canvas: ImageDraw.ImageDraw, key: Key, *, left: int, top: int) -> None:
    canvas.rounded_rectangle((left, top, left + SWATCH, top + SWATCH), radius=3, fill=key.colour, outline=RULE)
    canvas.text((left + SWATCH + 7, top + SWATCH / 2), key.name, fill=INK, font=_font(14), anchor="lm")
