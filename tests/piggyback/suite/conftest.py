"""The laws for benchmarks run over `small_benchmarks.SMALL`, or over what a plugin of pytest has in ``BENCHMARKS``."""

import multiprocessing
from collections.abc import Callable
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

import pytest
from small_benchmarks import SMALL, Small

from piggyback.methods.registry import METHODS
from piggyback.methods.table import stands_on
from piggyback.suite.bench import Job, open_bench


def find_small(config: pytest.Config) -> dict[str, Small]:
    """The table, replaced by plugins' own entries where there are any."""
    found = [getattr(plugin, "BENCHMARKS", {}) for plugin in config.pluginmanager.get_plugins()]
    own = {name: Small(name=name, **fields) for entries in found for name, fields in entries.items()}
    return own or dict(SMALL)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A law is tried on every benchmark of the table; what names a benchmark already is left alone."""
    if "small" not in metafunc.fixturenames:
        return
    table = find_small(metafunc.config).values()
    if "built_by" in metafunc.fixturenames:  # a method that is built on a network made first
        pairs = [(small, name) for small in table for name in METHODS if is_built(name, small=small)]
        metafunc.parametrize(
            ("small", "built_by"), pairs, ids=[f"{one.name}-{name}" for one, name in pairs], scope="session"
        )
    else:
        metafunc.parametrize("small", table, ids=[one.name for one in table], scope="session")


def is_built(method: str, *, small: Small) -> bool:
    return stands_on(method) != "backbone" and method not in small.benchmark.without


@pytest.fixture(scope="session")
def processes(request: pytest.FixtureRequest) -> BaseContext:
    """Processes that are there at once: the one that they are forked from has loaded what takes long."""
    openers = {small.benchmark.opener.partition(":")[0] for small in find_small(request.config).values()}
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["piggyback.suite.train", "torch._dynamo", *sorted(openers)])
    return context


@pytest.fixture(scope="session")
def made(small: Small, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Prepared data and backbone, to be copied before they are changed."""
    return small.make(tmp_path_factory.mktemp(small.name))


@pytest.fixture
def job(small: Small, made: tuple[Path, Path], tmp_path: Path, one_thread: None) -> Job:
    """Masks on the last task that is there."""
    data, backbone = made
    return small.job(data, backbone, out=tmp_path / "out")


@pytest.fixture
def train_words(small: Small) -> Callable[..., list[str]]:
    """The console command that trains a job of the small recipe, with more words behind it."""

    def words(job: Job, *more: str) -> list[str]:
        task = ["--task", job.task] if small.benchmark.several else []
        places = ["--data", str(job.data), "--backbone", str(job.backbone), "--out", str(job.out)]
        return [small.name, "train", *task, "--method", job.method, *places, *small.words, *more]

    return words


@pytest.fixture
def bench_class(job: Job) -> type[Any]:
    """What the benchmark opens for a job."""
    return type(open_bench(job))
