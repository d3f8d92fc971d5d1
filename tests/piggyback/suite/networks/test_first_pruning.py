"""PackNet: a pruned copy of the backbone, and what its tasks do with it."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from decathlon.backbone.backbone_file import load_backbone
from piggyback.optimizer import AdapterOptimizer
from piggyback.payload import read_payload
from piggyback.shell.errors import BadInput
from piggyback.suite.bench import Job
from piggyback.suite.networks.making import NETWORK_FILE
from piggyback.suite.train import train_task
from piggyback.suite.training.run_folder import RunFolder

Of = Callable[[Job], Path]
TrainAll = Callable[[Job], dict[str, RunFolder]]
Logits = Callable[[RunFolder, Path], torch.Tensor]
ORDER = ("aircraft", "svhn")


def test_packnet_prunes_a_copy_and_deals_the_rest_out(job: Job, train_all: TrainAll, network_of: Of) -> None:
    job = replace(job, method="packnet")
    folders = train_all(job)
    before = load_backbone(job.backbone).network.state_dict()
    pruned = load_backbone(network_of(job) / NETWORK_FILE)
    assert pruned.source["made"] == "pruned"
    state = pruned.network.state_dict()
    for name, tensor in before.items():
        if tensor.ndim == 4:
            assert (state[name] == 0).float().mean() == pytest.approx(0.5, abs=0.02)
            assert not torch.equal(state[name][state[name] != 0], tensor[state[name] != 0])  # the rest was trained
    assert not torch.equal(state["bn1.running_mean"], before["bn1.running_mean"])
    first, second = (read_payload(folders[task].payload).kept for task in ORDER)
    for name, kept in first.items():
        free = int((state[name] == 0).sum())
        owned = int(((kept["owner0"].int() + 2 * kept["owner1"].int()) == 2).sum())
        most = free - round(0.75 * free)
        assert 0.98 * most <= owned <= most  # equal sizes at the cutoff go together
        assert owned <= int((second[name]["value"] != 0).sum())
        mine = (kept["owner1"] == 1) & (kept["owner0"] == 0)
        assert torch.equal(second[name]["value"][mine], kept["value"][mine])  # the later task has moved none of them
        assert bool((second[name]["owner0"] | second[name]["owner1"])[state[name] == 0].all())  # the last keeps all
    assert json.loads(folders["svhn"].result.read_text())["parameter_ratio"] == pytest.approx(1 + 4 / 32)


def test_packnet_goes_on_with_a_new_optimizer_after_its_pruning(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """As its authors' code: no moment of the weights before is left when the first step after the pruning comes."""
    steps: list[int] = []
    reset = AdapterOptimizer.reset

    def watch(optimizer: AdapterOptimizer) -> None:
        steps.append(max((int(state["step"]) for state in optimizer.state.values() if "step" in state), default=0))
        reset(optimizer)
        moments = [t for state in optimizer.state.values() for key, t in state.items() if "exp_avg" in key]
        assert moments
        assert not any(moment.any() for moment in moments)

    monkeypatch.setattr(AdapterOptimizer, "reset", watch)
    job = replace(job, method="packnet", recipe=replace(job.recipe, retrain=1 / 3))
    train_task(job)
    assert steps == [0, 0, 4]  # the network's own optimizer, the task's, and that again after four steps of six
    train_task(replace(job, task="svhn"))
    assert steps == [0, 0, 4, 0]  # the last task does not prune


def test_packnet_selects_no_epoch_from_before_its_pruning(job: Job, network_of: Of) -> None:
    recipe = replace(job.recipe, epochs=4, retrain=0.5, selected_on="val", lr=1e-6)  # val would stay as it is
    job = replace(job, method="packnet", recipe=recipe)
    folder = train_task(job)
    history = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    assert ["val_accuracy" in line for line in history] == [False, True, True, True]
    kept = read_payload(folder.payload).kept
    pruned = load_backbone(network_of(job) / NETWORK_FILE).network.state_dict()
    for name, planes in kept.items():
        assert int(planes["owner1"].sum()) < 0.3 * int((pruned[name] == 0).sum())


def test_packnets_second_task_needs_the_first(job: Job) -> None:
    with pytest.raises(BadInput, match=r"svhn by packnet builds on aircraft, whose run .* is not finished"):
        train_task(replace(job, method="packnet", task="svhn"))


def test_packnets_network_is_the_same_for_every_order_and_its_tasks_are_not(
    job: Job, logits_of: Logits, train_all: TrainAll, network_of: Of, tmp_path: Path
) -> None:
    job = replace(job, method="packnet")
    other = replace(job, out=tmp_path / "other", recipe=replace(job.recipe, order=ORDER[::-1]))
    one, two = train_all(job), train_all(other)
    files = [(network_of(each) / NETWORK_FILE).read_bytes() for each in (job, other)]
    assert files[0] == files[1]
    for task in ORDER:
        assert not torch.equal(
            logits_of(one[task], network_of(job) / NETWORK_FILE), logits_of(two[task], network_of(job) / NETWORK_FILE)
        )


def test_packnet_without_the_backbones_own_pictures_says_what_is_missing(job: Job, tmp_path: Path) -> None:
    data = shutil.copytree(job.data, tmp_path / "copied")
    shutil.rmtree(data / "imagenet12")
    with pytest.raises(BadInput, match=r"imagenet12 is not packed in .*copied"):
        train_task(replace(job, method="packnet", data=data))
