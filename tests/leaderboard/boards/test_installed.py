"""The boards of this project: light, and the only place where the leaderboard meets a benchmark."""

import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from leaderboard.boards.board import Board
from leaderboard.boards.installed import find_boards

ROOT = Path(__file__).resolve().parents[3]


def test_our_boards_are_found_in_order() -> None:
    found = find_boards()
    assert list(found.boards)[:2] == ["decathlon", "segmentation"]
    assert found.broken == ()


def test_the_documents_board_is_one() -> None:
    text = (ROOT / "docs" / "leaderboard.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    made: dict[str, Any] = {}
    exec(block, made)
    board = made["BOARD"]
    assert isinstance(board, Board)
    assert board.views == ("digits",)
    given = {field.name for field in fields(Board)} - {"name", "view"}
    assert [name for name in sorted(given) if f"`{name}`" not in text] == []


def test_no_benchmark_is_named_in_the_leaderboard() -> None:
    names = re.compile("|".join([*find_boards().boards, "classify"]), re.IGNORECASE)
    sources = [path for ending in ("py", "html", "js", "css") for path in (ROOT / "leaderboard").rglob(f"*.{ending}")]
    assert len(sources) > 50
    assert [path.name for path in sources if names.search(path.read_text(encoding="utf-8"))] == []


@pytest.mark.parametrize("words", [["show", "--json"], ["check", "."], ["build", "store", "--out", "site"]])
def test_verbs_load_no_torch(words: list[str], tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    code = (
        "import sys; from piggyback.shell.cli import main;"
        f"assert main(['leaderboard', *{words!r}]) == 0;"
        "assert 'decathlon.board' in sys.modules;"
        "assert not {'torch', 'torchvision'} & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
