"""Finished runs in a folder: found, collected, submitted, measured again."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import decathlon.challenge.collection as collection
from decathlon.challenge.collection import Setup, collect, find_runs, note_setup, read_setup, write_setup
from decathlon.challenge.submission import Predictions
from decathlon.release.packed import open_split
from piggyback.shell.cli import main
from piggyback.shell.errors import BadInput
from piggyback.suite.bench import Job
from piggyback.suite.train import train_task
from piggyback.suite.training.run_folder import RunFolder


@pytest.fixture
def done(job: Job) -> Job:
    """Heads on svhn, finished, in a folder with its setup."""
    job = replace(job, method="feature")
    train_task(job)
    write_setup(job.out, Setup(data=job.data, backbone=job.backbone, size=job.recipe.size))
    return job


def submit(job: Job, *more: str) -> int:
    return main(["decathlon", "submit", "--runs", str(job.out), "--out", str(job.out / "results.json"), *more])


def test_a_submission_that_is_not_complete_is_refused_and_named(done: Job, capsys: pytest.CaptureFixture[str]) -> None:
    assert submit(done, "--method", "feature") == 1
    said = capsys.readouterr().err
    assert "no predictions for aircraft" in said
    assert "no predictions for dtd" in said
    assert "for svhn" not in said
    assert "for imagenet12" not in said
    assert "--partial" in said
    assert not (done.out / "results.json").exists()


def test_a_partial_submission_says_so(done: Job, capsys: pytest.CaptureFixture[str]) -> None:
    assert submit(done, "--method", "feature", "--partial", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["tasks"] == ["svhn", "imagenet12"]
    assert "no predictions for aircraft" in report["note"]
    entries = json.loads((done.out / "results.json").read_text())
    assert len(entries) == report["entries"] == 10
    expected = {
        image: category
        for given in collect(done.out, method="feature", seed=0).values()
        for image, category in zip(given.image_ids.tolist(), given.category_ids.tolist(), strict=True)
    }
    assert {entry["image_id"]: entry["category_id"] for entry in entries} == expected
    assert submit(done, "--method", "feature", "--partial") == 0
    assert "partial submission" in capsys.readouterr().out


def test_a_missing_picture_is_named(done: Job, capsys: pytest.CaptureFixture[str]) -> None:
    path = find_runs(done.out, method="feature", seed=0)["svhn"].folder.predictions
    given = Predictions.load(path)
    Predictions(task="svhn", image_ids=given.image_ids[1:], category_ids=given.category_ids[1:]).save(path)
    assert submit(done, "--method", "feature", "--partial") == 0
    assert f"svhn lacks 1 of 5 pictures, first {given.image_ids[0]}" in capsys.readouterr().out


def test_methods_and_folders_that_are_not_there(done: Job, capsys: pytest.CaptureFixture[str]) -> None:
    assert submit(done, "--method", "featur") == 1
    assert "Did you mean 'feature'" in capsys.readouterr().err
    assert submit(replace(done, out=done.out / "nothing")) == 1
    assert "give the --out folder of `piggyback decathlon run`" in capsys.readouterr().err


def test_the_backbone_answers_for_its_own_task_once(done: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    real = collection.predict

    def predict(*given: Any, **more: Any) -> Any:
        asked.append("backbone")
        return real(*given, **more)

    monkeypatch.setattr(collection, "predict", predict)
    first = collect(done.out, method="feature", seed=0)["imagenet12"]
    split = open_split(done.data, "imagenet12", "test")
    assert first.image_ids.tolist() == split.image_ids.tolist()
    again = collect(done.out, method="feature", seed=0)["imagenet12"]
    assert np.array_equal(first.category_ids, again.category_ids)
    assert len(asked) == 1
    setup = json.loads((done.out / "setup.json").read_text())
    (done.out / "setup.json").write_text(json.dumps(setup | {"size": 32}))
    collect(done.out, method="feature", seed=0)
    assert len(asked) == 2  # another size has other answers


def test_without_imagenet12_its_answers_are_missing(done: Job) -> None:
    (done.data / "imagenet12" / "task.json").unlink()
    assert collect(done.out, method="feature", seed=0).keys() == {"svhn"}


def test_runs_of_two_recipes_are_not_mixed(done: Job, change: Callable[..., Job]) -> None:
    train_task(change(done, epochs=1))
    with pytest.raises(BadInput, match="two runs of svhn with feature, seed 0"):
        find_runs(done.out, method="feature", seed=0)
    assert find_runs(done.out, method="piggyback", seed=0) == {}
    assert find_runs(done.out, method="feature", seed=1) == {}


def test_runs_of_other_seeds_stop_nothing(done: Job) -> None:
    damaged = done.out / "runs" / "svhn-feature-seed1-0123456789"
    damaged.mkdir()
    (damaged / "result.json").write_text("{")
    assert find_runs(done.out, method="feature", seed=0).keys() == {"svhn"}
    with pytest.raises(BadInput, match="delete the file"):
        find_runs(done.out, method="feature", seed=1)


def test_names_that_begin_alike_are_kept_apart(done: Job) -> None:
    train_task(replace(done, method="piggyback-ternary"))
    assert find_runs(done.out, method="piggyback", seed=0) == {}
    assert find_runs(done.out, method="piggyback-ternary", seed=0).keys() == {"svhn"}


def test_the_setup_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    setup = Setup(data=Path("data"), backbone=Path("b.safetensors"), size=64)
    write_setup(tmp_path / "runs", setup)
    write_setup(tmp_path / "runs", setup)
    assert read_setup(tmp_path / "runs") == Setup(data=tmp_path / "data", backbone=tmp_path / "b.safetensors", size=64)
    with pytest.raises(BadInput, match="take another --out"):
        write_setup(tmp_path / "runs", replace(setup, size=72))
    note_setup(tmp_path / "runs", replace(setup, size=72))
    assert read_setup(tmp_path / "runs").size == 64


@pytest.mark.parametrize("text", ["[]", '{"data": 1}', '{"data": "a", "backbone": "b", "size": "64"}', "{"])
def test_a_damaged_setup_is_a_message(tmp_path: Path, text: str) -> None:
    (tmp_path / "setup.json").write_text(text)
    with pytest.raises(BadInput, match=r"setup\.json"):
        read_setup(tmp_path)


def test_data_that_moved_are_asked_for(done: Job) -> None:
    done.data.rename(done.data.with_name("elsewhere"))
    with pytest.raises(BadInput, match=r"which is not there: correct .*setup\.json"):
        collect(done.out, method="feature", seed=0)


def test_a_run_folder_alone_is_no_run(tmp_path: Path) -> None:
    assert not RunFolder(tmp_path).result.exists()
    assert find_runs(tmp_path, method="feature", seed=0) == {}
