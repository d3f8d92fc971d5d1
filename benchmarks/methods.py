"""Time of a training step with every method, beside plain fine-tuning without an adapter: WRN-28-4, 64 px, batch 16.

    python benchmarks/methods.py [--rounds 15] [--norm trained] [--methods piggyback,ksm] [--threads 2] [--json FILE]

As in step.py: one process, a step of each in turn, so that whatever else the machine does falls on all of them;
medians, and ratios of medians to torch's fused Adam on all parameters.  Norm layers are trained, plainly and with every
method that leaves it open; `--norm fixed` keeps them fixed, as the paper's Decathlon probably had them.  Joint training
is that of nine tasks: a step is a batch of one of them, on weights that nine networks share.
"""

import argparse
import itertools
import json
import platform
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, cast

import torch
from step import PLAIN, RATE, make_adapter, make_optimizer, plain_variant, time_rounds, train_step
from torch import Tensor, nn

from decathlon.backbone.wrn import wide_resnet
from decathlon.bench import HEAD, Bench
from decathlon.recipes import Recipe
from piggyback.device import describe_device, pick_device
from piggyback.methods.contract import Method
from piggyback.methods.packnet import FirstPruning
from piggyback.methods.registry import METHODS, named_method
from piggyback.network.anatomy import dissect
from piggyback.suite.networks import joint

CLASSES: Final = 100
TASKS: Final = 9
Step = Callable[[Tensor, Tensor], None]


def make_network() -> nn.Module:
    return wide_resnet(classes=CLASSES, seed=0)


@torch.no_grad()
def make_pruned() -> nn.Module:
    """What PackNet stands on: half of each layer is free."""
    network, first = make_network(), FirstPruning()
    for name in dissect(network, head=HEAD).weights:
        weight = network.get_parameter(name)
        weight.copy_(first.apply(weight, first.start(weight)))
    return network


def norm_of(method: Method, norm: str) -> str:
    """What becomes of norm layers: some methods always train them, some never, and of the rest a recipe says."""
    if method.stands_on == "joint" or method.adapts in ("norm", "everything", "anew"):
        return "trained"
    return "fixed" if method.stands_on == "pruned" or method.adapts == "head" else norm


def make_step(method: Method, device: torch.device, *, norm: str) -> tuple[Step, str]:
    """A method's step, and the form of its update."""
    if method.stands_on == "joint":
        return make_joint_step(method, device), "none"
    make = make_pruned if method.stands_on == "pruned" else make_network
    begin = make_network().state_dict() if method.adapts == "anew" else None
    adapter = make_adapter(make, device, head=HEAD, method=method, norm=norm_of(method, norm), begin=begin)
    optimizer = make_optimizer(adapter, update="auto")
    return partial(train_step, adapter.network, optimizer), optimizer.update_form()


def make_joint_step(method: Method, device: torch.device) -> Step:
    """A step of `piggyback.suite.networks.joint`: of one task after the other."""
    asked = SimpleNamespace(job=SimpleNamespace(recipe=Recipe()), head=HEAD)  # by its optimizer
    bench = cast(Bench, asked)
    adapters = (make_adapter(make_network, device, head=HEAD, method=method, norm="trained") for _ in range(TASKS))
    apart = tuple(joint.Member(bench=bench, adapter=one, steps=1, part="final") for one in adapters)
    members = joint.share_weights(apart)
    optimizer, turn = joint.make_optimizer(members, rate=RATE), itertools.cycle(members)

    def step(inputs: Tensor, targets: Tensor) -> None:
        train_step(next(turn).adapter.network, optimizer, inputs, targets)

    return step


def measure(names: Sequence[str], device: torch.device, *, norm: str, rounds: int) -> dict[str, dict[str, Any]]:
    """Milliseconds, steps a second and ratio of each method, and what tells how they were taken."""
    methods = {name: named_method(name) for name in names}
    steps: dict[str, Step] = {PLAIN: partial(train_step, *plain_variant(make_network, device, norm=norm, fused=True))}
    told = {PLAIN: {"norm": norm, "update": "none"}}
    for name, method in methods.items():
        steps[name], update = make_step(method, device, norm=norm)
        told[name] = {"norm": norm_of(method, norm), "update": update}
    pictures = torch.randn(16, 3, 64, 64, device=device).contiguous(memory_format=torch.channels_last)
    report = time_rounds(steps, inputs=pictures, rounds=rounds, reference=PLAIN)
    return {name: told[name] | row for name, row in report.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--norm", choices=["trained", "fixed"], default="trained")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args()
    if options.rounds < 3:
        parser.error("quartiles need three rounds")
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    device = pick_device()
    torch.manual_seed(0)
    report = measure(options.methods.split(","), device, norm=options.norm, rounds=options.rounds)
    print(f"torch {torch.__version__}, {describe_device(device)}, Python {platform.python_version()}")
    print(f"\nWRN-28-4, 64 px, batch 16, {options.rounds} rounds")
    print(f"| {'method':30} | norm layers | update   | steps/s |       ms |  ratio | quartiles, ms |")
    print("|---|---|---|---:|---:|---:|---|")
    for name, row in report.items():
        low, high = row["quartiles_ms"]
        print(
            f"| {name:30} | {row['norm']:11} | {row['update']:8} | {row['steps_per_s']:7.2f} | {row['ms']:8.2f} "
            f"| {row['ratio']:6.3f} | {low:.2f} to {high:.2f} |"
        )
    if options.json is not None:
        document = {"torch": torch.__version__, "norm": options.norm, "rounds": options.rounds, "methods": report}
        options.json.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
