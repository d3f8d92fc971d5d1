"""Draws segmentation-sheet.png from a finished demo: ``python docs/img/segmentation_sheet.py demo/segmentation``.

Every sixteenth scene of the demo's evaluation split, by the masked network; colours are cut to 128, for the size.
"""

import sys
from pathlib import Path

from PIL import Image

from piggyback.suite.results import find_runs
from segmentation.benchmark import BENCHMARK, TASK
from segmentation.metric.sheets import write_sheets
from segmentation.release.packed import open_split

demo = Path(sys.argv[1])
split = open_split(demo / "data", "seg11valid")
folder = find_runs(demo / "runs", benchmark=BENCHMARK, method="piggyback")[TASK, 0].folder.root
target = Path(__file__).parent / "segmentation-sheet.png"
write_sheets(target, split, predictions=folder / "predictions" / split.name, pictures=3)
Image.open(target).quantize(128).save(target, optimize=True)
