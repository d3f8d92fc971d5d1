"""`piggyback decathlon run` on two tasks: what is checked first, what happens when a run fails, what comes last."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import decathlon.runs as runs
import pytest
import torch
from decathlon.training import train_task

from decathlon.bench import Job
from decathlon.challenge.scoring import score_file
from decathlon.options import RunOptions
from decathlon.recipes import Recipe
from leaderboard.result import read_result
from piggyback.shell.cli import main
from piggyback.shell.errors import BadInput, Diverged, Requeue, UnknownName
from piggyback.shell.files import sha256_of
from piggyback.suite.training.run_folder import RunFolder


@pytest.fixture
def options(job: Job) -> RunOptions:
    """Masks and heads on aircraft and svhn, two learning rates tried, one epoch."""
    return RunOptions(
        data=job.data,
        backbone=job.backbone,
        out=job.out,
        methods=("piggyback", "feature"),
        tasks=("aircraft", "svhn"),
        settings=replace(job.recipe, epochs=1, lr_grid=(1e-3, 2e-3)),
        device="cpu",
    )


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Runs that were trained, with ``labels`` where labels were opened."""
    events: list[str] = []
    train, read = train_task, runs.read_labels

    def train_and_note(job: Job, **more: Any) -> RunFolder:
        folder = train(job, **more)
        events.append(f"{job.task} {job.method}")
        return folder

    def read_and_note(path: Path) -> Any:
        events.append("labels")
        return read(path)

    monkeypatch.setattr(runs, "train_task", train_and_note)
    monkeypatch.setattr(runs, "read_labels", read_and_note)
    return events


def test_a_whole_run(options: RunOptions, labels: Path, trained: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    options = replace(options, labels=labels)
    assert runs.run(options) == 0
    four = ["aircraft piggyback", "aircraft feature", "svhn piggyback", "svhn feature"]
    assert trained == [*four, "labels"]  # opened once, when all is trained
    said = capsys.readouterr()
    assert [line.split(" (")[0] for line in said.err.splitlines()] == [f"done: {name}" for name in four]
    for text in ("accuracy in percent: test (val)", "learning rates tried", "imagenet12", "parameter ratio"):
        assert text in said.out
    assert "1.28125" in said.out
    assert "not a decathlon score" in said.out
    tried = next(line for line in said.out.split("learning rates tried")[1].splitlines() if "svhn" in line)
    assert tried.count("0.001") == tried.count("0.002") == 2  # both methods, all values
    assert tried.count("*") == 2

    assert runs.run(replace(options, json=True)) == 0  # all done: trains nothing, scores again
    report = json.loads(capsys.readouterr().out)
    assert report.keys() == {"piggyback", "feature"}
    for method, found in report.items():
        score = score_file(options.out / "submissions" / f"{method}-seed0.json", labels=runs.read_labels(labels))
        assert found["score"]["tasks"].keys() == {"aircraft", "svhn", "imagenet12"}
        for task, line in found["tasks"].items():
            result = read_result(next((options.out / "runs").glob(f"{task}-{method}-*/result.json")))
            assert line["test_accuracy"] == score.tasks[task].accuracy
            assert line["val_accuracy"] == result.metrics["accuracy"]
            assert [trial["lr"] for trial in line["lr_trials"]] == [1e-3, 2e-3]
            assert line["lr"] in (1e-3, 2e-3)
            record = read_result(next((options.out / "runs").glob(f"{task}-{method}-*/test-result.json")))
            assert (record.split, record.metrics["accuracy"]) == ("test", line["test_accuracy"])
            assert (
                record.model_copy(update={"split": "val", "metrics": result.metrics, "counts": result.counts}) == result
            )
            masks = next((options.out / "runs").glob(f"{task}-{method}-*/")) / "sparsity.json"
            assert masks.exists() == (method == "piggyback") == ("zeros" in record.metrics)
    (own,) = options.out.glob("imagenet12-backbone-*/result.json")
    backbone = read_result(own)
    scored = score.tasks["imagenet12"]
    assert (backbone.method, backbone.split, backbone.metrics["accuracy"]) == ("backbone", "test", scored.accuracy)
    assert backbone.counts is not None
    assert backbone.counts.correct == scored.correct
    assert backbone.fingerprints is not None
    assert backbone.fingerprints.predictions == sha256_of(own.parent / "predictions.npz")


def test_without_labels_val_is_shown(
    options: RunOptions, trained: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert runs.run(replace(options, methods=("feature",), tasks=("svhn",), json=True)) == 0
    assert "labels" not in trained
    said = capsys.readouterr()
    assert "no labels of the test parts" in said.err
    report = json.loads(said.out)["feature"]
    assert (report["score"], report["mean_test_accuracy"]) == (None, None)
    assert report["tasks"]["svhn"]["test_accuracy"] is None


def test_labels_of_other_tasks_are_no_failure(
    options: RunOptions, labels: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for task in ("svhn", "imagenet12"):
        (labels / f"{task}_test.json").unlink()
    options = replace(options, labels=labels, methods=("feature",), tasks=("svhn",), json=True)
    assert runs.run(options) == 0
    said = capsys.readouterr()
    assert "no labels of any task of feature" in said.err
    assert json.loads(said.out)["feature"]["score"] is None


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"tasks": ("svhn", "svnh")}, "Did you mean 'svhn'"),
        ({"tasks": ("svhn", "imagenet12")}, "the backbone's own task"),
        ({"methods": ("piggyback", "fintune")}, "Did you mean 'finetune'"),
        ({"methods": ()}, "no method was named"),
        ({"tasks": ()}, "cifar100, daimlerpedcls, dtd, gtsrb, omniglot, ucf101, vgg-flowers are not packed in"),
        ({"tasks": ("svhn", "dtd")}, "dtd is not packed"),
        ({"backbone": Path("nowhere.safetensors")}, r"nowhere\.safetensors"),
        ({"data": Path("nowhere")}, "aircraft, svhn are not packed in nowhere"),
        ({"labels": Path("nowhere.zip")}, "no labels in nowhere.zip"),
        ({"device": "cuda:99"}, "no device"),
        ({"parallel": -1}, "--parallel"),
        ({"settings": Recipe(size=73)}, "svhn train has a picture of 72 px"),
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


def test_a_task_or_method_named_twice_is_done_once(options: RunOptions) -> None:
    jobs = runs.plan_jobs(replace(options, tasks=("svhn", "svhn"), methods=("feature", "feature")))
    assert [(job.task, job.method) for job in jobs] == [("svhn", "feature")]


def test_all_nine_tasks_when_none_is_named(options: RunOptions) -> None:
    assert len(runs.plan_jobs(replace(options, tasks=(), methods=("feature",)))) == 9


def test_one_failure_does_not_keep_the_others_from_being_done(
    options: RunOptions, labels: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def train(job: Job, **more: Any) -> RunFolder:
        if (job.task, job.method) == ("aircraft", "feature"):
            raise Diverged("the loss is not finite any more")
        return train_task(job, **more)

    monkeypatch.setattr(runs, "train_task", train)
    with pytest.raises(BadInput, match="1 of 4 runs failed: aircraft feature; the same command tries them again"):
        runs.run(replace(options, labels=labels))
    said = capsys.readouterr()
    assert "failed: aircraft feature: the loss is not finite any more" in said.err
    assert "done: svhn feature" in said.err
    row = next(line for line in said.out.splitlines() if "aircraft" in line)
    assert row.rstrip("│ ").endswith("-")  # what is there is shown


def test_when_all_fail_there_is_no_table(
    options: RunOptions, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def train(job: Job, **more: Any) -> RunFolder:
        raise Diverged("no")

    monkeypatch.setattr(runs, "train_task", train)
    with pytest.raises(BadInput, match="4 of 4 runs failed"):
        runs.run(options)
    assert capsys.readouterr().out == ""


def test_a_stop_ends_the_whole_run_and_it_goes_on(
    options: RunOptions, trained: list[str], stop_after: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = runs.plan_jobs(replace(options, methods=("feature",), settings=replace(options.settings, lr_grid=())))
    with pytest.raises(Requeue):
        runs.train_jobs(
            jobs, train=runs.train_task, parallel=1, stop=stop_after(7)
        )  # three steps, a look before each job
    assert trained == ["aircraft feature"]
    assert runs.train_jobs(jobs, train=runs.train_task, parallel=1, stop=stop_after(1000)) == []
    assert trained == ["aircraft feature", "aircraft feature", "svhn feature"]


def test_a_folder_of_other_data_or_of_another_recipe_is_refused(
    options: RunOptions, trained: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = replace(options, methods=("feature",), tasks=("svhn",))
    assert runs.run(options) == 0
    trained.clear()
    other = tmp_path / "other data"
    other.symlink_to(options.data)  # the same place by another name
    assert runs.run(replace(options, data=other)) == 0
    assert trained == ["svhn feature"]
    trained.clear()
    (tmp_path / "copy.safetensors").write_bytes(options.backbone.read_bytes())
    with pytest.raises(BadInput, match="other data, backbone or size: take another --out"):
        runs.run(replace(options, backbone=tmp_path / "copy.safetensors"))
    with pytest.raises(BadInput, match=r"a run of svhn with feature by another recipe.*another --out"):
        runs.run(replace(options, settings=replace(options.settings, epochs=2)))
    assert trained == []
    other_seed = replace(options, settings=replace(options.settings, seed=1))
    assert runs.run(other_seed) == 0


def test_the_verb_minds_no_name_and_keeps_json_clean(
    options: RunOptions, labels: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = options.out.parent / "a \"b\" 'c'\n[d] [/d]"
    words = ["--data", str(options.data), "--backbone", str(options.backbone), "--out", str(out)]
    words += ["--recipe", "smoke", "--batch-size", "4", "--size", "16", "--update", "eager"]
    words += ["--tasks", "svhn", "--methods", "feature", "--labels", str(labels), "--json"]
    assert main(["decathlon", "run", *words]) == 0
    report = json.loads(capsys.readouterr().out)["feature"]
    assert report["tasks"]["svhn"]["lr"] == 1e-3
    submit = ["--runs", str(out), "--method", "feature", "--out", str(out / "results.json"), "--partial", "--json"]
    assert main(["decathlon", "submit", *submit]) == 0
    assert json.loads(capsys.readouterr().out)["entries"] == 10
    assert main(["decathlon", "score", str(out / "results.zip"), "--labels", str(labels), "--json"]) == 0
    scored = json.loads(capsys.readouterr().out)
    assert scored["tasks"]["svhn"]["accuracy"] == report["tasks"]["svhn"]["test_accuracy"]


def test_the_default_device_is_the_processor_where_there_is_no_gpu(options: RunOptions) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert runs.plan_jobs(replace(options, device=None))[0].device.type == "cpu"
