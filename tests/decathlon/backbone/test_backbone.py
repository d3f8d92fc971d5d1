import json
from pathlib import Path

import numpy as np
import pytest
import torch
from backbone_headers import change_header

from decathlon.backbone.backbone_file import Header, load_backbone, predict, rank_classes, save_backbone
from decathlon.backbone.options import EvaluateOptions, ImportOptions
from decathlon.backbone.verbs import run_evaluate, run_import
from decathlon.backbone.wrn import WideResNet, wide_resnet
from decathlon.release.packed import Manifest, open_split, write_manifest
from decathlon.release.prepare import prepare
from decathlon.tasks import TASKS, Split
from piggyback.data.labelled import INDEX, PackedSplit
from piggyback.shell.errors import BadInput
from piggyback.weight_files import read_entry

CLASSES, FIRST = 6, 60000001
IDS = tuple(range(FIRST, FIRST + CLASSES))
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


@pytest.fixture
def network() -> WideResNet:
    """Small, and with statistics that make its answers differ from picture to picture."""
    network = wide_resnet(10, 1, classes=CLASSES, seed=0)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        network.train()(torch.randn(64, 3, 1, 1) + torch.randn(64, 3, 32, 32) / 4)
        network.fc.weight.sub_(network.fc.weight.mean(dim=0)).mul_(10)
    return network.eval()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A pack of imagenet12 with 20 pictures of 40 x 36 pixels in each split."""
    root = tmp_path / "data"
    count, height, width = 20, 36, 40
    counts = dict.fromkeys(("train", "val", "test"), count)
    (root / "imagenet12").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number, split in enumerate(counts):
        index = np.zeros(count, INDEX)
        index["image_id"] = np.arange(count) + 60000001 + number * 100_000
        index["label"] = -1 if split == "test" else np.arange(count) % CLASSES
        index["offset"] = np.arange(count) * height * width * 3
        index["height"], index["width"] = height, width
        np.save(root / "imagenet12" / f"{split}.index.npy", index)
        colours = rng.integers(0, 200, (count, 1, 1, 3))
        pixels = colours + rng.integers(0, 56, (count, height, width, 3))
        pixels.astype(np.uint8).tofile(root / "imagenet12" / f"{split}.u8")
    names = tuple(f"n{number}" for number in range(CLASSES))
    manifest = Manifest(
        task="imagenet12",
        category_ids=IDS,
        category_names=names,
        counts=counts,
        official=False,
        folder_mismatches=0,
        fingerprint="f",
        annotations=dict.fromkeys(counts, "a"),
        source="made",
    )
    write_manifest(root, manifest)
    return root


def save(path: Path, network: WideResNet) -> bool:
    return save_backbone(path, network, mean=MEAN, std=STD, source={"file": "made"})


def checkpoint(path: Path, network: WideResNet) -> Path:
    torch.save({"state_dict": network.state_dict(), "epoch": 6, "val_top1": 0.25}, path)
    return path


def by_hand(network: WideResNet, split: PackedSplit) -> torch.Tensor:
    """Logits of the centre 32 x 32 windows, without batches.py."""
    windows = np.stack([split.picture(place)[2:34, 4:36] for place in range(len(split))])
    pixels = torch.from_numpy(windows).permute(0, 3, 1, 2).float() / 255
    with torch.inference_mode():
        return network((pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1))


def test_a_backbone_comes_back_as_it_went(tmp_path: Path, network: WideResNet) -> None:
    path = tmp_path / "b.safetensors"
    assert save(path, network.to(memory_format=torch.channels_last))  # type: ignore[call-overload]
    found = load_backbone(path)
    state = found.network.state_dict()
    assert list(state) == list(network.state_dict())
    assert all(torch.equal(state[key], value) for key, value in network.state_dict().items())
    assert (found.mean, found.std, found.classes, found.source) == (MEAN, STD, CLASSES, {"file": "made"})
    assert not found.network.training
    assert all(parameter.requires_grad for parameter in found.network.parameters())


def test_the_same_weights_give_the_same_bytes_and_other_files_are_not_overwritten(
    tmp_path: Path, network: WideResNet
) -> None:
    path = tmp_path / "b.safetensors"
    assert save(path, network)
    first = path.read_bytes()
    assert not save(path, network)
    with torch.no_grad():
        network.fc.bias[0] += 1
    with pytest.raises(BadInput, match="exists and is something else"):
        save(path, network)
    assert path.read_bytes() == first
    assert save_backbone(path, network, mean=MEAN, std=STD, source={}, replace=True)
    assert path.read_bytes() != first


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "format 2; this version reads format 1"),
        ({"depth": 16}, "looks like a WRN-16-1 but lacks"),
        ({"depth": 11}, "depth 6 n"),
        ({"depth": "10"}, "depth is wrong"),
        ({"classes": 7}, "wrong shape: fc.weight"),
        ({"normalise": {"mean": [0, 0, 0], "std": [1, 1, 0]}}, r"normalise\.std\.2 is wrong"),
        ({"surprise": 1}, "surprise is wrong"),
    ],
)
def test_a_header_that_does_not_fit_is_told(
    tmp_path: Path, network: WideResNet, change: dict[str, object], message: str
) -> None:
    save(tmp_path / "b.safetensors", network)
    with pytest.raises(BadInput, match=message):
        load_backbone(change_header(tmp_path / "b.safetensors", change))


@pytest.mark.parametrize("left", [9, 60, 5000, -1])
def test_a_cut_file_is_told(tmp_path: Path, network: WideResNet, left: int) -> None:
    path = tmp_path / "b.safetensors"
    save(path, network)
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(BadInput, match="damaged"):
        load_backbone(path)


def test_a_checkpoint_is_a_backbone_with_imagenets_statistics(tmp_path: Path, network: WideResNet) -> None:
    found = load_backbone(checkpoint(tmp_path / "w.pth", network))
    assert (found.mean, found.std) == (TASKS["imagenet12"].mean, TASKS["imagenet12"].std)
    assert found.source["val_top1"] == 0.25


def test_import_writes_once(
    tmp_path: Path, network: WideResNet, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    source = checkpoint(tmp_path / "w.pth", network)
    reports = []
    for _ in range(2):
        assert run_import(ImportOptions(checkpoint=source, json=True)) == 0
        reports.append(json.loads(capsys.readouterr().out))
    assert [report.pop("written") for report in reports] == [True, False]
    assert reports[0] == reports[1]
    assert reports[0]["val_top1"] == 0.25
    found = load_backbone(tmp_path / "w.safetensors")
    assert reports[0]["sha256"] == found.sha256
    assert all(torch.equal(found.network.state_dict()[key], value) for key, value in network.state_dict().items())
    with torch.no_grad():
        network.conv1.weight.mul_(2)
    checkpoint(source, network)
    with pytest.raises(BadInput, match="--force"):
        run_import(ImportOptions(checkpoint=source))
    assert run_import(ImportOptions(checkpoint=source, force=True)) == 0
    assert f"{sum(p.numel() for p in network.parameters()):,}" in capsys.readouterr().out
    with pytest.raises(BadInput, match="the checkpoint itself"):
        run_import(ImportOptions(checkpoint=source, out=source, force=True))


def test_predictions_are_category_ids_of_the_centre_crop(tmp_path: Path, network: WideResNet, data: Path) -> None:
    save(tmp_path / "b.safetensors", network)
    backbone = load_backbone(tmp_path / "b.safetensors")
    split = open_split(data, "imagenet12", "test")
    expected = by_hand(network, split).argsort(dim=1, descending=True).numpy()
    assert len(set(expected[:, 0])) > 1
    assert np.array_equal(rank_classes(backbone, split, top=3, size=32, batch_size=7), expected[:, :3])
    assert np.array_equal(predict(backbone, split, size=32), FIRST + expected[:, 0])
    assert backbone.network.conv1.weight.is_contiguous()  # the caller's network is left as it was


def test_evaluate_counts_top_1_and_top_5(
    tmp_path: Path, network: WideResNet, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    backbone = tmp_path / "b.safetensors"
    save(backbone, network)

    def evaluate(split: Split, labels: Path | None = None) -> dict[str, float]:
        assert split != "train"
        run_evaluate(EvaluateOptions(backbone=backbone, data=data, split=split, labels=labels, size=32, json=True))
        return dict(json.loads(capsys.readouterr().out))

    val = open_split(data, "imagenet12", "val")
    logits = by_hand(network, val)
    places = (logits > logits.gather(1, torch.from_numpy(val.labels)[:, None])).sum(dim=1)
    report = evaluate("val")
    assert (report["top1_correct"], report["top5_correct"]) == ((places < 1).sum(), (places < 5).sum())
    assert report["top1"] == report["top1_correct"] / 20
    with pytest.raises(BadInput, match="--labels"):
        evaluate("test")
    test = open_split(data, "imagenet12", "test")
    truth = FIRST + by_hand(network, test).argmax(dim=1).numpy()
    truth[:5] = np.where(truth[:5] == FIRST, FIRST + 1, FIRST)
    document = {
        "images": [{"id": int(image)} for image in test.image_ids],
        "annotations": [
            {"image_id": int(image), "category_id": int(category)}
            for image, category in zip(test.image_ids, truth, strict=True)
        ],
        "categories": [{"id": number, "name": f"n{number}"} for number in IDS],
    }
    for folder in (data / "labels_test", tmp_path / "elsewhere"):
        folder.mkdir()
        (folder / "imagenet12_test.json").write_text(json.dumps(document))
    assert evaluate("test")["top1"] == 0.75
    assert evaluate("test", tmp_path / "elsewhere")["top1"] == 0.75
    document["images"], document["annotations"] = document["images"][1:], document["annotations"][1:]
    (tmp_path / "elsewhere" / "imagenet12_test.json").write_text(json.dumps(document))
    with pytest.raises(BadInput, match=r"1 of 20 test pictures, the first 60200001"):
        evaluate("test", tmp_path / "elsewhere")


def test_a_head_of_other_classes_is_refused(tmp_path: Path, data: Path) -> None:
    save(tmp_path / "b.safetensors", wide_resnet(10, 1, classes=CLASSES + 1, seed=0))
    backbone = load_backbone(tmp_path / "b.safetensors")
    with pytest.raises(BadInput, match="has a head of 7 classes, but the data has 6 categories"):
        predict(backbone, open_split(data, "imagenet12", "val"), size=32)


def test_a_file_without_our_entry_has_no_header(tmp_path: Path, network: WideResNet) -> None:
    from safetensors.torch import save_file

    save_file(network.state_dict(), tmp_path / "plain.safetensors")
    assert read_entry(tmp_path / "plain.safetensors", model=Header) is None
    assert load_backbone(tmp_path / "plain.safetensors").classes == CLASSES


def test_the_real_backbone_is_as_good_as_measured_elsewhere(
    tmp_path: Path, shared_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare(shared_data / "mini-decathlon", tmp_path, tasks=["imagenet12"])
    checkpoint = shared_data / "backbones" / "wrn28_4_tiny64.pth"
    labels = shared_data / "mini-decathlon" / "labels_test"
    assert run_evaluate(EvaluateOptions(backbone=checkpoint, data=tmp_path, labels=labels, json=True)) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["n"] == 2000
    assert report["top1"] == pytest.approx(0.46, abs=0.01)  # 0.4595 in bf16 by an independent implementation
