"""Two tasks of drawn pictures beside a backbone of the smallest size, for everything that trains on them."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from decathlon.backbone.backbone_file import save_backbone
from decathlon.backbone.wrn import wide_resnet
from decathlon.recipes import Recipe
from decathlon.release.packed import open_split
from decathlon.release.prepare import prepare
from piggyback.suite.bench import Job
from piggyback.suite.train import train_task
from piggyback.suite.training.checkpoints import StopFlag
from piggyback.suite.training.loop import Plan
from piggyback.suite.training.run_folder import RunFolder

TRAINED = ("aircraft", "svhn")
SMALL = Recipe(epochs=2, batch_size=3, size=16, lr=2e-3, update="eager", precision="fp32")
"""Three steps an epoch: enough for some of the masks to move at this learning rate."""


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Pictures this small are not worth several threads, which wait for each other on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def data(tiny: Any, tmp_path: Path) -> Path:
    """Aircraft, svhn and the backbone's own imagenet12, packed; no labels of the test parts."""
    prepare(tiny.write(*TRAINED, "imagenet12"), tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def backbone(tmp_path: Path) -> Path:
    path = tmp_path / "backbone.safetensors"
    network = wide_resnet(10, 1, classes=4, seed=0).eval()
    save_backbone(path, network, mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3), source={})
    return path


@pytest.fixture
def labels(data: Path, tmp_path: Path) -> Path:
    """A folder with made-up labels of all test parts."""
    folder = tmp_path / "labels"
    folder.mkdir()
    for task in (*TRAINED, "imagenet12"):
        split = open_split(data, task, "test")
        pairs = zip(split.image_ids.tolist(), split.category_ids[split.image_ids % 4].tolist(), strict=True)
        document = {
            "images": [{"id": image} for image in split.image_ids.tolist()],
            "annotations": [{"image_id": image, "category_id": category} for image, category in pairs],
            "categories": [{"id": category, "name": str(category)} for category in split.category_ids.tolist()],
        }
        (folder / f"{task}_test.json").write_text(json.dumps(document))
    return folder


@pytest.fixture
def job(data: Path, backbone: Path, tmp_path: Path, one_thread: None) -> Job:
    """Masks on svhn in six steps."""
    return Job(
        benchmark="decathlon",
        task="svhn",
        method="piggyback",
        recipe=SMALL,
        data=data,
        backbone=backbone,
        out=tmp_path / "out",
        device=torch.device("cpu"),
    )


@pytest.fixture
def change() -> Callable[..., Job]:
    """The job with other fields of its recipe."""
    return lambda job, **fields: replace(job, recipe=replace(job.recipe, **fields))


@pytest.fixture
def count_steps() -> Callable[[Job], tuple[RunFolder, int]]:
    """Trains a job; gives its folder and how many steps the final training took in this process."""

    def train(job: Job) -> tuple[RunFolder, int]:
        shares: list[float] = []
        return train_task(job, on_step=shares.append), len(shares)

    return train


@pytest.fixture
def checkpoint_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("piggyback.suite.bench.Plan", partial(Plan, checkpoint_s=-1.0))


class StopAfter(StopFlag):
    """Asks for an end after so many steps."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    @property
    def requested(self) -> bool:  # type: ignore[override]
        self.left -= 1
        return self.left <= 0


@pytest.fixture
def stop_after() -> type[StopAfter]:
    return StopAfter


class Killed(BaseException):
    """As a kill without warning: nothing in the code catches it."""


@pytest.fixture
def kill_at() -> Callable[[Job, int], None]:
    """Trains a job until its final training has done so many steps, and drops it there."""

    def train(job: Job, steps: int) -> None:
        done = []

        def on_step(share: float) -> None:
            done.append(share)
            if len(done) == steps:
                raise Killed

        with pytest.raises(Killed):
            train_task(job, on_step=on_step)

    return train


@pytest.fixture
def outcome() -> Callable[[RunFolder], dict[str, Any]]:
    """What must have the same bits when the same recipe is run again."""

    def read(folder: RunFolder) -> dict[str, Any]:
        result = json.loads(folder.result.read_text())
        lines = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
        return {
            "payload": folder.payload.read_bytes(),
            "predictions": folder.predictions.read_bytes(),
            "epochs": [{key: value for key, value in line.items() if key != "seconds"} for line in lines],
            "result": {key: value for key, value in result.items() if key not in ("wall_s", "code")},
        }

    return read
