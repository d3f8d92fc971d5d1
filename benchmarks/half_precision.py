"""Masks that a network learns in half precision, beside those of its float32 twin.

The twin has the same weights, which half precision holds exactly, the same head and the same pictures.
``python benchmarks/half_precision.py`` prints the table of ``docs/performance.md``.
"""

import argparse
import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import piggyback

CLASSES = 10
BATCH = 32


def make_network(dtype: torch.dtype) -> nn.Sequential:
    """A backbone whose weights `dtype` holds exactly, in float32."""
    torch.manual_seed(0)
    network = nn.Sequential()
    network.add_module("conv1", nn.Conv2d(3, 32, 3, padding=1))
    network.add_module("bn1", nn.BatchNorm2d(32))
    network.add_module("relu1", nn.ReLU())
    network.add_module("conv2", nn.Conv2d(32, 64, 3, stride=2))
    network.add_module("bn2", nn.BatchNorm2d(64))
    network.add_module("relu2", nn.ReLU())
    network.add_module("pool", nn.AdaptiveAvgPool2d(2))
    network.add_module("flatten", nn.Flatten())
    network.add_module("hidden", nn.Linear(256, 128))
    network.add_module("relu3", nn.ReLU())
    network.add_module("head", nn.Linear(128, CLASSES))
    pretrain(network, draw_batches(200, seed=0))
    return network.to(dtype).float()


def draw_batches(steps: int, *, seed: int) -> list[tuple[Tensor, Tensor]]:
    """A pattern for each class, under as much noise; another seed is another task."""
    generator = torch.Generator().manual_seed(seed)
    patterns = torch.randn(CLASSES, 3, 12, 12, generator=generator)
    batches = []
    for _ in range(steps):
        labels = torch.randint(0, CLASSES, (BATCH,), generator=generator)
        batches.append((patterns[labels] + torch.randn(BATCH, 3, 12, 12, generator=generator), labels))
    return batches


def pretrain(network: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> None:
    optimizer = torch.optim.Adam(network.parameters())
    for inputs, labels in batches:
        optimizer.zero_grad()
        F.cross_entropy(network(inputs), labels).backward()
        optimizer.step()


def train(
    network: nn.Module, head: nn.Module, batches: list[tuple[Tensor, Tensor]], *, norm: str, rate: float
) -> tuple[dict[str, Tensor], float]:
    """The masks after a step per batch, and the loss over the last ten."""
    adapter = piggyback.attach(network, method=piggyback.Binary(), head="head", norm=norm)
    adapter.add_task("task", head=head)
    optimizer = adapter.optimizer(mask_lr=rate, head_lr=1e-3, norm_lr=1e-3)
    adapter.train()
    trunk = next(network.parameters()).dtype
    losses = []
    for inputs, labels in batches:
        optimizer.zero_grad()
        loss = F.cross_entropy(network(inputs.to(trunk)).float(), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    state = adapter.task("task")
    masks = {name: state.kept_of(name)["mask"] for name in adapter.anatomy.weights}
    return masks, sum(losses[-10:]) / 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rate", type=float, default=1e-4)
    options = parser.parse_args()
    batches = draw_batches(options.steps, seed=1)
    print("| network | norm layers | equal mask bits | zeros | zeros, float32 twin | loss | loss, float32 twin |")
    print("|---|---|---:|---:|---:|---:|---:|")
    for dtype in (torch.bfloat16, torch.float16):
        for norm in ("fixed", "trained"):
            network = make_network(dtype)
            head = nn.Linear(128, CLASSES)
            half = copy.deepcopy(network).to(dtype)
            masks, loss = train(network, copy.deepcopy(head), batches, norm=norm, rate=options.rate)
            found, half_loss = train(half, head, batches, norm=norm, rate=options.rate)
            bits, other = (torch.cat([mask.flatten() for mask in part.values()]) for part in (found, masks))
            equal = (bits == other).double().mean().item()
            zeros = [1 - part.double().mean().item() for part in (bits, other)]
            name = str(dtype).removeprefix("torch.")
            print(f"| {name} | {norm} | {equal:.2%} | {zeros[0]:.2%} | {zeros[1]:.2%} | {half_loss:.4f} | {loss:.4f} |")


if __name__ == "__main__":
    main()
