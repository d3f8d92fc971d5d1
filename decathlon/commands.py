"""The Decathlon's verbs for the console command; texts only."""

from typing import Final

from piggyback.shell.cli import Command

COMMANDS: Final = (
    Command(
        name="decathlon fetch",
        summary="download the official archives, resumed after a break",
        options="decathlon.options:FetchOptions",
        target="decathlon.release.fetch:run",
        examples="  piggyback decathlon fetch --out archives",
    ),
    Command(
        name="decathlon draw",
        summary="draw a small decathlon in the form of the official release, to try things on",
        options="decathlon.options:DrawOptions",
        target="decathlon.drawn.release:run",
        examples="  piggyback decathlon draw --out release",
    ),
    Command(
        name="decathlon prepare",
        summary="check the pictures against the annotations and pack them for training",
        options="decathlon.options:PrepareOptions",
        target="decathlon.release.prepare:run",
        examples=(
            "  piggyback decathlon prepare --source archives --out data\n"
            "  piggyback decathlon prepare --source archives --out data --tasks dtd,svhn --json"
        ),
    ),
    Command(
        name="decathlon backbone import",
        summary="turn a published WRN-28-4 checkpoint into a backbone file",
        options="decathlon.backbone.options:ImportOptions",
        target="decathlon.backbone.verbs:run_import",
        examples="  piggyback decathlon backbone import imagenet12_wide28_sgd/0049 --out backbone.safetensors",
    ),
    Command(
        name="decathlon backbone evaluate",
        summary="top-1 and top-5 of a backbone's own head on imagenet12",
        options="decathlon.backbone.options:EvaluateOptions",
        target="decathlon.backbone.verbs:run_evaluate",
        examples="  piggyback decathlon backbone evaluate --backbone backbone.safetensors --data data --split val",
    ),
    Command(
        name="decathlon backbone train",
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
        name="decathlon train",
        summary="train one task with one method",
        options="decathlon.options:TrainOptions",
        defaults="decathlon.options:train_defaults",
        target="decathlon.training:run",
        examples=(
            "  piggyback decathlon train --task dtd --data data --backbone backbone.safetensors --out runs\n"
            "  piggyback decathlon train --task svhn --method finetune --recipe mini --epochs 4 --seed 1 \\\n"
            "      --data data --backbone backbone.safetensors --out runs"
        ),
    ),
    Command(
        name="decathlon ground",
        summary="make the network that packnet, joint or series-joint stands on; train and run do it by themselves",
        options="decathlon.options:GroundOptions",
        defaults="decathlon.options:ground_defaults",
        target="piggyback.suite.networks.standing:run",
        examples=(
            "  piggyback decathlon ground --method packnet --recipe packnet --data data \\\n"
            "      --backbone backbone.safetensors --out runs"
        ),
    ),
    Command(
        name="decathlon evaluate",
        summary="accuracy of a finished run's payload on val, or on test with labels",
        options="decathlon.options:EvaluateOptions",
        target="decathlon.evaluation:run",
        examples="  piggyback decathlon evaluate --run runs/runs/dtd-piggyback-seed0-0123456789 --data data \\\n"
        "      --backbone backbone.safetensors",
    ),
    Command(
        name="decathlon run",
        summary="train all tasks with one or more methods, and print the final table",
        options="decathlon.options:RunOptions",
        defaults="decathlon.options:run_defaults",
        target="decathlon.runs:run",
        examples=(
            "  piggyback decathlon run --data data --backbone backbone.safetensors --out runs\n"
            "  piggyback decathlon run --data data --backbone backbone.safetensors --recipe mini \\\n"
            "      --methods piggyback,feature,finetune --out runs"
        ),
    ),
    Command(
        name="decathlon report",
        summary="score the finished runs of a folder and say what is missing",
        options="decathlon.options:ReportOptions",
        target="decathlon.runs:run_report",
        examples="  piggyback decathlon report --runs runs --data data --methods piggyback,feature --seeds 0,1,2",
    ),
    Command(
        name="decathlon submit",
        summary="collect a method's predictions into the challenge's results.json and zip",
        options="decathlon.options:SubmitOptions",
        target="decathlon.collection:run",
        examples="  piggyback decathlon submit --runs runs --method piggyback --out results.json",
    ),
    Command(
        name="decathlon score",
        summary="accuracies, points and score of a results.json or its zip",
        options="decathlon.options:ScoreOptions",
        target="decathlon.challenge.scoring:run",
        examples=(
            "  piggyback decathlon score results.json --labels labels_test.zip\n"
            "  piggyback decathlon score results.zip --labels data/labels_test --json"
        ),
    ),
    Command(
        name="decathlon merge",
        summary="backbone and payload as one plain network's state dict",
        options="decathlon.options:MergeOptions",
        target="piggyback.suite.networks.merge:run",
        examples=(
            "  piggyback decathlon merge --payload runs/runs/dtd-piggyback-seed0-0123456789/payload.safetensors \\\n"
            "      --backbone backbone.safetensors --out dtd.safetensors"
        ),
    ),
)
