"""Evaluation of a finished run's payload on val or test."""

from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from decathlon.bench import Bench
from decathlon.options import OwnEvaluate
from decathlon.release.labels import find_labels, read_labels
from piggyback.shell import console
from piggyback.shell.errors import BadInput
from piggyback.suite.evaluate import Finished
from piggyback.suite.options import EvaluateOptions


def right_places(bench: Bench, places: NDArray[np.int64], options: EvaluateOptions[Any]) -> NDArray[np.bool_]:
    """Mask of the predicted places that are right, bool (n).

    Raises:
        BadInput: labels of the test part are missing, or not those of its pictures.
    """
    own = cast(OwnEvaluate, options.own)
    if own.split == "val":
        return np.equal(places, bench.val.labels)
    labels = read_labels(own.labels or find_labels(options.data))
    split = bench.test
    if split.task not in labels.tasks:
        raise BadInput(f"{labels.source} has no labels of {split.task}: give --labels of this task's test part")
    truth = labels.tasks[split.task].labels
    unknown = [image for image in split.image_ids.tolist() if image not in truth]
    if unknown:
        raise BadInput(
            f"{labels.source} lacks {len(unknown)} of {len(split)} pictures of {split.task}, first {unknown[0]}: "
            "labels and data are of different releases"
        )
    return np.equal(split.category_ids[places], [truth[image] for image in split.image_ids.tolist()])


def measure(finished: Finished) -> int:
    """Print the accuracy on val, or on test, whose labels are read only then."""
    bench, options, own = cast(Bench, finished.bench), finished.options, cast(OwnEvaluate, finished.options.own)
    split = bench.val if own.split == "val" else bench.test
    right = right_places(bench, bench.predict(finished.adapter.network, split), options)
    n, correct = len(split), int(right.sum())
    job = bench.job
    if options.json:
        report = {"task": job.task, "method": job.method, "split": own.split, "n": n, "correct": correct}
        console.print_json({**report, "accuracy": correct / n})
    else:
        rows: list[tuple[str, ...]] = [(own.split, f"{n:,}", f"{correct:,}", f"{100 * correct / n:.2f}")]
        console.table(f"{job.task}, {job.method}", "split", "pictures", "right", "accuracy %", rows=rows)
    return 0
