"""A finished run's payload, measured again."""

import numpy as np
from numpy.typing import NDArray

from decathlon.bench import Bench, Job, open_bench
from decathlon.collection import load_result
from decathlon.options import EvaluateOptions
from decathlon.prediction import predict
from decathlon.recipes import Recipe
from decathlon.release.labels import find_labels, read_labels
from piggyback.device import pick_device
from piggyback.shell import console
from piggyback.shell.errors import BadInput
from piggyback.suite.recipe import read_recipe
from piggyback.suite.training.run_folder import RunFolder


def right_places(bench: Bench, places: NDArray[np.int64], options: EvaluateOptions) -> NDArray[np.bool_]:
    """Which predicted places are right, bool (n).

    Raises:
        BadInput: labels of the test part are missing, or not those of its pictures.
    """
    if options.split == "val":
        return np.equal(places, bench.val.labels)
    labels = read_labels(options.labels or find_labels(options.data))
    split = bench.test
    if split.task not in labels.tasks:
        raise BadInput(f"{labels.source} has no labels of {split.task}")
    truth = labels.tasks[split.task].labels
    unknown = [image for image in split.image_ids.tolist() if image not in truth]
    if unknown:
        raise BadInput(f"{labels.source} lacks {len(unknown)} of {len(split)} pictures of {split.task}: {unknown[0]}")
    return np.equal(split.category_ids[places], [truth[image] for image in split.image_ids.tolist()])


def run(options: EvaluateOptions) -> int:
    """``piggyback decathlon evaluate``: load the payload onto the backbone and count right pictures."""
    folder = RunFolder(options.run)
    if not folder.result.exists():
        raise BadInput(f"{options.run} is no finished run: it has no result.json")
    result = load_result(folder.result)
    job = Job(
        task=result.task,
        method=result.method,
        recipe=read_recipe(result.recipe or {}, kind=Recipe, name=str(folder.result)),
        data=options.data,
        backbone=options.backbone,
        out=options.run.parent.parent,
        device=pick_device(options.device),
    )
    bench = open_bench(job)
    trained_on = result.fingerprints.data if result.fingerprints is not None else None
    if trained_on != bench.train.fingerprint:
        raise BadInput(
            f"{options.data} holds other pictures of {job.task} than those that {options.run} was trained on"
        )
    adapter = bench.attach_adapter()
    adapter.load(folder.payload, task="stored")
    split = bench.val if options.split == "val" else bench.test
    right = right_places(bench, predict(bench, adapter.network, split), options)
    n, correct = len(split), int(right.sum())
    if options.json:
        report = {"task": job.task, "method": job.method, "split": options.split, "n": n, "correct": correct}
        console.print_json({**report, "accuracy": correct / n})
    else:
        rows: list[tuple[str, ...]] = [(options.split, f"{n:,}", f"{correct:,}", f"{100 * correct / n:.2f}")]
        console.table(f"{job.task}, {job.method}", "split", "pictures", "right", "accuracy %", rows=rows)
    return 0
