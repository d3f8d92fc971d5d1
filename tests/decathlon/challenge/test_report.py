"""What `decathlon run` and `decathlon report` say, and what they write of the test parts where there are labels."""

import json
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest
from small_benchmarks import DECATHLON, TRAINED

import decathlon.challenge.report as report
from decathlon.challenge.scoring import score_file
from decathlon.release.labels import read_labels
from leaderboard.result import Result, read_result
from piggyback.shell.cli import main
from piggyback.shell.files import sha256_of
from piggyback.suite import runs
from piggyback.suite.bench import Job
from piggyback.suite.train import train_task
from piggyback.suite.training.run_folder import RunFolder

Words = Callable[..., list[str]]


@pytest.fixture
def words(job: Job) -> Words:
    """The command that runs masks and heads on two tasks, two learning rates tried, one epoch; more words change it."""

    def build(*more: str) -> list[str]:
        places = ["--data", str(job.data), "--backbone", str(job.backbone), "--out", str(job.out), "--device", "cpu"]
        recipe = [*DECATHLON.words, "--epochs", "1", "--lr-grid", "1e-3", "2e-3"]
        chosen = ["--tasks", ",".join(TRAINED), "--methods", "piggyback,feature"]
        return ["decathlon", "run", *places, *recipe, *chosen, *more]

    return build


ONE = ("--methods", "feature", "--tasks", "svhn")


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Runs that were trained, with ``labels`` where labels were opened."""
    events: list[str] = []

    def train_and_note(job: Job, **more: Any) -> RunFolder:
        folder = train_task(job, **more)
        events.append(f"{job.task} {job.method}")
        return folder

    def read_and_note(path: Path) -> Any:
        events.append("labels")
        return read_labels(path)

    monkeypatch.setattr(runs, "train_task", train_and_note)
    monkeypatch.setattr(report, "read_labels", read_and_note)
    return events


def result_of(out: Path, task: str, method: str, *, seed: int = 0, name: str = "result.json") -> Result:
    return read_result(next((out / "runs").glob(f"{task}-{method}-seed{seed}-*/{name}")))


# -- with labels ----------------------------------------------------------------------------------------


def test_a_whole_run(
    job: Job, words: Words, labels: Path, trained: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    command = words("--labels", str(labels))
    assert main(command) == 0
    four = [f"{task} {method}" for task in TRAINED for method in ("piggyback", "feature")]
    assert trained == [*four, "labels"]  # opened once, when all is trained
    said = capsys.readouterr().out
    for text in ("accuracy in percent: test (val)", "learning rates tried", "imagenet12", "parameter ratio"):
        assert text in said
    assert "1.28125" in said
    assert "not a decathlon score" in said

    trained.clear()
    assert main([*command, "--json"]) == 0  # all done: trains nothing, scores again
    assert trained == [*four, "labels"]  # found done, one after the other
    document = json.loads(capsys.readouterr().out)
    assert document.keys() == {"piggyback", "feature"}
    for method, found in document.items():
        score = score_file(job.out / "submissions" / f"{method}-seed0.json", labels=read_labels(labels))
        assert found["score"]["tasks"].keys() == {*TRAINED, "imagenet12"}
        for task, line in found["tasks"].items():
            check_line(line, job.out, task=task, method=method)
            assert line["test_accuracy"] == score.tasks[task].accuracy
    (own,) = job.out.glob("imagenet12-backbone-*/result.json")
    backbone, scored = read_result(own), score.tasks["imagenet12"]
    assert (backbone.method, backbone.split, backbone.metrics["accuracy"]) == ("backbone", "test", scored.accuracy)
    assert backbone.counts is not None
    assert backbone.counts.correct == scored.correct
    assert backbone.fingerprints is not None
    assert backbone.fingerprints.predictions == sha256_of(own.parent / "predictions.npz")


def check_line(line: dict[str, Any], out: Path, *, task: str, method: str) -> None:
    """It says what the run's result says, and the record of the test part beside it differs in that part alone."""
    result, record = (result_of(out, task, method, name=name) for name in ("result.json", "test-result.json"))
    assert line["val_accuracy"] == result.metrics["accuracy"]
    assert [trial["lr"] for trial in line["lr_trials"]] == [1e-3, 2e-3]
    assert line["lr"] in (1e-3, 2e-3)
    assert (record.split, record.metrics["accuracy"]) == ("test", line["test_accuracy"])
    assert record.model_copy(update={"split": "val", "metrics": result.metrics, "counts": result.counts}) == result
    assert (method == "piggyback") == ("zeros" in record.metrics)


def test_test_accuracies_are_spread_over_seeds_where_every_seed_is_scored(
    job: Job, words: Words, labels: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = words("--seeds", "0,1", "--labels", str(labels), *ONE)
    assert main(command) == 0
    said = capsys.readouterr().out
    assert said.count("accuracy in percent: test (val)") == 2  # a table for each seed, then all seeds together
    assert "all seeds, test accuracy %" in said
    assert "± is the sample standard deviation over seeds 0, 1" in said
    assert main([*command, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    spread = document["spread"]["feature"]["tasks"]["svhn"]
    for name, file in (("accuracy", "result.json"), ("test_accuracy", "test-result.json")):
        values = [result_of(job.out, "svhn", "feature", seed=s, name=file).metrics["accuracy"] for s in (0, 1)]
        assert spread[name] == pytest.approx({"mean": fmean(values), "deviation": stdev(values), "n": 2})
    assert document["seeds"].keys() == {"0", "1"}
    (labels / "svhn_test.json").unlink()
    assert main(command) == 0
    assert "all seeds, val accuracy %" in capsys.readouterr().out


# -- without, and with others ---------------------------------------------------------------------------


def test_without_labels_val_is_shown(words: Words, trained: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words(*ONE, "--json")) == 0
    assert "labels" not in trained
    said = capsys.readouterr()
    assert "no labels of the test parts" in said.err
    found = json.loads(said.out)["feature"]
    assert (found["score"], found["mean_test_accuracy"]) == (None, None)
    assert found["tasks"]["svhn"]["test_accuracy"] is None


def test_labels_of_other_tasks_are_no_failure(words: Words, labels: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for task in ("svhn", "imagenet12"):
        (labels / f"{task}_test.json").unlink()
    assert main(words(*ONE, "--labels", str(labels), "--json")) == 0
    said = capsys.readouterr()
    assert "no labels of any task of feature" in said.err
    assert json.loads(said.out)["feature"]["score"] is None


def test_a_report_misses_the_backbones_task_of_joint_methods_only(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = ["--runs", str(tmp_path / "none"), "--data", str(data), "--tasks", "dtd,imagenet12", "--json"]
    assert main(["decathlon", "report", *places, "--methods", "piggyback,joint"]) == 1
    missing = json.loads(capsys.readouterr().out)["missing"]
    assert missing == ["dtd piggyback seed 0", "dtd joint seed 0", "imagenet12 joint seed 0"]


# -- what is said first ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "fault"),
    [
        (("--tasks", "svhn,svnh"), "Did you mean 'svhn'"),
        (("--tasks", "svhn,imagenet12"), "the backbone's own task"),
        (("--tasks", ""), "cifar100, daimlerpedcls, dtd, gtsrb, omniglot, ucf101, vgg-flowers are not packed in"),
        (("--tasks", "svhn,dtd"), "dtd is not packed"),
        (("--data", "nowhere"), "aircraft, svhn are not packed in nowhere"),
        (("--labels", "nowhere.zip"), "no labels in nowhere.zip"),
        (("--size", "73"), "svhn train has a picture of 72 px"),
    ],
)
def test_what_would_fail_is_said_before_anything_is_trained(
    job: Job, words: Words, trained: list[str], more: tuple[str, ...], fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(*more)) == 1
    said = capsys.readouterr().err
    assert (fault in said, said.count("\n")) == (True, 1), said
    assert trained == []
    assert not (job.out / "runs").exists()


def test_a_folder_is_of_one_data_folder_one_backbone_and_one_size(
    job: Job, words: Words, trained: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(*ONE)) == 0
    setup = json.loads((job.out / "setup.json").read_text())
    assert setup == {"data": str(job.data.resolve()), "backbone": str(job.backbone.resolve()), "size": 16}
    trained.clear()
    other = tmp_path / "other data"
    other.symlink_to(job.data)  # the same place by another name
    assert main(words(*ONE, "--data", str(other))) == 0
    assert trained == ["svhn feature"]
    trained.clear()
    capsys.readouterr()
    (tmp_path / "copy.safetensors").write_bytes(job.backbone.read_bytes())
    for more in (("--backbone", str(tmp_path / "copy.safetensors")), ("--size", "24", "--seeds", "1")):
        assert main(words(*ONE, *more)) == 1
        assert "other data, backbone or size" in " ".join(capsys.readouterr().err.split())
    assert trained == []


# -- from a run to a score ------------------------------------------------------------------------------


def test_verbs_mind_no_name_and_what_one_writes_the_next_reads(
    job: Job, words: Words, labels: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = job.out.parent / "a \"b\" 'c'\n[d] [/d]"
    assert main(words(*ONE, "--out", str(out), "--labels", str(labels), "--json")) == 0
    found = json.loads(capsys.readouterr().out)["feature"]
    submit = ["--runs", str(out), "--method", "feature", "--out", str(out / "results.json"), "--partial", "--json"]
    assert main(["decathlon", "submit", *submit]) == 0
    assert json.loads(capsys.readouterr().out)["entries"] == 10
    assert main(["decathlon", "score", str(out / "results.zip"), "--labels", str(labels), "--json"]) == 0
    scored = json.loads(capsys.readouterr().out)
    assert scored["tasks"]["svhn"]["accuracy"] == found["tasks"]["svhn"]["test_accuracy"]
