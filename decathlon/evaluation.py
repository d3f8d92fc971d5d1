"""A finished run's payload, measured again."""

from typing import Any, cast

import numpy as np

from decathlon.collection import load_result
from decathlon.labels import find_labels, read_labels
from decathlon.options import EvaluateOptions
from decathlon.recipes import RECIPE_FIELDS, Recipe
from decathlon.training import Job, open_bench, predict
from piggyback import console
from piggyback.device import pick_device
from piggyback.errors import BadInput
from piggyback.runs import RunFolder


def run(options: EvaluateOptions) -> int:
    """``piggyback decathlon evaluate``: load the payload onto the backbone and count right pictures."""
    folder = RunFolder(options.run)
    if not folder.result.exists():
        raise BadInput(f"{options.run} is no finished run: it has no result.json")
    result = load_result(folder.result)
    stored = {key: value for key, value in (result.recipe or {}).items() if key in RECIPE_FIELDS}
    recipe = Recipe(
        **cast(Any, {key: tuple(value) if isinstance(value, list) else value for key, value in stored.items()})
    )
    job = Job(
        task=result.task,
        method=result.method,
        recipe=recipe,
        data=options.data,
        backbone=options.backbone,
        out=options.run,
        device=pick_device(options.device),
    )
    bench = open_bench(job)
    adapter = bench.make_adapter()
    adapter.load(folder.payload, task="stored")
    split = bench.val if options.split == "val" else bench.test
    places = predict(bench, adapter.network, split)
    if options.split == "val":
        right = places == split.labels
    else:
        labels = read_labels(options.labels or find_labels(options.data))
        if job.task not in labels.tasks:
            raise BadInput(f"{labels.source} has no labels of {job.task}")
        truth = labels.tasks[job.task].labels
        right = split.category_ids[places] == np.array([truth.get(int(image), -1) for image in split.image_ids])
    n, correct = len(split), int(right.sum())
    if options.json:
        console.print_json(
            {
                "task": job.task,
                "method": job.method,
                "split": options.split,
                "n": n,
                "correct": correct,
                "accuracy": correct / n,
            }
        )
    else:
        rows: list[tuple[str, ...]] = [(options.split, f"{n:,}", f"{correct:,}", f"{100 * correct / n:.2f}")]
        console.table(f"{job.task}, {job.method}", "split", "pictures", "right", "accuracy %", rows=rows)
    return 0
