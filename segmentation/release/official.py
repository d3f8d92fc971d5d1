"""The test of a packed split against the published one: ids and, where their counts are known, label maps."""

from collections.abc import Mapping, Sequence
from typing import Final

from piggyback.data.preparation import name_first
from segmentation.release.splits import Split, complete_text, published_ids
from segmentation.voc import CLASSES

GOLDEN: Final[Mapping[str, tuple[tuple[int, ...], int]]] = {
    "seg11valid": (
        (
            *(90730503, 909327, 332697, 1120958, 566747, 1165929, 1791924, 1592013, 2942851, 1506794, 1593248),
            *(1911304, 2308630, 1027153, 1393724, 6682736, 713781, 1043603, 2096985, 2125967, 982492),
        ),
        7051801,
    ),
}
"""Pixels per class and void pixels of the released label maps, counted over all 736 of them."""


def find_remarks(
    split: Split, *, ids: Sequence[str], class_pixels: tuple[int, ...], void_pixels: int
) -> tuple[str, ...]:
    """Reasons why a packed split is not the published one, in words; none where it is."""
    if set(ids) != set(published_ids(split)):
        return (f"{complete_text(ids, name=split.name, published=split.count)}: numbers on it compare with no others",)
    if split.name not in GOLDEN or GOLDEN[split.name] == (class_pixels, void_pixels):
        return ()
    classes, void = GOLDEN[split.name]
    packed = (*class_pixels, void_pixels)
    differ = [
        f"{name} {found:,} instead of {released:,}"
        for name, found, released in zip((*CLASSES, "void"), packed, (*classes, void), strict=True)
        if found != released
    ]
    return (f"the label maps are not the released ones: pixels of {name_first(differ, joint='; ')}",)
