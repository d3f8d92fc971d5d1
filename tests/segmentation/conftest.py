"""A little of VOC and of SBD, and packed scenes beside the smallest VGG, for everything that trains on them."""

import io
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_benchmarks import SEGMENTATION
from small_voc import Tiny, encode_picture, pack_scenes, write_scenes, write_vgg

from piggyback.suite.bench import Job
from segmentation.benchmark import TASK


@pytest.fixture
def tiny(tmp_path: Path) -> Tiny:
    return Tiny(tmp_path / "source")


@pytest.fixture
def pixels_of() -> Callable[[str], np.ndarray]:
    """The decoded picture of an id, uint8 (h, w, 3)."""
    return lambda one: np.asarray(Image.open(io.BytesIO(encode_picture(one))))


# -- what trains ----------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight pictures of sbd_train, one of which is in voc2012_val too; five of seg11valid; two without label maps."""
    return write_scenes(tmp_path_factory.mktemp("scenes"))


@pytest.fixture(scope="session")
def packed(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scenes, packed; to be copied before it is changed."""
    return pack_scenes(scenes, tmp_path_factory.mktemp("packed"))


@pytest.fixture
def make_backbone(tmp_path: Path) -> Callable[..., Path]:
    """Writes a VGG of two to six channels, with fc6 and fc7 or without."""
    return lambda name, **more: write_vgg(tmp_path / f"{name}.safetensors", **more)


@pytest.fixture
def job(packed: Path, make_backbone: Callable[..., Path], tmp_path: Path, one_thread: None) -> Job:
    """Masks on a VGG without fc6 and fc7, in six steps: one an epoch for each shape of the eight pictures."""
    return Job(
        benchmark="segmentation",
        task=TASK,
        method="piggyback",
        recipe=SEGMENTATION.recipe,
        data=packed,
        backbone=make_backbone("convolutions", hidden=False),
        out=tmp_path / "out",
        device=torch.device("cpu"),
    )


@pytest.fixture
def recipe_words() -> list[str]:
    """Arguments that name the job's recipe."""
    return SEGMENTATION.words


@pytest.fixture
def copied(job: Job, tmp_path: Path) -> Job:
    """The job on a copy of the packed pictures, which may be changed."""
    return replace(job, data=shutil.copytree(job.data, tmp_path / "copied"))


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts ``python -m piggyback`` with some words, or with code before it, on one thread."""
    started: list[subprocess.Popen[str]] = []

    def begin(*words: str, before: str = "") -> subprocess.Popen[str]:
        how = ["-c", f"{before}\nimport runpy\nrunpy.run_module('piggyback', run_name='__main__')"]
        command = [sys.executable, *(how if before else ["-m", "piggyback"]), *words]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True))
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.communicate()
