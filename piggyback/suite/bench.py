"""One run's job, and what its benchmark opens for it.

`Bench` is the half of a benchmark's contract that needs torch.  The functions here build on it what every benchmark
needs: the method with the recipe's settings, the adapter with the fresh task, the optimizer.
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
from piggyback.network.task_state import has_norm_choice
from piggyback.numerics.rules import AdamRule, Rule, SGDRule
from piggyback.optimizer import AdapterOptimizer
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
    """What to train; picklable, so that worker processes can receive it.  Generic in the benchmark's recipe.

    Attributes:
        recipe: includes the seed.
        data: folder that the benchmark's ``prepare`` wrote.
        out: folder under which the run's folder is made.
        folder: the run's folder, when the caller chose it, as a sweep does.
        after: folder of the run that this one builds on, when the caller chose it.
        ground: folder to copy the method's own network from, when it was made elsewhere.
        allow_other_environment: continue a checkpoint even if the same bits cannot be promised.
        finished: the run is opened only to be measured; checks that matter for training alone are skipped.
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
        task = f"{self.task} " if find_benchmark(self.benchmark).several else ""
        return f"{task}{self.method} seed {self.recipe.seed}"

    @property
    def waits_for(self) -> str | None:
        """Title of the job that must finish before this one."""
        before = previous_task(self)
        return None if before is None else replace(self, task=before).title


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Numbers measured after a training.

    Attributes:
        split: name of the split measured on.
        metrics: fractions by name.
        counts: the counts behind the first metric.
        evidence: file whose digest the result carries: predictions, or the counts of a confusion matrix.
        official: whether data and labels are the complete official ones.
        noted: further entries for the result's recipe, as JSON.
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
        network: shows the task as the payload has it.
        folder: the run's folder.
        environment: the training's, for evidence that depends on it.
        stop: set when the run is asked to end.
        say: called with the stage reached, in words; shown to those who watch the run.
    """

    network: nn.Module
    folder: RunFolder
    environment: Environment
    stop: StopFlag | None = None
    say: Callable[[str], None] = lambda stage: None


@runtime_checkable
class Bench(Protocol):
    """A job with its data and backbone opened.  `Benchmark.opener` makes it, quickly, before anything is trained."""

    @property
    def job(self) -> Job:
        """The job it was opened for."""

    @property
    def fingerprints(self) -> Mapping[str, str]:
        """Digests of the pictures by purpose, those trained on first.

        Together with task, backbone file, method and recipe they identify a run.
        """

    @property
    def head(self) -> str:
        """Name of the network's slot for a task's head."""

    def build_network(self, path: Path) -> nn.Module:
        """A fresh copy, on the CPU, of the network in a backbone file or in a file that `save_network` wrote."""

    def make_head(self, network: nn.Module) -> nn.Module:
        """A fresh head, fixed by the recipe's seed and the same for every method."""

    def draw_weights(self, network: nn.Module) -> Mapping[str, Tensor]:
        """State dict of a freshly initialised network, fixed by the recipe's seed; for methods that start from one."""

    def count_batches(self, part: Part) -> int:
        """Number of batches in an epoch."""

    def batches(self, part: Part, epoch: int, start: int) -> Iterator[Pair]:
        """Inputs and targets of an epoch from batch `start` on, on any device.

        All randomness follows from seed, epoch and picture, so that a resumed run sees the same batches.
        """

    def loss(self, outputs: Any, targets: Tensor) -> Tensor:
        """Mean loss over a batch."""

    def measure(self, network: nn.Module) -> float:
        """The benchmark's first metric on val, never on test; learning rates and epochs are chosen by it."""

    def finish(self, finish: Finish) -> Measured:
        """Predict and measure after the training; leaves its evidence in the run's folder."""


@runtime_checkable
class OwnTask(Protocol):
    """A bench that opens the backbone's own task differently from other tasks."""

    def open_own_task(self, recipe: Recipe) -> Bench:
        """The backbone's own task under this recipe, fed as the backbone was; its `make_head` returns that head."""


@runtime_checkable
class OwnFile(Protocol):
    """A bench whose backbone file holds more than weights and their source."""

    def save_network(self, path: Path, network: nn.Module, source: Mapping[str, Any]) -> None:
        """Write a network into a file of the backbone's format; `source` says how it was made."""


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's random numbers for the block, and restore the state from before it afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def open_bench(job: Job) -> Bench:
    """Open everything a job needs, quickly, so that a missing input shows before anything is trained.

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
    # where the opener itself did not look, and could say more
    if not job.backbone.is_file():
        raise BadInput(f"{one_line(job.backbone)} should be a backbone file, but there is none")
    if not job.data.is_dir():
        command = f"piggyback {benchmark.name} {benchmark.source.prepare or 'prepare'}"
        raise BadInput(f"{job.task} is not packed in {one_line(job.data)}: there is no such folder. Run `{command}`")
    return bench


def open_own_task(bench: Bench, recipe: Recipe) -> Bench:
    """The backbone's own task under a recipe; its `make_head` returns the backbone's head.

    Raises:
        BadInput: the benchmark does not have it, or its pictures are missing.
    """
    if isinstance(bench, OwnTask):
        return bench.open_own_task(recipe)
    benchmark, job = benchmark_of(bench), bench.job
    if benchmark.backbone_task is None:
        raise BadInput(f"{job.benchmark} has no pictures of the backbone's own, and {job.method} needs them")
    own: Bench = load(benchmark.opener)(replace(job, task=benchmark.backbone_task, recipe=recipe))
    return own


def save_network(bench: Bench, path: Path, network: nn.Module, source: Mapping[str, Any]) -> None:
    """Write a network into a file of the backbone's format; `source` says how it was made."""
    if isinstance(bench, OwnFile):
        bench.save_network(path, network, source)
    else:
        write_backbone(path, network.state_dict(), header={"source": source}, replace=True)


@lru_cache(maxsize=4)
def backbone_digest(path: Path) -> str:
    """The sha256 of a backbone file, which is its id; computed once per process."""
    return sha256_of(path)


def data_fingerprint(bench: Bench) -> str:
    """Fingerprint of the pictures trained on; those of other pictures follow after a ``+``."""
    return "+".join(bench.fingerprints.values())


def key_of(bench: Bench) -> dict[str, Any]:
    """Everything that identifies the run: the same key means the same numbers."""
    job = bench.job
    task = {"task": job.task} if benchmark_of(bench).several else {}
    data = {**bench.fingerprints, "backbone": backbone_digest(job.backbone)}
    return {**task, **data, "method": job.method, "recipe": settings_of(job.recipe)}


def root_of(bench: Bench) -> Path:
    """The run's folder; its name is readable, and differs for different keys."""
    job = bench.job
    label = find_benchmark(job.benchmark).label_of(job.task, job.recipe)
    name = f"{label}-{job.method}-seed{job.recipe.seed}-{run_id(key_of(bench))}"
    return job.folder or job.out / "runs" / name


def method_of(job: Job) -> Method:
    recipe, method = job.recipe, named_method(job.method)
    if isinstance(method, Follows):
        return method.for_tasks(len(sequence_of(find_benchmark(job.benchmark), recipe)))
    return set_masks(method, threshold=recipe.threshold, init=recipe.init)


def previous_task(job: Job) -> str | None:
    """The task that this one builds on, if the method's tasks build on each other."""
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
    """The frozen weights that the method builds on, without any task.

    Args:
        bench: the job's.
        network: file with the method's own network; None for the backbone itself.
    """
    job, method = bench.job, method_of(bench.job)
    built = bench.build_network(network or job.backbone)
    built.to(device=job.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    norm = job.recipe.norm if has_norm_choice(method) else "fixed"
    return attach(built, method=method, head=bench.head, norm=norm)


def make_adapter(bench: Bench, *, network: Path | None) -> Adapter:
    """The frozen weights with a fresh task; the head depends on the seed alone, not on the method."""
    adapter, job = attach_adapter(bench, network=network), bench.job
    begin = bench.draw_weights(adapter.network) if method_of(job).adapts == "anew" else None
    previous = find_previous(job)
    after = None if previous is None else adapter.load(previous)
    adapter.add_task(job.task, head=bench.make_head(adapter.network), begin=begin, after=after)
    return adapter


def make_optimizer(recipe: Recipe, adapter: Adapter, *, rate: float) -> AdapterOptimizer:
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
    return -(-bench.count_batches(part) // bench.job.recipe.accumulate)


def benchmark_of(bench: Bench) -> Benchmark:
    return find_benchmark(bench.job.benchmark)


def names_of(jobs: Sequence[Job]) -> str:
    return ", ".join(job.title for job in jobs)
