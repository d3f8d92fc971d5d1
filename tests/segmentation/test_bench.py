"""What is segmentation's own about a run: the loss, the pictures held out, and what is refused first."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from leaderboard.result import read_result
from piggyback.payload import read_payload
from piggyback.shell.errors import BadInput
from piggyback.suite.bench import Job
from piggyback.suite.train import train_task
from segmentation.bench import open_bench
from segmentation.options import Overlap
from segmentation.recipes import FCNRecipe
from segmentation.release.packed import label_file, open_split

Change = Callable[..., Job]


def test_what_each_method_trains(job: Job) -> None:
    before = {name: tensor.clone() for name, tensor in open_bench(job).opened.weights.items()}
    kinds = {}
    for method in ("piggyback", "feature", "finetune"):
        payload = read_payload(train_task(replace(job, method=method)).payload)
        kinds[method] = (bool(payload.masks), bool(payload.own))
        assert set(payload.head) >= {"score.weight", "hidden.fc6.weight"}
        assert payload.head["score.weight"].abs().max() > 0
    assert kinds == {"piggyback": (True, False), "feature": (False, False), "finetune": (False, True)}
    assert all(torch.equal(before[name], tensor) for name, tensor in open_bench(job).opened.weights.items())


# -- the loss -------------------------------------------------------------------------------------------


@pytest.fixture
def drawn() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    labels = torch.randint(0, 21, (3, 9, 7), generator=generator, dtype=torch.uint8)
    labels[0, :4], labels[2] = 255, 255
    return torch.randn(3, 21, 9, 7, generator=generator), labels


def test_the_loss_is_torchs_cross_entropy_of_maps(job: Job, change: Change, drawn: tuple[Tensor, Tensor]) -> None:
    logits, labels = drawn
    mean = open_bench(job).loss(logits, labels)
    assert mean.item() == pytest.approx(cross_entropy(logits, labels.long(), ignore_index=255).item(), rel=1e-6)
    bench = open_bench(change(job, loss="sum"))
    total = cross_entropy(logits, labels.long(), ignore_index=255, reduction="sum").item()
    pixels = float(np.mean([height * width for height, width in [(48, 34), (34, 48), (48, 48)]]))
    assert bench.average_pixels == pytest.approx(pixels, rel=0.2)
    assert bench.loss(logits, labels).item() == pytest.approx(total / (3 * bench.average_pixels), rel=1e-6)


def test_pixels_of_an_average_training_picture_are_those_the_network_sees(job: Job, change: Change) -> None:
    split = open_split(job.data, "sbd_train")
    whole = [float(height * width) for height, width in zip(split.heights, split.widths, strict=True)]
    assert open_bench(change(job, size=0)).average_pixels == np.mean(whole)
    seen = [round(48 * height / max(height, width)) * round(48 * width / max(height, width))
            for height, width in zip(split.heights.tolist(), split.widths.tolist(), strict=True)]  # fmt: skip
    assert open_bench(job).average_pixels == np.mean(seen)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_nothing_but_void_is_no_loss_and_no_nan(job: Job, change: Change, reduction: str) -> None:
    bench = open_bench(change(job, loss=reduction))
    logits = torch.randn(2, 21, 5, 6, requires_grad=True)
    loss = bench.loss(logits, torch.full((2, 5, 6), 255, dtype=torch.uint8))
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == 0
    assert logits.grad is not None
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_a_training_picture_of_nothing_but_void_does_no_harm(copied: Job) -> None:
    split = open_split(copied.data, "sbd_train")
    offset, height, width = split.index[2].tolist()
    with label_file(copied.data / "sbd_train").open("r+b") as file:
        file.seek(offset)
        file.write(b"\xff" * (height * width))
    result = read_result(train_task(copied).result)
    assert 0 < result.metrics["train_loss"] < 10


# -- pictures -------------------------------------------------------------------------------------------


def test_the_held_out_pictures_are_the_same_for_every_seed_and_order(job: Job, change: Change) -> None:
    def held_out(bench: Any) -> set[str]:
        assert set(bench.held_out) | set(bench.trial_places) == set(range(8))
        assert not set(bench.held_out) & set(bench.trial_places)
        return {bench.train.ids[place] for place in bench.held_out}

    first = open_bench(change(job, held_out=3))
    assert len(held_out(first)) == 3
    assert first.held_out != (0, 1, 2)
    assert held_out(open_bench(change(job, held_out=3, seed=7))) == held_out(first)
    assert held_out(open_bench(replace(change(job, held_out=3), method="feature"))) == held_out(first)
    turned = replace(first, train=replace(first.train, ids=first.train.ids[::-1]))
    assert held_out(turned) == held_out(first)
    assert held_out(open_bench(change(job, held_out=2))) < held_out(first)


def test_what_is_trained_on_leaves_the_held_out_pictures_out_unless_asked_for(job: Job, change: Change) -> None:
    bench = open_bench(change(job, held_out=3))
    assert set(bench.places("train")) == set(range(8)) - set(bench.held_out)
    assert set(bench.places("train+val")) == set(range(8))


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"data": Path("nowhere")}, r"sbd_train is not packed in nowhere.*Run `piggyback segmentation prepare"),
        ({"recipe": FCNRecipe(evaluate="voc2012_val_minus_sbd")}, "voc2012_val_minus_sbd is not packed"),
        ({"recipe": FCNRecipe(held_out=8)}, "sbd_train has 8 pictures: 8 held out leave none to train on"),
        ({"recipe": FCNRecipe(evaluate="voc2012_val")}, r"1 of the 3 pictures of voc2012_val are in sbd_train \(2\d+_"),
    ],
    ids=["no data", "not packed", "held out", "overlap"],
)
def test_what_is_wrong_is_said_before_anything_is_written(job: Job, fields: dict[str, Any], fault: str) -> None:
    with pytest.raises(BadInput, match=fault):
        train_task(replace(job, **fields))
    assert not job.out.exists()


def test_an_overlap_that_is_allowed_stands_in_the_result(
    job: Job, change: Change, capsys: pytest.CaptureFixture[str]
) -> None:
    job = replace(change(job, evaluate="voc2012_val"), own=Overlap(allow_overlap=True), method="feature")
    recipe = read_result(train_task(job).result).recipe
    assert recipe is not None
    assert recipe["pictures_in_both"] == 1
    assert "allowed, but these scores compare with no others" in capsys.readouterr().err
