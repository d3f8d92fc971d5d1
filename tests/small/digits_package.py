"""The package of docs/adding-a-benchmark.md, written from the page as a reader would copy it, and installed."""

import re
import tomllib
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "adding-a-benchmark.md"
FENCED = re.compile(r"(?:^`([\w./]+)`:\n\n)?^```(\w*)\n(.*?)^```$", flags=re.M | re.S)


def read_files() -> dict[str, str]:
    """The page's blocks with a name above them."""
    return {name: body for name, _, body in FENCED.findall(PAGE.read_text()) if name}


def read_blocks(language: str) -> list[str]:
    """The page's blocks of a language without a name."""
    return [body for name, kind, body in FENCED.findall(PAGE.read_text()) if kind == language and not name]


def write_package(folder: Path, *, board: bool) -> Path:
    """Leave the package as an installer does: its files, and metadata with the entry points.

    Args:
        folder: to be put on the path.
        board: whether the page's addition to the project file, the entry point of the board, is made.
    """
    for name, body in read_files().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(body)
    (addition,) = read_blocks("toml")
    project = folder / "pyproject.toml"
    if board:
        project.write_text(f"{project.read_text()}\n{addition}")
    described = tomllib.loads(project.read_text())["project"]
    info = folder / f"{described['name']}-{described['version']}.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text(f"Name: {described['name']}\nVersion: {described['version']}\n")
    lines = []
    for group, entries in described["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {place}" for name, place in entries.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    return folder
