"""The Decathlon, small: of our benchmarks the one that has methods which are built on a network made first."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_benchmarks import DECATHLON
from torch import Tensor

from decathlon.backbone.backbone_file import load_backbone
from piggyback.adapter import attach
from piggyback.methods.registry import METHODS
from piggyback.suite.bench import Job, open_bench
from piggyback.suite.networks.foundation import foundation_folder
from piggyback.suite.train import train_task
from piggyback.suite.training.run_folder import RunFolder


@pytest.fixture(scope="session")
def decathlon(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Prepared data and backbone, to be copied before they are changed."""
    return DECATHLON.make(tmp_path_factory.mktemp("decathlon"))


@pytest.fixture
def job(decathlon: tuple[Path, Path], tmp_path: Path, one_thread: None) -> Job:
    """The first of two tasks; three steps of imagenet12 for PackNet's first pruning."""
    data, backbone = decathlon
    recipe = replace(DECATHLON.recipe, order=DECATHLON.tasks, lr=5e-3)  # type: ignore[call-arg]
    return replace(DECATHLON.job(data, backbone, out=tmp_path / "out"), task=DECATHLON.tasks[0], recipe=recipe)


@pytest.fixture
def network_of() -> Callable[[Job], Path]:
    """Folder of the network that a job's method is built on."""
    return lambda job: foundation_folder(open_bench(job))


@pytest.fixture
def train_all() -> Callable[[Job], dict[str, RunFolder]]:
    """Trains every task of a job's order."""
    return lambda job: {task: train_task(replace(job, task=task)) for task in job.recipe.order}


@pytest.fixture
def logits_of() -> Callable[[RunFolder, Path], Tensor]:
    """What a run's payload gives on the network in a file, for two pictures of noise."""

    def compute(folder: RunFolder, network: Path) -> Tensor:
        backbone = load_backbone(network)
        adapter = attach(backbone.network, method=METHODS["feature"], head="fc")
        adapter.load(folder.payload)
        adapter.eval()
        with torch.no_grad():
            noise = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
            found: Tensor = backbone.network(noise)
        return found

    return compute
