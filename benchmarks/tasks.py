"""Memory of a thousand finished tasks on ResNet-18, and the time of a switch among them, beside a copy of the weights.

    python benchmarks/tasks.py [--tasks 1000] [--rounds 60] [--threads 1] [--json FILE]

Each task has masks, a head of 37 classes and norm layers of its own, drawn at random instead of trained, and is
finished before the next one comes.  Memory is the growth of what the process has resident, as Linux counts it.  Times
are medians of one process, one of each in turn; the ratio is to copying the frozen weights into the parameters.  With
one thread they are times of the processor, which other processes disturb less.
"""

import argparse
import gc
import json
import platform
import random
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn
from torchvision.models import resnet18

from piggyback import Adapter, Binary, attach
from piggyback.masks import packed_masks
from piggyback.masks.packed_masks import exchange_masked, shows_masked, write_masked

CLASSES: Final = 37
COPY: Final = "copy of the weights"
PAGE: Final = 4096


def resident() -> int:
    """Bytes of memory that the process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def add_finished(adapter: Adapter, name: str) -> None:
    """A task whose masks and norm layers are drawn."""
    adapter.add_task(name, head=nn.Linear(512, CLASSES))
    with torch.no_grad():
        for parts in adapter.tasks[name].trained.values():
            parts["mask_real"].uniform_(0.0, 0.02)
        for part in adapter.anatomy.norm:
            tensor = adapter.network.state_dict()[part]
            if tensor.is_floating_point():
                tensor.uniform_(0.5, 1.5)
    adapter.finish_task(name)


def measure_memory(adapter: Adapter, tasks: int) -> dict[str, Any]:
    """Bytes of so many finished tasks: resident, and those of their tensors."""
    for name in ("first", "second", "third"):  # what training and compiled loops need is there from now on
        add_finished(adapter, name)
    gc.collect()
    before = resident()
    for number in range(tasks):
        add_finished(adapter, str(number))
    gc.collect()
    grown = resident() - before
    state = adapter.task("first")
    bits = sum(part.bits.nbytes for parts in state.kept.values() for part in parts.values())
    head = sum(tensor.nbytes for tensor in state.head.parameters())
    norm = sum(tensor.nbytes for tensor in state.own.values())
    return {"tasks": tasks, "resident_bytes": grown, "bits": bits, "head": head, "norm": norm}


def candidates(adapter: Adapter) -> dict[str, Callable[[int], None]]:
    """What is timed; each takes the number of the round and leaves the network as the first task's masks have it."""
    names = adapter.anatomy.weights
    pairs = [(adapter.network.get_parameter(name), adapter.frozen[name]) for name in names]
    tasks = [name for name in adapter.tasks if name != "first"]
    masks = {task: [adapter.tasks[task].kept[name]["mask"] for name in names] for task in adapter.tasks}

    def other(turn: int) -> str:
        return tasks[random.Random(turn).randrange(len(tasks))]

    def copy(turn: int) -> None:
        for parameter, weight in pairs:
            parameter.copy_(weight)

    def write(turn: int) -> None:
        for (parameter, weight), mask in zip(pairs, masks[other(turn)], strict=True):
            write_masked(parameter, weight, mask)

    def compare(turn: int) -> None:
        for (parameter, weight), mask in zip(pairs, masks["first"], strict=True):
            assert shows_masked(parameter, weight, mask)

    def exchange(turn: int) -> None:
        for (parameter, weight), *pair in zip(pairs, masks["first"], masks[other(turn)], strict=True):
            assert exchange_masked(parameter, weight, *pair)

    def uncompiled(function: Callable[[int], None]) -> Callable[[int], None]:
        def call(turn: int) -> None:
            compiled, packed_masks.COMPILED = packed_masks.COMPILED, packed_masks.Compiled(patience=1 << 60)
            function(turn)
            packed_masks.COMPILED = compiled

        return call

    return {
        COPY: copy,
        "switch, with its look at the network": lambda turn: adapter.switch(other(turn)),
        "masks written": write,
        "masks compared": compare,
        "masks compared and written": exchange,
        "masks written, uncompiled": uncompiled(write),
        "masks compared, uncompiled": uncompiled(compare),
        "masks compared and written, uncompiled": uncompiled(exchange),
    }


@torch.no_grad()
def measure_switch(adapter: Adapter, *, rounds: int) -> dict[str, dict[str, Any]]:
    """Median milliseconds of each candidate, and ratio to a copy."""
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    calls = candidates(adapter)
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 8):  # the first turns compile
        for name, call in calls.items():
            adapter.restore()  # what was timed last has written past it
            adapter.switch("first")
            begun = clock()
            call(turn)
            if turn >= 8:
                times[name].append(clock() - begun)
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {
        name: {
            "ms": round(1e3 * median, 2),
            "ratio": round(median / medians[COPY], 2),
            "quartiles_ms": [round(1e3 * q, 2) for q in statistics.quantiles(times[name], n=4)[::2]],
        }
        for name, median in medians.items()
    }


def show(memory: Mapping[str, Any], times: Mapping[str, Mapping[str, Any]]) -> None:
    parts = ", ".join(f"{kind} {memory[kind] / 1e6:.3f} MB" for kind in ("bits", "head", "norm"))
    print(f"\n{memory['tasks']} finished tasks: {memory['resident_bytes'] / 1e9:.3f} GB resident; each {parts}")
    print(f"\n| {'':38} |     ms |  ratio | quartiles, ms |\n|---|---:|---:|---|")
    for name, row in times.items():
        low, high = row["quartiles_ms"]
        print(f"| {name:38} | {row['ms']:6.2f} | {row['ratio']:6.2f} | {low:.2f} to {high:.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args()
    if options.tasks < 2 or options.rounds < 3:
        parser.error("a switch needs two tasks, and quartiles need three rounds")
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    adapter = attach(resnet18(), method=Binary(), head="fc", norm="trained")
    memory = measure_memory(adapter, options.tasks)
    times = measure_switch(adapter, rounds=options.rounds)
    print(f"torch {torch.__version__}, {options.threads} threads, Python {platform.python_version()}")
    show(memory, times)
    if options.json is not None:
        document = {"torch": torch.__version__, "threads": options.threads, "memory": memory, "times": times}
        options.json.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
