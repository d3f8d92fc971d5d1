"""The table that the laws for benchmarks run over: each benchmark with so few data and so short a recipe that a run
takes part of a second.

A plugin of pytest adds or replaces entries by its ``BENCHMARKS``, by name what `Small` documents; see
``docs/adding-a-benchmark.md``.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from small_decathlon import CLASSES, Tiny
from small_voc import pack_scenes, write_scenes, write_vgg

from decathlon.backbone.backbone_file import save_backbone
from decathlon.backbone.wrn import wide_resnet
from decathlon.release.packed import open_split
from decathlon.release.prepare import prepare
from piggyback.methods.table import stands_on
from piggyback.suite.bench import Job
from piggyback.suite.benchmark import Benchmark, find_benchmark
from piggyback.suite.ordering import recipe_for
from piggyback.suite.recipe import Recipe, as_flags

TRAINED = ("aircraft", "svhn")


@dataclass(frozen=True, kw_only=True)
class Small:
    """A benchmark, made small.

    Attributes:
        name: of the benchmark.
        make: writes into a folder; gives the prepared data and the backbone file.
        settings: of the benchmark's default recipe, so that a run has two epochs of at least three steps, in which
            masks move.
        choosing: further settings under which something is held out to choose on, where the data have no val.
        tasks: those that `make` writes; all when empty.
    """

    name: str
    make: Callable[[Path], tuple[Path, Path]]
    settings: Mapping[str, Any]
    choosing: Mapping[str, Any] = field(default_factory=dict)
    tasks: tuple[str, ...] = ()

    @property
    def benchmark(self) -> Benchmark:
        """As installed."""
        return find_benchmark(self.name)

    @property
    def written(self) -> tuple[str, ...]:
        """Tasks whose data are there."""
        return self.tasks or self.benchmark.tasks

    @property
    def recipe(self) -> Recipe:
        """The small one."""
        return replace(self.benchmark.recipes[self.benchmark.default_recipe], **self.settings)

    @property
    def words(self) -> list[str]:
        """Arguments of the console command that name the recipe."""
        return as_flags(self.settings, start=self.benchmark.recipes[self.benchmark.default_recipe])

    def job(self, data: Path, backbone: Path, *, out: Path) -> Job:
        """Masks on the last task that is there."""
        return Job(
            benchmark=self.name,
            task=self.written[-1],
            method="piggyback",
            recipe=self.recipe,
            data=data,
            backbone=backbone,
            out=out,
            device=torch.device("cpu"),
        )

    def jobs(self, job: Job, *, method: str) -> list[Job]:
        """The job by a method: one for each task that is there, where the method does not treat them one by one."""
        built_on = stands_on(method)
        recipe = recipe_for(self.benchmark, job.recipe, stands_on=built_on, tasks=self.written)
        tasks = (job.task,) if built_on == "backbone" else self.written
        return [replace(job, method=method, recipe=recipe, task=task) for task in tasks]


# -- the Decathlon --------------------------------------------------------------------------------------


def pack_decathlon(folder: Path) -> Path:
    """Two tasks and the backbone's own imagenet12, packed; no labels of the test parts."""
    prepare(Tiny(folder / "source").write(*TRAINED, "imagenet12"), folder / "data")
    return folder / "data"


def write_wrn(path: Path) -> Path:
    network = wide_resnet(10, 1, classes=CLASSES, seed=0).eval()
    save_backbone(path, network, mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3), source={})
    return path


def write_labels(folder: Path, *, data: Path) -> Path:
    """Made-up labels of all test parts."""
    folder.mkdir()
    for task in (*TRAINED, "imagenet12"):
        split = open_split(data, task, "test")
        pairs = zip(split.image_ids.tolist(), split.category_ids[split.image_ids % CLASSES].tolist(), strict=True)
        document = {
            "images": [{"id": image} for image in split.image_ids.tolist()],
            "annotations": [{"image_id": image, "category_id": category} for image, category in pairs],
            "categories": [{"id": category, "name": str(category)} for category in split.category_ids.tolist()],
        }
        (folder / f"{task}_test.json").write_text(json.dumps(document))
    return folder


DECATHLON = Small(
    name="decathlon",
    make=lambda folder: (pack_decathlon(folder), write_wrn(folder / "backbone.safetensors")),
    settings={
        **{"epochs": 2, "batch_size": 3, "size": 16, "lr": 2e-3, "first_epochs": 1},
        **{"update": "eager", "precision": "fp32"},
    },
    tasks=TRAINED,
)

# -- segmentation ---------------------------------------------------------------------------------------

SEGMENTATION = Small(
    name="segmentation",
    make=lambda folder: (
        pack_scenes(write_scenes(folder / "scenes"), folder / "data"),
        write_vgg(folder / "backbone.safetensors", hidden=False),
    ),
    settings={
        **{"epochs": 2, "batch_size": 3, "size": 48, "margin": "same", "lr": 2e-3, "head_lr_factor": 20.0},
        **{"new_hidden": 6, "dropout": 0.1, "deconvolution": "fixed"},  # a learned one has 1.8 million weights
        **{"update": "eager", "precision": "fp32"},
    },
    choosing={"held_out": 2},
)

SMALL: Mapping[str, Small] = {one.name: one for one in (DECATHLON, SEGMENTATION)}
