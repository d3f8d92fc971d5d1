"""The Visual Decathlon for the suite: data and texts only; nothing here is heavy."""

from typing import Final

from decathlon.backbone.pretraining_recipe import PRESETS
from decathlon.options import OwnEvaluate, OwnReport
from decathlon.recipes import DESCRIPTIONS, RECIPES
from decathlon.tasks import BACKBONE_TASK, MASKED_TASKS, TASK_VERSION
from piggyback.shell.cli import Command
from piggyback.suite.benchmark import Benchmark, Metric, Own, Source

VERBS: Final = (
    Command(
        name="fetch",
        summary="download the official archives, resumed after a break",
        options="piggyback.suite.options:FetchOptions",
        target="decathlon.release.fetch:run",
        examples="  piggyback decathlon fetch --out archives",
    ),
    Command(
        name="draw",
        summary="draw a small decathlon in the form of the official release, to try things on",
        options="decathlon.options:DrawOptions",
        target="decathlon.drawn.release:run",
        examples="  piggyback decathlon draw --out release",
    ),
    Command(
        name="prepare",
        summary="check the pictures against the annotations and pack them for training",
        options="decathlon.options:PrepareOptions",
        target="decathlon.release.prepare:run",
        examples=(
            "  piggyback decathlon prepare --source archives --out data\n"
            "  piggyback decathlon prepare --source archives --out data --tasks dtd,svhn --json"
        ),
    ),
    Command(
        name="backbone import",
        summary="turn a published WRN-28-4 checkpoint into a backbone file",
        options="decathlon.backbone.options:ImportOptions",
        target="decathlon.backbone.verbs:run_import",
        examples="  piggyback decathlon backbone import imagenet12_wide28_sgd/0049 --out backbone.safetensors",
    ),
    Command(
        name="backbone evaluate",
        summary="top-1 and top-5 of a backbone's own head on imagenet12",
        options="decathlon.backbone.options:EvaluateOptions",
        target="decathlon.backbone.verbs:run_evaluate",
        examples="  piggyback decathlon backbone evaluate --backbone backbone.safetensors --data data --split val",
    ),
    Command(
        name="backbone train",
        summary="train a WRN-28-4 from scratch on imagenet12, on one or several GPUs or nodes",
        options="decathlon.backbone.options:TrainOptions",
        defaults="decathlon.backbone.options:train_defaults",
        target="decathlon.backbone.verbs:run_train",
        examples=(
            "  piggyback decathlon backbone train --data data --out backbone\n"
            "  torchrun --nproc-per-node 4 -m piggyback decathlon backbone train --data data --out backbone"
        ),
    ),
    Command(
        name="submit",
        summary="collect a method's predictions into the challenge's results.json and zip",
        options="decathlon.options:SubmitOptions",
        target="decathlon.challenge.collection:run",
        examples="  piggyback decathlon submit --runs runs --method piggyback --out results.json",
    ),
    Command(
        name="score",
        summary="accuracies, points and score of a results.json or its zip",
        options="decathlon.options:ScoreOptions",
        target="decathlon.challenge.scoring:run",
        examples=(
            "  piggyback decathlon score results.json --labels labels_test.zip\n"
            "  piggyback decathlon score results.zip --labels data/labels_test --json"
        ),
    ),
    Command(
        name="merge",
        summary="backbone and payload as one plain network's state dict",
        options="decathlon.options:MergeOptions",
        target="decathlon.merging:run",
        examples=(
            "  piggyback decathlon merge --payload runs/runs/dtd-piggyback-seed0-0123456789/payload.safetensors \\\n"
            "      --backbone backbone.safetensors --out dtd.safetensors"
        ),
    ),
)

BENCHMARK: Final = Benchmark(
    name="decathlon",
    title="Visual Decathlon",
    recipes=RECIPES,
    descriptions=DESCRIPTIONS,
    opener="decathlon.bench:open_bench",
    metrics=(Metric(name="accuracy", title="accuracy"),),
    tasks=MASKED_TASKS,
    backbone_task=BACKBONE_TASK,
    version=TASK_VERSION,
    own=Own(run=OwnReport, evaluate=OwnEvaluate, report=OwnReport),
    begin="decathlon.challenge.collection:begin",
    evaluate="decathlon.evaluation:measure",
    report="decathlon.challenge.report:tell",
    source=Source(
        prepare="prepare",
        draw="draw",
        drawn="release",
        drawn_proof="drawn.json",
        pretrain="backbone train",
        presets=PRESETS,
        report_paths=("labels",),
    ),
    verbs=VERBS,
    demo="decathlon.demo:run_demo",
)
