"""`piggyback segmentation run`: what is checked first, what happens when a run fails, what comes last, and kills."""

import contextlib
import errno
import json
import random
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import segmentation.runs as runs
import torch
from segmentation.collection import find_runs
from segmentation.training import train_task

from leaderboard.result import read_result
from piggyback.shell.cli import main
from piggyback.shell.errors import BadInput, Diverged, Requeue, UnknownName, one_line
from piggyback.suite.training.run_folder import RunFolder
from segmentation.bench import Job
from segmentation.metric.confusion import count_pairs
from segmentation.metric.miou import score
from segmentation.metric.sheets import write_sheets
from segmentation.options import ReportOptions, RunOptions
from segmentation.recipes import Recipe
from segmentation.release.label_files import write_label_map
from segmentation.release.packed import open_split

THREE = ("piggyback", "feature", "finetune")


@pytest.fixture
def options(job: Job) -> RunOptions:
    """Masks and new layers alone, two learning rates tried, one epoch."""
    return RunOptions(
        data=job.data,
        backbone=job.backbone,
        out=job.out,
        methods=("piggyback", "feature"),
        settings=replace(job.recipe, epochs=1, lr_grid=(1e-3, 2e-3), held_out=2, trained_on="train+val"),
        device="cpu",
        sheets=0,
    )


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Runs that were trained."""
    titles: list[str] = []

    def train_and_note(job: Job, **more: Any) -> RunFolder:
        folder = train_task(job, **more)
        titles.append(job.title)
        return folder

    monkeypatch.setattr(runs, "train_task", train_and_note)
    return titles


# -- a whole run ----------------------------------------------------------------------------------------


def test_three_methods_and_two_seeds(
    options: RunOptions, trained: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    options = replace(options, methods=THREE, seeds=(0, 1))
    assert runs.run(replace(options, sheets=1)) == 0
    assert trained == [f"{method} seed {seed}" for seed in (0, 1) for method in THREE]
    said = capsys.readouterr()
    assert [line.split(" (")[0] for line in said.err.splitlines() if line.startswith("done")] == [
        f"done: {title}" for title in trained
    ]
    for text in ("FCN-32s on seg11valid, 5 of 736 pictures", "learning rates tried", "no benchmark result", "±"):
        assert text in said.out
    tried = said.out.split("learning rates tried")[1]
    assert tried.count("0.001") == tried.count("0.002") == 6  # every method and seed, all values
    assert tried.count("*") == 1 + 6  # one in the title
    assert {path.name for path in (options.out / "sheets").iterdir()} == {f"{method}.png" for method in THREE}

    assert runs.run(replace(options, json=True)) == 0  # all done: trains nothing, says the same
    report = json.loads(capsys.readouterr().out)
    assert report["methods"].keys() == set(THREE)
    for method, found in report["methods"].items():
        results = [read_result(path) for path in sorted((options.out / "runs").glob(f"*-{method}-seed*/result.json"))]
        values = [result.metrics["mean_iou"] for result in results]
        assert found["seeds"] == [0, 1]
        assert found["mean_iou"] == pytest.approx(
            {"mean": np.mean(values), "deviation": np.std(values, ddof=1), "n": 2}
        )
        assert [[trial["lr"] for trial in trials] for trials in found["trials"]] == [[1e-3, 2e-3]] * 2
        assert set(found["rates"]) <= {1e-3, 2e-3}
        assert (found["zeros"] is None) == (method != "piggyback")
    split = open_split(options.data, "seg11valid")
    truth = np.concatenate([split.label_map(place).ravel() for place in range(5)])
    scored = truth[truth != 255]
    assert report["all_background_mean_iou"] == pytest.approx((scored == 0).mean() / len(np.unique(scored)))


def test_the_sheet_shows_pictures_spread_over_the_split(
    options: RunOptions, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    split = open_split(options.data, "seg11valid")
    for one in split.ids:
        write_label_map(tmp_path / f"{one}.png", np.ones((3, 3), dtype=np.uint8))
    shown: list[list[str]] = []
    monkeypatch.setattr(
        "segmentation.metric.sheets.write_sheet", lambda path, rows: shown.append([row.title for row in rows])
    )
    for pictures in (1, 2, 3, 9):
        write_sheets(tmp_path / "sheet.png", split, predictions=tmp_path, pictures=pictures)
    places = [[split.ids.index(one) for one in row] for row in shown]
    assert places == [[0], [0, 4], [0, 2, 4], [0, 1, 2, 3, 4]]


def test_background_everywhere_is_the_number_to_be_above(options: RunOptions) -> None:
    split = open_split(options.data, "seg11valid")
    maps = [split.label_map(place) for place in range(5)]
    matrix = sum(count_pairs(one, np.zeros_like(one)) for one in maps)
    assert matrix[:, 1:].sum() == 0
    found = runs.score_background(split)
    assert found == score(np.asarray(matrix), pictures=5).mean_iou
    assert 0 < found < 0.5


def test_runs_that_predict_nothing_but_background_are_remarked_on(
    options: RunOptions, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import segmentation.prediction as prediction

    monkeypatch.setattr(prediction, "predict_picture", lambda *given: np.zeros(given[2].shape[:2], dtype=np.uint8))
    assert runs.run(replace(options, methods=("feature",), json=True)) == 0
    said = capsys.readouterr()
    assert said.err.count("every predicted pixel is background") == 1
    report = json.loads(said.out)
    assert report["methods"]["feature"]["mean_iou"]["mean"] == report["all_background_mean_iou"]


# -- what is said first ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"methods": ("piggyback", "fintune")}, "Did you mean 'finetune'"),
        ({"methods": ()}, "name at least one method and one seed"),
        ({"seeds": ()}, "name at least one method and one seed"),
        ({"backbone": Path("nowhere.safetensors")}, r"nowhere\.safetensors"),
        ({"data": Path("nowhere")}, "not packed in nowhere"),
        ({"device": "cuda:99"}, "no device"),
        ({"parallel": -1}, "--parallel"),
        ({"settings": Recipe(evaluate="voc2012_val")}, "1 of the 3 pictures of voc2012_val are in sbd_train"),
        ({"settings": Recipe(held_out=9)}, "8 pictures: 9 held out"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_would_fail_is_said_before_anything_is_trained(
    options: RunOptions, trained: list[str], fields: dict[str, Any], fault: str
) -> None:
    with pytest.raises((BadInput, UnknownName), match=fault):
        runs.run(replace(options, **fields))
    assert trained == []
    assert not (options.out / "runs").exists()


def test_what_is_named_twice_is_done_once(options: RunOptions) -> None:
    jobs = runs.plan_jobs(replace(options, methods=("feature", "feature"), seeds=(3, 3)))
    assert [(job.method, job.recipe.seed) for job in jobs] == [("feature", 3)]


def test_the_default_device_is_the_processor_where_there_is_no_gpu(options: RunOptions) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert runs.plan_jobs(replace(options, device=None))[0].device.type == "cpu"


def test_a_folder_with_runs_of_another_recipe_is_refused(
    options: RunOptions, trained: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    options = replace(options, methods=("feature",))
    assert runs.run(options) == 0
    trained.clear()
    other = replace(options, settings=replace(options.settings, flip=True))
    with pytest.raises(BadInput, match=r"a run with feature seed 0 by another recipe.*take another --out"):
        runs.run(other)
    assert trained == []
    capsys.readouterr()
    assert runs.run(replace(other, seeds=(1,), json=True)) == 0  # nothing of that seed is there
    assert json.loads(capsys.readouterr().out)["methods"]["feature"]["seeds"] == [1]  # of the other nothing is told
    assert trained == ["feature seed 1"]
    job = runs.plan_jobs(other)[0]
    train_task(job)  # by the other verb, which asks nobody
    with pytest.raises(BadInput, match="two runs with feature, seed 0"):
        find_runs(options.out, method="feature")
    with pytest.raises(BadInput, match="two runs with feature, seed 0"):
        runs.run(options)


# -- failures and breaks --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (Diverged("the loss is not finite any more"), "the loss is not finite any more"),
        (OSError(errno.ENOSPC, "No space left on device", "a\nb"), r"'a\nb': No space left on device"),
    ],
)
def test_one_failure_does_not_keep_the_others_from_being_done(
    options: RunOptions,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    fault: Exception,
    text: str,
) -> None:
    def train(job: Job, **more: Any) -> RunFolder:
        if job.method == "piggyback":
            raise fault
        return train_task(job, **more)

    monkeypatch.setattr(runs, "train_task", train)
    with pytest.raises(BadInput, match="1 of 2 runs failed: piggyback seed 0; the same command tries them again"):
        runs.run(options)
    said = capsys.readouterr()
    assert f"failed: piggyback seed 0: {text}\n" in said.err
    assert "feature" in said.out  # what is there is shown
    assert "piggyback" not in said.out


def test_when_all_fail_there_is_no_table(
    options: RunOptions, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def train(job: Job, **more: Any) -> RunFolder:
        raise Diverged("no")

    monkeypatch.setattr(runs, "train_task", train)
    with pytest.raises(BadInput, match="2 of 2 runs failed"):
        runs.run(options)
    assert capsys.readouterr().out == ""


def test_a_stop_ends_the_whole_run_and_it_goes_on(
    options: RunOptions, trained: list[str], stop_after: Callable[[int], Any]
) -> None:
    jobs = runs.plan_jobs(replace(options, settings=replace(options.settings, lr_grid=(), held_out=0)))
    with pytest.raises(Requeue):  # three steps, five pictures but for the last, and a look before each job
        runs.train_jobs(jobs, train=runs.train_task, parallel=1, stop=stop_after(1 + 3 + 4 + 1 + 2))
    assert trained == ["piggyback seed 0"]
    assert runs.train_jobs(jobs, train=runs.train_task, parallel=1, stop=stop_after(1000)) == []
    assert trained == ["piggyback seed 0", "piggyback seed 0", "feature seed 0"]


CHECKPOINT_EACH_STEP = """
import functools
import segmentation.training as training
training.Plan = functools.partial(training.Plan, checkpoint_s=-1.0)
"""


def test_a_run_killed_at_random_moments_ends_with_the_same_numbers(
    options: RunOptions, recipe_words: list[str], outcome: Any, start: Any, tmp_path: Path
) -> None:
    """Killed without warning, then told to stop, then let be; trials, training and pictures can all be hit."""
    recipe = replace(options.settings, epochs=6, lr_grid=(1e-3, 2e-3))
    whole = replace(options, methods=THREE, settings=recipe, out=tmp_path / "whole", sheets=0)
    begun = time.monotonic()
    assert runs.run(whole) == 0
    lasted = time.monotonic() - begun

    moments = random.SystemRandom()
    waits = [moments.uniform(0, lasted) for _ in range(2)]
    told = f"SIGKILL after {waits[0]:.3f} s of work, SIGUSR2 after {waits[1]:.3f} s, of some {lasted:.3f} s"
    words = ["--data", str(options.data), "--backbone", str(options.backbone), "--out", str(options.out)]
    words += [*recipe_words, "--epochs", "6", "--lr-grid", "1e-3", "2e-3", "--held-out", "2"]
    words += ["--trained-on", "train+val", "--methods", ",".join(THREE), "--device", "cpu", "--sheets", "0"]
    for number, wait in zip((signal.SIGKILL, signal.SIGUSR2), waits, strict=True):
        process = start("segmentation", "run", *words, before=CHECKPOINT_EACH_STEP)
        here = lambda pid=process.pid: [  # noqa: E731 -- the work of this very process has begun, or is over
            path for path in (options.out / "runs").glob("*/status.json") if f'"pid": {pid}' in path.read_text()
        ]
        while not here() and process.poll() is None:
            time.sleep(0.002)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(wait)
        process.send_signal(number)  # nothing, where it has ended
        said = process.communicate()
        expected = {signal.SIGKILL: -signal.SIGKILL, signal.SIGUSR2: 75}[number]
        if len(list((options.out / "runs").glob("*/result.json"))) < len(THREE):
            assert process.returncode == expected, (told, said)
        assert process.returncode in (expected, -number, 0), (told, said)  # all may be done before, and only shown

    last = start("segmentation", "run", *words)
    said = last.communicate()
    assert last.returncode == 0, (told, said)
    for method in THREE:
        (expected_run,), (found,) = (find_runs(out, method=method) for out in (whole.out, options.out))
        assert found.folder.root.name == expected_run.folder.root.name, told
        assert found.folder.trials.read_bytes() == expected_run.folder.trials.read_bytes(), told
        assert outcome(found.folder) == outcome(expected_run.folder), (told, method)
        assert not list(found.folder.checkpoints.rglob("*.pt")), told


def test_the_verb_minds_no_name_and_keeps_json_clean(
    options: RunOptions, recipe_words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    out = options.out.parent / "a \"b\" 'c'\n[d] [/d]"
    words = ["--data", str(options.data), "--backbone", str(options.backbone), "--out", str(out), *recipe_words]
    assert main(["segmentation", "run", *words, "--methods", "feature", "--seeds", "4", "--json", "--sheets", "0"]) == 0
    report = json.loads(capsys.readouterr().out)["methods"]["feature"]
    assert (report["seeds"], report["rates"], report["trials"]) == ([4], [2e-3], [[]])
    assert report["mean_iou"]["deviation"] is None
    assert main(["segmentation", "run", *words, "--methods", "feature", "--seeds", "4", "--sheets", "1"]) == 0
    said = capsys.readouterr().out
    assert f"overlay sheets: {one_line(out / 'sheets')}" in said
    assert "learning rates tried" not in said


# -- finished runs, read again --------------------------------------------------------------------------


def test_runs_of_another_benchmark_may_lie_in_the_same_folder(options: RunOptions, trained: list[str]) -> None:
    options = replace(options, methods=("feature",), sheets=0)
    assert runs.run(options) == 0
    (ours,) = find_runs(options.out, method="feature")
    value = json.loads(ours.folder.result.read_text())
    for task in ("aircraft", "dtd"):
        other = RunFolder(options.out / "runs" / f"{task}-feature-seed0-0123456789")
        other.root.mkdir()
        other.result.write_text(json.dumps({**value, "benchmark": "decathlon", "task": task}))
    assert [run.folder for run in find_runs(options.out, method="feature")] == [ours.folder]
    assert runs.run(options) == 0
    assert trained == ["feature seed 0"] * 2


def test_a_damaged_finished_run_is_told_of_with_what_to_do(options: RunOptions) -> None:
    options = replace(options, methods=("feature",), sheets=1)
    assert runs.run(options) == 0
    (found,) = find_runs(options.out, method="feature")
    one = open_split(options.data, "seg11valid").ids[0]
    (found.folder.root / "predictions" / "seg11valid" / f"{one}.png").unlink()
    with pytest.raises(BadInput, match=rf"{one}\.png is not there; delete .*result\.json and the same run makes both"):
        runs.run(options)
    value = json.loads(found.folder.result.read_text())
    del value["recipe"]["lr_used"]
    found.folder.result.write_text(json.dumps(value))
    with pytest.raises(BadInput, match=r"result\.json lacks lr_used: delete the file"):
        find_runs(options.out, method="feature")


def test_a_report_is_of_one_split_and_of_methods_that_there_are(
    options: RunOptions, capsys: pytest.CaptureFixture[str]
) -> None:
    assert runs.run(replace(options, methods=("feature",), sheets=0)) == 0
    capsys.readouterr()
    report = ReportOptions(runs=options.out, data=options.data, methods=("feature",), json=True)
    assert runs.run_report(report) == 0
    assert json.loads(capsys.readouterr().out)["missing"] == []
    assert runs.run_report(replace(report, split="voc2012_val")) == 1  # the run says nothing about that one
    assert json.loads(capsys.readouterr().out)["methods"] == {}
    with pytest.raises(UnknownName, match="feature"):
        runs.run_report(replace(report, methods=("features",)))
