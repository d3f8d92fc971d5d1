"""The page that answers "will it work with ...": every answer is shown by a test, or says that it was not tried."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "will-it-work.md"
HEADER = "| with | works | how, and what to know | shown by |"
TOPICS = """
DistributedDataParallel FullyShardedDataParallel DataParallel torch.compile autocast GradScaler checkpointing EMA
torch.export pickle timm torchvision Lightning accelerate Hugging schedulers clip_grad_norm_ accumulation channels_last
attention CUDA quantized LoRA deepcopy state_dict safetensors threads
"""


def rows() -> list[tuple[str, ...]]:
    """Of all tables of answers; the table of packages tried by hand is none."""
    found: list[tuple[str, ...]] = []
    inside = False
    for line in PAGE.read_text().splitlines():
        inside = line == HEADER or (inside and line.startswith("|"))
        if inside and line != HEADER and not line.startswith("|---"):
            found.append(tuple(cell.strip() for cell in line.strip("|").split(" | ")))
    return found


def decorators() -> dict[str, list[str]]:
    """Of all tests of the library, by name."""
    found: dict[str, list[str]] = {}
    for path in (ROOT / "tests" / "piggyback").rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                found[node.name] = [ast.unparse(decorator) for decorator in node.decorator_list]
    return found


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0])
def test_every_answer_is_shown_by_a_test_or_not_tried(row: tuple[str, ...]) -> None:
    assert len(row) == len(HEADER.strip("|").split("|"))
    shown, known = row[-1], decorators()
    names = re.findall(r"`(test_\w+)`", shown)
    assert bool(names) != shown.startswith("not tried")
    for name in names:
        assert name in known
        skips = [decorator for decorator in known[name] if re.search(r"\b(skip|skipif|xfail)\b", decorator)]
        assert all("reason=" in skip for skip in skips)


def test_nothing_that_was_asked_is_missing() -> None:
    asked = " ".join(" ".join(row) for row in rows())
    assert [topic for topic in TOPICS.split() if topic not in asked] == []
    assert len(rows()) > 30
