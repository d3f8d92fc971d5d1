"""Methods that stand on a network of their own: PackNet's pruned one and those of joint training, breaks included."""

import contextlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from decathlon.collection import Setup, collect, write_setup
from decathlon.runs import gather
from decathlon.training import train_task

import piggyback.suite.networks.joint
from decathlon.backbone.backbone_file import load_backbone
from decathlon.bench import BACKBONE_FILE, Job, ground_folder, open_bench
from piggyback.adapter import attach
from piggyback.methods.registry import METHODS
from piggyback.optimizer import AdapterOptimizer
from piggyback.payload import read_payload
from piggyback.shell.cli import main
from piggyback.shell.errors import BadInput, Requeue
from piggyback.suite.networks.foundation import make_ground
from piggyback.suite.training.run_folder import RunFolder

ORDER = ("aircraft", "svhn")
JOINT = ("joint", "series-joint")


@pytest.fixture
def ordered(job: Job) -> Job:
    """The first of two tasks; three steps of imagenet12 for PackNet's first pruning."""
    return replace(job, task="aircraft", recipe=replace(job.recipe, order=ORDER, first_epochs=1, lr=5e-3))


def train_all(job: Job, **fields: Any) -> dict[str, RunFolder]:
    return {task: train_task(replace(job, task=task, **fields)) for task in job.recipe.order}


def ground(job: Job) -> Path:
    return ground_folder(open_bench(job))


def logits_of(folder: RunFolder, network: Path) -> torch.Tensor:
    backbone = load_backbone(network)
    adapter = attach(backbone.network, method=METHODS["feature"], head="fc")
    adapter.load(folder.payload)
    adapter.eval()
    with torch.no_grad():
        found: torch.Tensor = backbone.network(torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)))
    return found


# -- PackNet --------------------------------------------------------------------------------------------


def test_packnet_prunes_a_copy_and_deals_the_rest_out(ordered: Job) -> None:
    job = replace(ordered, method="packnet")
    folders = train_all(job)
    before = load_backbone(job.backbone).network.state_dict()
    pruned = load_backbone(ground(job) / BACKBONE_FILE)
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


def test_packnet_goes_on_with_a_new_optimizer_after_its_pruning(ordered: Job, monkeypatch: pytest.MonkeyPatch) -> None:
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
    job = replace(ordered, method="packnet", recipe=replace(ordered.recipe, retrain=1 / 3))
    train_task(job)
    assert steps == [0, 0, 4]  # the network's own optimizer, the task's, and that again after four steps of six
    train_task(replace(job, task="svhn"))
    assert steps == [0, 0, 4, 0]  # the last task does not prune


def test_packnet_selects_no_epoch_from_before_its_pruning(ordered: Job) -> None:
    recipe = replace(ordered.recipe, epochs=4, retrain=0.5, selected_on="val", lr=1e-6)  # val would stay as it is
    job = replace(ordered, method="packnet", recipe=recipe)
    folder = train_task(job)
    history = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    assert ["val_accuracy" in line for line in history] == [False, True, True, True]
    kept = read_payload(folder.payload).kept
    pruned = load_backbone(ground(job) / BACKBONE_FILE).network.state_dict()
    for name, planes in kept.items():
        assert int(planes["owner1"].sum()) < 0.3 * int((pruned[name] == 0).sum())


def test_packnets_second_task_needs_the_first(ordered: Job) -> None:
    with pytest.raises(BadInput, match=r"svhn by packnet builds on aircraft, whose run .* is not finished"):
        train_task(replace(ordered, method="packnet", task="svhn"))


def test_packnets_network_is_the_same_for_every_order_and_its_tasks_are_not(ordered: Job, tmp_path: Path) -> None:
    job = replace(ordered, method="packnet")
    other = replace(job, out=tmp_path / "other", recipe=replace(job.recipe, order=ORDER[::-1]))
    one, two = train_all(job), train_all(other)
    files = [(ground(each) / BACKBONE_FILE).read_bytes() for each in (job, other)]
    assert files[0] == files[1]
    for task in ORDER:
        assert not torch.equal(
            logits_of(one[task], ground(job) / BACKBONE_FILE), logits_of(two[task], ground(job) / BACKBONE_FILE)
        )


def test_packnets_submission_has_its_own_answers_on_imagenet12(ordered: Job, data: Path) -> None:
    job = replace(ordered, method="packnet")
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
    ordered: Job, labels: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from decathlon.release.labels import read_labels

    job = replace(ordered, method="packnet")
    write_setup(job.out, Setup(data=job.data, backbone=job.backbone, size=16))
    train_all(job)
    gather(job.out, ["packnet"], seed=0, labels=read_labels(labels), device=job.device)
    (file,) = job.out.glob("imagenet12-*/result.json")
    record = json.loads(file.read_text())
    assert (record["method"], record["task"], record["split"], record["seed"]) == ("packnet", "imagenet12", "test", 0)
    status = RunFolder(ground(job)).status
    assert record["wall_s"] == json.loads(status.read_text())["seconds"]
    file.unlink()
    status.unlink()
    gather(job.out, ["packnet"], seed=0, labels=read_labels(labels), device=job.device)
    assert not file.exists()  # no time is made up
    assert "does not say how long it took, so imagenet12 gets no record" in capsys.readouterr().err


def test_packnet_without_imagenet12_says_what_is_missing(ordered: Job) -> None:
    for path in (ordered.data / "imagenet12").iterdir():
        path.unlink()
    with pytest.raises(BadInput, match="imagenet12"):
        train_task(replace(ordered, method="packnet"))


# -- joint training -------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", JOINT)
def test_joint_training_gives_one_network_and_a_payload_per_task(ordered: Job, method: str) -> None:
    job = replace(ordered, method=method)
    folders = train_all(job)
    before, network = load_backbone(job.backbone), load_backbone(ground(job) / BACKBONE_FILE)
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
        assert torch.isfinite(logits_of(folder, ground(job) / BACKBONE_FILE)).all()


def test_the_backbones_own_task_can_be_among_those_of_joint_training(ordered: Job) -> None:
    job = replace(ordered, method="joint", recipe=replace(ordered.recipe, order=(*ORDER, "imagenet12")))
    write_setup(job.out, Setup(data=job.data, backbone=job.backbone, size=16))
    train_all(job)
    assert "imagenet12" in collect(job.out, method="joint", seed=0)
    with pytest.raises(BadInput, match="imagenet12 is the backbone's own task"):
        open_bench(replace(job, method="piggyback", task="imagenet12"))


def test_joint_training_chooses_its_rate_by_the_mean_over_tasks(ordered: Job) -> None:
    job = replace(ordered, method="joint", recipe=replace(ordered.recipe, lr_grid=(1e-4, 5e-3)))
    recipe = json.loads(train_task(job).result.read_text())["recipe"]
    assert [trial["lr"] for trial in recipe["lr_trials"]] == [1e-4, 5e-3]
    assert recipe["lr_used"] in (1e-4, 5e-3)


def test_norm_layers_have_their_own_rate_in_joint_training(ordered: Job) -> None:
    job = replace(ordered, method="joint", recipe=replace(ordered.recipe, norm_lr=1e-30))
    for folder in train_all(job).values():
        assert torch.equal(
            read_payload(folder.payload).own["bn1.weight"], load_backbone(job.backbone).network.bn1.weight
        )


def test_another_optimizer_for_heads_is_refused_in_joint_training(ordered: Job) -> None:
    job = replace(ordered, method="joint", recipe=replace(ordered.recipe, head_rule="sgd"))
    with pytest.raises(BadInput, match="head_rule must be adam, not sgd"):
        train_task(job)


# -- breaks, and wrong input ----------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["packnet", *JOINT])
def test_a_stop_at_any_step_gives_the_same_network(
    ordered: Job, method: str, stop_after: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = replace(ordered, method=method)
    make_ground(open_bench(job))
    whole = ground(job)
    broken = replace(job, out=tmp_path / "broken")
    breaks = 0
    while not (ground(broken) / BACKBONE_FILE).exists():
        with contextlib.suppress(Requeue):
            make_ground(open_bench(broken), stop=stop_after(2))
            breaks -= 1  # this time it came to its end
        breaks += 1
    assert breaks > 0
    assert (ground(broken) / BACKBONE_FILE).read_bytes() == (whole / BACKBONE_FILE).read_bytes()
    for path in whole.glob("tasks/*"):
        assert (ground(broken) / "tasks" / path.name).read_bytes() == path.read_bytes()
    monkeypatch.setattr(piggyback.suite.networks.joint, "copy", None)  # nothing is trained again
    assert make_ground(open_bench(broken)) is not None


@pytest.mark.parametrize(
    ("fields", "order", "message"),
    [
        ({"method": "packnet"}, ("svhn",), "aircraft is not among the tasks of packnet, which are svhn"),
        ({"method": "joint"}, ("svhn",), "aircraft is not among the tasks of joint"),
        ({"method": "packnet"}, ("aircraft", "imagenet12"), "imagenet12 is PackNet's first task"),
        ({"method": "packnet", "task": "imagenet12"}, ORDER, "imagenet12 is the backbone's own task"),
    ],
)
def test_wrong_orders_are_refused(ordered: Job, fields: dict, order: tuple[str, ...], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        open_bench(replace(ordered, recipe=replace(ordered.recipe, order=order), **fields))


def test_the_verb_makes_the_network_and_says_so(ordered: Job, capsys: pytest.CaptureFixture[str]) -> None:
    job = replace(ordered, method="packnet")
    words = ["--data", str(job.data), "--backbone", str(job.backbone), "--out", str(job.out), "--order", *ORDER]
    recipe = ["--epochs", "2", "--batch-size", "3", "--size", "16", "--lr", "5e-3", "--first-epochs", "1"]
    rest = ["--update", "eager", "--precision", "fp32", "--json"]
    assert main(["decathlon", "ground", "--method", "packnet", *words, *recipe, *rest]) == 0
    assert json.loads(capsys.readouterr().out)["file"] == str(ground(job) / BACKBONE_FILE)
    assert main(["decathlon", "ground", "--method", "piggyback", *words, *recipe, *rest]) == 0
    assert json.loads(capsys.readouterr().out)["file"] is None


def test_a_damaged_record_of_joint_training_is_named(ordered: Job) -> None:
    job = replace(ordered, method="joint")
    make_ground(open_bench(job))
    (ground(job) / "joint.json").write_text("{}")
    with pytest.raises(BadInput, match=r"joint\.json is damaged"):
        train_task(job)
