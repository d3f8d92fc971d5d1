"""The segmentation verbs for the console command; texts only."""

from typing import Final

from piggyback.shell.cli import Command

COMMANDS: Final = (
    Command(
        name="segmentation fetch",
        summary="download VOC and SBD, resumed after a break",
        options="segmentation.options:FetchOptions",
        target="segmentation.release.fetch:run",
        examples="  piggyback segmentation fetch --out archives",
    ),
    Command(
        name="segmentation draw",
        summary="draw scenes in the form of SBD and VOC, and train a small VGG for them, to try things on",
        options="segmentation.options:DrawOptions",
        target="segmentation.drawn.small_vgg:run",
        examples="  piggyback segmentation draw --out drawn",
    ),
    Command(
        name="segmentation prepare",
        summary="check pictures and label maps and pack them by split",
        options="segmentation.options:PrepareOptions",
        target="segmentation.release.prepare:run",
        examples=(
            "  piggyback segmentation prepare --source archives --out data\n"
            "  piggyback segmentation prepare --source archives --out data --splits voc2012_val,voc2012_test --json"
        ),
    ),
    Command(
        name="segmentation backbone import",
        summary="turn a VGG's weights into a backbone file that knows how it is fed",
        options="segmentation.options:ImportOptions",
        target="segmentation.backbone_verbs:run_import",
        examples=(
            "  piggyback segmentation backbone import vgg16-397923af.pth --convention torchvision \\\n"
            "      --out vgg16.safetensors"
        ),
    ),
    Command(
        name="segmentation sizes",
        summary="what a task adds to the network, in weights and bytes",
        options="segmentation.options:SizesOptions",
        defaults="segmentation.options:sizes_defaults",
        target="segmentation.sizes:run",
        examples="  piggyback segmentation sizes --deconvolution fixed",
    ),
    Command(
        name="segmentation train",
        summary="train with one method and evaluate",
        options="segmentation.options:TrainOptions",
        defaults="segmentation.options:train_defaults",
        target="segmentation.training:run",
        examples="  piggyback segmentation train --data data --backbone vgg16.safetensors --out runs",
    ),
    Command(
        name="segmentation run",
        summary="train with one or more methods and seeds, and print the final tables",
        options="segmentation.options:RunOptions",
        defaults="segmentation.options:run_defaults",
        target="segmentation.runs:run",
        examples=(
            "  piggyback segmentation run --data data --backbone vgg16.safetensors --out runs\n"
            "  piggyback segmentation run --data data --backbone vgg16.safetensors --recipe mini \\\n"
            "      --methods piggyback,feature,finetune --seeds 0,1,2 --out runs"
        ),
    ),
    Command(
        name="segmentation report",
        summary="tables of the finished runs of a folder, and what is missing",
        options="segmentation.options:ReportOptions",
        target="segmentation.runs:run_report",
        examples="  piggyback segmentation report --runs runs --data data --methods piggyback,feature --seeds 0,1,2",
    ),
    Command(
        name="segmentation evaluate",
        summary="mean IoU of a finished run's payload, with predictions; resumed after a break",
        options="segmentation.options:EvaluateOptions",
        target="segmentation.evaluation:run",
        examples=(
            "  piggyback segmentation evaluate --run runs/runs/seg11valid-piggyback-seed0-0123456789 --data data \\\n"
            "      --backbone vgg16.safetensors --split voc2012_val_minus_sbd --out scores"
        ),
    ),
    Command(
        name="segmentation miou",
        summary="mean IoU of palette PNGs of any program",
        options="segmentation.options:MiouOptions",
        target="segmentation.metric.miou:run",
        examples=(
            "  piggyback segmentation miou --truth VOCdevkit/VOC2012/SegmentationClass --predictions predictions \\\n"
            "      --ids VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt"
        ),
    ),
    Command(
        name="segmentation bundle",
        summary="the archive for VOC's evaluation server, checked offline",
        options="segmentation.options:BundleOptions",
        target="segmentation.voc_server.bundle:run",
        examples=(
            "  piggyback segmentation bundle --predictions scores/predictions \\\n"
            "      --pictures VOCdevkit/VOC2012/JPEGImages --out results.tgz"
        ),
    ),
    Command(
        name="segmentation rle",
        summary="label maps as COCO RLE",
        options="segmentation.options:RleOptions",
        target="segmentation.voc_server.rle:run",
        examples="  piggyback segmentation rle --predictions scores/predictions --out predictions.json",
    ),
)
