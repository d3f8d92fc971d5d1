"""One run, mostly six steps of masks on svhn: bits, breaks, trials, and what it must not look at."""

import json
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import decathlon.prediction as prediction
import decathlon.training as training
from decathlon.bench import Job, open_bench
from decathlon.packed import open_split
from decathlon.recipes import Recipe
from decathlon.submission import Predictions
from decathlon.tasks import TASKS
from decathlon.training import train_task
from leaderboard.result import read_result
from piggyback.cli import main
from piggyback.errors import BadInput, Diverged, Requeue, UnknownName
from piggyback.payload import Payload, read_payload
from piggyback.runs import Environment, RunFolder

Change = Callable[..., Job]
Outcome = Callable[[RunFolder], dict[str, Any]]
Kill = Callable[[Job, int], None]


def checkpoint_files(folder: RunFolder) -> list[Path]:
    return sorted(folder.checkpoints.rglob("*.pt"))


def count_steps(job: Job) -> tuple[RunFolder, int]:
    shares: list[float] = []
    return train_task(job, on_step=shares.append), len(shares)


def tensors(payload: Payload) -> dict[str, Tensor]:
    masks = {f"{key} of {name}": tensor for name, parts in payload.kept.items() for key, tensor in parts.items()}
    return {**masks, **payload.own, **{f"head.{name}": tensor for name, tensor in payload.head.items()}}


def same(one: Payload, other: Payload) -> bool:
    a, b = tensors(one), tensors(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def arguments(job: Job, *more: str) -> list[str]:
    words = ["--task", job.task, "--method", job.method, "--data", str(job.data), "--backbone", str(job.backbone)]
    recipe = ["--epochs", "2", "--batch-size", "3", "--size", "16", "--lr", "2e-3", "--update", "eager"]
    return ["decathlon", "train", *words, "--out", str(job.out), *recipe, "--precision", "fp32", *more]


# -- a whole run ----------------------------------------------------------------------------------------


def test_a_run_leaves_what_it_says_and_is_done(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    folder, steps = count_steps(job)
    assert steps == 6
    assert {path.name for path in folder.root.iterdir() if not path.name.startswith(".")} == {
        *("recipe.json", "status.json", "metrics.jsonl", "payload.safetensors", "predictions.npz", "result.json"),
        "sparsity.json",
    }
    bench = open_bench(job)
    assert folder.root == job.out / "runs" / bench.key.folder_name == bench.root
    assert json.loads(folder.key.read_text()) == json.loads(json.dumps(asdict(bench.key)))
    status = json.loads(folder.status.read_text())
    assert (status["state"], status["progress"], status["pid"]) == ("done", 1.0, os.getpid())
    lines = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    assert [(line["epoch"], line["lr"]) for line in lines] == [(1, 2e-3), (2, pytest.approx(2e-4))]

    result = read_result(folder.result)
    assert (result.task, result.method, result.split, result.seed) == ("svhn", "piggyback", "val", 0)
    assert (result.selected_on, result.trained_on, result.official_data) == ("last epoch", "train", False)
    assert result.recipe is not None
    assert (result.recipe["lr_used"], result.recipe["lr_trials"]) == (2e-3, [])
    assert result.counts is not None
    assert result.counts.n == 4
    assert 0 < result.metrics["zeros"] < 1  # some masks moved, or equal bits elsewhere would say nothing
    assert result.parameter_ratio == pytest.approx(1 + 9 / 32)
    assert result.versions is not None
    assert result.versions["mask update"] == "eager"
    assert result.fingerprints is not None
    assert result.fingerprints.backbone == bench.backbone.sha256
    assert sum(result.bits.values()) == 8 * folder.payload.stat().st_size

    chosen = Predictions.load(folder.predictions)
    assert chosen.image_ids.tolist() == open_split(job.data, "svhn", "test").image_ids.tolist()
    assert read_payload(folder.payload).recipe["lr"] == 2e-3

    times = {path: path.stat().st_mtime_ns for path in folder.root.iterdir()}
    assert count_steps(job) == (folder, 0)
    assert {path: path.stat().st_mtime_ns for path in folder.root.iterdir()} == times
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("method", "fields"),
    [
        ("piggyback", {}),
        ("piggyback", {"norm": "trained", "head_rule": "sgd", "selected_on": "val"}),
        ("piggyback-ternary", {"trained_on": "train+val"}),
        ("feature", {"normalise": "own-train"}),
        ("finetune", {"weight_decay": 1e-3, "normalise": "official-task"}),
    ],
    ids=["masks", "masks and norm", "ternary", "feature", "finetune"],
)
def test_the_same_recipe_gives_the_same_bits(
    job: Job, change: Change, outcome: Outcome, tmp_path: Path, method: str, fields: dict[str, Any]
) -> None:
    job = replace(change(job, **fields), method=method)
    first = outcome(train_task(job))
    torch.manual_seed(99)
    np.random.seed(99)
    assert outcome(train_task(replace(job, out=tmp_path / "again"))) == first
    other = outcome(train_task(change(replace(job, out=tmp_path / "other"), seed=1)))
    assert other["payload"] != first["payload"]


def test_aircraft_is_seen_whole_and_mirrored_and_svhn_is_not(job: Job) -> None:
    aircraft, svhn = open_bench(replace(job, task="aircraft")), open_bench(job)
    seen = aircraft.augmentation(training=True)
    assert (seen.view, seen.flip, seen.size) == ("whole", True, 16)
    seen = svhn.augmentation(training=True)
    assert (seen.view, seen.flip) == ("crop", False)
    assert not aircraft.augmentation(training=False).flip


def test_flips_can_be_turned_off(job: Job, change: Change) -> None:
    bench = open_bench(replace(change(job, flip=False), task="aircraft"))
    assert not bench.augmentation(training=True).flip


def test_pictures_are_normalised_as_the_recipe_says(job: Job, change: Change) -> None:
    split = open_split(job.data, "svhn", "train")
    pixels = np.concatenate([split.picture(place).reshape(-1, 3) for place in range(len(split))]) / 255
    expected = {
        "backbone": ((0.5, 0.4, 0.3), (0.2, 0.25, 0.3)),
        "official-task": (TASKS["svhn"].mean, TASKS["svhn"].std),
        "own-train": (pixels.mean(0), pixels.std(0)),
    }
    for name, (mean, std) in expected.items():
        bench = open_bench(change(job, normalise=name))
        assert bench.statistics.mean == pytest.approx(tuple(mean))
        assert bench.statistics.std == pytest.approx(tuple(std))
        black = bench.inputs(torch.zeros(1, 3, 2, 2, dtype=torch.uint8))
        assert black[0, :, 0, 0].tolist() == pytest.approx([-m / s for m, s in zip(mean, std, strict=True)], rel=1e-5)


def test_train_and_val_are_both_trained_on(job: Job, change: Change) -> None:
    folder, steps = count_steps(change(job, trained_on="train+val"))
    assert steps == 2 * 4  # twelve pictures
    assert read_result(folder.result).trained_on == "train+val"


def test_the_head_starts_alike_for_every_method(job: Job) -> None:
    heads = []
    for method in ("piggyback", "feature", "finetune"):
        state = open_bench(replace(job, method=method)).make_adapter().task("svhn")
        assert state.head is not None
        heads.append(state.head.state_dict()["weight"])
    assert torch.equal(heads[0], heads[1])
    assert torch.equal(heads[0], heads[2])


# -- breaks ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "breaks"),
    [({}, 6), ({"lr_grid": (1e-3, 2e-3), "trial_share": 0.5}, 12), ({"selected_on": "val", "norm": "trained"}, 6)],
    ids=["plain", "trials", "selected on val"],
)
def test_stops_after_every_step_change_no_bit(
    job: Job, change: Change, outcome: Outcome, stop_after: Any, tmp_path: Path, fields: dict[str, Any], breaks: int
) -> None:
    job = change(job, **fields)
    whole = train_task(job)
    again = replace(job, out=tmp_path / "again")
    folder = RunFolder(again.out / "runs" / whole.root.name)
    for number in range(breaks):
        with pytest.raises(Requeue):
            train_task(again, stop=stop_after(1))
        status = json.loads(folder.status.read_text())
        assert (status["state"], status["progress"] <= 1) == ("requeue", True), number
        assert not folder.result.exists()
        assert checkpoint_files(folder)
    resumed, steps = count_steps(again)
    assert (resumed, steps) == (folder, 0)
    assert outcome(folder) == outcome(whole)
    assert not checkpoint_files(folder)


@pytest.mark.parametrize("steps", [1, 3, 4, 6])
def test_a_killed_run_goes_on_to_the_same_bits(
    job: Job, outcome: Outcome, kill_at: Kill, checkpoint_each_step: None, tmp_path: Path, steps: int
) -> None:
    again = replace(job, out=tmp_path / "again")
    kill_at(again, steps)
    folder = RunFolder(open_bench(again).root)
    assert json.loads(folder.status.read_text())["state"] == "running"
    assert not folder.result.exists()
    resumed, more = count_steps(again)
    assert more == 6 - (steps - 1)  # the checkpoint of the step itself was not written yet
    assert outcome(resumed) == outcome(train_task(job))


def test_a_process_killed_without_warning_goes_on_to_the_same_bits(job: Job, outcome: Outcome, tmp_path: Path) -> None:
    again = replace(job, out=tmp_path / "again")
    script = """
import functools, os, pickle, signal, sys
import torch
import decathlon.training as training
torch.set_num_threads(1)
training.Plan = functools.partial(training.Plan, checkpoint_s=-1.0)
steps = []
def on_step(share):
    steps.append(share)
    if len(steps) == 5:
        os.kill(os.getpid(), signal.SIGKILL)
training.train_task(pickle.load(sys.stdin.buffer), on_step=on_step)
"""
    ended = subprocess.run([sys.executable, "-c", script], input=pickle.dumps(again), capture_output=True, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    resumed, more = count_steps(again)
    assert more == 2
    assert outcome(resumed) == outcome(train_task(job))


@pytest.mark.parametrize(("damaged", "steps"), [(1, 3), (2, 6)], ids=["the newest", "all"])
def test_damaged_checkpoints_cost_time_and_no_bits(
    job: Job,
    outcome: Outcome,
    kill_at: Kill,
    checkpoint_each_step: None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    damaged: int,
    steps: int,
) -> None:
    again = replace(job, out=tmp_path / "again")
    kill_at(again, 5)
    folder = RunFolder(open_bench(again).root)
    files = checkpoint_files(folder)
    assert [path.stem for path in files] == ["step-000000003", "step-000000004"]
    for path in files[-damaged:]:
        path.write_bytes(path.read_bytes()[:-1] + b"?")
    resumed, more = count_steps(again)
    assert more == steps
    assert capsys.readouterr().err.count("is damaged") == damaged
    assert outcome(resumed) == outcome(train_task(job))


def test_a_checkpoint_in_the_middle_of_an_epoch_counts_as_progress(
    job: Job, kill_at: Kill, stop_after: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Requeue):
        train_task(job, stop=stop_after(2))
    status = RunFolder(open_bench(job).root).status
    assert json.loads(status.read_text())["progress"] == pytest.approx(2 / 6)
    monkeypatch.setattr(training, "Plan", partial(training.Plan, checkpoint_s=-1.0))
    kill_at(job, 3)  # after the fifth step, whose checkpoint was not written yet
    assert json.loads(status.read_text())["progress"] == pytest.approx(4 / 6)


def test_no_epoch_is_recorded_twice(job: Job, kill_at: Kill, stop_after: Any) -> None:
    with pytest.raises(Requeue):
        train_task(job, stop=stop_after(2))
    kill_at(job, 4)  # past the end of the first epoch, which is not in a checkpoint
    folder = train_task(job)
    lines = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]


def test_a_run_that_ended_just_before_its_last_word_is_done(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(BaseException):
        pass

    write = training.write_result

    def write_and_end(*arguments: Any) -> None:
        write(*arguments)
        raise Gone

    monkeypatch.setattr(training, "write_result", write_and_end)
    with pytest.raises(Gone):
        train_task(job)
    monkeypatch.undo()
    folder, steps = count_steps(job)
    assert steps == 0
    assert json.loads(folder.status.read_text())["state"] == "done"
    assert not folder.checkpoints.exists()


def test_time_is_counted_over_breaks(job: Job, stop_after: Any) -> None:
    with pytest.raises(Requeue):
        train_task(job, stop=stop_after(2))
    folder = RunFolder(open_bench(job).root)
    status = json.loads(folder.status.read_text())
    folder.status.write_text(json.dumps({**status, "seconds": 1000.0}))
    wall = read_result(train_task(job).result).wall_s
    assert wall is not None
    assert 1000 < wall < 1600


def test_a_checkpoint_of_another_environment_is_refused_unless_allowed(
    job: Job, stop_after: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Requeue):
        train_task(job, stop=stop_after(2))
    other = Environment(torch_version="9.9", device="abacus, 3 threads", machine="m68k", update="eager")
    monkeypatch.setattr(Environment, "here", lambda device, *, update: other)
    with pytest.raises(BadInput, match=r"is abacus, 3 threads.*--allow-other-environment"):
        train_task(job)
    folder = RunFolder(open_bench(job).root)
    assert json.loads(folder.status.read_text())["state"] == "failed"
    assert train_task(replace(job, allow_other_environment=True)).result.exists()


def test_a_second_process_is_kept_out(job: Job) -> None:
    folder = RunFolder(open_bench(job).root)
    folder.root.mkdir(parents=True)
    with folder.hold(), pytest.raises(BadInput, match="another process is at work"):
        train_task(job)
    assert train_task(job).result.exists()


def test_interrupted_by_hand_it_can_be_continued(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_task(job, on_step=interrupt)
    folder = RunFolder(open_bench(job).root)
    assert json.loads(folder.status.read_text())["state"] == "requeue"


# -- failures -------------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_fails_the_run(
    job: Job, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(training, "cross_entropy", lambda outputs, targets: outputs.sum() * float("nan"))
    assert main(arguments(job)) == 1
    said = capsys.readouterr()
    assert said.err == ("piggyback: the loss is not finite any more at epoch 1, step 3: lower the learning rate\n")
    (root,) = (job.out / "runs").iterdir()
    folder = RunFolder(root)
    status = json.loads(folder.status.read_text())
    assert (status["state"], "not finite" in status["message"]) == ("failed", True)
    assert not folder.result.exists()
    assert not folder.payload.exists()
    monkeypatch.undo()
    assert main(arguments(job)) == 0  # the same command tries again
    assert folder.result.exists()


def test_a_fault_of_ours_is_told_to_who_watches(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("bug")

    monkeypatch.setattr(training, "finish", broken)
    with pytest.raises(ZeroDivisionError):
        train_task(job)
    status = json.loads(RunFolder(open_bench(job).root).status.read_text())
    assert (status["state"], status["message"]) == ("failed", "bug")


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"task": "svnh"}, "Did you mean 'svhn'"),
        ({"method": "pigyback"}, "Did you mean 'piggyback'"),
        ({"task": "imagenet12"}, "the backbone's own task"),
        ({"task": "dtd"}, "piggyback decathlon prepare .* --tasks dtd"),
        ({"data": Path("nowhere")}, "not packed in nowhere"),
        ({"backbone": Path("nowhere.safetensors")}, r"nowhere\.safetensors"),
        ({"recipe": Recipe(size=80)}, "svhn train has a picture of 72 px, too small for a crop of 80 px"),
    ],
    ids=["task", "method", "own task", "not packed", "no data", "no backbone", "size"],
)
def test_what_is_missing_is_said_before_anything_is_written(job: Job, fields: dict[str, Any], fault: str) -> None:
    with pytest.raises((BadInput, UnknownName), match=fault):
        train_task(replace(job, **fields))
    assert not job.out.exists()


def test_the_folder_of_another_run_is_refused(job: Job) -> None:
    folder = RunFolder(open_bench(job).root)
    folder.root.mkdir(parents=True)
    folder.key.write_text('{"task": "dtd"}')
    with pytest.raises(BadInput, match="another run"):
        train_task(job)


# -- learning rates -------------------------------------------------------------------------------------


@pytest.fixture
def val(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Lets val have given accuracies, one after the other; Diverged where there is None.  Gives what was measured."""

    def give(*values: float | None) -> list[str]:
        waiting, measured = list(values), list[str]()

        def measure(bench: Any, network: Any, split: Any) -> float:
            measured.append(split.split)
            value = waiting.pop(0)
            if value is None:
                raise Diverged("logits are not finite")
            return value

        monkeypatch.setattr(training, "measure", measure)
        return measured

    return give


@pytest.mark.parametrize(
    ("accuracies", "used"),
    [((0.25, 0.5, 0.25), 1e-3), ((0.5, 0.5, 0.25), 1e-3), ((0.5, 0.5, 0.5), 1e-4), ((None, 0.0, None), 1e-3)],
    ids=["best", "tie", "all equal", "diverged"],
)
def test_the_best_rate_on_val_is_used_and_ties_go_to_the_lower(
    job: Job, change: Change, val: Callable[..., list[str]], accuracies: tuple[float | None, ...], used: float
) -> None:
    measured = val(*accuracies)
    folder = train_task(change(job, lr_grid=(3e-3, 1e-3, 1e-4), trial_share=0.5))
    assert measured == ["val"] * 3
    expected = [
        {"lr": rate, "steps": None if accuracy is None else 3, "val_accuracy": accuracy}
        for rate, accuracy in zip((3e-3, 1e-3, 1e-4), accuracies, strict=True)
    ]
    assert json.loads(folder.trials.read_text()) == expected
    recipe = read_result(folder.result).recipe
    assert recipe is not None
    assert (recipe["lr_used"], recipe["lr_trials"]) == (used, expected)
    lines = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    assert lines[0]["lr"] == used


def test_trials_leave_nothing_behind_in_the_final_training(
    job: Job, change: Change, val: Callable[..., list[str]], tmp_path: Path
) -> None:
    val(0.5, 0.75)
    tried = train_task(change(job, lr_grid=(1e-4, 2e-3)))
    plain = train_task(replace(job, out=tmp_path / "plain"))
    assert same(read_payload(tried.payload), read_payload(plain.payload))


def test_when_every_rate_diverges_the_run_fails(job: Job, change: Change, val: Callable[..., list[str]]) -> None:
    val(None, None)
    with pytest.raises(Diverged, match="every learning rate"):
        train_task(change(job, lr_grid=(1e-3, 1e-4)))


def test_a_finished_trial_is_not_done_again(
    job: Job, change: Change, outcome: Outcome, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Gone(BaseException):
        pass

    job = change(job, lr_grid=(1e-3, 2e-3))
    whole = train_task(job)
    tried: list[float] = []
    real = training.try_rate

    def try_rate(work: Any, *, rate: float, number: int) -> Any:
        tried.append(rate)
        if tried == [1e-3, 2e-3]:
            raise Gone
        return real(work, rate=rate, number=number)

    monkeypatch.setattr(training, "try_rate", try_rate)
    again = replace(job, out=tmp_path / "again")
    with pytest.raises(Gone):
        train_task(again)
    folder = train_task(again)
    assert tried == [1e-3, 2e-3, 2e-3]
    assert outcome(folder) == outcome(whole)


@pytest.mark.parametrize("text", ["{}", "[1]", '[{"lr": 1}]', '[{"lr": 9, "steps": 1, "val_accuracy": 0.5}]'])
def test_damaged_trials_are_a_message(job: Job, change: Change, text: str) -> None:
    job = change(job, lr_grid=(1e-3, 2e-3))
    folder = RunFolder(open_bench(job).root)
    folder.root.mkdir(parents=True)
    folder.trials.write_text(text)
    with pytest.raises(BadInput, match=r"trials\.json.*delete it"):
        train_task(job)


# -- what is selected, and on what ----------------------------------------------------------------------


def test_the_best_epoch_on_val_is_kept(job: Job, change: Change, val: Callable[..., list[str]], tmp_path: Path) -> None:
    job = change(job, epochs=3, decay_after=1.0, selected_on="val")
    measured = val(0.25, 0.75, 0.75)
    folder = train_task(job)
    assert measured == ["val"] * 3
    assert read_result(folder.result).selected_on == "val"
    lines = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    assert [line["val_accuracy"] for line in lines] == [0.25, 0.75, 0.75]
    short = train_task(change(job, epochs=2, selected_on="last epoch"))
    assert same(read_payload(folder.payload), read_payload(short.payload))
    assert Predictions.load(folder.predictions).category_ids.tolist() == (
        Predictions.load(short.predictions).category_ids.tolist()
    )
    last = train_task(change(job, selected_on="last epoch"))
    assert not same(read_payload(folder.payload), read_payload(last.payload))


def test_the_test_part_is_looked_at_once_after_all_training(
    job: Job, change: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    real = training.predict

    def predict(bench: Any, network: Any, split: Any) -> Any:
        seen.append(split.split)
        return real(bench, network, split)

    for module in (training, prediction):  # whose `measure` predicts, too
        monkeypatch.setattr(module, "predict", predict)
    job = change(job, selected_on="val", lr_grid=(1e-3, 2e-3))
    train_task(job, on_step=lambda share: seen.append("step"))
    assert seen == ["val", "val", *["step"] * 3, "val", *["step"] * 3, "val", "test", "val"]
    assert set(open_split(job.data, "svhn", "test").labels.tolist()) == {-1}


def test_labels_of_the_test_part_are_never_opened_by_a_run(job: Job, outcome: Outcome, tmp_path: Path) -> None:
    plain = outcome(train_task(job))
    (job.data / "labels_test").mkdir()
    (job.data / "labels_test" / "svhn_test.json").write_text("no JSON")
    assert outcome(train_task(replace(job, out=tmp_path / "again"))) == plain


# -- the verb -------------------------------------------------------------------------------------------


def test_the_verb_says_done_twice_and_minds_no_name(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    job = replace(job, out=job.out.parent / "a \"b\" 'c'\n[d] $e [/d]")
    assert main(arguments(job)) == 0
    (root,) = (job.out / "runs").iterdir()
    first = capsys.readouterr().out
    assert f"done: {root}" in first
    assert main(arguments(job)) == 0
    assert capsys.readouterr().out == first
    assert main(arguments(job, "--json")) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["folder"] == str(root)
    assert report["result"]["metrics"]["accuracy"] == read_result(RunFolder(root).result).metrics["accuracy"]


def test_the_verb_stops_at_a_signal_and_goes_on(
    job: Job, outcome: Outcome, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    plain = outcome(train_task(replace(job, out=tmp_path / "plain")))
    batches = training.Bench.batches

    def signalled(*given: Any) -> Iterator[Any]:
        for number, batch in enumerate(batches(*given)):
            if number == 1:
                signal.raise_signal(signal.SIGUSR2)
            yield batch

    monkeypatch.setattr(training.Bench, "batches", signalled)
    assert main(arguments(job)) == 75
    assert "the same command again continues" in capsys.readouterr().err
    monkeypatch.undo()
    assert main(arguments(job)) == 0
    (root,) = (job.out / "runs").iterdir()
    assert outcome(RunFolder(root)) == plain


def test_a_damaged_result_is_a_message(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    folder = train_task(job)
    folder.result.write_text("{}")
    assert main(arguments(job)) == 1
    assert "result.json" in capsys.readouterr().err
