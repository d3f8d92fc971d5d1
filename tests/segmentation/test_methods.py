"""Which methods run on FCN-32s, and what each leaves behind: two steps on a narrow VGG, to a file and back."""

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from torch import Tensor

from leaderboard.result import read_result
from piggyback.methods.registry import METHODS
from piggyback.shell.cli import main
from piggyback.shell.errors import BadInput
from piggyback.suite.bench import Job, make_adapter, make_optimizer, method_of, open_bench
from piggyback.suite.train import train_task
from segmentation.bench import Bench
from segmentation.network.backbone_file import Backbone
from segmentation.network.fcn import FCN32s

ACCEPTED = (
    *("piggyback", "piggyback-ternary", "feature", "finetune", "scratch"),
    *("affine", "ksm", "parallel", "series", "dan"),
)
REFUSED = {
    "packnet": "segmentation has no packnet: it begins with the backbone's own pictures",
    "joint": "segmentation has no joint: it trains several tasks together, and here is one",
    "series-joint": "segmentation has no series-joint: it trains several tasks together, and here is one",
    "norm": "segmentation has no norm: VGG-16 has no norm layers",
}
LR = 1e-2  # the score layer starts at zero, so the second step is the first one to move masks: by 0.74 of it


@torch.no_grad()
def features(network: FCN32s, pictures: Tensor) -> Tensor:
    """What the head is given, which a trained head alone does not change."""
    network.eval()
    return network.hidden(network.features(pictures))


@torch.no_grad()
def logits(network: FCN32s, pictures: Tensor) -> Tensor:
    network.eval()
    return network(pictures)


def opened(job: Job) -> Backbone:
    """The job's backbone."""
    bench = open_bench(job)
    assert isinstance(bench, Bench)
    return bench.opened


def test_every_method_is_accepted_or_refused() -> None:
    assert sorted((*ACCEPTED, *REFUSED)) == sorted(METHODS)


@pytest.mark.parametrize("method", ACCEPTED)
def test_two_steps_go_to_a_file_and_back(
    job: Job, change: Callable[..., Job], make_backbone: Callable[..., Path], tmp_path: Path, method: str
) -> None:
    job = replace(change(job, lr=LR), method=method, backbone=make_backbone("whole", hidden=True))
    bench = open_bench(job)
    adapter = make_adapter(bench, network=None)
    network = adapter.network
    batches = list(islice(bench.batches("train", 0, 0), 2))
    plain = copy.deepcopy(network)
    plain.load_state_dict(adapter.base_state_dict(), strict=False)
    before = features(plain, batches[0][0])
    assert torch.equal(features(network, batches[0][0]), before) == (method != "scratch")

    optimizer = make_optimizer(job.recipe, adapter, rate=LR)
    adapter.train()
    for pictures, labels in batches:
        bench.loss(network(pictures), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
    after, expected = features(network, batches[0][0]), logits(network, batches[0][0])
    assert after.count_nonzero() > 0
    assert torch.equal(after, before) == (method == "feature")
    adapter.save(tmp_path / "task.safetensors", task="pascal-voc")

    other = make_adapter(open_bench(replace(job, method="feature")), network=None)  # the method comes from the file
    assert not torch.equal(logits(other.network, batches[0][0]), expected)
    other.load(tmp_path / "task.safetensors", task="loaded", head=bench.make_head(other.network))
    assert torch.equal(logits(other.network, batches[0][0]), expected)
    assert other.task("loaded").method == method_of(job)


@pytest.mark.parametrize(
    ("method", "bits"),
    [
        ("scratch", lambda outer, inner, taps: 32 * outer * inner * taps),
        ("series", lambda outer, inner, taps: 32 * outer * outer),
        ("parallel", lambda outer, inner, taps: 32 * outer * inner),
    ],
    ids=["scratch", "series", "parallel"],
)
def test_a_whole_run_counts_what_the_task_adds(job: Job, method: str, bits: Callable[[int, int, int], int]) -> None:
    folder = train_task(replace(job, method=method))
    result = read_result(folder.result)
    weights = [tensor for name, tensor in opened(job).weights.items() if name.endswith("weight")]
    shapes = [(len(weight), weight.shape[1], math.prod(weight.shape[2:])) for weight in weights]
    assert shapes  # all of them 3x3
    added, whole = sum(bits(*shape) for shape in shapes), 32 * sum(math.prod(shape) for shape in shapes)
    assert result.parameter_ratio == pytest.approx((whole + added) / whole)
    assert result.method == method
    assert sum(result.bits.values()) == 8 * folder.payload.stat().st_size
    assert result.bits["weight" if method == "scratch" else "value"] >= added  # biases, or norm layers, come with it


def test_scratch_starts_where_the_seed_says_and_nowhere_near_the_backbone(job: Job, change: Callable[..., Job]) -> None:
    def start(seed: int) -> dict[str, Tensor]:
        bench = open_bench(replace(change(job, seed=seed), method="scratch"))
        features = make_adapter(bench, network=None).network.get_submodule("features")
        return {name: tensor.clone() for name, tensor in features.state_dict().items()}

    torch.manual_seed(5)
    first, again, other = start(0), start(0), start(1)
    backbone = opened(job).weights
    for name, tensor in first.items():
        assert torch.equal(tensor, again[name])
        assert not torch.equal(tensor, backbone[f"features.{name}"])
        if name.endswith("bias"):
            assert tensor.count_nonzero() == 0
        else:
            assert not torch.equal(tensor, other[name])


@pytest.mark.parametrize("method", REFUSED)
def test_what_makes_no_sense_is_refused_before_anything_is_trained(
    job: Job, recipe_words: list[str], capsys: pytest.CaptureFixture[str], method: str
) -> None:
    with pytest.raises(BadInput, match=REFUSED[method]):
        open_bench(replace(job, method=method))
    words = ["--methods", f"piggyback,{method}", "--data", str(job.data), "--backbone", str(job.backbone)]
    assert main(["segmentation", "run", *words, "--out", str(job.out), *recipe_words]) == 1
    assert f"segmentation has no {method}" in " ".join(capsys.readouterr().err.split())
    assert not (job.out / "runs").exists()
