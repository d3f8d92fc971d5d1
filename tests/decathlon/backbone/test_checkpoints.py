from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from decathlon.backbone.checkpoints import open_checkpoint, read_checkpoint
from decathlon.backbone.wrn import wide_resnet
from piggyback.shell.errors import BadInput

State = dict[str, Tensor]


@pytest.fixture
def state() -> State:
    return dict(wide_resnet(10, 2, classes=5, seed=0).state_dict())


def saved(tmp_path: Path, value: object, *, legacy: bool = False) -> Path:
    path = tmp_path / "checkpoint.pth"
    torch.save(value, path, _use_new_zipfile_serialization=not legacy)
    return path


WRAPPINGS: dict[str, Callable[[State], object]] = {
    "bare": lambda state: state,
    "state_dict": lambda state: {"state_dict": state, "epoch": 3, "val_top1": 0.5, "all_losses": [1.0]},
    "net": lambda state: {"net": state, "epoch": torch.tensor(3)},
    "parallel": lambda state: {"state_dict": {"module." + key: value for key, value in state.items()}},
}


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("form", WRAPPINGS)
def test_every_wrapping_gives_the_same_weights(tmp_path: Path, state: State, form: str, legacy: bool) -> None:
    found = open_checkpoint(saved(tmp_path, WRAPPINGS[form](state), legacy=legacy))
    assert (found.depth, found.widen, found.classes) == (10, 2, 5)
    assert list(found.weights) == list(state)
    assert all(torch.equal(found.weights[key], state[key]) for key in state)
    assert found.notes == {"state_dict": {"epoch": 3, "val_top1": 0.5}, "net": {"epoch": 3}}.get(form, {})


def test_half_precision_becomes_float32_and_old_files_lack_counters(tmp_path: Path, state: State) -> None:
    old = {key: value.half() for key, value in state.items() if not key.endswith("num_batches_tracked")}
    weights = read_checkpoint(saved(tmp_path, old))
    assert set(weights) == set(state)
    assert weights["fc.weight"].dtype == torch.float32
    assert weights["bn1.num_batches_tracked"].item() == 0


FOREIGN = {
    "residual_adapters": ["pre_layers_conv.conv.weight", "layer1.0.conv1.conv.weight", "linears.0.weight"],
    "SpotTune": ["conv1.weight", "blocks.0.0.conv1.weight", "blocks.0.0.conv2.1.weight", "linear.weight"],
    "NetTailor": ["conv1.weight", "layers.0.conv1.weight", "ends_bn.weight", "linear.weight"],
    "URL": ["conv1.weight", "layer1.0.conv1.weight", "end_bn.weight", "cls_fn.weight"],
    "fcdl94": ["conv1.weight", "layer1.0.conv1.weight", "layer1.0.downsample.0.weight", "fc.weight"],
    "MTAN": ["conv1.weight", "conv1.bias", "layer1.0.conv1.weight", "layer1.0.conv1.bias", "linear.0.0.weight"],
    "torchvision": ["conv1.weight", "layer1.0.conv1.weight", "layer4.0.downsample.0.weight", "fc.weight"],
}


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("name", FOREIGN)
def test_other_networks_are_refused_by_name(tmp_path: Path, name: str, prefix: str) -> None:
    state = {prefix + key: torch.zeros(2) for key in FOREIGN[name]}
    with pytest.raises(BadInput, match=name):
        read_checkpoint(saved(tmp_path, {"net": state}))


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickled_module_is_refused_with_a_conversion_that_works(tmp_path: Path, state: State, legacy: bool) -> None:
    path = saved(tmp_path, {"net": wide_resnet(10, 2, classes=5, seed=0)}, legacy=legacy)
    with pytest.raises(BadInput, match=r"decathlon\.backbone\.wrn\.WideResNet") as caught:
        read_checkpoint(path)
    head, *snippet = str(caught.value).split("\n    ")
    assert head.endswith("import the result:")
    code = "\n".join(snippet).replace("'checkpoint", f"'{tmp_path}/checkpoint")
    exec(code, {})
    converted = read_checkpoint(tmp_path / "checkpoint_plain.pth")
    assert all(torch.equal(converted[key], state[key]) for key in state)


def test_a_pickled_resnet_26_is_named(tmp_path: Path) -> None:
    network = wide_resnet(10, 1, classes=2, seed=0)
    network.add_module("pre_layers_conv", torch.nn.Conv2d(3, 4, 3))
    with pytest.raises(BadInput, match="residual_adapters"):
        read_checkpoint(saved(tmp_path, {"net": network}))


def change(state: State, key: str, value: Tensor | None) -> State:
    changed = dict(state)
    if value is None:
        del changed[key]
    else:
        changed[key] = value
    return changed


FAULTS: dict[str, tuple[str, Tensor | None, str]] = {
    "missing": ("block2.layer.0.bn2.weight", None, "lacks block2.layer.0.bn2.weight"),
    "no head": ("fc.weight", None, "fc.weight is missing"),
    "biased": ("conv1.bias", torch.zeros(16), "beside its weights, conv1.bias"),
    "shape": ("block3.layer.0.conv2.weight", torch.zeros(128, 128, 1, 1), r"block3.*is \(128, 128, 1, 1\) instead of"),
    "width": ("block1.layer.0.conv1.weight", torch.zeros(20, 16, 3, 3), "multiple of 16"),
    "nan": ("bn1.weight", torch.full((128,), torch.nan), "bn1.weight has weights that are not finite"),
    "variance": ("bn1.running_var", torch.full((128,), -1.0), "negative variances"),
    "integer": ("bn1.weight", torch.ones(128, dtype=torch.int64), "torch.int64"),
    "stretched": ("bn1.weight", torch.ones(1).expand(1 << 30), "can hold"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_wrong_weights_are_told(tmp_path: Path, state: State, fault: str) -> None:
    key, value, message = FAULTS[fault]
    with pytest.raises(BadInput, match=message):
        read_checkpoint(saved(tmp_path, change(state, key, value)))


@pytest.mark.parametrize("legacy", [False, True])
def test_damaged_and_alien_files_are_told(tmp_path: Path, state: State, legacy: bool) -> None:
    whole = saved(tmp_path, state, legacy=legacy).read_bytes()
    for data in (b"", b"hello, I am a text\n" * 20, whole[: len(whole) // 2], whole[:100], b"\x08" + bytes(7) + b"{"):
        path = tmp_path / "damaged.pth"
        path.write_bytes(data)
        with pytest.raises(BadInput, match=r"not a torch file|damaged"):
            read_checkpoint(path)
    with pytest.raises(BadInput, match="there is nothing"):
        read_checkpoint(tmp_path / "none.pth")
    with pytest.raises(BadInput, match="there is a folder"):
        read_checkpoint(tmp_path)
    with pytest.raises(BadInput, match="it holds a list"):
        read_checkpoint(saved(tmp_path, [1, 2]))
    with pytest.raises(BadInput, match="begin with first, second"):
        read_checkpoint(saved(tmp_path, {"first": torch.zeros(1), "second": torch.zeros(1)}))


def test_the_real_checkpoint_is_a_wrn_28_4(shared_data: Path) -> None:
    found = open_checkpoint(shared_data / "backbones" / "wrn28_4_tiny64.pth")
    assert (found.depth, found.widen, found.classes) == (28, 4, 200)
    assert found.notes == {"epoch": 6, "val_top1": 0.5093}
