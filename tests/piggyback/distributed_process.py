"""One of two processes that train a task together; ``test_distributed.py`` starts them and reads what they wrote.

Usage: python distributed_process.py RANK FOLDER
"""

import gc
import sys
from pathlib import Path

import torch
import torch.distributed
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import piggyback
from piggyback.shell.errors import BadInput

WORLD = 2
STEPS = 50
SIZE = 16  # of a whole batch
# data type and norm layers of each training
TRAININGS = {
    "double": (torch.float64, "fixed"),
    "single": (torch.float32, "fixed"),
    "trained norm": (torch.float32, "trained"),
}


def build_adapter(dtype: torch.dtype, norm: str) -> piggyback.Adapter:
    """An adapter with two tasks, showing the first; the same in every process."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(128, 48),
        nn.ReLU(),
        nn.Linear(48, 10),
    ).to(dtype)
    adapter = piggyback.attach(network, method=piggyback.Binary(), head="10", norm=norm)
    for name in ("other", "task"):
        adapter.add_task(name, head=nn.Linear(48, 4))
    return adapter


def train(adapter: piggyback.Adapter, network: nn.Module, *, dtype: torch.dtype, rows: slice) -> None:
    """Train on some rows of every batch."""
    generator = torch.Generator().manual_seed(1)
    optimizer = adapter.optimizer(mask_lr=1e-3, head_lr=1e-3, update="eager")
    adapter.train()
    for _ in range(STEPS):
        inputs = torch.randn(SIZE, 3, 8, 8, generator=generator, dtype=torch.float64).to(dtype)
        targets = torch.randint(0, 4, (SIZE,), generator=generator)
        optimizer.zero_grad()
        F.cross_entropy(network(inputs[rows]), targets[rows]).backward()
        optimizer.step()


def result_of(adapter: piggyback.Adapter) -> dict[str, Tensor]:
    """Masks, real masks and the task's other parameters."""
    state = adapter.task("task")
    found = {f"mask {name}": state.kept_of(name)["mask"] for name in state.trained}
    found |= {f"real {name}": trained["mask_real"] for name, trained in state.trained.items()}
    found |= {f"head {name}": tensor for name, tensor in state.head.state_dict().items()}
    parameters = dict(adapter.network.named_parameters())
    return found | {f"norm {name}": tensor for name, tensor in state.own.items() if name in parameters}


def messages(adapter: piggyback.Adapter) -> list[str]:
    """What is refused once the network is wrapped, and in which words."""
    found = []
    for attempt in (
        lambda: adapter.add_task("third", head=nn.Linear(48, 4)),
        lambda: adapter.switch("other"),
        adapter.base,
        lambda: piggyback.attach(DistributedDataParallel(nn.Linear(2, 2)), method=piggyback.Binary()),
    ):
        try:
            attempt()
        except BadInput as fault:
            found.append(str(fault))
        else:
            found.append("")
    return found


def main(rank: int, folder: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=WORLD)
    rows = slice(rank * SIZE // WORLD, (rank + 1) * SIZE // WORLD)
    results: dict[str, object] = {}
    for name, (dtype, norm) in TRAININGS.items():
        adapter = build_adapter(dtype, norm)
        wrapped = DistributedDataParallel(adapter.network)
        train(adapter, wrapped, dtype=dtype, rows=rows)
        adapter.switch("task")  # the current one: nothing changes, so nothing is refused
        results[name] = result_of(adapter)
        if name == "single":
            results["messages"] = messages(adapter)
            results["current"] = adapter.current
            del wrapped
            gc.collect()
            adapter.switch("other")
            results["unwrapped"] = adapter.current
    torch.save(results, folder / f"rank{rank}.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
