"""Time per picture of an exact mean IoU: ours against torchmetrics, side by side on the same label maps.

    pip install torchmetrics        (a peer to measure against; nothing else of the project needs it)
    python benchmarks/miou.py [--pictures 60] [--rounds 5] [--threads 1] [--json FILE]

Label maps are drawn: 375 x 500, 333 x 500, 500 x 375 and 500 x 500 pixels, ellipses of VOC's classes with void around
them, predictions that are off by some pixels, once clean as a network's and once with every fifth pixel random.
The uint8 arrays are the same memory on both sides.  A picture's time is that of adding it to the running matrix;
the division at the end is timed apart.  Sides take turns picture by picture, so that whatever else the machine
does falls on all of them.  Reported are medians over all pictures and rounds, and the median over pictures of each
one's fastest round, which other work on the machine hardly touches; with several threads on busy cores torch's wait
for each other, and only the latter means something.  The 21 numbers must agree to 1e-6, or the benchmark fails.
"""

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from piggyback.device import describe_device
from segmentation.metric.confusion import count_pairs
from segmentation.metric.miou import score
from segmentation.voc import CLASSES, VOID

try:
    import torchmetrics
    from torchmetrics.classification import MulticlassJaccardIndex
except ImportError:
    sys.exit("benchmarks/miou.py measures against torchmetrics, which is not installed: pip install torchmetrics")

Labels = NDArray[np.uint8]
Pair = tuple[Labels, Labels]
SIZES = ((375, 500), (333, 500), (500, 375), (500, 500))
OURS = "ours"
N = len(CLASSES)


class Counted:
    """Ours: an int64 matrix, divided once."""

    def __init__(self) -> None:
        self.matrix = np.zeros((N, N), dtype=np.int64)
        self.pictures = 0

    def add(self, truth: Labels, prediction: Labels) -> None:
        self.matrix += count_pairs(truth, prediction)
        self.pictures += 1

    def finish(self) -> list[float]:
        return [iou or 0.0 for iou in score(self.matrix, pictures=self.pictures).iou]


class Jaccard:
    """Torchmetrics' dataset-level IoU: absent classes are 0 there, as in `Counted.finish`."""

    def __init__(self, *, validate: bool) -> None:
        self.metric = MulticlassJaccardIndex(N, ignore_index=VOID, average=None, validate_args=validate)

    def add(self, truth: Labels, prediction: Labels) -> None:
        self.metric.update(torch.from_numpy(prediction), torch.from_numpy(truth))

    def finish(self) -> list[float]:
        return [float(iou) for iou in self.metric.compute()]


class Histogram:
    """The line that most code for VOC has: one bincount over 21 * truth + prediction, in numpy."""

    def __init__(self) -> None:
        self.matrix = np.zeros((N, N), dtype=np.int64)

    def add(self, truth: Labels, prediction: Labels) -> None:
        scored = truth < N
        pairs = N * truth[scored].astype(np.int64) + prediction[scored]
        self.matrix += np.bincount(pairs, minlength=N * N).reshape(N, N)

    def finish(self) -> list[float]:
        right = self.matrix.diagonal()
        union = self.matrix.sum(axis=0) + self.matrix.sum(axis=1) - right
        return [float(iou) for iou in right / np.maximum(union, 1)]


SIDES: dict[str, Callable[[], Any]] = {
    OURS: Counted,
    "torchmetrics, validate_args=False": lambda: Jaccard(validate=False),
    "torchmetrics, validate_args=True": lambda: Jaccard(validate=True),
    "numpy, bincount of 21 * truth + prediction": Histogram,
}


def draw_pair(number: int, *, noise: float) -> Pair:
    """Truth and prediction of one picture."""
    random = np.random.default_rng(number)
    height, width = SIZES[number % len(SIZES)]
    y, x = np.mgrid[:height, :width].astype(np.float32)
    truth, prediction = np.zeros((2, height, width), dtype=np.uint8)
    for _ in range(random.integers(1, 5)):
        label = random.integers(1, N)
        row, column = random.uniform(0.2, 0.8, 2) * (height, width)
        tall, wide = random.uniform(0.08, 0.35, 2) * (height, width)
        angle = np.arctan2(y - row, x - column)
        wobble = 1 + 0.15 * np.sin(random.integers(2, 9) * angle + random.uniform(0, 6))
        distance = np.hypot((y - row) / tall, (x - column) / wide) - wobble
        truth[distance < 0] = label
        truth[np.abs(distance) * min(tall, wide) < 2.5] = VOID
        near = np.roll(distance, random.integers(-12, 13, 2), axis=(0, 1)) < random.uniform(-0.1, 0.1)
        prediction[near] = label if random.random() < 0.8 else random.integers(1, N)
    random_pixels = random.random(truth.shape) < noise
    prediction[random_pixels] = random.integers(0, N, int(random_pixels.sum()), dtype=np.uint8)
    return truth, prediction


def measure(pairs: list[Pair], *, rounds: int) -> dict[str, Any]:
    """Microseconds per picture and for the final division of each side, and whether all agree."""
    added: dict[str, list[float]] = {side: [] for side in SIDES}
    finished: dict[str, list[float]] = {side: [] for side in SIDES}
    numbers: dict[str, list[float]] = {}
    for turn in range(rounds + 1):  # the first turn warms up
        running = {side: make() for side, make in SIDES.items()}
        for truth, prediction in pairs:
            for side, metric in running.items():
                begun = time.perf_counter()
                metric.add(truth, prediction)
                if turn:
                    added[side].append(time.perf_counter() - begun)
        for side, metric in running.items():
            begun = time.perf_counter()
            numbers[side] = metric.finish()
            if turn:
                finished[side].append(time.perf_counter() - begun)
    best = {
        side: statistics.median(min(times[place :: len(pairs)]) for place in range(len(pairs)))
        for side, times in added.items()
    }
    ours = statistics.median(added[OURS])
    return {
        side: {
            "us_per_picture": round(1e6 * statistics.median(times), 1),
            "quartiles_us": [round(1e6 * q, 1) for q in statistics.quantiles(times, n=4)[::2]],
            "ratio_to_ours": round(statistics.median(times) / ours, 2),
            "fastest_us": round(1e6 * best[side], 1),
            "fastest_ratio": round(best[side] / best[OURS], 2),
            "final_us": round(1e6 * statistics.median(finished[side]), 1),
            "largest_difference": max(abs(a - b) for a, b in zip(numbers[side], numbers[OURS], strict=True)),
        }
        for side, times in added.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="torch's; ours takes one")
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    versions = f"torch {torch.__version__}, torchmetrics {torchmetrics.__version__}, numpy {np.__version__}"
    where = describe_device(torch.device("cpu"))
    print(f"{versions}, {where}, {torch.get_num_threads()} threads of torch, Python {platform.python_version()}")
    reports = {}
    for name, noise in (("clean", 0.0), ("every fifth pixel random", 0.2)):
        pairs = [draw_pair(number, noise=noise) for number in range(options.pictures)]
        reports[name] = report = measure(pairs, rounds=options.rounds)
        print(f"\n{name}: {options.pictures} pictures, {options.rounds} rounds")
        print(f"| {'side':42} | us a picture | ratio | fastest | ratio | quartiles, us | end, us | difference |")
        print("|---|---:|---:|---:|---:|---|---:|---:|")
        for side, row in report.items():
            low, high = row["quartiles_us"]
            print(
                f"| {side:42} | {row['us_per_picture']:12.0f} | {row['ratio_to_ours']:5.1f} | {row['fastest_us']:7.0f} "
                f"| {row['fastest_ratio']:5.1f} | {low:.0f} to {high:.0f} | {row['final_us']:7.0f} "
                f"| {row['largest_difference']:.1e} |"
            )
    if options.json is not None:
        options.json.write_text(json.dumps({"versions": versions, "reports": reports}, indent=1) + "\n")
    if any(row["largest_difference"] > 1e-6 for report in reports.values() for row in report.values()):
        sys.exit("the sides do not agree to 1e-6")


if __name__ == "__main__":
    main()
