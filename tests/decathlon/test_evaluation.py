"""A finished run's payload, measured again."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from decathlon.challenge.submission import Predictions
from decathlon.release.packed import open_split
from decathlon.release.prepare import prepare
from piggyback.shell.cli import main
from piggyback.suite.bench import Job
from piggyback.suite.train import train_task


def evaluate(job: Job, *more: str, data: Path | None = None) -> int:
    (root,) = (job.out / "runs").iterdir()
    words = ["--run", str(root), "--data", str(data or job.data), "--backbone", str(job.backbone), "--json"]
    return main(["decathlon", "evaluate", *words, *more])


@pytest.mark.parametrize(
    ("method", "fields"), [("piggyback", {"norm": "trained"}), ("feature", {}), ("finetune", {"selected_on": "val"})]
)
def test_a_payload_is_measured_as_the_run_measured_it(
    job: Job, change: Callable[..., Job], labels: Path, capsys: pytest.CaptureFixture[str], method: str, fields: Any
) -> None:
    job = replace(change(job, **fields), method=method)
    folder = train_task(job)
    metrics = json.loads(folder.result.read_text())["metrics"]
    assert evaluate(job) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["split"], report["n"], report["accuracy"]) == ("val", 4, metrics["accuracy"])
    assert evaluate(job, "--split", "test", "--labels", str(labels)) == 0
    report = json.loads(capsys.readouterr().out)
    split = open_split(job.data, "svhn", "test")
    right = Predictions.load(folder.predictions).category_ids == split.category_ids[split.image_ids % 4]
    assert (report["n"], report["correct"]) == (5, int(right.sum()))


def test_evaluate_refuses_what_does_not_fit(
    job: Job, labels: Path, tiny: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = train_task(replace(job, method="feature"))
    assert evaluate(job, "--split", "test") == 1
    assert "give --labels" in capsys.readouterr().err
    document = json.loads((labels / "svhn_test.json").read_text())
    for key in ("images", "annotations"):
        document[key] = document[key][1:]
    (labels / "svhn_test.json").write_text(json.dumps(document))
    assert evaluate(job, "--split", "test", "--labels", str(labels)) == 1
    assert "lacks 1 of 5 pictures of svhn" in capsys.readouterr().err
    (labels / "svhn_test.json").unlink()
    assert evaluate(job, "--split", "test", "--labels", str(labels)) == 1
    assert "no labels of svhn" in capsys.readouterr().err

    tiny.write("svhn", edit=lambda documents: documents["svhn_train.json"]["images"].reverse())
    prepare(tmp_path / "source", tmp_path / "other")
    assert evaluate(job, data=tmp_path / "other") == 1
    assert "other pictures of svhn" in capsys.readouterr().err

    result = json.loads(folder.result.read_text())
    folder.result.write_text(json.dumps(result | {"recipe": {"epochs": "many"}}))
    assert evaluate(job) == 1
    assert "has no valid recipe" in capsys.readouterr().err
    folder.result.unlink()
    assert evaluate(job) == 1
    assert "not a finished run" in capsys.readouterr().err
