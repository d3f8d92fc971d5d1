import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from decathlon.backbone.backbone_file import load_backbone, save_backbone
from decathlon.backbone.wrn import WideResNet, wide_resnet
from decathlon.merging import run
from decathlon.options import MergeOptions
from piggyback.adapter import attach
from piggyback.methods.registry import METHODS
from piggyback.shell.errors import BackboneMismatch, BadInput

MEAN, STD = (0.5, 0.25, 0.125), (0.5, 0.25, 0.25)


def write_backbone(path: Path, *, seed: int, pruned: bool = False) -> Path:
    """A backbone file; half of each convolution is zero where it is pruned."""
    network = wide_resnet(10, 1, classes=6, seed=seed)
    if pruned:
        with torch.no_grad():
            for module in network.modules():
                if isinstance(module, nn.Conv2d):
                    module.weight[module.weight.abs() <= module.weight.abs().median()] = 0.0
    torch.manual_seed(seed)
    for name, buffer in network.named_buffers():
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 2.0)
    save_backbone(path, network, mean=MEAN, std=STD, source={})
    return path


def write_payload(path: Path, *, backbone: Path, method: str) -> Tensor:
    """A task whose every part differs from the backbone; returns its logits of `pictures`."""
    network = load_backbone(backbone).network
    adapter = attach(network, method=METHODS[method], head="fc")
    torch.manual_seed(5)
    begin = wide_resnet(10, 1, classes=3, seed=9).state_dict() if method == "scratch" else None
    adapter.add_task("dtd", head=nn.Linear(64, 3), begin=begin)
    adapter.train()
    optimizer = adapter.optimizer(mask_lr=0.02, head_lr=0.1, update="eager")
    for _ in range(2):
        network(pictures()).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    adapter.eval()
    adapter.save(path, task="dtd")
    with torch.no_grad():
        found: Tensor = network(pictures())
    return found


def pictures() -> Tensor:
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def load_plain(path: Path, *, added: list[str]) -> nn.Module:
    network, state = WideResNet(10, 1, classes=3), load_file(path)
    for key in added:  # as anybody would who loads it: such a layer has a bias
        layer, _, part = key.rpartition(".")
        network.get_submodule(layer).register_parameter(part, nn.Parameter(torch.empty_like(state[key])))
    network.load_state_dict(state, strict=True)
    return network.eval()


@pytest.mark.parametrize("method", METHODS)
def test_the_merged_network_has_the_tasks_logits(
    tmp_path: Path, method: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pruned = METHODS[method].stands_on == "pruned"
    backbone = write_backbone(tmp_path / "b.safetensors", seed=0, pruned=pruned)
    before = backbone.read_bytes()
    payload, out = tmp_path / "p.safetensors", tmp_path / "merged.safetensors"
    logits = write_payload(payload, backbone=backbone, method=method)
    assert run(MergeOptions(payload=payload, backbone=backbone, out=out, json=True)) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["task"], report["method"], report["classes"]) == ("dtd", method, 3)
    assert report["normalise"] == {"mean": list(MEAN), "std": list(STD)}
    with torch.no_grad():
        merged = load_plain(out, added=report["added_keys"])(pictures())
    exact = METHODS[method].merge == "exact"
    assert torch.equal(merged, logits) if exact else torch.allclose(merged, logits, atol=1e-5, rtol=1e-5)
    assert (report["added_keys"] == []) == exact
    assert all(key.endswith(".bias") for key in report["added_keys"])
    assert backbone.read_bytes() == before
    if method.startswith("piggyback"):
        zeros = float((load_file(out)["block1.layer.0.conv1.weight"] == 0).float().mean())
        assert 0.05 < zeros < 0.95
    if exact:
        assert load_backbone(out).classes == 3  # such a network is a checkpoint like others


def test_another_backbones_payload_is_refused(tmp_path: Path) -> None:
    one = write_backbone(tmp_path / "one.safetensors", seed=0)
    other = write_backbone(tmp_path / "other.safetensors", seed=1)
    write_payload(tmp_path / "p.safetensors", backbone=one, method="piggyback")
    options = MergeOptions(payload=tmp_path / "p.safetensors", backbone=other, out=tmp_path / "m.safetensors")
    with pytest.raises(BackboneMismatch, match="load the backbone it was trained on"):
        run(options)
    assert not options.out.exists()


def test_something_else_is_not_overwritten_unasked(tmp_path: Path) -> None:
    backbone = write_backbone(tmp_path / "b.safetensors", seed=0)
    write_payload(tmp_path / "p.safetensors", backbone=backbone, method="feature")
    place = {"payload": tmp_path / "p.safetensors", "backbone": backbone}
    with pytest.raises(BadInput, match="--force"):
        run(MergeOptions(**place, out=backbone))
    out = tmp_path / "m.safetensors"
    out.write_bytes(b"mine")
    with pytest.raises(BadInput, match="is something else"):
        run(MergeOptions(**place, out=out))
    assert out.read_bytes() == b"mine"
    assert run(MergeOptions(**place, out=out, force=True)) == 0
    assert run(MergeOptions(**place, out=out)) == 0  # the same bytes again
