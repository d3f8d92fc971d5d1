"""Methods that are built on a network of their own: their answers on the backbone's task."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from small_benchmarks import TRAINED as ORDER

from decathlon.challenge.collection import Setup, collect, write_setup
from decathlon.challenge.report import gather
from decathlon.release.labels import read_labels
from piggyback.shell.errors import BadInput
from piggyback.suite.bench import Job, open_bench
from piggyback.suite.networks.foundation import foundation_folder
from piggyback.suite.train import train_task
from piggyback.suite.training.run_folder import RunFolder


@pytest.fixture
def job(job: Job) -> Job:
    """The first of two tasks; three steps of imagenet12 for PackNet's first pruning."""
    return replace(job, task=ORDER[0], recipe=replace(job.recipe, order=ORDER, lr=5e-3))


def train_all(job: Job) -> None:
    for task in job.recipe.order:
        train_task(replace(job, task=task))


def test_packnets_submission_has_its_own_answers_on_imagenet12(job: Job) -> None:
    job = replace(job, method="packnet")
    setup = Setup(data=job.data, backbone=job.backbone, size=16)
    write_setup(job.out, setup)
    train_all(job)
    train_task(replace(job, method="feature"))
    own, frozen = (collect(job.out, method=name, seed=0)["imagenet12"] for name in ("packnet", "feature"))
    assert own.image_ids.tolist() == frozen.image_ids.tolist()
    assert {path.name.rpartition("-")[0] for path in job.out.glob("imagenet12-*")} == {
        "imagenet12-backbone",
        "imagenet12-packnet-seed0",
    }


def test_records_of_the_test_part_name_packnets_network(
    job: Job, labels: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = replace(job, method="packnet")
    write_setup(job.out, Setup(data=job.data, backbone=job.backbone, size=16))
    train_all(job)
    gather(job.out, ["packnet"], seed=0, labels=read_labels(labels), device=job.device)
    (file,) = job.out.glob("imagenet12-*/result.json")
    record = json.loads(file.read_text())
    assert (record["method"], record["task"], record["split"], record["seed"]) == ("packnet", "imagenet12", "test", 0)
    status = RunFolder(foundation_folder(open_bench(job))).status
    assert record["wall_s"] == json.loads(status.read_text())["seconds"]
    file.unlink()
    status.unlink()
    gather(job.out, ["packnet"], seed=0, labels=read_labels(labels), device=job.device)
    assert not file.exists()  # no time is made up
    assert "does not say how long it took, so imagenet12 gets no record" in capsys.readouterr().err


def test_the_backbones_own_task_can_be_among_those_of_joint_training(job: Job) -> None:
    job = replace(job, method="joint", recipe=replace(job.recipe, order=(*ORDER, "imagenet12")))
    write_setup(job.out, Setup(data=job.data, backbone=job.backbone, size=16))
    train_all(job)
    assert "imagenet12" in collect(job.out, method="joint", seed=0)
    with pytest.raises(BadInput, match="imagenet12 is the backbone's own task"):
        open_bench(replace(job, method="piggyback", task="imagenet12"))
