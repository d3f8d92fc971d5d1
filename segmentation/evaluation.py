"""Evaluation of a finished run's payload, also on pictures without label maps."""

from pathlib import Path
from typing import Any, cast

from piggyback.shell import console
from piggyback.shell.errors import BadInput, one_line
from piggyback.suite.bench import backbone_digest
from piggyback.suite.evaluate import Finished
from piggyback.suite.training.checkpoints import Environment, stop_on_signal
from segmentation.bench import Bench, prediction_source
from segmentation.metric.confusion import write_matrix
from segmentation.metric.miou import score, show, warn_if_background, write_csv
from segmentation.metric.sheets import write_sheets
from segmentation.options import OwnEvaluate
from segmentation.prediction import Scored, predict_split
from segmentation.release.packed import PackedSplit, open_split, refuse_overlap


def measure(finished: Finished) -> int:
    """Predict a split by a finished run, and score it where there are label maps."""
    options, own, bench = finished.options, cast(OwnEvaluate, finished.options.own), cast(Bench, finished.bench)
    refuse_other_backbone(finished)
    split = open_split(options.data, own.split) if own.split is not None else bench.evaluation
    both = refuse_overlap(bench.train, split, allow=own.allow_overlap)
    scored = predict_run(finished, split, out=own.out)
    if own.sheets > 0:
        write_sheets(own.out / "sheet.png", split, predictions=scored.folder, pictures=own.sheets)
    report: dict[str, Any] = {"split": split.name, "official": split.official, "predictions": str(scored.folder)}
    if not split.labelled:
        for name in ("confusion.json", "scores.csv"):  # of another split, if any
            (own.out / name).unlink(missing_ok=True)
        tell_predictions({**report, "pictures": scored.pictures}, json=options.json)
        return 0
    scores = score(scored.matrix, pictures=scored.pictures)
    write_matrix(own.out / "confusion.json", scored.matrix)
    write_csv(own.out / "scores.csv", scores)
    warn_if_background(scored.matrix)
    if options.json:
        console.print_json({**report, "pictures_trained_on": both, **scores.as_json()})
    else:
        show(scores, title=f"{bench.job.method}, {split.name}, {split.completeness} pictures")
        console.out.print(f"predictions, matrix and numbers: {one_line(own.out)}", markup=False, soft_wrap=True)
    return 0


def refuse_other_backbone(finished: Finished) -> None:
    """Raise BadInput for another backbone file: the same weights can be fed in another way."""
    prints, options = finished.result.fingerprints, finished.options
    if prints is None or prints.backbone != backbone_digest(options.backbone):
        name = one_line(options.run)
        raise BadInput(f"{one_line(options.backbone)} is not the backbone file that {name} was trained on")


def predict_run(finished: Finished, split: PackedSplit, *, out: Path) -> Scored:
    bench = cast(Bench, finished.bench)
    environment = Environment.here(bench.job.device, update="none")
    with stop_on_signal() as stop, console.progress_bar() as bar:
        shown = bar.add_task(split.name, total=len(split))
        return predict_split(
            bench.predictor,
            finished.adapter.network,
            split,
            folder=out / "predictions",
            source=prediction_source(finished.folder, split, environment=environment),
            stop=stop,
            on_picture=lambda done: bar.update(shown, completed=done),
        )


def tell_predictions(report: dict[str, Any], *, json: bool) -> None:
    if json:
        console.print_json(report)
    else:
        text = f"{report['pictures']:,} predictions in {report['predictions']}; the split has no label maps to score by"
        console.out.print(text, markup=False, soft_wrap=True)
