"""The drawn backbone: stopped at any step it has the same bytes."""

from pathlib import Path

import pytest
from breaks import StopAfter

from piggyback.shell.errors import Requeue
from segmentation.drawn.scenes import LABELS
from segmentation.drawn.small_vgg import BATCH, train_backbone


@pytest.mark.usefixtures("one_thread")
def test_a_drawing_that_is_stopped_continues_to_the_same_bytes(tmp_path: Path) -> None:
    whole, other = tmp_path / "whole.safetensors", tmp_path / "other.safetensors"
    train_backbone(whole, pictures=6, epochs=2)
    stops = 0
    while True:
        try:
            train_backbone(other, pictures=6, epochs=2, stop=StopAfter(1))
        except Requeue:
            stops += 1
            continue
        break
    assert stops == 2 * -(-6 * len(LABELS) // BATCH) >= 4  # in each step of two epochs
    assert other.read_bytes() == whole.read_bytes()
    before = other.stat().st_mtime_ns
    train_backbone(other, pictures=6, epochs=2)
    assert other.stat().st_mtime_ns == before
