"""`piggyback segmentation evaluate`: the run's numbers again, other splits, breaks, and what it must not touch."""

import json
import random
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import segmentation.prediction as prediction
from leaderboard.result import read_result
from piggyback.shell.cli import main
from piggyback.shell.errors import BackboneMismatch, BadInput
from piggyback.suite.bench import Job
from piggyback.suite.evaluate import run
from piggyback.suite.options import EvaluateOptions
from piggyback.suite.train import train_task
from piggyback.suite.training.run_folder import RunFolder
from segmentation.benchmark import BENCHMARK
from segmentation.options import OwnEvaluate
from segmentation.release.label_files import read_label_file
from segmentation.release.packed import (
    Manifest,
    build_index,
    index_file,
    label_file,
    open_split,
    picture_file,
    write_manifest,
)
from segmentation.release.splits import find_split, published_ids
from segmentation.voc import CLASSES

Options = EvaluateOptions[OwnEvaluate]


def changed(options: Options, **fields: Any) -> Options:
    """The options with other fields, of the verb's own or of those of all benchmarks."""
    own = {name: fields.pop(name) for name in tuple(fields) if hasattr(options.own, name)}
    return replace(options, own=replace(options.own, **own), **fields)


@pytest.fixture
def done(job: Job) -> RunFolder:
    """Masks, trained and evaluated."""
    return train_task(job)


@pytest.fixture
def options(job: Job, done: RunFolder, tmp_path: Path) -> Options:
    """Measure it again."""
    out = tmp_path / "scores"
    own = OwnEvaluate(out=out, sheets=0)
    return Options(run=done.root, data=job.data, backbone=job.backbone, device="cpu", json=True, own=own)


@pytest.fixture
def predicted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The sizes of the pictures that a network was asked about."""
    sizes: list[tuple[int, ...]] = []
    predict = prediction.predict_picture

    def note(bench: Any, network: Any, picture: Any) -> Any:
        sizes.append(picture.shape)
        return predict(bench, network, picture)

    monkeypatch.setattr(prediction, "predict_picture", note)
    return sizes


def words(options: Options, *more: str) -> list[str]:
    places = ["--run", str(options.run), "--data", str(options.data), "--backbone", str(options.backbone)]
    places += ["--out", str(options.own.out), "--device", "cpu", "--sheets", "0"]
    return ["segmentation", "evaluate", *places, *more]


def pngs(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.png")}


# -- the same numbers -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "fields", "hidden"),
    [
        ("piggyback", {}, False),
        ("feature", {"size": 0, "margin": "fcn"}, True),
        ("finetune", {"deconvolution": "learned", "epochs": 1}, True),
        ("piggyback", {"deconvolution": "learned", "epochs": 1, "threshold": 4e-3}, True),
    ],
    ids=["masks", "new layers", "all", "masks, learned deconvolution"],
)
def test_a_payload_gives_what_the_run_measured(
    job: Job,
    change: Callable[..., Job],
    make_backbone: Callable[..., Path],
    scenes: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    method: str,
    fields: dict[str, Any],
    hidden: bool,
) -> None:
    job = replace(change(job, **fields), method=method, backbone=make_backbone("other", hidden=hidden))
    folder = train_task(job)
    out = tmp_path / "a [b]\n'c'"
    own = OwnEvaluate(out=out)
    options = Options(run=folder.root, data=job.data, backbone=job.backbone, device="cpu", own=own)
    capsys.readouterr()
    assert main(words(options, "--json")) == 0
    report = json.loads(capsys.readouterr().out)
    metrics = read_result(folder.result).metrics
    names = ("mean_iou", "pixel_accuracy", "mean_accuracy", "frequency_weighted_iou")
    assert [report[name] for name in names] == [metrics[name] for name in names]
    assert (report["split"], report["official"], report["pictures_trained_on"]) == ("seg11valid", False, 0)
    assert (report["pictures"], report["predictions"]) == (5, str(out / "predictions"))
    for name in ("confusion.json", "scores.csv"):
        assert (out / name).read_bytes() == (folder.root / name).read_bytes()
    assert pngs(out / "predictions") == pngs(folder.root / "predictions" / "seg11valid")

    truth = scenes / "VOCdevkit" / "VOC2012" / "SegmentationClass"
    ids = truth.parent / "ImageSets" / "Segmentation" / "seg11valid.txt"
    pair = ["--truth", str(truth), "--predictions", str(out / "predictions"), "--ids", str(ids)]
    assert main(["segmentation", "miou", *pair, "--json"]) == 0
    scored = json.loads(capsys.readouterr().out)
    assert scored == {key: report[key] for key in (*names, "iou", "pictures")}


def test_a_split_without_label_maps_gets_predictions_only(options: Options, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(BENCHMARK, options) == 0
    capsys.readouterr()
    ids = published_ids(find_split("voc2012_test"))[:2]
    assert run(BENCHMARK, changed(options, split="voc2012_test")) == 0
    report = json.loads(capsys.readouterr().out)
    folder = options.own.out / "predictions"
    assert report == {"split": "voc2012_test", "official": False, "predictions": str(folder), "pictures": 2}
    assert sorted(pngs(folder)) == sorted(f"{one}.png" for one in ids)
    split = open_split(options.data, "voc2012_test")
    for place, one in enumerate(split.ids):
        assert read_label_file(folder / f"{one}.png").shape == split.picture(place).shape[:2]
    assert not (options.own.out / "confusion.json").exists()  # the one that was there was of other pictures
    assert not (options.own.out / "scores.csv").exists()
    assert run(BENCHMARK, changed(options, split="voc2012_test", json=False)) == 0
    assert "2 predictions in" in capsys.readouterr().out


def test_tables_and_a_sheet_for_a_person(options: Options, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(BENCHMARK, changed(options, sheets=3, json=False)) == 0
    said = capsys.readouterr().out
    assert "piggyback, seg11valid, 5 of 736 pictures" in said
    assert str(options.own.out) in said
    assert all(name in said for name in CLASSES)
    assert (options.own.out / "sheet.png").read_bytes()[1:4] == b"PNG"


def test_predictions_of_nothing_but_background_are_remarked_on(
    options: Options, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(prediction, "predict_picture", lambda *given: np.zeros(given[2].shape[:2], dtype=np.uint8))
    assert run(BENCHMARK, options) == 0
    said = capsys.readouterr()
    assert "every predicted pixel is background" in said.err
    assert json.loads(said.out)["iou"][0] == json.loads(said.out)["pixel_accuracy"]


# -- pictures trained on --------------------------------------------------------------------------------


def test_pictures_that_were_trained_on_are_refused_unless_allowed(
    options: Options, predicted: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(BadInput, match=r"1 of the 3 pictures of voc2012_val are in sbd_train \(2\d+_.*allow"):
        run(BENCHMARK, changed(options, split="voc2012_val"))
    with pytest.raises(BadInput, match="8 of the 8 pictures of sbd_train"):
        run(BENCHMARK, changed(options, split="sbd_train"))
    assert predicted == []
    assert not options.own.out.exists()
    capsys.readouterr()
    assert run(BENCHMARK, changed(options, split="voc2012_val", allow_overlap=True)) == 0
    said = capsys.readouterr()
    assert (json.loads(said.out)["pictures_trained_on"], json.loads(said.out)["pictures"]) == (1, 3)
    assert "compare with no others" in said.err


# -- what does not fit ----------------------------------------------------------------------------------


def test_what_is_no_finished_run_is_said(options: Options, done: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="not a finished run"):
        run(BENCHMARK, changed(options, run=tmp_path / "empty"))
    result = json.loads(done.result.read_text())
    done.result.write_text(json.dumps({**result, "benchmark": "decathlon"}))
    with pytest.raises(BadInput, match="`piggyback decathlon evaluate` reads it"):
        run(BENCHMARK, options)
    done.result.write_text(json.dumps({**result, "recipe": {**result["recipe"], "size": "wide"}}))
    with pytest.raises(BadInput, match=r"result\.json has no valid recipe"):
        run(BENCHMARK, options)
    assert not options.own.out.exists()


def test_other_training_pictures_are_refused(options: Options, job: Job, tmp_path: Path) -> None:
    data = shutil.copytree(job.data, tmp_path / "data")
    path = data / "sbd_train" / "split.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "fingerprint": "0" * 64}))
    with pytest.raises(BadInput, match="holds other pictures of pascal-voc than those"):
        run(BENCHMARK, changed(options, data=data))


def test_the_same_weights_fed_in_another_way_are_refused(options: Options, make_backbone: Callable[..., Path]) -> None:
    other = make_backbone("caffe", hidden=False, convention="caffe")  # the same numbers, for BGR in 0..255
    with pytest.raises(BadInput, match=r"caffe\.safetensors is not the backbone file that .* was trained on"):
        run(BENCHMARK, changed(options, backbone=other))
    with pytest.raises((BadInput, BackboneMismatch)):
        run(BENCHMARK, changed(options, backbone=make_backbone("seed", hidden=False, seed=5)))
    assert not options.own.out.exists()


def test_the_runs_own_folder_is_not_written_over(options: Options, done: RunFolder, outcome: Any) -> None:
    before = outcome(done)
    with pytest.raises(BadInput, match=r"not a run's predictions.*another --out"):
        run(BENCHMARK, changed(options, out=done.root, split="voc2012_test"))
    assert outcome(done) == before


# -- again, and after breaks ----------------------------------------------------------------------------


def test_nothing_is_predicted_twice(options: Options, predicted: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(BENCHMARK, options) == 0
    first = capsys.readouterr().out
    assert len(predicted) == 5
    assert run(BENCHMARK, options) == 0
    assert capsys.readouterr().out == first
    assert len(predicted) == 5


def test_another_payload_in_the_same_folder_is_measured_for_itself(
    options: Options, job: Job, predicted: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    other = train_task(replace(job, method="feature"))
    assert run(BENCHMARK, options) == 0
    predicted.clear()
    capsys.readouterr()
    assert run(BENCHMARK, changed(options, run=other.root)) == 0
    said = capsys.readouterr()
    assert len(predicted) == 5
    assert "they are made again" in said.err
    assert json.loads(said.out)["mean_iou"] == read_result(other.result).metrics["mean_iou"]
    assert (options.own.out / "confusion.json").read_bytes() == (other.root / "confusion.json").read_bytes()


def test_a_signal_stops_it_and_it_goes_on(
    options: Options,
    done: RunFolder,
    monkeypatch: pytest.MonkeyPatch,
    predicted: list[Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    note = prediction.predict_picture

    def signalled(*given: Any) -> Any:
        if len(predicted) == 2:
            signal.raise_signal(signal.SIGUSR2)
        return note(*given)

    with monkeypatch.context() as patch:
        patch.setattr(prediction, "predict_picture", signalled)
        assert main(words(options)) == 75
    assert "the same command again continues" in capsys.readouterr().err
    assert len(pngs(options.own.out / "predictions")) == len(predicted) == 3
    assert not (options.own.out / "confusion.json").exists()
    assert main(words(options)) == 0
    assert len(predicted) == 5
    assert (options.own.out / "confusion.json").read_bytes() == (done.root / "confusion.json").read_bytes()


def write_large(root: Path, *, pictures: int, side: int) -> None:
    """A packed split of noise, whose pictures take long enough to be hit by a signal."""
    name = "voc2012_val_minus_sbd"
    folder, random_numbers = root / name, np.random.default_rng(4)
    folder.mkdir()
    sides = np.full(pictures, side)
    np.save(index_file(folder), build_index(sides, sides))
    coarse = random_numbers.integers(0, 256, (pictures, side // 20, side // 20, 3), dtype=np.uint8)
    picture_file(folder).write_bytes(coarse.repeat(20, 1).repeat(20, 2).tobytes())
    label_file(folder).write_bytes((coarse[..., 0] % 3).repeat(20, 1).repeat(20, 2).tobytes())
    manifest = Manifest(
        name=name,
        ids=published_ids(find_split(name))[:pictures],
        published=904,
        official=False,
        labelled=True,
        fingerprint="1" * 64,
        class_pixels=(),
        void_pixels=0,
        listed_in="",
        sources=(),
        remarks=(),
    )
    write_manifest(root, manifest)


def test_an_evaluation_killed_at_a_random_moment_ends_with_the_same_numbers(
    options: Options, start: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures, moments = 16, random.SystemRandom()
    data = shutil.copytree(options.data, tmp_path / "data")
    write_large(data, pictures=pictures, side=400)
    options = changed(options, data=data, split="voc2012_val_minus_sbd")
    capsys.readouterr()
    assert run(BENCHMARK, changed(options, out=tmp_path / "whole")) == 0
    whole = json.loads(capsys.readouterr().out)

    command = words(options, "--split", "voc2012_val_minus_sbd", "--json")
    folder = options.own.out / "predictions"
    for _ in range(3):  # on a busy machine a kill can come too late
        after, wait = moments.randrange(pictures // 2), moments.uniform(0, 0.05)
        told = f"killed {wait:.4f} s after picture {after}"
        process = start(*command)
        while len(pngs(folder)) < after or not folder.exists():
            assert process.poll() is None, (told, process.communicate())
            time.sleep(0.002)
        time.sleep(wait)
        process.kill()
        said = process.communicate()
        if process.returncode != 0:
            break
        shutil.rmtree(options.own.out)
    assert process.returncode == -signal.SIGKILL, (told, said)
    assert not (options.own.out / "confusion.json").exists(), told
    kept = {path: path.stat().st_mtime_ns for path in folder.glob("*.png")}
    assert after <= len(kept) <= pictures, told

    again = start(*command)
    said = again.communicate()
    assert again.returncode == 0, (told, said)
    assert json.loads(said[0]) == {**whole, "predictions": str(folder)}, told
    assert "again" not in said[1], told
    assert pngs(folder) == pngs(tmp_path / "whole" / "predictions"), told
    assert len(pngs(folder)) == pictures
    for name in ("confusion.json", "scores.csv"):
        assert (options.own.out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), told
    assert {path: path.stat().st_mtime_ns for path in kept} == kept, told  # what was there was not made again
