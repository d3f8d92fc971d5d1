import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from backbone_headers import change_header
from safetensors.torch import save_file
from torch import Tensor

from decathlon.backbone.backbone_file import save_backbone
from decathlon.backbone.wrn import wide_resnet
from piggyback.shell.errors import BadInput, UnknownName
from segmentation.network.backbone_file import (
    CONVENTIONS,
    HIDDEN,
    OWN_HEAD,
    Backbone,
    import_backbone,
    load_backbone,
    name_of,
)
from segmentation.network.fcn import VGG16, FCN32s
from segmentation.network.verbs import run_import
from segmentation.options import ImportOptions

State = dict[str, Tensor]
CHANNELS = ((2,), (3, 4), (4,), (3,), (4,))
PLACES = (0, 3, 5, 8, 11, 14)  # of the convolutions of CHANNELS among their ReLUs and poolings
WIDTH = 5


def make_state(*, hidden: bool = True) -> State:
    """A small VGG's weights in torchvision's names and shapes."""
    generator = torch.Generator().manual_seed(0)
    state: State = {}
    before = 3
    for place, width in zip(PLACES, (width for stage in CHANNELS for width in stage), strict=True):
        state[f"features.{place}.weight"] = torch.randn(width, before, 3, 3, generator=generator)
        state[f"features.{place}.bias"] = torch.randn(width, generator=generator)
        before = width
    for name, width in (("0", WIDTH), ("3", WIDTH), ("6", 1000)) if hidden else ():
        inputs = before * 49 if name == "0" else WIDTH
        state[f"classifier.{name}.weight"] = torch.randn(width, inputs, generator=generator) / 10
        state[f"classifier.{name}.bias"] = torch.randn(width, generator=generator)
    return state


Save = Callable[..., Path]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    def write(value: object, name: str = "vgg.pth") -> Path:
        torch.save(value, tmp_path / name)
        return tmp_path / name

    return write


@pytest.fixture
def imported(save: Save, tmp_path: Path) -> Backbone:
    import_backbone(save(make_state()), convention="torchvision", out=tmp_path / "b.safetensors")
    return load_backbone(tmp_path / "b.safetensors")


def test_an_imported_vgg_computes_what_its_layers_compute(imported: Backbone) -> None:
    """Convolutions and linear layers called one by one, on a picture of 224, where the linear layers fit."""
    state = make_state()
    assert (imported.header.channels, imported.header.hidden) == (CHANNELS, WIDTH)
    network = imported.build(margin="same", dropout=0.5, new_hidden=99).eval()
    pictures = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    maps = pictures
    for place, following in zip(PLACES, (*PLACES[1:], PLACES[-1] + 3), strict=True):
        part = (state[f"features.{place}.{name}"] for name in ("weight", "bias"))
        maps = torch.conv2d(maps, *part, padding=1).relu()
        maps = torch.max_pool2d(maps, 2) if following - place == 3 else maps
    with torch.inference_mode():
        assert torch.allclose(network.features(pictures), maps, rtol=1e-4, atol=1e-5)
        flat = maps.flatten(1)
        for name in ("0", "3"):
            flat = (flat @ state[f"classifier.{name}.weight"].T + state[f"classifier.{name}.bias"]).relu()
        answer = network.hidden(network.features(pictures))[:, :, 3, 3]
    assert answer.abs().max() > 0.1
    assert torch.allclose(answer, flat, rtol=1e-4, atol=1e-4)


def test_vgg_16s_names_and_shapes_are_torchvisions() -> None:
    from torchvision.models import vgg16

    with torch.device("meta"):
        theirs, ours = vgg16().state_dict(), FCN32s(VGG16).state_dict()
    renamed = {name_of(key): tensor for key, tensor in theirs.items() if not key.startswith(OWN_HEAD)}
    assert list(renamed) == list(ours)
    assert {key.rpartition(".")[0] for key in theirs} >= HIDDEN.keys()
    for key, tensor in ours.items():
        assert tensor.numel() == renamed[key].numel()
        assert tensor.shape[:1] == renamed[key].shape[:1]
    assert sum(tensor.numel() for tensor in ours.values()) == 134_248_128 + 12_416


@pytest.mark.parametrize(
    "change",
    [
        lambda state: {"state_dict": {f"module.{key}": tensor for key, tensor in state.items()}},
        lambda state: {key: tensor for key, tensor in state.items() if not key.startswith(OWN_HEAD)},
        lambda state: (
            state
            | {
                "classifier.0.weight": state["classifier.0.weight"].reshape(WIDTH, 4, 7, 7),
                "classifier.3.weight": state["classifier.3.weight"].reshape(WIDTH, WIDTH, 1, 1),
            }
        ),
    ],
    ids=["wrapped", "no classes", "convolutions already"],
)
def test_other_forms_of_the_same_weights_are_the_same_backbone(
    save: Save, tmp_path: Path, imported: Backbone, change: Callable[[State], object]
) -> None:
    import_backbone(save(change(make_state()), "other.pth"), convention="torchvision", out=tmp_path / "c.safetensors")
    other = load_backbone(tmp_path / "c.safetensors")
    assert list(other.weights) == list(imported.weights)
    assert all(torch.equal(other.weights[key], tensor) for key, tensor in imported.weights.items())
    assert other.header.source != imported.header.source


def test_safetensors_and_half_precision_are_read(tmp_path: Path) -> None:
    half = {key: tensor.half() for key, tensor in make_state().items()}
    save_file(half, tmp_path / "vgg.safetensors")
    import_backbone(tmp_path / "vgg.safetensors", convention="caffe", out=tmp_path / "b.safetensors")
    weights = load_backbone(tmp_path / "b.safetensors").weights
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    assert torch.equal(weights["features.0.weight"], half["features.0.weight"].float())


def test_the_network_has_its_own_weights_and_trains_them(imported: Backbone) -> None:
    before = {key: tensor.clone() for key, tensor in imported.weights.items()}
    network = imported.build(margin="fcn", dropout=0, new_hidden=1)
    assert list(network.state_dict()) == list(imported.weights)
    assert all(parameter.requires_grad for parameter in network.parameters())
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    assert all(torch.equal(imported.weights[key], tensor) for key, tensor in before.items())


def test_convolutions_alone_leave_the_hidden_layers_to_the_task(save: Save, tmp_path: Path) -> None:
    import_backbone(save(make_state(hidden=False)), convention="caffe", out=tmp_path / "b.safetensors")
    backbone = load_backbone(tmp_path / "b.safetensors")
    assert backbone.header.hidden is None
    network = backbone.build(margin="same", dropout=0, new_hidden=7)
    assert isinstance(network.hidden, torch.nn.Identity)
    assert network.shape.hidden == 7


def test_torchvisions_convention_is_rgb_in_unit_range_by_imagenets_statistics(imported: Backbone) -> None:
    pixels = torch.tensor([[[0, 255, 51], [10, 20, 30]]], dtype=torch.uint8)[None]  # one row of two pixels
    fed = imported.feed(pixels)
    assert fed.shape == (1, 3, 1, 2)
    assert fed.dtype == torch.float32
    assert fed[0, :, 0, 0].tolist() == pytest.approx(
        [(0 - 0.485) / 0.229, (1 - 0.456) / 0.224, (0.2 - 0.406) / 0.225], rel=1e-6
    )
    assert fed[0, 2, 0, 1].item() == pytest.approx((30 / 255 - 0.406) / 0.225, rel=1e-6)
    assert pixels.flatten().tolist() == [0, 255, 51, 10, 20, 30]


def test_caffes_convention_is_bgr_in_bytes_less_a_mean(save: Save, tmp_path: Path) -> None:
    import_backbone(save(make_state()), convention="caffe", out=tmp_path / "b.safetensors")
    pixels = torch.tensor([[[200, 100, 50]]], dtype=torch.uint8)[None]
    fed = load_backbone(tmp_path / "b.safetensors").feed(pixels)
    assert fed[0, :, 0, 0].tolist() == pytest.approx([50 - 103.939, 100 - 116.779, 200 - 123.68])


def test_feeding_keeps_places_and_the_networks_memory_layout(imported: Backbone) -> None:
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 5, 7, 3), dtype=np.uint8))
    fed = imported.feed(pixels)
    assert fed.is_contiguous(memory_format=torch.channels_last)
    green = (pixels[..., 1].double() / 255 - 0.456) / 0.224
    assert torch.allclose(fed[:, 1].double(), green, atol=1e-6)


def test_the_file_says_how_it_is_fed_and_where_it_is_from(save: Save, tmp_path: Path) -> None:
    source = save(make_state())
    header = import_backbone(source, convention="caffe", out=tmp_path / "b.safetensors")
    backbone = load_backbone(tmp_path / "b.safetensors")
    assert backbone.header == header
    assert backbone.header.normalise == CONVENTIONS["caffe"]
    assert backbone.header.source["file"] == "vgg.pth"
    assert len(backbone.header.source["sha256"]) == len(backbone.sha256) == 64


def refuse(source: Path, message: str, *, convention: str = "torchvision") -> None:
    """Import fails with one line that matches, and leaves nothing."""
    out = source.with_name("out.safetensors")
    with pytest.raises((BadInput, UnknownName), match=message) as told:
        import_backbone(source, convention=convention, out=out)
    assert "\n" not in str(told.value)
    assert not out.exists()


def stretched() -> State:
    """Two convolutions of a stage with a layer too many between them."""
    moved = {"features.5": "features.7", "features.8": "features.10", "features.11": "features.13"}
    moved["features.14"] = "features.16"
    parts = ((key.rpartition("."), tensor) for key, tensor in make_state().items())
    return {f"{moved.get(layer, layer)}.{name}": tensor for (layer, _, name), tensor in parts}


def without(*names: str) -> State:
    return {key: tensor for key, tensor in make_state().items() if key not in names}


CHANGES: dict[str, tuple[Callable[[], State], str]] = {
    "batch norm": (lambda: make_state() | {"features.1.running_mean": torch.zeros(2)}, "plain VGG-16"),
    "four stages": (lambda: without("features.14.weight", "features.14.bias"), "not a VGG of five stages"),
    "a gap": (lambda: without("features.8.weight", "features.8.bias"), "not a VGG of five stages"),
    "a layer between": (stretched, "not a VGG of five stages"),
    "no first layer": (lambda: without("features.0.weight"), "not a VGG of five stages"),
    "no channels": (lambda: make_state() | {"features.14.weight": torch.zeros(0, 3, 3, 3)}, "not a VGG of five stages"),
    "no bias": (lambda: without("features.5.bias"), r"VGG of 9 layers but lacks features\.5\.bias"),
    "kernel": (lambda: make_state() | {"features.5.weight": torch.zeros(4, 3, 1, 1)}, r"features\.5\.weight is"),
    "no fc7": (lambda: without("classifier.3.weight", "classifier.3.bias"), r"lacks hidden\.fc7"),
    "no fc6": (lambda: without("classifier.0.weight", "classifier.0.bias"), r"lacks hidden\.fc6"),
    "fc6 of other cells": (lambda: make_state() | {"classifier.0.weight": torch.zeros(5, 4 * 36)}, "fully connected"),
    "fc6 of other maps": (lambda: make_state() | {"classifier.0.weight": torch.zeros(5, 3 * 49)}, "wrong shape"),
    "fc6 a number": (lambda: make_state() | {"classifier.0.weight": torch.zeros(())}, "fully connected"),
    "fc6 empty": (lambda: make_state() | {"classifier.0.weight": torch.zeros(5, 0)}, "fully connected"),
    "more": (lambda: make_state() | {"head.weight": torch.zeros(2)}, r"beside its weights, head\.weight"),
    "not finite": (lambda: make_state() | {"features.3.bias": torch.full((3,), torch.nan)}, "not finite"),
    "integers": (lambda: make_state() | {"features.3.bias": torch.zeros(3, dtype=torch.int32)}, "torch.int32"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_is_no_plain_vgg_is_refused(save: Save, name: str) -> None:
    change, message = CHANGES[name]
    refuse(save(change()), message)


def test_torchvisions_vgg_with_batch_normalisation_is_told_which_to_take(save: Save) -> None:
    from torchvision.models import vgg16_bn

    with torch.device("meta"):
        shapes = {key: tensor.shape for key, tensor in vgg16_bn().features.state_dict(prefix="features.").items()}
    refuse(save({key: torch.zeros([1 for _ in shape]) for key, shape in shapes.items()}), "vgg16, not vgg16_bn")


def test_other_files_are_refused_each_in_its_words(save: Save, tmp_path: Path) -> None:
    network = wide_resnet(10, 1, classes=2, seed=0)
    refuse(save(network.state_dict(), "wrn.pth"), r"not a VGG .* keys begin with conv1\.weight")
    save_backbone(tmp_path / "wrn.safetensors", network, mean=(0, 0, 0), std=(1, 1, 1), source={})
    refuse(tmp_path / "wrn.safetensors", "another benchmark's backbone file")
    with pytest.raises(BadInput, match="another benchmark's backbone file: its network is a 'wrn', not a 'vgg'"):
        load_backbone(tmp_path / "wrn.safetensors")
    refuse(save([1]), "it holds a list")
    refuse(tmp_path / "none.pth", "there is nothing")
    refuse(save(make_state()), "no convention is called 'cafe'. Did you mean 'caffe'", convention="cafe")
    whole = save(make_state()).read_bytes()
    for data in (b"", whole[:100], whole[: len(whole) // 2], b"\xff" * 300):
        (tmp_path / "cut.pth").write_bytes(data)
        refuse(tmp_path / "cut.pth", "not a torch file|damaged")


def test_weights_are_no_backbone_file_before_they_are_imported(save: Save, tmp_path: Path) -> None:
    folder = tmp_path / "my nets"
    folder.mkdir()
    source = save(make_state(), "my nets/vgg.pth")
    plain = folder / "vgg.safetensors"
    save_file(make_state(), plain)
    for path in (source, plain):
        with pytest.raises(BadInput, match="does not say how its network is to be fed") as told:
            load_backbone(path)
        command = f"piggyback segmentation backbone import '{path}' --convention torchvision --out "
        assert command in str(told.value)
        assert "--convention caffe" in str(told.value)
    with pytest.raises(BadInput, match="there is nothing"):
        load_backbone(folder / "none.safetensors")
    with pytest.raises(BadInput, match="there is a folder"):
        load_backbone(folder)


def test_a_backbone_file_is_not_fed_another_way_by_importing_it_again(imported: Backbone) -> None:
    refuse(imported.path, "is a backbone file already", convention="caffe")


NORMALISE = {"order": "rgb", "range": 1, "mean": [0, 0, 0], "std": [1, 1, 1]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"normalise": {**NORMALISE, "order": "gbr"}}, r"normalise\.order is wrong"),
        ({"normalise": {**NORMALISE, "range": 2}}, r"normalise\.range is wrong"),
        ({"normalise": {**NORMALISE, "std": [1, 0, 1]}}, r"normalise\.std\.1 is wrong"),
        ({"normalise": {**NORMALISE, "mean": [1, 0]}}, r"normalise\.mean"),
        ({"normalise": None}, "normalise is wrong"),
        ({"channels": [[2], [3, 4], [4], [3]]}, "channels is wrong"),
        ({"channels": [[2], [3, 4], [4], [3], [0]]}, r"channels\.4\.0 is wrong"),
        ({"channels": [[2], [3, 4], [4], [3], [5]]}, "has a wrong shape"),
        ({"channels": [[2], [3, 4], [4], [3], []]}, r"channels\.4 is wrong"),
        ({"hidden": None}, r"beside its weights, hidden\.fc6"),
        ({"hidden": 6}, r"wrong shape: hidden\.fc6"),
        ({"hidden": 5.5}, "hidden is wrong"),
        ({"format": 2}, "format 2; this version reads format 1"),
        ({"surprise": 1}, "surprise is wrong"),
    ],
    ids=str,
)
def test_a_header_that_does_not_fit_is_told(imported: Backbone, change: dict[str, object], message: str) -> None:
    with pytest.raises(BadInput, match=message) as told:
        load_backbone(change_header(imported.path, change))
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("left", [9, 60, 1000, -1])
def test_a_cut_backbone_file_is_told(imported: Backbone, left: int) -> None:
    imported.path.write_bytes(imported.path.read_bytes()[:left])
    with pytest.raises(BadInput, match="damaged"):
        load_backbone(imported.path)


def test_the_verb_writes_once_and_overwrites_only_when_told(
    save: Save, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = save(make_state()), tmp_path / "new" / "b.safetensors"
    reports = []
    for _ in range(2):
        assert run_import(ImportOptions(file=source, convention="torchvision", out=out, json=True)) == 0
        reports.append(json.loads(capsys.readouterr().out))
    assert reports[0] == reports[1]
    assert reports[0]["sha256"] == load_backbone(out).sha256
    assert reports[0]["parameters"] == sum(tensor.numel() for tensor in load_backbone(out).weights.values())
    kept = out.read_bytes()
    with pytest.raises(BadInput, match="exists and is something else"):
        run_import(ImportOptions(file=source, convention="caffe", out=out))
    assert out.read_bytes() == kept
    assert run_import(ImportOptions(file=source, convention="caffe", out=out, force=True)) == 0
    assert load_backbone(out).header.normalise.order == "bgr"
    shown = capsys.readouterr().out
    assert "BGR in 0..255" in shown
    weights = source.read_bytes()
    with pytest.raises(BadInput, match="the file of weights itself"):
        run_import(ImportOptions(file=source, convention="caffe", out=source, force=True))
    assert source.read_bytes() == weights
    with pytest.raises(BadInput, match="exists"):
        run_import(ImportOptions(file=source, convention="caffe", out=tmp_path, force=True))


def test_the_real_convolutions_are_imported(
    shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = shared_data / "backbones" / "vgg16_conv_caffe_fp16.pth"
    out = tmp_path / "vgg.safetensors"
    assert run_import(ImportOptions(file=source, convention="caffe", out=out, json=True)) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["parameters"] == 14_714_688
    assert report["hidden"] is None
    assert report["channels"] == [list(stage) for stage in VGG16.channels]
    assert report["normalise"]["order"] == "bgr"
    with pytest.raises(BadInput, match="not a VGG"):
        import_backbone(source.with_name("wrn28_4_tiny64.pth"), convention="caffe", out=tmp_path / "none")
