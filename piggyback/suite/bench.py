"""What one run works on: its job, and what the benchmark opened for it.

`Bench` is the second half of a benchmark's contract, the half that needs torch.  The functions here make of it what
all benchmarks need alike: the method with the recipe's settings, the adapter with the fresh task, the optimizer.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from typing_extensions import TypeVar

from leaderboard.result import Counts
from piggyback.adapter import Adapter, attach
from piggyback.methods.contract import Follows, Method
from piggyback.methods.registry import named_method, set_masks
from piggyback.optimizer import AdamRule, AdapterOptimizer, Rule, SGDRule
from piggyback.shell.cli import load
from piggyback.shell.errors import BadInput, one_line
from piggyback.shell.files import sha256_of
from piggyback.suite.benchmark import Benchmark, find_benchmark
from piggyback.suite.ordering import refuse_task, sequence_of, task_before
from piggyback.suite.recipe import Recipe, run_id, settings_of
from piggyback.suite.training.checkpoints import Environment, StopFlag
from piggyback.suite.training.loop import Pair, Plan
from piggyback.suite.training.run_folder import RunFolder
from piggyback.weight_files import write_backbone

R = TypeVar("R", bound=Recipe, covariant=True, default=Recipe)
Part = Literal["train", "train+val"]
"""Splits to train on.  Trials train on train alone; the training that counts, on the recipe's `trained_on`."""


@dataclass(frozen=True, kw_only=True)
class Job(Generic[R]):
    """What to train; pickle can carry it to another process.  Generic in the benchmark's recipe.

    Attributes:
        benchmark, task, method: names.
        recipe: with the seed.
        data: folder that the benchmark's ``prepare`` wrote.
        backbone: file.
        out: folder under which the run's folder is made.
        device: to train on.
        folder: the run's, when somebody else has chosen it, such as a sweep.
        after: folder of the run that this one builds on, when somebody else has chosen that.
        ground: folder to take the network from that the method is built on, when it was made elsewhere.
        allow_other_environment: continue a checkpoint although its bits cannot be kept.
        finished: the run is opened to be measured again: what only matters for training is not refused.
        own: the benchmark's own options for training, if it has any.
    """

    benchmark: str
    task: str
    method: str
    recipe: R
    data: Path
    backbone: Path
    out: Path
    device: torch.device
    folder: Path | None = None
    after: Path | None = None
    ground: Path | None = None
    allow_other_environment: bool = False
    finished: bool = False
    own: Any = None

    @property
    def title(self) -> str:
        """What to call it in progress and notices."""
        task = f"{self.task} " if find_benchmark(self.benchmark).several else ""
        return f"{task}{self.method} seed {self.recipe.seed}"

    @property
    def waits_for(self) -> str | None:
        """Title of the job that must be done before this one."""
        before = previous_task(self)
        return None if before is None else replace(self, task=before).title


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a finished training measured.

    Attributes:
        split: that it was measured on.
        metrics: fractions by name.
        counts: behind the first metric.
        evidence: file whose digest the result carries: predictions, or the counts of a confusion.
        official: whether data and labels are the official ones as a whole.
        noted: more for the result's recipe, as JSON.
    """

    split: str
    metrics: Mapping[str, float]
    counts: Counts
    evidence: Path
    official: bool
    noted: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Finish:
    """What a bench may use when a training has ended.

    Attributes:
        network: shows the task as it is in the payload.
        folder: the run's.
        environment: of the training, for evidence that depends on it.
        stop: asks for an end.
        say: tells, in words, what is done; who watches the run sees it.
    """

    network: nn.Module
    folder: RunFolder
    environment: Environment
    stop: StopFlag | None = None
    say: Callable[[str], None] = lambda stage: None


@runtime_checkable
class Bench(Protocol):
    """A job with its data and its backbone opened; made by `Benchmark.opener`, quickly, before anything is trained."""

    @property
    def job(self) -> Job:
        """What it was opened for."""

    @property
    def fingerprints(self) -> Mapping[str, str]:
        """Digests of the pictures, by what they are for, those trained on first.

        Together with task, backbone file, method and recipe they identify a run.
        """

    @property
    def head(self) -> str:
        """Name of the slot in the network that a task's head fills."""

    def build_network(self, path: Path) -> nn.Module:
        """A fresh copy of the network in the backbone's file, or one that `save_network` wrote; on the CPU."""

    def make_head(self, network: nn.Module) -> nn.Module:
        """A fresh head; the recipe's seed fixes it, for every method alike."""

    def draw_weights(self, network: nn.Module) -> Mapping[str, Tensor]:
        """State dict of a freshly drawn network, for methods that begin from one; the recipe's seed fixes it."""

    def count_batches(self, part: Part) -> int:
        """How many batches an epoch has."""

    def batches(self, part: Part, epoch: int, start: int) -> Iterator[Pair]:
        """Inputs and targets of an epoch from the `start`-th batch on, on any device.

        Everything random follows from seed, epoch and picture, so that a resumed run sees the same.
        """

    def loss(self, outputs: Any, targets: Tensor) -> Tensor:
        """The mean over a batch."""

    def measure(self, network: nn.Module) -> float:
        """The benchmark's first metric on val: by it, learning rates and epochs are chosen.  Never test."""

    def finish(self, finish: Finish) -> Measured:
        """Predict and measure when the training has ended; leaves its evidence in the run's folder."""


@runtime_checkable
class OwnTask(Protocol):
    """A bench that opens the backbone's own task in a way of its own, not as any other task."""

    def open_own_task(self, recipe: Recipe) -> Bench:
        """The backbone's own task under this recipe, fed as the backbone was, with its own head as `make_head`."""


@runtime_checkable
class OwnFile(Protocol):
    """A bench whose backbone file holds more than weights and where they come from."""

    def save_network(self, path: Path, network: nn.Module, source: Mapping[str, Any]) -> None:
        """Write a network into a file of the backbone's kind; `source` says how it was made."""


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw torch's random numbers from a seed while the block runs; those of outside go on as if it were not there."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def open_bench(job: Job) -> Bench:
    """Open everything a job needs; quick, so that what is missing shows before anything is trained.

    Raises:
        BadInput: data or backbone are missing, or method and task do not go together.
        UnknownName: there is no such task or method.
    """
    benchmark = find_benchmark(job.benchmark)
    benchmark.find_task(job.task)
    method = named_method(job.method)
    benchmark.refuse_method(job.method)
    refuse_task(benchmark, job.recipe, task=job.task, method=job.method, stands_on=method.stands_on)
    bench: Bench = load(benchmark.opener)(job)
    if not job.data.is_dir():  # where the opener itself did not look, and could say more
        command = f"piggyback {benchmark.name} {benchmark.source.prepare or 'prepare'}"
        raise BadInput(f"{job.task} is not packed in {one_line(job.data)}: there is no such folder. Run `{command}`")
    return bench


def open_own_task(bench: Bench, recipe: Recipe) -> Bench:
    """The backbone's own task under a recipe, with its own head as `make_head`.

    Raises:
        BadInput: the benchmark does not have it, or its pictures are not there.
    """
    if isinstance(bench, OwnTask):
        return bench.open_own_task(recipe)
    benchmark, job = benchmark_of(bench), bench.job
    if benchmark.backbone_task is None:
        raise BadInput(f"{job.benchmark} has no pictures of the backbone's own, and {job.method} needs them")
    own: Bench = load(benchmark.opener)(replace(job, task=benchmark.backbone_task, recipe=recipe))
    return own


def save_network(bench: Bench, path: Path, network: nn.Module, source: Mapping[str, Any]) -> None:
    """Write a network into a file of the backbone's kind; `source` says how it was made."""
    if isinstance(bench, OwnFile):
        bench.save_network(path, network, source)
    else:
        write_backbone(path, network.state_dict(), header={"source": source}, replace=True)


@lru_cache(maxsize=4)
def backbone_digest(path: Path) -> str:
    """The sha256 of a backbone file, its id; read once per process."""
    return sha256_of(path)


def data_fingerprint(bench: Bench) -> str:
    """That of the pictures trained on; others follow after a ``+``."""
    return "+".join(bench.fingerprints.values())


def key_of(bench: Bench) -> dict[str, Any]:
    """What identifies the run: the same key, the same numbers."""
    job = bench.job
    task = {"task": job.task} if benchmark_of(bench).several else {}
    data = {**bench.fingerprints, "backbone": backbone_digest(job.backbone)}
    return {**task, **data, "method": job.method, "recipe": settings_of(job.recipe)}


def root_of(bench: Bench) -> Path:
    """The run's folder: readable, and different for different keys."""
    job = bench.job
    label = find_benchmark(job.benchmark).label_of(job.task, job.recipe)
    name = f"{label}-{job.method}-seed{job.recipe.seed}-{run_id(key_of(bench))}"
    return job.folder or job.out / "runs" / name


def method_of(job: Job) -> Method:
    """The method with the recipe's settings."""
    recipe, method = job.recipe, named_method(job.method)
    if isinstance(method, Follows):
        return method.for_tasks(len(sequence_of(find_benchmark(job.benchmark), recipe)))
    return set_masks(method, threshold=recipe.threshold, init=recipe.init)


def previous_task(job: Job) -> str | None:
    """The task that this one builds on, for methods whose tasks do."""
    if not isinstance(named_method(job.method), Follows):
        return None
    return task_before(find_benchmark(job.benchmark), job.recipe, task=job.task)


def find_previous(job: Job) -> Path | None:
    """Payload of the task that a job builds on.

    Raises:
        BadInput: its run is not finished.
    """
    before = previous_task(job)
    if before is None:
        return None
    folder = RunFolder(job.after or root_of(open_bench(replace(job, task=before, folder=None))))
    if not folder.result.exists():
        raise BadInput(f"{job.task} by {job.method} builds on {before}, whose run {folder.root} is not finished")
    return folder.payload


def attach_adapter(bench: Bench, *, network: Path | None) -> Adapter:
    """The frozen weights that the method is built on, without any task.

    Args:
        bench: of the job.
        network: file of those that were changed for the method first; None for the backbone itself.
    """
    job, method = bench.job, method_of(bench.job)
    built = bench.build_network(network or job.backbone)
    built.to(device=job.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    # "feature" is the head alone by definition, and norm layers of a pruned network serve all its tasks
    free = method.adapts in ("weights", "modules") and method.stands_on != "pruned"
    return attach(built, method=method, head=bench.head, norm=job.recipe.norm if free else "fixed")


def make_adapter(bench: Bench, *, network: Path | None) -> Adapter:
    """The frozen weights with the fresh task on them; the same seed gives the same head for every method."""
    adapter, job = attach_adapter(bench, network=network), bench.job
    begin = bench.draw_weights(adapter.network) if method_of(job).adapts == "anew" else None
    previous = find_previous(job)
    after = None if previous is None else adapter.load(previous)
    adapter.add_task(job.task, head=bench.make_head(adapter.network), begin=begin, after=after)
    return adapter


def make_optimizer(recipe: Recipe, adapter: Adapter, *, rate: float) -> AdapterOptimizer:
    """The optimizer by a recipe at a base learning rate."""
    adam, sgd = AdamRule(weight_decay=recipe.weight_decay), SGDRule(weight_decay=recipe.weight_decay)
    rule: Rule = adam if recipe.rule == "adam" else sgd
    head_rule: Rule = adam if recipe.head_rule == "adam" else sgd
    return adapter.optimizer(
        mask_lr=rate,
        weight_lr=rate * recipe.weight_lr_factor,
        head_lr=rate * recipe.head_lr_factor,
        norm_lr=recipe.norm_lr,
        rule=rule,
        head_rule=head_rule,
        update=recipe.update,
    )


def make_plan(recipe: Recipe, *, epochs: int, steps: int) -> Plan:
    """So many epochs of so many steps by a recipe."""
    return Plan(
        epochs=epochs,
        steps=steps,
        accumulate=recipe.accumulate,
        schedule=recipe.schedule,
        decay_after=recipe.decay_after,
        decay_again=recipe.decay_again,
        decay_factor=recipe.decay_factor,
    )


def steps_of(bench: Bench, part: Part) -> int:
    """Steps of an epoch."""
    return -(-bench.count_batches(part) // bench.job.recipe.accumulate)


def benchmark_of(bench: Bench) -> Benchmark:
    """The benchmark that a bench is of."""
    return find_benchmark(bench.job.benchmark)


def names_of(jobs: Sequence[Job]) -> str:
    """Titles for a message."""
    return ", ".join(job.title for job in jobs)
