"""Two tasks of drawn pictures beside a backbone of the smallest size, for everything that trains on them."""

from pathlib import Path

import pytest
import torch
from small_benchmarks import DECATHLON, pack_decathlon, write_labels, write_wrn

from piggyback.suite.bench import Job


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Aircraft, svhn and the backbone's own imagenet12, packed; no labels of the test parts."""
    return pack_decathlon(tmp_path)


@pytest.fixture
def backbone(tmp_path: Path) -> Path:
    return write_wrn(tmp_path / "backbone.safetensors")


@pytest.fixture
def labels(data: Path, tmp_path: Path) -> Path:
    """A folder with made-up labels of all test parts."""
    return write_labels(tmp_path / "labels", data=data)


@pytest.fixture
def job(data: Path, backbone: Path, tmp_path: Path, one_thread: None) -> Job:
    """Masks on svhn in six steps."""
    return Job(
        benchmark="decathlon",
        task="svhn",
        method="piggyback",
        recipe=DECATHLON.recipe,
        data=data,
        backbone=backbone,
        out=tmp_path / "out",
        device=torch.device("cpu"),
    )
