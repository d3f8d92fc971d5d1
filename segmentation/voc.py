"""PASCAL VOC's segmentation classes and colours, as data.

Sources: the devkit's documentation, section 2.6 (21 classes, void), and ``VOClabelcolormap.m``, whose rule
`build_palette` follows; class order as in ``data/pascal/classes.txt`` of github.com/shelhamer/fcn.berkeleyvision.org.
"""

from typing import Final

CLASSES: Final = (
    "background",
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
VOID: Final = 255
"""Label of pixels that are not scored: borders of objects, and difficult ones."""


def build_palette() -> bytes:
    """The 256 colours of VOC's indexed PNGs, three bytes each: a label's bits, three at a time, lowest first,
    become the bits of red, green and blue, highest first."""
    colours = bytearray()
    for label in range(256):
        red = green = blue = 0
        for place in range(8):
            bits = label >> (3 * place)
            red |= (bits & 1) << (7 - place)
            green |= (bits >> 1 & 1) << (7 - place)
            blue |= (bits >> 2 & 1) << (7 - place)
        colours += bytes((red, green, blue))
    return bytes(colours)


PALETTE: Final = build_palette()
