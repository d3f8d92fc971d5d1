"""Draws ``architecture.svg``, the picture of docs/architecture.md: the rooms, and who imports whom, read from the code.

python docs/img/architecture.py            # writes the picture
python docs/img/architecture.py --check    # fails where the picture is not that of the code
"""

import ast
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PICTURE = Path(__file__).with_suffix(".svg")
FLOORS = (
    ("decathlon", "segmentation"),
    ("piggyback.classify", "piggyback.suite"),
    ("piggyback.data", "piggyback"),
    ("piggyback.network", "piggyback.masks", "piggyback.numerics"),
    ("slurm", "leaderboard", "piggyback.methods"),
    ("piggyback.shell",),
)
"""Rooms by floor; imports go down, or to the right on one floor.  A test looks that no import goes up."""
SAYS = {
    "decathlon": "ten tasks, WRN-28-4, score",
    "segmentation": "VOC and SBD, FCN-32s, mIoU",
    "piggyback.suite": "contract, loop, runs, reports, plans",
    "piggyback.classify": "any network, any pictures",
    "piggyback.data": "archives, packing, pictures",
    "piggyback": "the library: adapter, overlay, payload",
    "piggyback.network": "parts, heads, states, the watch",
    "piggyback.masks": "masks as bits, in files and memory",
    "piggyback.methods": "one file a method",
    "piggyback.numerics": "types, rules, updates in place",
    "leaderboard": "results, store, boards, page",
    "slurm": "plan, send, watch",
    "piggyback.shell": "console, errors, files; no torch",
}
WIDTH, HEIGHT, GAP, ROOM = 1000, 64, 62, 300
INK, FAINT, LINE, PALE, FILL = "#1f2933", "#52606d", "#486581", "#bcccdc", "#f0f4f8"


def room_of(module: str) -> str:
    """The room that a module lies in: a package, or a folder of ``piggyback``."""
    first, *rest = module.split(".")
    inside = first == "piggyback" and rest and (ROOT / "piggyback" / rest[0]).is_dir()
    return f"piggyback.{rest[0]}" if inside else first


def imports(path: Path) -> Iterator[str]:
    """The modules of ours that a file imports, also where it does so late."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names = [node.module if node.module != "piggyback" else f"piggyback.{a.name}" for a in node.names]
        yield from (name for name in names if name.partition(".")[0] in {r.partition(".")[0] for r in SAYS})


def count_imports() -> tuple[Counter[tuple[str, str]], set[str]]:
    """Imports between rooms, and the rooms that there are."""
    arrows: Counter[tuple[str, str]] = Counter()
    rooms = set[str]()
    for package in ("piggyback", "decathlon", "segmentation", "slurm", "leaderboard"):
        for path in sorted((ROOT / package).rglob("*.py")):
            here = room_of(".".join(path.relative_to(ROOT).with_suffix("").parts))
            rooms.add(here)
            arrows.update((here, there) for name in imports(path) if (there := room_of(name)) != here)
    return arrows, rooms


def place_rooms(rooms: set[str]) -> dict[str, tuple[float, float]]:
    """The middle of every room that there is."""
    places = {}
    for floor, names in enumerate(FLOORS):
        there = [name for name in names if name in rooms]
        for number, name in enumerate(there):
            left = (WIDTH - len(there) * ROOM - (len(there) - 1) * 25) / 2
            places[name] = (left + number * (ROOM + 25) + ROOM / 2, 20 + floor * (HEIGHT + GAP) + HEIGHT / 2)
    return places


def draw() -> str:
    """The picture."""
    arrows, rooms = count_imports()
    places = place_rooms(rooms)
    height = 40 + len(FLOORS) * (HEIGHT + GAP) - GAP
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" role="img">',
        "<title>The rooms of the project and who imports whom</title>",
        *(
            f'<defs><marker id="{colour[1:]}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" '
            f'orient="auto" markerUnits="userSpaceOnUse"><path d="M0 0L8 4L0 8z" fill="{colour}"/></marker></defs>'
            for colour in (LINE, PALE)
        ),
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
    ]
    for here, there in sorted(arrows, key=lambda pair: (not is_detour(pair, arrows), pair)):
        colour = PALE if is_detour((here, there), arrows) else LINE
        parts.append(arrow(places[here], places[there], colour=colour))
    for name, (x, y) in places.items():
        left, top = x - ROOM / 2, y - HEIGHT / 2
        parts.append(
            f'<rect x="{left}" y="{top}" width="{ROOM}" height="{HEIGHT}" rx="6" fill="{FILL}" stroke="{INK}"/>'
        )
        title = "piggyback/*.py" if name == "piggyback" else name.replace(".", "/") + "/"
        parts.append(f'<text x="{left + 12}" y="{y - 8}" font-size="16" fill="{INK}">{title}</text>')
        parts.append(f'<text x="{left + 12}" y="{y + 15}" font-size="13" fill="{FAINT}">{SAYS[name]}</text>')
    return "\n".join([*parts, "</svg>", ""])


def is_detour(pair: tuple[str, str], arrows: Counter[tuple[str, str]]) -> bool:
    """Whether one room reaches another through a third, too: such arrows are drawn pale."""
    here, there = pair
    reached, fresh = set[str](), {b for a, b in arrows if a == here and b != there}
    while fresh:
        reached |= fresh
        fresh = {b for a, b in arrows if a in fresh} - reached
    return there in reached


def arrow(start: tuple[float, float], end: tuple[float, float], *, colour: str) -> str:
    """A line from room to room."""
    (x1, y1), (x2, y2) = start, end
    if y1 == y2:
        x1, x2 = x1 + ROOM / 2, x2 - ROOM / 2 - 2
    else:
        shift = max(-130.0, min(130.0, 0.22 * (x2 - x1)))
        x1, x2 = x1 + shift, x2 - shift
        y1, y2 = y1 + HEIGHT / 2, y2 - HEIGHT / 2 - 2
    width = 1 if colour == PALE else 2
    return (
        f'<line x1="{x1:.0f}" y1="{y1:.0f}" x2="{x2:.0f}" y2="{y2:.0f}" stroke="{colour}" stroke-width="{width}" '
        f'marker-end="url(#{colour[1:]})"/>'
    )


def main() -> None:
    if "--check" in sys.argv:
        sys.exit(PICTURE.read_text() != draw() and f"{PICTURE.name} is not that of the code: run {Path(__file__).name}")
    PICTURE.write_text(draw())


if __name__ == "__main__":
    main()
