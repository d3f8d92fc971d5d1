"""How much of the trunk of known networks Piggyback masks, and what is left out: the tables of ``docs/coverage.md``.

    python benchmarks/coverage.py [--only vit_b_16,swin_t]

Weights are drawn at random, nothing is downloaded.  The second table needs timm.
"""

import argparse
import importlib.util
import warnings
from collections.abc import Callable, Mapping
from typing import Final

import torchvision
from torch import nn

import piggyback

TORCHVISION: Final[Mapping[str, tuple[str, ...]]] = {
    "alexnet": ("classifier.6",),
    "vgg16": ("classifier.6",),
    "squeezenet1_1": ("classifier.1",),
    "resnet50": ("fc",),
    "resnext50_32x4d": ("fc",),
    "wide_resnet50_2": ("fc",),
    "densenet121": ("classifier",),
    "inception_v3": ("fc", "AuxLogits.fc"),
    "googlenet": ("fc", "aux1.fc2", "aux2.fc2"),
    "mobilenet_v2": ("classifier.1",),
    "mobilenet_v3_large": ("classifier.3",),
    "shufflenet_v2_x1_0": ("fc",),
    "mnasnet1_0": ("classifier.1",),
    "efficientnet_b0": ("classifier.1",),
    "efficientnet_v2_s": ("classifier.1",),
    "regnet_y_400mf": ("fc",),
    "convnext_tiny": ("classifier.2",),
    "vit_b_16": ("heads.head",),
    "swin_t": ("head",),
    "swin_v2_t": ("head",),
    "maxvit_t": ("classifier.5",),
}
TIMM: Final[Mapping[str, tuple[str, ...]]] = {
    "resnetv2_50x1_bit": ("head.fc",),
    "efficientnet_b0": ("classifier",),
    "convnext_tiny": ("head.fc",),
    "nfnet_l0": ("head.fc",),
    "vit_small_patch16_224": ("head",),
    "deit_small_distilled_patch16_224": ("head", "head_dist"),
    "swin_tiny_patch4_window7_224": ("head.fc",),
    "beit_base_patch16_224": ("head",),
    "eva02_tiny_patch14_224": ("head",),
    "mixer_s16_224": ("head",),
    "maxvit_tiny_tf_224": ("head.fc",),
}


def show_row(name: str, network: nn.Module, heads: tuple[str, ...]) -> None:
    shares = piggyback.attach(network, method=piggyback.Binary(), head=heads).coverage().shares
    left = ", ".join(f"{reason} {count:,}" for reason, count in shares.left_out.items()) or "nothing"
    print(
        f"| `{name}` | {', '.join(f'`{slot}`' for slot in heads)} | {shares.trunk:,} | {shares.masked_share:.2%} | "
        f"{shares.norm / shares.trunk:.2%} | {shares.left_out_share:.2%} | {left} |",
        flush=True,
    )


def show_table(models: Mapping[str, tuple[str, ...]], make: Callable[[str], nn.Module], *, only: set[str]) -> None:
    print("| network | head | parameters of the trunk | masked | norm layers | left out | which are |")
    print("|---|---|--:|--:|--:|--:|---|")
    for name, heads in models.items():
        if not only or name in only:
            show_row(name, make(name), heads)


def make_torchvision(name: str) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # two of them tell that their way of drawing weights will change
        return torchvision.models.get_model(name, weights=None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="names, separated by commas")
    only = set(filter(None, parser.parse_args().only.split(",")))
    print(f"\ntorchvision {torchvision.__version__}\n")
    show_table(TORCHVISION, make_torchvision, only=only)
    if importlib.util.find_spec("timm") is None:
        print("\ntimm is not installed")
        return
    import timm

    print(f"\ntimm {timm.__version__}\n")
    show_table(TIMM, timm.create_model, only=only)


if __name__ == "__main__":
    main()
