"""The verbs ``decathlon backbone import | evaluate | train``; each returns the exit code."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from decathlon.backbone.backbone_file import build_network, load_backbone, rank_classes, save_backbone
from decathlon.backbone.checkpoints import Layout, open_checkpoint
from decathlon.backbone.options import EvaluateOptions, ImportOptions, TrainOptions
from decathlon.backbone.pretraining import pretrain
from decathlon.release.labels import read_labels
from decathlon.release.packed import open_split
from decathlon.tasks import BACKBONE_TASK, TASKS
from piggyback.data.labelled import PackedSplit
from piggyback.device import pick_device
from piggyback.shell.console import notice, out, print_json, table
from piggyback.shell.errors import BadInput
from piggyback.shell.files import sha256_of
from piggyback.suite.training.checkpoints import stop_on_signal

TOP: Final = 5


def run_import(options: ImportOptions) -> int:
    """Write a published checkpoint as a backbone file and say what it is.

    Raises:
        BadInput: the checkpoint is not of a WRN, or the output exists with other content.
    """
    checkpoint = open_checkpoint(options.checkpoint)
    layout = Layout(depth=checkpoint.depth, widen=checkpoint.widen, classes=checkpoint.classes)
    network = build_network(checkpoint.weights, layout=layout)
    goal = options.out if options.out is not None else Path(f"{options.checkpoint.stem}.safetensors")
    if goal.resolve() == options.checkpoint.resolve():
        raise BadInput(f"{goal} is the checkpoint itself; choose another --out")
    task = TASKS[BACKBONE_TASK]
    written = save_backbone(
        goal,
        network,
        mean=task.mean,
        std=task.std,
        source={"file": options.checkpoint.name, "sha256": checkpoint.sha256, **checkpoint.notes},
        replace=options.force,
    )
    report: dict[str, int | float | str] = {
        **asdict(layout),
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "parameters_without_head": sum(
            parameter.numel() for name, parameter in network.named_parameters() if not name.startswith("fc.")
        ),
        **{name: checkpoint.notes[name] for name in ("val_top1", "best_acc") if name in checkpoint.notes},
        "checkpoint_sha256": checkpoint.sha256,
        "sha256": sha256_of(goal),
        "file": str(goal),
        "written": written,
    }
    if options.json:
        print_json(report)
        return 0
    del report["written"]
    show(
        f"WRN-{layout.depth}-{layout.widen} from {options.checkpoint}" + ("" if written else " (was already there)"),
        report,
        caption="Strides are not in a checkpoint: 2, 2, 2 are taken; `backbone evaluate` shows whether they fit.",
    )
    return 0


def run_evaluate(options: EvaluateOptions) -> int:
    """Print top-1 and top-5 of the backbone's own head on a part of imagenet12.

    Raises:
        BadInput: backbone, data or labels are missing or do not fit each other.
    """
    backbone = load_backbone(options.backbone)
    split = open_split(options.data, BACKBONE_TASK, options.split)
    labels = split.labels if options.split == "val" else find_test_labels(split, options=options)
    ranked = rank_classes(
        backbone,
        split,
        top=min(TOP, backbone.classes),
        size=options.size,
        batch_size=options.batch_size,
        device=pick_device(options.device),
    )
    right = ranked == labels[:, None]
    counts = {"top1": int(right[:, 0].sum()), "top5": int(right.any(axis=1).sum())}
    report = {
        "backbone": {"file": str(options.backbone), "sha256": backbone.sha256},
        "task": BACKBONE_TASK,
        "split": options.split,
        "official": split.official,
        "size": options.size,
        "n": len(labels),
        **{f"{name}_correct": count for name, count in counts.items()},
        **{name: count / len(labels) for name, count in counts.items()},
    }
    if options.json:
        print_json(report)
        return 0
    rows: list[tuple[str, ...]]
    rows = [(name, f"{count:,}", f"{len(labels):,}", f"{count / len(labels):.4f}") for name, count in counts.items()]
    table(
        f"{options.backbone.name} on {BACKBONE_TASK} {options.split}, centre crop {options.size} px",
        "measure",
        "right",
        "of",
        "accuracy",
        rows=rows,
        caption=None if split.official else "These are not the official data; this is no benchmark result.",
    )
    return 0


def find_test_labels(split: PackedSplit, *, options: EvaluateOptions) -> NDArray[np.int64]:
    """The classes of the test pictures, in the order of the split.

    Raises:
        BadInput: there are no labels, or they are of other pictures or categories.
    """
    places = [options.data / name for name in ("labels_test", "labels_test.zip")]
    if options.labels is not None:
        places = [options.labels]
    path = next((place for place in places if place.exists()), None)
    if path is None:
        raise BadInput(
            f"no labels of the test part at {' or '.join(str(place) for place in places)}; pass --labels with the"
            " organisers' labels_test.zip or its folder, or measure on --split val"
        )
    found = read_labels(path).tasks.get(BACKBONE_TASK)
    if found is None:
        raise BadInput(f"{path} has no labels of {BACKBONE_TASK}: no {BACKBONE_TASK}_test.json is there")
    classes = {int(number): place for place, number in enumerate(split.category_ids)}
    unknown = [int(image) for image in split.image_ids if found.labels.get(int(image)) not in classes]
    if unknown:
        raise BadInput(
            f"{path} has no label, or one of a category that the data lacks, for {len(unknown)} of {len(split)} test"
            f" pictures, the first {unknown[0]}; labels and data are of different releases"
        )
    return np.array([classes[found.labels[int(image)]] for image in split.image_ids], dtype=np.int64)


def run_train(options: TrainOptions) -> int:
    """Train a backbone from scratch, or continue; the first process reports.

    Raises:
        BadInput: the data are missing, or the folder is another run's.
        Diverged: the loss is not finite.
        Requeue: SIGTERM or SIGUSR2 came; the same command continues where it stopped.
    """
    train = open_split(options.data, BACKBONE_TASK, "train")
    val = open_split(options.data, BACKBONE_TASK, "val")
    with stop_on_signal() as stop:
        result = pretrain(
            train,
            val,
            recipe=options.settings,
            folder=options.out,
            device=options.device,
            allow_other_environment=options.allow_other_environment,
            stop=stop,
        )
    if result is None:  # not the first process
        return 0
    report = {
        "file": str(result.path),
        "sha256": sha256_of(result.path),
        "epochs": len(result.history),
        "selected": "last epoch",
        "val_top1": result.history[-1]["val_top1"],
        "loss": result.history[-1]["loss"],
    }
    if options.json:
        print_json(report)
        return 0
    if not result.trained:
        notice(f"{options.out} is done already")
    show(f"backbone trained on {BACKBONE_TASK}", report)
    return 0


def show(title: str, report: Mapping[str, object], *, caption: str | None = None) -> None:
    """Print a report of names and values, one a line; a table would cut digests on narrow terminals."""
    out.print(title, style="bold", markup=False, soft_wrap=True)
    for name, value in report.items():
        text = f"{value:,}" if isinstance(value, int) else f"{value:.4f}" if isinstance(value, float) else str(value)
        out.print(f"  {name.replace('_', ' '):<24}{text}", markup=False, soft_wrap=True)
    if caption:
        out.print(caption, style="dim", markup=False)
