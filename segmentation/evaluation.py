"""A finished run's payload, measured again, or used on pictures without label maps."""

from typing import Any

from piggyback.device import pick_device
from piggyback.shell import console
from piggyback.shell.errors import BadInput, one_line
from piggyback.suite.recipe import read_recipe
from piggyback.suite.run_folder import Environment, RunFolder, stop_on_signal
from segmentation.bench import Bench, Job, open_bench
from segmentation.collection import advise, load_result
from segmentation.metric.confusion import score, show, warn_if_background, write_csv, write_matrix
from segmentation.metric.sheets import write_sheets
from segmentation.options import EvaluateOptions
from segmentation.prediction import Scored, predict_split
from segmentation.recipes import Recipe
from segmentation.release.packed import PackedSplit, open_split, refuse_overlap
from segmentation.training import prediction_source


def open_run_bench(options: EvaluateOptions) -> Bench:
    """The bench that the run was trained on.

    Raises:
        BadInput: the run is not finished, or data or backbone are others.
    """
    folder, run_name = RunFolder(options.run), one_line(options.run)
    if not folder.result.exists():
        raise BadInput(f"{run_name} is no finished run: it has no result.json")
    result = load_result(folder.result)
    if result.benchmark != "segmentation":
        raise BadInput(f"{run_name} is a run of {result.benchmark}: `piggyback {result.benchmark} evaluate` reads it")
    job = Job(
        method=result.method,
        recipe=read_recipe(result.recipe or {}, kind=Recipe, name=one_line(folder.result)),
        data=options.data,
        backbone=options.backbone,
        out=options.run.parent.parent,
        device=pick_device(options.device),
        allow_overlap=True,  # of the run's own splits, which its result states
    )
    bench = open_bench(job)
    prints = result.fingerprints
    trained_on = prints.data if prints is not None else ""
    if prints is None or prints.backbone != bench.backbone.sha256:  # the same weights can be fed in another way
        raise BadInput(f"{one_line(options.backbone)} is not the backbone file that {run_name} was trained on")
    if trained_on.partition("+")[0] != bench.train.fingerprint:
        raise BadInput(f"{one_line(options.data)} holds other pictures of {bench.train.name} than those {run_name} saw")
    return bench


def predict_run(options: EvaluateOptions, bench: Bench, split: PackedSplit) -> Scored:
    """Load the payload onto the backbone and predict the split."""
    folder = RunFolder(options.run)
    adapter = bench.make_adapter()
    with advise(folder):
        adapter.load(folder.payload, task="stored", head=bench.make_head(adapter.network))  # type: ignore[arg-type]
    environment = Environment.here(bench.job.device, update="none")
    source = prediction_source(folder, split, environment=environment)
    with stop_on_signal() as stop, console.progress_bar() as bar:
        shown = bar.add_task(split.name, total=len(split))
        return predict_split(
            bench,
            adapter.network,
            split,
            folder=options.out / "predictions",
            source=source,
            stop=stop,
            on_picture=lambda done: bar.update(shown, completed=done),
        )


def run(options: EvaluateOptions) -> int:
    """``piggyback segmentation evaluate``."""
    bench = open_run_bench(options)
    split = open_split(options.data, options.split) if options.split is not None else bench.evaluation
    both = refuse_overlap(bench.train, split, allow=options.allow_overlap)
    scored = predict_run(options, bench, split)
    if options.sheets > 0:
        write_sheets(options.out / "sheet.png", split, predictions=scored.folder, pictures=options.sheets)
    report: dict[str, Any] = {"split": split.name, "official": split.official, "predictions": str(scored.folder)}
    if not split.labelled:
        for name in ("confusion.json", "scores.csv"):  # of another split, if any
            (options.out / name).unlink(missing_ok=True)
        tell_predictions(options, {**report, "pictures": scored.pictures})
        return 0
    scores = score(scored.matrix, pictures=scored.pictures)
    write_matrix(options.out / "confusion.json", scored.matrix)
    write_csv(options.out / "scores.csv", scores)
    warn_if_background(scored.matrix)
    if options.json:
        console.print_json({**report, "pictures_trained_on": both, **scores.as_json()})
    else:
        show(scores, title=f"{bench.job.method}, {split.name}, {split.completeness} pictures")
        console.out.print(f"predictions, matrix and numbers: {one_line(options.out)}", markup=False, soft_wrap=True)
    return 0


def tell_predictions(options: EvaluateOptions, report: dict[str, Any]) -> None:
    """The report for a split without label maps."""
    if options.json:
        console.print_json(report)
    else:
        text = f"{report['pictures']:,} predictions in {report['predictions']}; the split has no label maps to score by"
        console.out.print(text, markup=False, soft_wrap=True)
