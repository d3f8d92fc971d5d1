"""How long `piggyback leaderboard build` takes for a store of many results, with all their evidence files.

python benchmarks/page.py [--results 10000] [--profile]
"""

import argparse
import cProfile
import hashlib
import io
import json
import os
import pstats
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from decathlon.tasks import TASKS
from leaderboard.result import Code, Counts, Fingerprints, Result
from leaderboard.statistics.aggregation import make_entries
from leaderboard.statistics.answers import with_intervals
from leaderboard.store.checks import find_place
from leaderboard.store.confusion import score_confusion
from leaderboard.store.reading import read_store
from leaderboard.verbs.building import build_from_store
from leaderboard.verbs.options import BuildOptions
from segmentation.voc import CLASSES

EPOCHS, LAYERS, PICTURES, SEEDS = 60, 27, 1000, 5
SEGMENTATION_SHARE = 0.05


def digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def draw_epochs() -> bytes:
    rows = (
        {"epoch": n, "loss": 2.5 / n, "val_accuracy": 1 - 0.7 / n, "lr": 1e-4, "seconds": 30.5}
        for n in range(1, EPOCHS + 1)
    )
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def draw_layers() -> bytes:
    layers = [{"name": f"block{n}.conv.weight", "zeros": 0.004 * n, "weights": 200_000} for n in range(1, LAYERS + 1)]
    return json.dumps({"layers": layers}).encode()


def draw_predictions(task: str) -> bytes:
    first, buffer = TASKS[task].category_ids.start, io.BytesIO()
    ids = np.arange(first, first + PICTURES, dtype=np.int64)
    np.savez(buffer, task=np.array(task), image_ids=ids, category_ids=np.full(PICTURES, first, dtype=np.int64))
    return buffer.getvalue()


def draw_confusion(hits: int) -> tuple[bytes, dict[str, float], Counts]:
    side = len(CLASSES)
    matrix = [[hits if row == column else 1 for column in range(side)] for row in range(side)]
    scores = score_confusion(matrix)
    document = {"classes": list(CLASSES), "rows": "truth", "columns": "prediction", "matrix": matrix}
    return json.dumps(document).encode(), scores.metrics, Counts(n=scores.n, correct=scores.correct)


def draw_results(count: int) -> Iterator[tuple[Result, dict[str, bytes]]]:
    """Results of sweeps over methods and learning rates: ten tasks, five seeds, and some of segmentation."""
    predictions = {task: draw_predictions(task) for task in TASKS}
    shared = {"metrics.jsonl": draw_epochs(), "sparsity.json": draw_layers(), "log.txt": b"epoch 1 of 60\n" * 100}
    zeros = sum(0.004 * n for n in range(1, LAYERS + 1)) / LAYERS
    methods, tasks = ("piggyback", "feature", "finetune", "norm"), list(TASKS)
    for number in range(count):
        recipe = {f"setting{n}": n for n in range(20)} | {"lr": 1e-4 * (1 + number // (len(tasks) * SEEDS))}
        if number < SEGMENTATION_SHARE * count:
            task, seed, hits = "pascal-voc", number % SEEDS, 100 + number % 50
            confusion, metrics, counts = draw_confusion(hits)
            recipe["lr"] = 1e-4 * (1 + number // SEEDS)
            files, digest = shared | {"confusion.json": confusion}, digest_of(confusion)
        else:
            task, seed = tasks[number % len(tasks)], number // len(tasks) % SEEDS
            counts = Counts(n=PICTURES, correct=500 + number % 400)
            metrics = {"accuracy": counts.correct / PICTURES}
            files = shared | {"predictions.npz": predictions[task]}
            digest = digest_of(predictions[task])
        recipe["seed"] = seed
        values: dict[str, Any] = {
            "benchmark": "segmentation" if task == "pascal-voc" else "decathlon",
            "split": "seg11valid" if task == "pascal-voc" else "test",
            "metrics": metrics | {"zeros": zeros, "train_loss": 2.5 / EPOCHS},
            "fingerprints": Fingerprints(data=digest_of(task.encode()), backbone="b" * 64, predictions=digest),
            "code": Code(commit="0" * 40, dirty=False),
            "versions": {"torch": "2.15.0", "numpy": "2.4.6"},
        }
        method = methods[number // (len(tasks) * SEEDS) % len(methods)]
        yield (
            Result(task=task, task_version=1, method=method, recipe=recipe, seed=seed, counts=counts,
                   bits={"head": 9000}, parameter_ratio=1.28, selected_on="last epoch", trained_on="train",
                   origin="measured", official_data=False, device="a processor", wall_s=100.0, **values),
            files | {"recipe.json": json.dumps({"recipe": recipe}).encode()},
        )  # fmt: skip


def write_store(store: Path, count: int) -> None:
    """As `leaderboard add` leaves it; equal evidence files are one file with many names."""
    originals: dict[bytes, Path] = {}
    for result, files in draw_results(count):
        data = (json.dumps(result.model_dump(mode="json"), indent=1) + "\n").encode()
        folder = store / find_place(result, data)
        folder.mkdir(parents=True)
        (folder / "result.json").write_bytes(data)
        for name, text in files.items():
            if (known := originals.get(text)) is not None and known.stat().st_nlink < 1000:
                os.link(known, folder / name)
            else:
                originals[text] = folder / name
                originals[text].write_bytes(text)


def processor_s() -> float:
    """Seconds of this process and of those that it has waited for."""
    return sum(os.times()[:4])


def measure(folder: Path, *, count: int) -> None:
    store = folder / "store"
    begun = time.perf_counter()
    write_store(store, count)
    print(f"made {count:,} results in {time.perf_counter() - begun:.1f} s", flush=True)
    begun = time.perf_counter()
    results, findings = read_store(store)
    read = time.perf_counter() - begun
    begun = time.perf_counter()
    rows = len(with_intervals(make_entries(results)))
    print(f"read and checked {len(results):,} in {read:.1f} s, {len(findings)} findings; {rows} entries in "
          f"{time.perf_counter() - begun:.1f} s", flush=True)  # fmt: skip
    begun, used = time.perf_counter(), processor_s()
    built = build_from_store(BuildOptions(store=store, out=folder / "site"))
    took, used = time.perf_counter() - begun, processor_s() - used
    size = sum(path.stat().st_size for path in (folder / "site").rglob("*.html"))
    print(
        f"| {built.results:,} results, {built.pages:,} pages, {size / 1e6:.0f} MB of HTML | {took:.1f} s | "
        f"{used:.1f} s of processor |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=int, default=10_000)
    parser.add_argument("--profile", action="store_true", help="where the time goes")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="piggyback-page-") as folder:
        profile = cProfile.Profile()
        if options.profile:
            profile.enable()
        measure(Path(folder), count=options.results)
        if options.profile:
            profile.disable()
            pstats.Stats(profile).sort_stats("cumulative").print_stats(60)


if __name__ == "__main__":
    main()
