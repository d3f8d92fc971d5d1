"""Finished runs, measured again from their payloads."""

from dataclasses import dataclass
from typing import Any

from leaderboard.result import Result
from piggyback.adapter import Adapter
from piggyback.device import pick_device
from piggyback.shell import console
from piggyback.shell.cli import load
from piggyback.shell.errors import BadInput, one_line
from piggyback.suite.bench import Bench, Job, attach_adapter, data_fingerprint, open_bench
from piggyback.suite.benchmark import Benchmark
from piggyback.suite.networks.foundation import find_foundation
from piggyback.suite.options import EvaluateOptions
from piggyback.suite.recipe import read_recipe
from piggyback.suite.results import advise, load_result
from piggyback.suite.training.run_folder import RunFolder


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A finished run, opened again with its payload on the network.

    Attributes:
        adapter: shows the task.
        options: the verb's.
    """

    bench: Bench
    adapter: Adapter
    folder: RunFolder
    result: Result
    options: EvaluateOptions[Any]


def open_finished(benchmark: Benchmark, options: EvaluateOptions[Any]) -> Finished:
    """Open the run that the options name, and load its payload onto the network that it was trained on.

    Raises:
        BadInput: the run is not finished or belongs to another benchmark, or data or backbone are not those of the run.
    """
    folder, name = RunFolder(options.run), one_line(options.run)
    if not folder.result.exists():
        raise BadInput(f"{name} is not a finished run: it has no result.json")
    result = load_result(folder.result)
    if result.benchmark != benchmark.name:
        raise BadInput(f"{name} is a run of {result.benchmark}: `piggyback {result.benchmark} evaluate` reads it")
    job = Job(
        benchmark=benchmark.name,
        task=result.task,
        method=result.method,
        recipe=read_recipe(result.recipe or {}, kind=benchmark.recipe_class, name=one_line(folder.result)),
        data=options.data,
        backbone=options.backbone,
        out=options.run.parent.parent,
        device=pick_device(options.device),
        finished=True,
    )
    bench = open_bench(job)
    trained_on = "" if result.fingerprints is None else result.fingerprints.data
    if trained_on.partition("+")[0] != data_fingerprint(bench).partition("+")[0]:
        other = f"{one_line(options.data)} holds other pictures of {job.task}"
        raise BadInput(f"{other} than those that {name} was trained on")
    adapter = attach_adapter(bench, network=find_foundation(bench))
    with advise(folder):
        adapter.load(folder.payload, task="stored", head=bench.make_head(adapter.network))
    return Finished(bench=bench, adapter=adapter, folder=folder, result=result, options=options)


def measure_again(finished: Finished) -> int:
    """Default of `Benchmark.evaluate`: the first metric on val."""
    bench, benchmark = finished.bench, finished.bench.job.benchmark
    value = bench.measure(finished.adapter.network)
    report = {"benchmark": benchmark, "task": bench.job.task, "method": bench.job.method, "val": value}
    if finished.options.json:
        console.print_json({**report, "result": dict(finished.result.metrics)})
        return 0
    rows: list[tuple[str, ...]] = [("val", f"{100 * value:.2f}")]
    console.table(f"{bench.job.task}, {bench.job.method}", "split", "%", rows=rows)
    return 0


def run(benchmark: Benchmark, options: EvaluateOptions[Any]) -> int:
    """``piggyback <benchmark> evaluate``."""
    return int(load(benchmark.evaluate)(open_finished(benchmark, options)))
