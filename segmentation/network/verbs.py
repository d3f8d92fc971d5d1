"""``piggyback segmentation backbone import``."""

from piggyback.shell import console
from segmentation.network.backbone_file import import_backbone, load_backbone
from segmentation.options import ImportOptions


def run_import(options: ImportOptions) -> int:
    """Make a backbone file of a VGG's weights, and say what is in it."""
    header = import_backbone(options.file, convention=options.convention, out=options.out, force=options.force)
    backbone = load_backbone(options.out)
    weights = sum(tensor.numel() for tensor in backbone.weights.values())
    if options.json:
        fields = header.model_dump(mode="json")
        console.print_json({"path": str(options.out), "sha256": backbone.sha256, "parameters": weights, **fields})
        return 0
    hidden = f"fc6 and fc7 of {header.hidden} channels" if header.hidden else "no fc6 and fc7: tasks train their own"
    rows: list[tuple[str, ...]] = [
        ("convolutions", " | ".join(" ".join(map(str, stage)) for stage in header.channels)),
        ("hidden layers", hidden),
        ("fed with", f"{header.normalise.order.upper()} in 0..{header.normalise.range}, {options.convention}"),
        ("parameters", f"{weights:,}"),
        ("sha256", backbone.sha256),
    ]
    console.table(f"backbone file {options.out}", "", "", rows=rows)
    return 0
