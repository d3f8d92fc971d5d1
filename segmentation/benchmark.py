"""FCN-32s on PASCAL VOC and SBD for the suite: data and texts only; nothing here is heavy."""

from typing import Final

from piggyback.shell.cli import Command
from piggyback.suite.benchmark import Benchmark, Metric, Own, Source
from segmentation.options import Overlap, OwnEvaluate, OwnReport, OwnRun
from segmentation.recipes import DESCRIPTIONS, RECIPES, WITHOUT

TASK: Final = "pascal-voc"

VERBS: Final = (
    Command(
        name="fetch",
        summary="download VOC and SBD, resumed after a break",
        options="piggyback.suite.options:FetchOptions",
        target="segmentation.release.fetch:run",
        examples=(
            "  piggyback segmentation fetch --out archives        # voc2012 and sbd\n"
            "  piggyback segmentation fetch --out archives --archives voc2011,sbd-train-noval"
        ),
    ),
    Command(
        name="draw",
        summary="draw scenes in the form of SBD and VOC, and train a small VGG for them, to try things on",
        options="segmentation.options:DrawOptions",
        target="segmentation.drawn.small_vgg:run",
        examples="  piggyback segmentation draw --out drawn",
    ),
    Command(
        name="prepare",
        summary="check pictures and label maps and pack them by split",
        options="segmentation.options:PrepareOptions",
        target="segmentation.release.prepare:run",
        examples=(
            "  piggyback segmentation prepare --source archives --out data\n"
            "  piggyback segmentation prepare --source archives --out data --splits voc2012_val,voc2012_test --json"
        ),
    ),
    Command(
        name="backbone import",
        summary="turn a VGG's weights into a backbone file that knows how it is fed",
        options="segmentation.options:ImportOptions",
        target="segmentation.network.verbs:run_import",
        examples=(
            "  piggyback segmentation backbone import vgg16-397923af.pth --convention torchvision \\\n"
            "      --out vgg16.safetensors"
        ),
    ),
    Command(
        name="sizes",
        summary="what a task adds to the network, in weights and bytes",
        options="segmentation.options:SizesOptions",
        defaults="segmentation.options:sizes_defaults",
        target="segmentation.network.sizes:run",
        examples="  piggyback segmentation sizes --deconvolution fixed",
    ),
    Command(
        name="miou",
        summary="mean IoU of palette PNGs of any program",
        options="segmentation.options:MiouOptions",
        target="segmentation.metric.png_folders:run",
        examples=(
            "  piggyback segmentation miou --truth VOCdevkit/VOC2012/SegmentationClass --predictions predictions \\\n"
            "      --ids VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt"
        ),
    ),
    Command(
        name="bundle",
        summary="the archive for VOC's evaluation server, checked offline",
        options="segmentation.options:BundleOptions",
        target="segmentation.voc_server.bundle:run",
        examples=(
            "  piggyback segmentation bundle --predictions scores/predictions \\\n"
            "      --pictures VOCdevkit/VOC2012/JPEGImages --out results.tgz"
        ),
    ),
    Command(
        name="rle",
        summary="label maps as COCO RLE",
        options="segmentation.options:RleOptions",
        target="segmentation.voc_server.rle:run",
        examples="  piggyback segmentation rle --predictions scores/predictions --out predictions.json",
    ),
)

BENCHMARK: Final = Benchmark(
    name="segmentation",
    title="FCN-32s",
    recipes=RECIPES,
    descriptions=DESCRIPTIONS,
    opener="segmentation.bench:open_bench",
    metrics=(
        Metric(name="mean_iou", title="mean IoU", on_val="held_out_mean_iou"),
        Metric(name="pixel_accuracy", title="pixel acc"),
        Metric(name="mean_accuracy", title="mean acc"),
        Metric(name="frequency_weighted_iou", title="fw IoU"),
    ),
    tasks=(TASK,),
    without=WITHOUT,
    own=Own(train=Overlap, run=OwnRun, evaluate=OwnEvaluate, report=OwnReport),
    detail="segmentation.report:detail",
    evaluate="segmentation.evaluation:measure",
    report="segmentation.report:tell",
    keep="segmentation.report:keep",
    run_label="segmentation.recipes:label_run",
    source=Source(
        prepare="prepare",
        prepare_words="segmentation.recipes:words_to_prepare",
        draw="draw",
        drawn_proof="backbone.safetensors",
        drawn_release="release",
        drawn_backbone="backbone.safetensors",
        report_words="segmentation.recipes:words_to_report",
    ),
    verbs=VERBS,
    demo="segmentation.demo:run_demo",
)
