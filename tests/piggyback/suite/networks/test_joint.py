"""Joint training: one network, and what each task adds to it."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from decathlon.backbone.backbone_file import load_backbone
from piggyback.payload import read_payload
from piggyback.shell.errors import BadInput
from piggyback.suite.bench import Job, open_bench
from piggyback.suite.networks.foundation import make_foundation
from piggyback.suite.networks.making import NETWORK_FILE
from piggyback.suite.train import train_task
from piggyback.suite.training.run_folder import RunFolder

Of = Callable[[Job], Path]
TrainAll = Callable[[Job], dict[str, RunFolder]]
Logits = Callable[[RunFolder, Path], torch.Tensor]
ORDER = ("aircraft", "svhn")


JOINT = ("joint", "series-joint")


@pytest.mark.parametrize("method", JOINT)
def test_joint_training_gives_one_network_and_a_payload_per_task(
    job: Job, logits_of: Logits, train_all: TrainAll, network_of: Of, method: str
) -> None:
    job = replace(job, method=method)
    folders = train_all(job)
    before, network = load_backbone(job.backbone), load_backbone(network_of(job) / NETWORK_FILE)
    changed = network.network.state_dict()
    for name, tensor in before.network.state_dict().items():
        own = name.startswith("fc") or "bn" in name  # the tasks', so the network's stay what they were
        assert torch.equal(changed[name], tensor) == own, name
    fingerprints = {read_payload(folder.payload).fingerprint for folder in folders.values()}
    assert len(fingerprints) == 1
    assert not torch.equal(
        read_payload(folders["aircraft"].payload).own["bn1.running_mean"],
        read_payload(folders["svhn"].payload).own["bn1.running_mean"],
    )
    for task, folder in folders.items():
        result = json.loads(folder.result.read_text())
        assert (result["task"], result["method"]) == (task, method)
        assert torch.isfinite(logits_of(folder, network_of(job) / NETWORK_FILE)).all()


def test_joint_training_chooses_its_rate_by_the_mean_over_tasks(job: Job) -> None:
    job = replace(job, method="joint", recipe=replace(job.recipe, lr_grid=(1e-4, 5e-3)))
    recipe = json.loads(train_task(job).result.read_text())["recipe"]
    assert [trial["lr"] for trial in recipe["lr_trials"]] == [1e-4, 5e-3]
    assert recipe["lr_used"] in (1e-4, 5e-3)


def test_norm_layers_have_their_own_rate_in_joint_training(job: Job, train_all: TrainAll) -> None:
    job = replace(job, method="joint", recipe=replace(job.recipe, norm_lr=1e-30))
    for folder in train_all(job).values():
        assert torch.equal(
            read_payload(folder.payload).own["bn1.weight"], load_backbone(job.backbone).network.bn1.weight
        )


def test_another_optimizer_for_heads_is_refused_in_joint_training(job: Job) -> None:
    job = replace(job, method="joint", recipe=replace(job.recipe, head_rule="sgd"))
    with pytest.raises(BadInput, match="head_rule must be adam, not sgd"):
        train_task(job)


def test_a_damaged_record_of_joint_training_is_named(job: Job, network_of: Of) -> None:
    job = replace(job, method="joint")
    make_foundation(open_bench(job))
    (network_of(job) / "joint.json").write_text("{}")
    with pytest.raises(BadInput, match=r"joint\.json is damaged"):
        train_task(job)
