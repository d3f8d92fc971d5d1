"""Time of a training step: plain fine-tuning, the published form of Piggyback, and ours, side by side.

    python benchmarks/step.py [--rounds 15] [--threads 2] [--json FILE]

All variants run in one process, one step each in turn, so that whatever else the machine does falls on all of
them; reported are medians, and ratios of medians to plain fine-tuning with torch's fused Adam.  The published
form is written here from the paper's equations and the facts of the authors' layers (an autograd function
inside each layer, straight through the threshold, torch's default Adam), not copied from them.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from decathlon.backbone.wrn import wide_resnet
from piggyback import AdamRule, Adapter, Binary, Feature, attach
from piggyback.device import autocast, describe_device, pick_device

THRESHOLD, INIT, RATE = 5e-3, 1e-2, 1e-4
PLAIN = "plain fine-tuning, fused Adam"


class Binarize(torch.autograd.Function):
    """Threshold forward, identity backward (paper, section 3)."""

    @staticmethod
    def forward(ctx: Any, mask_real: Tensor) -> Tensor:
        mask = mask_real.clone()
        mask[mask_real.le(THRESHOLD)] = 0
        mask[mask_real.gt(THRESHOLD)] = 1
        return mask

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


class MaskedConv2d(nn.Module):
    def __init__(self, plain: nn.Conv2d) -> None:
        super().__init__()
        self.plain = plain
        self.mask_real = nn.Parameter(torch.full_like(plain.weight, INIT))

    def forward(self, x: Tensor) -> Tensor:
        weight = Binarize.apply(self.mask_real) * self.plain.weight
        return F.conv2d(x, weight, self.plain.bias, self.plain.stride, self.plain.padding)


class MaskedLinear(nn.Module):
    def __init__(self, plain: nn.Linear) -> None:
        super().__init__()
        self.plain = plain
        self.mask_real = nn.Parameter(torch.full_like(plain.weight, INIT))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, Binarize.apply(self.mask_real) * self.plain.weight, self.plain.bias)


def replace_layers(network: nn.Module, *, head: str) -> None:
    """Put masked layers in the place of plain ones, the published way."""
    for name, module in list(network.named_modules()):
        if name == head:
            continue
        if isinstance(module, nn.Conv2d):
            network.set_submodule(name, MaskedConv2d(module))
        elif isinstance(module, nn.Linear):
            network.set_submodule(name, MaskedLinear(module))


def linear_network() -> nn.Module:
    """Mostly fully connected, as VGG's classifier: 6272-2048-2048."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6272, 2048), nn.ReLU(), nn.Linear(2048, 2048), nn.ReLU(), nn.Linear(2048, 100))


def eval_norms(network: nn.Module) -> None:
    network.train()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()


def plain_variant(
    make: Callable[[], nn.Module], device: torch.device, *, norm: str = "fixed", **adam: Any
) -> tuple[nn.Module, Any]:
    network = place(make(), device)
    if norm == "fixed":
        eval_norms(network)
    else:
        network.train()
    return network, torch.optim.Adam(network.parameters(), RATE, **adam)


def published_variant(make: Callable[[], nn.Module], device: torch.device, *, head: str) -> tuple[nn.Module, Any]:
    network = place(make(), device)
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    replace_layers(network, head=head)
    for parameter in network.get_submodule(head).parameters():
        parameter.requires_grad_(True)
    eval_norms(network)
    return network, torch.optim.Adam([p for p in network.parameters() if p.requires_grad], RATE)


def our_variant(
    make: Callable[[], nn.Module], device: torch.device, *, head: str, method: Any, update: str
) -> tuple[nn.Module, Any]:
    adapter = make_adapter(make, device, head=head, method=method)
    return adapter.network, make_optimizer(adapter, update=update)


def make_adapter(
    make: Callable[[], nn.Module],
    device: torch.device,
    *,
    head: str,
    method: Any,
    norm: Any = "fixed",
    begin: Mapping[str, Tensor] | None = None,
) -> Adapter:
    """A fresh task on a network, in training mode; `begin` is for methods that start anew."""
    network = place(make(), device)
    adapter = attach(network, method=method, head=head, norm=norm)
    old = network.get_submodule(head)
    assert isinstance(old, nn.Linear)
    adapter.add_task("task", head=nn.Linear(old.in_features, old.out_features), begin=begin)
    adapter.train()
    return adapter


def make_optimizer(adapter: Adapter, *, update: Any) -> Any:
    return adapter.optimizer(mask_lr=RATE, head_lr=RATE, rule=AdamRule(), update=update)


def place(network: nn.Module, device: torch.device) -> nn.Module:
    return network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(name: str, make: Callable[[], nn.Module], *, head: str, inputs: Tensor, rounds: int) -> dict[str, Any]:
    """Median milliseconds per step of every variant, and its ratio to plain fine-tuning."""
    device = inputs.device
    variants = {
        PLAIN: plain_variant(make, device, fused=True),
        "plain fine-tuning, default Adam": plain_variant(make, device),
        "head only": our_variant(make, device, head=head, method=Feature(), update="auto"),
        "Piggyback, published form, default Adam": published_variant(make, device, head=head),
        "Piggyback, ours, eager": our_variant(make, device, head=head, method=Binary(), update="eager"),
        "Piggyback, ours, compiled": our_variant(make, device, head=head, method=Binary(), update="auto"),
    }
    steps = {variant: partial(train_step, *pair) for variant, pair in variants.items()}
    report = time_rounds(steps, inputs=inputs, rounds=rounds, reference=PLAIN)
    return {"network": name, "batch": len(inputs), "rounds": rounds, "variants": report}


def train_step(network: nn.Module, optimizer: Any, inputs: Tensor, targets: Tensor) -> None:
    with autocast(inputs.device):
        loss = F.cross_entropy(network(inputs), targets)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    optimizer.zero_grad()


def time_rounds(
    steps: Mapping[str, Callable[[Tensor, Tensor], None]], *, inputs: Tensor, rounds: int, reference: str
) -> dict[str, dict[str, Any]]:
    """Median milliseconds of every variant's step, one of each in turn, and its ratio to the reference's."""
    targets = torch.randint(0, 100, (len(inputs),), device=inputs.device)
    times: dict[str, list[float]] = {variant: [] for variant in steps}
    for turn in range(rounds + 3):  # the first turns warm up and compile
        for variant, step in steps.items():
            synchronise(inputs.device)
            begun = time.perf_counter()
            step(inputs, targets)
            synchronise(inputs.device)
            if turn >= 3:
                times[variant].append(time.perf_counter() - begun)
    medians = {variant: statistics.median(values) for variant, values in times.items()}
    return {
        variant: {
            "ms": round(1e3 * median, 2),
            "steps_per_s": round(1 / median, 3),
            "ratio": round(median / medians[reference], 3),
            "quartiles_ms": [round(1e3 * q, 2) for q in statistics.quantiles(times[variant], n=4)[::2]],
        }
        for variant, median in medians.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args()
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    device = pick_device()
    torch.manual_seed(0)
    pictures = torch.randn(16, 3, 64, 64, device=device).contiguous(memory_format=torch.channels_last)
    vectors = torch.randn(16, 6272, device=device)
    reports = [
        measure(
            "WRN-28-4, 64 px",
            lambda: wide_resnet(classes=100, seed=0),
            head="fc",
            inputs=pictures,
            rounds=options.rounds,
        ),
        measure("linear 6272-2048-2048", linear_network, head="4", inputs=vectors, rounds=3 * options.rounds),
    ]
    print(f"torch {torch.__version__}, {describe_device(device)}, Python {platform.python_version()}")
    for report in reports:
        print(f"\n{report['network']}, batch {report['batch']}, {report['rounds']} rounds")
        print(f"| {'variant':40} | {'ms':>8} | {'ratio':>6} | quartiles, ms |\n|---|---:|---:|---|")
        for variant, row in report["variants"].items():
            low, high = row["quartiles_ms"]
            print(f"| {variant:40} | {row['ms']:8.2f} | {row['ratio']:6.3f} | {low:.2f} to {high:.2f} |")
    if options.json is not None:
        options.json.write_text(json.dumps({"torch": torch.__version__, "reports": reports}, indent=1) + "\n")


if __name__ == "__main__":
    main()
