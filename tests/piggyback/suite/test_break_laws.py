"""Laws for runs that are stopped, killed or damaged: the same command ends with the same bits."""

import hashlib
import json
import random
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from forked_runs import train_until_killed
from small_benchmarks import Small

from piggyback.shell.errors import Requeue
from piggyback.suite import train
from piggyback.suite.bench import Job, open_bench, steps_of
from piggyback.suite.networks.foundation import make_foundation
from piggyback.suite.train import train_task

Change = Callable[..., Job]
Outcome = Callable[[Any], dict[str, Any]]
Count = Callable[[Job], tuple[Any, int]]
Folder = Callable[[Job], Any]

CHOOSING = {"lr_grid": (1e-3, 2e-3), "trial_share": 0.5}
CASES = {
    "masks": ("piggyback", {}),
    "trials and accumulation": ("finetune", {**CHOOSING, "trained_on": "train+val", "batch_size": 2, "accumulate": 2}),
    "selected on val": ("piggyback-ternary", {"selected_on": "val", "norm": "trained", "weight_decay": 1e-3}),
    "a schedule of its own": ("affine", {"schedule": "cosine", "rule": "sgd", "head_rule": "sgd", "norm_lr": 1e-3}),
}


def made_so_far(root: Path) -> dict[str, int]:
    """Names and sizes of what lies in a folder, but for what says the time."""
    files = (path for path in root.rglob("*") if path.is_file() and path.name != "status.json")
    return {str(path): path.stat().st_size for path in files}


def stop_everywhere(train: Callable[[Any], object], *, root: Path, stop_after: Any) -> int:
    """Stop a training wherever it can be stopped, one process after the other; gives how often that was."""
    stops, looks, before = 0, 1, dict[str, int]()
    while True:
        torch.manual_seed(stops)  # where a checkpoint is loaded nothing of what this process did may count
        try:
            train(stop_after(looks))
        except Requeue:
            stops += 1
            assert stops < 200, "it gets no further"
            now = made_so_far(root)
            looks = looks + 1 if now == before else looks
            before = now
            continue
        return stops


# -- stops ----------------------------------------------------------------------------------------------


@pytest.fixture
def measured(bench_class: Any, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Digests of the networks that are measured on val: a number of few pictures says little of their bits."""
    digests: list[str] = []
    measure = bench_class.measure

    def note(bench: Any, network: torch.nn.Module) -> float:
        state = b"".join(tensor.numpy().tobytes() for tensor in network.state_dict().values())
        digests.append(hashlib.sha256(state).hexdigest())
        value: float = measure(bench, network)
        return value

    monkeypatch.setattr(bench_class, "measure", note)
    return digests


@pytest.mark.parametrize("case", CASES)
def test_a_stop_at_every_step_changes_no_bit(
    small: Small,
    job: Job,
    change: Change,
    outcome: Outcome,
    stop_after: Any,
    folder_of: Folder,
    measured: list[str],
    tmp_path: Path,
    case: str,
) -> None:
    method, fields = CASES[case]
    job = change(replace(job, method=method), **small.choosing, **fields)
    whole = train_task(job)
    expected = list(dict.fromkeys(measured))
    measured.clear()
    again = replace(job, out=tmp_path / "again")
    folder = folder_of(again)

    def train(stop: Any) -> None:
        try:
            train_task(again, stop=stop)
        except Requeue:
            assert (folder.read_status()["state"], folder.result.exists()) == ("requeue", False)
            assert list(folder.checkpoints.rglob("*.pt"))
            raise

    stops = stop_everywhere(train, root=again.out, stop_after=stop_after)
    bench = open_bench(job)
    final = job.recipe.epochs_for(bench.count_batches(job.recipe.trained_on)) * steps_of(bench, job.recipe.trained_on)
    tried = [trial["steps"] for trial in json.loads(folder.trials.read_text())] if job.recipe.lr_grid else []
    assert len(tried) == len(job.recipe.lr_grid)
    assert stops >= final + sum(tried)  # after each, and wherever else it looks
    assert list(dict.fromkeys(measured)) == expected  # the last epoch's again, where a stop came after it
    assert outcome(folder) == outcome(whole)
    assert not folder.checkpoints.exists()


def test_a_stop_at_every_step_changes_no_bit_of_a_network_made_first(
    small: Small, built_by: str, job: Job, change: Change, stop_after: Any, tmp_path: Path
) -> None:
    (first, *_) = small.jobs(change(job, **small.choosing, **CHOOSING), method=built_by)
    again = replace(first, out=tmp_path / "again")
    whole = make_foundation(open_bench(first))

    def make(stop: Any) -> None:
        make_foundation(open_bench(again), stop=stop)

    assert stop_everywhere(make, root=again.out, stop_after=stop_after) >= 3
    found = make_foundation(open_bench(again))
    assert whole is not None
    assert found is not None
    files = {path.relative_to(whole.root) for path in whole.root.rglob("*.safetensors")}
    assert files == {path.relative_to(found.root) for path in found.root.rglob("*.safetensors")}
    assert files
    for file in files:
        assert (found.root / file).read_bytes() == (whole.root / file).read_bytes(), file
    assert not found.checkpoints.exists()
    before = made_so_far(again.out)
    assert stop_everywhere(make, root=again.out, stop_after=stop_after) == 0  # nothing is trained again
    assert made_so_far(again.out) == before


# -- kills ----------------------------------------------------------------------------------------------


def test_kills_without_warning_change_no_bit(
    small: Small,
    job: Job,
    change: Change,
    outcome: Outcome,
    folder_of: Folder,
    processes: Any,
    tmp_path: Path,
) -> None:
    """At moments that a seed has chosen, in trials, training and whatever comes after."""
    job = change(job, **small.choosing, **CHOOSING)
    again = replace(job, out=tmp_path / "again")
    moments, waits = random.Random(0), list[int]()
    folder = folder_of(again)
    while True:
        waits.append(moments.randrange(3, 12 + 2 * len(waits)))  # longer and longer, so that it comes to an end
        process = processes.Process(target=train_until_killed, args=(again, waits[-1]))
        process.start()
        process.join()
        if folder.result.exists():
            break
        assert process.exitcode == -signal.SIGKILL, waits
        assert folder.read_status().get("state", "running") == "running"
    assert len(waits) >= 4
    found = train_task(again)
    assert outcome(found) == outcome(train_task(job)), waits
    assert found.read_status()["state"] == "done"
    assert not folder.checkpoints.exists()
    assert not list(again.out.rglob("*.tmp"))


@pytest.mark.parametrize("damaged", [0, 1, 2], ids=["none", "the newest", "all"])
def test_a_kill_costs_the_steps_since_the_last_whole_checkpoint(
    job: Job,
    outcome: Outcome,
    kill_at: Callable[[Job, int], None],
    checkpoint_each_step: None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    folder_of: Folder,
    count_steps: Count,
    damaged: int,
) -> None:
    total = steps_of(open_bench(job), "train") * job.recipe.epochs
    again = replace(job, out=tmp_path / "again")
    kill_at(again, 5)
    folder = folder_of(again)
    assert folder.read_status()["state"] == "running"
    files = sorted(folder.checkpoints.rglob("*.pt"))
    assert [path.stem for path in files] == [
        "step-000000003",
        "step-000000004",
    ]  # that of the step itself was not begun
    for path in files[len(files) - damaged :]:
        path.write_bytes(path.read_bytes()[:-1] + b"?")
    found, more = count_steps(again)
    assert more == total - (4, 3, 0)[damaged]
    assert capsys.readouterr().err.count("is damaged") == damaged
    assert outcome(found) == outcome(train_task(job))


def test_a_run_killed_after_its_result_is_done(
    job: Job, killed: Any, count_steps: Count, folder_of: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = train.write_result

    def write_and_end(*given: Any) -> None:
        write(*given)
        raise killed

    with monkeypatch.context() as patch:
        patch.setattr(train, "write_result", write_and_end)
        with pytest.raises(killed):
            train_task(job)
    assert folder_of(job).read_status()["state"] == "running"
    folder, steps = count_steps(job)
    assert steps == 0
    assert folder.read_status()["state"] == "done"
    assert not folder.checkpoints.exists()
