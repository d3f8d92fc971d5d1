"""A store's results as they come out of the checks, with drawn evidence files; plain, or as hostile as they can be."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from decathlon.board import BOARD as DECATHLON
from decathlon.challenge.points import BASELINE_ERRORS
from leaderboard.boards.board import Board
from leaderboard.boards.plain_boards import boards_for
from leaderboard.result import Code, Counts, Fingerprints, Result
from leaderboard.statistics.aggregation import make_entries
from leaderboard.statistics.entries import Entry, Protocol, Value
from leaderboard.store.reading import Finding, StoredResult
from leaderboard.tables.reproduction import reproduced_view
from leaderboard.tables.view_builders import board_views
from leaderboard.tables.views import View
from segmentation.voc import CLASSES as VOC_CLASSES

HOSTILE = (
    "'><plaintext>",
    '"><script>alert(1)</script>',
    "<img src=x onerror=alert(1)>",
    "</title></style></script><svg onload=alert(1)>",
    "{{ 7 * 7 }}{% raw %}",
    "$\\frac{1}{0}$ &lt;b&gt;",
    "\u202egnp.exe\x00\x1b[31m",
)
LINK = "javascript:alert(1)"


@dataclass(frozen=True, kw_only=True)
class DrawnStore:
    """What `leaderboard.page.page.build_page` takes."""

    store: Path
    boards: Mapping[str, Board]
    views: Sequence[View]
    results: Sequence[StoredResult]
    findings: Sequence[Finding]


def make_board(store: Path, *, hostile: bool = False) -> DrawnStore:
    """Two decathlon methods with seeds, one segmentation method; with strange names and texts when hostile."""
    results = [
        make_result(store, task=task, method=method, seed=seed, correct=right - 10 * place + seed, hostile=hostile)
        for method, right in (("piggyback", 880), ("feature", 640))
        for place, task in enumerate(BASELINE_ERRORS)
        for seed in range(3 if method == "piggyback" else 1)
    ]
    results += [make_segmentation(store, seed=seed, hostile=hostile) for seed in (0, 1)]
    if hostile:
        strange = {"task": "svhn", "seed": 0, "correct": 500, "hostile": True}
        results += [
            make_result(store, method=text, folder=f"strange{place}", **strange) for place, text in enumerate(HOSTILE)
        ]
    entries = make_entries(results)
    if hostile:
        entries += [make_published(place, text) for place, text in enumerate(HOSTILE)]
    boards = boards_for(one.result for one in results)
    views = (*board_views(boards, entries), reproduced_view(entries))
    findings = [Finding(place=f"decathlon/svhn/x/seed{n}/result.json", kind="not-json", message="no") for n in (1, 2)]
    return DrawnStore(store=store, boards=boards, views=views, results=results, findings=findings)


def make_result(
    store: Path, *, task: str, method: str, seed: int, correct: int, folder: str = "", hostile: bool = False
) -> StoredResult:
    text = " ".join(HOSTILE) if hostile else "plain"
    result = Result(
        benchmark="decathlon",
        task=task,
        task_version=1,
        split="test",
        method=method,
        recipe={"epochs": 60, "whole": ["gtsrb"], "seed": seed, **({text: text} if hostile else {})},
        seed=seed,
        metrics={"accuracy": correct / 1000, "error": 1 - correct / 1000, "zeros": 0.11, "train_loss": 0.3},
        counts=Counts(n=1000, correct=correct),
        bits={"mask": 5_800_000, "head": 24_000, **({text: 1} if hostile else {})},
        parameter_ratio=1.28 if method == "piggyback" else 1.0,
        selected_on="val",
        trained_on="train+val",
        origin="measured",
        official_data=True,
        code=Code(commit="0123456789abcdef", dirty=True),
        versions={"torch": text, **({text: "1"} if hostile else {})},
        device=text,
        wall_s=12.5,
        label=text if hostile else None,
        note=text if hostile else None,
        fingerprints=Fingerprints(data=f"data of {task}", backbone="b" * 64, predictions="p" * 64),
    )
    return keep(store, result, folder=folder or method, hostile=hostile)


def make_segmentation(store: Path, *, seed: int, hostile: bool) -> StoredResult:
    text = HOSTILE[0] if hostile else "drawn"
    result = Result(
        benchmark="segmentation",
        task="pascal-voc",
        task_version=1,
        split="seg11valid",
        method="piggyback",
        recipe={"epochs": 15, "text": text},
        seed=seed,
        metrics={"mean_iou": 0.6 + seed / 100, "pixel_accuracy": 0.9},
        counts=Counts(n=1000, correct=900),
        selected_on="last epoch",
        trained_on="train",
        origin="measured",
        official_data=True,
        code=Code(commit=None, dirty=None),
        versions={"torch": "2"},
        device="a processor",
        wall_s=1.0,
        fingerprints=Fingerprints(data="d" * 64, backbone="b" * 64, predictions="p" * 64),
    )
    return keep(store, result, folder="piggyback", hostile=hostile)


def keep(store: Path, result: Result, *, folder: str, hostile: bool) -> StoredResult:
    """Write a result's folder."""
    place = f"{result.benchmark}/{result.task}/{folder}/seed{result.seed}-0123456789ab-01234567"
    there = store / place
    there.mkdir(parents=True)
    epochs = [{"epoch": n, "loss": 2 / n, "val_accuracy": 1 - 0.6 / n, "seconds": 1.0} for n in range(1, 13)]
    layers = [{"name": f"block{n}.conv1.weight", "zeros": 0.02 * n, "weights": 1000 * n} for n in range(1, 20)]
    files: dict[str, Any] = {
        "result.json": result.model_dump_json(),
        "recipe.json": json.dumps({"recipe": result.recipe}),
        "metrics.jsonl": "".join(json.dumps(one) + "\n" for one in epochs),
        "sparsity.json": json.dumps({"layers": layers}),
        "log.txt": "epoch 1\n" + ("\n".join(HOSTILE) if hostile else "epoch 2\n"),
    }
    if result.benchmark == "segmentation":
        side = len(VOC_CLASSES)
        matrix = [[70 if row == column else (row + column) % 3 for column in range(side)] for row in range(side)]
        names = {"classes": list(VOC_CLASSES), "rows": "truth", "columns": "prediction"}
        files["confusion.json"] = json.dumps({**names, "matrix": matrix})
        draw_sheet(there / "sheet.png")
    for name, text in files.items():
        (there / name).write_text(text, encoding="utf-8", errors="surrogatepass")
    names_there = tuple(sorted(path.name for path in there.iterdir() if path.name != "result.json"))
    return StoredResult(root=store, place=place, run="0123456789ab", result=result, files=names_there)


def draw_sheet(path: Path) -> None:
    sheet = Image.new("RGB", (320, 120), "#203040")
    for place, colour in enumerate(("#80c080", "#c08080", "#8080c0")):
        ImageDraw.Draw(sheet).ellipse((20 + 100 * place, 20, 100 + 100 * place, 100), fill=colour)
    sheet.save(path)


def make_published(place: int, text: str) -> Entry:
    """A row as a careless editor would write it."""
    protocol = Protocol(split="test", official=True, trained_on=None, backbone=text, data="official")
    entry = Entry(
        board=DECATHLON,
        method=text,
        label=text,
        evidence="published",
        protocol=protocol,
        values={task: Value(mean=0.5) for task in BASELINE_ERRORS},
        points={task: Value(mean=250.0) for task in BASELINE_ERRORS},
        total=Value(mean=2400.0 + place),
        mean=Value(mean=0.5),
        parameter_ratio=1.0 + place,
        citation=text,
        table=text,
        link=LINK,
        note=text,
    )
    return replace(entry, link=f"https://example.org/{text}") if place == 0 else entry
