"""What every test may use: the real data beside the project, drawn pictures, and ways to train, stop and kill a run.

What loads torch is imported where it is used: tests of the shell, of sweeps and of the leaderboard do without.
"""

import json
import os
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from decathlon.tasks import TASKS
from piggyback.shell.cli import choose, find_commands, parse

sys.path.insert(0, str(Path(__file__).parent / "small"))

from breaks import Killed, StopAfter
from small_decathlon import CLASSES, Tiny, build_task

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The real pictures, weights and labels beside the project; a user's machine has none of them.

    Where ``REQUIRE_DATA`` is set, as in CI, a missing folder is a failure and no skip.
    """
    if not SHARED_DATA.is_dir():
        reason = f"needs the real data at {SHARED_DATA}, which is not there"
        if os.environ.get("REQUIRE_DATA"):
            pytest.fail(reason)
        pytest.skip(reason)
    return SHARED_DATA


@pytest.fixture(autouse=True)
def no_power_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing waits for the disk: processes are killed in the tests, machines are not."""
    monkeypatch.setattr(os, "fsync", lambda number: None)


@pytest.fixture
def read_command() -> Callable[[list[str]], Any]:
    """The options of a command, from its words, by the console command's own parser."""

    def read(argv: list[str]) -> Any:
        command = choose(find_commands(), argv)
        assert command is not None
        return parse(command, argv[len(command.words) :])

    return read


# -- a drawn decathlon ----------------------------------------------------------------------------------


@pytest.fixture
def tiny(tmp_path: Path) -> Tiny:
    return Tiny(tmp_path / "source")


@pytest.fixture
def tiny_pictures() -> Callable[[str], tuple[dict[str, Any], dict[str, bytes]]]:
    return lambda task: build_task(task)[:2]


@pytest.fixture
def packed_root(tiny: Tiny, tmp_path: Path) -> Path:
    """Aircraft and svhn, packed."""
    from decathlon.release.prepare import prepare

    prepare(tiny.write("aircraft", "svhn"), tmp_path / "packed")
    return tmp_path / "packed"


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """A folder with what a user has: ``archives``, ``labels_test.zip`` and ``backbone.pth``, all tiny."""
    import torch

    from decathlon.backbone.wrn import wide_resnet

    folder = tmp_path / "release"
    Tiny(folder / "archives").write_official(*TASKS)
    with zipfile.ZipFile(folder / "labels_test.zip", "w") as archive:
        for task in TASKS:
            archive.writestr(f"{task}_test.json", json.dumps(build_task(task)[2]))
    network = wide_resnet(10, 1, classes=CLASSES, seed=0)
    torch.save({"state_dict": network.state_dict(), "epoch": 0}, folder / "backbone.pth")
    return folder


# -- runs: trained, stopped, killed, compared -----------------------------------------------------------


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Pictures this small are not worth several threads, which wait for each other on a busy machine."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def change() -> Callable[..., Any]:
    """The job with other fields of its recipe."""
    return lambda job, **fields: replace(job, recipe=replace(job.recipe, **fields))


@pytest.fixture
def folder_of() -> Callable[[Any], Any]:
    """Where a job's run is."""
    from piggyback.suite.bench import open_bench, root_of
    from piggyback.suite.training.run_folder import RunFolder

    return lambda job: RunFolder(root_of(open_bench(job)))


@pytest.fixture
def count_steps() -> Callable[[Any], tuple[Any, int]]:
    """Trains a job; gives its folder and how many steps the final training took in this process."""
    from piggyback.suite.train import train_task

    def train(job: Any) -> tuple[Any, int]:
        shares: list[float] = []
        return train_task(job, on_step=shares.append), len(shares)

    return train


@pytest.fixture
def checkpoint_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    from piggyback.suite.training.loop import Plan

    monkeypatch.setattr("piggyback.suite.bench.Plan", partial(Plan, checkpoint_s=-1.0))


@pytest.fixture
def stop_after() -> type[StopAfter]:
    return StopAfter


@pytest.fixture
def killed() -> type[Killed]:
    return Killed


@pytest.fixture
def kill_at() -> Callable[[Any, int], None]:
    """Trains a job until its final training has done so many steps, and drops it there."""
    from piggyback.suite.train import train_task

    def train(job: Any, steps: int) -> None:
        done = []

        def on_step(share: float) -> None:
            done.append(share)
            if len(done) == steps:
                raise Killed

        with pytest.raises(Killed):
            train_task(job, on_step=on_step)

    return train


@pytest.fixture
def outcome() -> Callable[[Any], dict[str, Any]]:
    """What must be the same when the same recipe is run again: every file, but for times and the code's commit."""

    def read(folder: Any) -> dict[str, Any]:
        result = json.loads(folder.result.read_text())
        lines = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
        passed_over = {folder.status, folder.result, folder.metrics}
        files = {path for path in folder.root.rglob("*") if path.is_file() and not path.name.startswith(".")}
        return {
            **{path.relative_to(folder.root).as_posix(): path.read_bytes() for path in files - passed_over},
            "epochs": [{key: value for key, value in line.items() if key != "seconds"} for line in lines],
            "result": {key: value for key, value in result.items() if key not in ("wall_s", "code")},
        }

    return read
