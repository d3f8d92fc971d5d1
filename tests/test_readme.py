"""The README's code blocks are run, as a user would type them."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from segmentation.drawn.release import Amounts, write_release
from segmentation.network.fcn import VGG16

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.M | re.S)


def test_python_blocks_run_one_after_the_other_as_they_stand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is given to them: a newcomer pastes the first one and sees a task learned."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names: dict[str, Any] = {}
    first, *rest = blocks("python")
    assert len(rest) == 1
    exec(compile(first, "README.md", "exec"), names)

    said = capsys.readouterr()
    shape = r"(\d+)% of the pictures it was trained on are right, (\d+)% of the weights are off\n"
    numbers = re.fullmatch(shape, said.out)
    assert numbers is not None, said.out
    right, off = map(int, numbers.groups())
    assert right >= 75  # a quarter by chance; here 100 with seeds 0, 1 and 2
    assert 5 <= off <= 50
    assert "mask values" not in said.err  # the training is long enough to be about masks
    assert (tmp_path / "shades.safetensors").stat().st_size < 2e6  # 11.2 million bits, norm layers and a head

    for block in rest:
        exec(compile(block, "README.md", "exec"), names)
    plain, network = names["plain"].eval(), names["network"].eval()
    names["adapter"].switch("more shades")
    picture = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    assert torch.equal(plain(picture), network(picture))


def test_the_first_block_is_short_and_needs_nothing() -> None:
    """No download, no file of the user's, no name from elsewhere; and nobody reads more than this before typing."""
    first = blocks("python")[0]
    lines = [line for line in first.splitlines() if line.strip()]
    assert len(lines) <= 20
    assert max(len(line) for line in lines) <= 120
    code = "\n".join(line.partition("#")[0] for line in lines)
    assert "weights=" not in code
    assert "DataLoader" not in code


def test_every_block_is_of_a_language_that_is_run() -> None:
    assert set(re.findall(r"^```(\w*)$", README, flags=re.M)) == {"python", "sh", ""}


def add_segmentation(folder: Path) -> None:
    """VOC's and SBD's part of ``archives``, drawn, and ``vgg16.pth``, a narrow VGG in torchvision's names."""
    write_release(folder / "archives", amounts=Amounts(train=3, val=2))
    state: dict[str, torch.Tensor] = {}
    place, before = 0, 3
    for stage in VGG16.channels:
        for _ in stage:
            state[f"features.{place}.weight"], state[f"features.{place}.bias"] = (
                torch.ones(2, before, 3, 3),
                torch.ones(2),
            )
            place, before = place + 2, 2
        place += 1
    for layer, wide in ((0, 2 * 49), (3, 4)):
        state[f"classifier.{layer}.weight"], state[f"classifier.{layer}.bias"] = torch.ones(4, wide), torch.ones(4)
    torch.save(state, folder / "vgg16.pth")


def test_shell_blocks_lead_from_archives_to_scores(release: Path) -> None:
    """`release` is a folder with ``archives``, ``backbone.pth`` and ``labels_test.zip`` of a tiny decathlon."""
    add_segmentation(release)
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    said = []
    for block in blocks("sh"):
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block],
            cwd=release,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        said.append(done.stdout)
    decathlon, segmentation, score, page = said
    assert "results.json" in decathlon
    assert (release / "results.zip").is_file()
    assert "mean IoU" in segmentation
    assert (release / "fcn" / "sheets" / "piggyback.png").is_file()
    assert '"complete": true' in score
    assert "0 runs refused" in page
    assert (release / "site" / "index.html").is_file()
    assert '"official": false' in score


def test_links_lead_somewhere() -> None:
    targets = [target for target in re.findall(r"\]\(([^)]+)\)", README) if "://" not in target]
    assert targets
    missing = [target for target in targets if not (ROOT / target).exists()]
    assert missing == []
