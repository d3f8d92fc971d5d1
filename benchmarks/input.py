"""Pictures per second into training batches: packed pixels against torchvision's ImageFolder, side by side.

    python benchmarks/input.py [--pictures 4000] [--rounds 5] [--json FILE]

Both sides give shuffled batches of 32 random 64 px crops, mirrored by chance, normalised, from the same drawn
pictures of 72 x 96 px: ImageFolder decodes JPEG files in a DataLoader of 2 workers, ours copies windows out of
the packed file.  Rounds alternate; the start of DataLoader's workers is not counted.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from decathlon.batches import Augmentation, normalise, training_batches
from decathlon.release.packed import open_split
from decathlon.release.prepare import prepare
from decathlon.tasks import find_task

TASK = "dtd"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLASSES = 10


def write_release(folder: Path, *, pictures: int) -> None:
    """A small decathlon of one task, in the official layout: random blots, JPEG as the organisers' files."""
    task, generator = find_task(TASK), np.random.default_rng(0)
    counts = {"train": pictures, "val": CLASSES, "test": CLASSES}
    categories = [{"id": task.category_ids[k], "name": f"class{k:02d}", "supercategory": TASK} for k in range(CLASSES)]
    running = 0
    for place, (split, count) in enumerate(counts.items()):
        images, annotations = [], []
        for number in range(count):
            label = number % CLASSES
            running += 1
            path = f"data/{TASK}/{split}/{label + 1:04d}/{number + 1:06d}.jpg"
            if split == "test":
                path = f"data/{TASK}/test/{number + 1:06d}.jpg"
            file = folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            small = generator.integers(0, 256, (18, 24, 3), dtype=np.uint8)
            Image.fromarray(small).resize((96, 72), Image.Resampling.BICUBIC).save(file, quality=90)
            identity = task.number * 10**7 + place * 10**5 + running
            images.append({"id": identity, "width": 96, "height": 72, "file_name": path})
            annotations.append(
                {
                    "id": identity,
                    "image_id": identity,
                    "category_id": categories[label]["id"],
                    "segmentation": [],
                    "area": 0,
                    "bbox": [],
                    "iscrowd": 0,
                }
            )
        document = {"info": {}, "images": images, "categories": categories, "licenses": []}
        name = f"{TASK}_{split}.json"
        if split == "test":
            name = f"{TASK}_test_stripped.json"
        else:
            document["annotations"] = annotations
        (folder / "annotations").mkdir(exist_ok=True)
        (folder / "annotations" / name).write_text(json.dumps(document))


def folder_epoch(loader: DataLoader[torch.Tensor]) -> Callable[[], int]:
    def run() -> int:
        return sum(len(pictures) for pictures, _ in loader)

    return run


def packed_epoch(data: Path) -> Callable[[], int]:
    split = open_split(data, TASK, "train")
    epochs = iter(range(1000))

    def run() -> int:
        count = 0
        augmentation = Augmentation(size=64, view="crop", flip=True)
        batches = training_batches(split, augmentation=augmentation, batch_size=32, seed=0, epoch=next(epochs))
        for batch in batches:
            count += len(normalise(batch.pixels, mean=MEAN, std=STD))
        return count

    return run


def rate(run: Callable[[], int]) -> float:
    begun = time.perf_counter()
    count = run()
    return count / (time.perf_counter() - begun)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        write_release(root / "release", pictures=options.pictures)
        prepare(root / "release", root / "data")
        steps = [
            transforms.RandomCrop(64),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
        images = ImageFolder(str(root / "release" / "data" / TASK / "train"), transforms.Compose(steps))
        loader = DataLoader(images, batch_size=32, shuffle=True, num_workers=2, persistent_workers=True)
        sides = {"ImageFolder, DataLoader of 2 workers": folder_epoch(loader), "packed": packed_epoch(root / "data")}
        for run in sides.values():
            run()  # starts workers, warms the page cache
        rates = {side: [] for side in sides}  # type: dict[str, list[float]]
        for _ in range(options.rounds):
            for side, run in sides.items():
                rates[side].append(rate(run))
        medians = {side: statistics.median(values) for side, values in rates.items()}
    slow, fast = medians.values()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {options.pictures} pictures of 72 x 96 px")
    for side, median in medians.items():
        print(f"| {side:40} | {median:10,.0f} pictures/s |")
    print(f"| {'ratio':40} | {fast / slow:10.1f} |")
    if options.json is not None:
        report = {"torch": torch.__version__, "pictures_per_s": medians, "ratio": fast / slow}
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
