import pytest
import torch
from torch import nn

from decathlon.backbone.wrn import WideResNet, wide_resnet


def test_wrn_28_4_has_the_published_numbers_of_parameters() -> None:
    network = WideResNet(28, 4, classes=1000)
    counts = {name: parameter.numel() for name, parameter in network.named_parameters()}
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    assert sum(counts.values()) == 6_103_480
    assert sum(counts.values()) - counts["fc.weight"] - counts["fc.bias"] == 5_846_480
    assert sum(module.weight.numel() for module in convolutions) == 5_839_280
    assert all(module.bias is None for module in convolutions)
    assert sum("convShortcut" in name for name in counts) == 3


@pytest.mark.parametrize(("depth", "widen"), [(28, 4), (10, 1)])
@pytest.mark.parametrize("size", [64, 72])
def test_each_group_halves_the_picture(depth: int, widen: int, size: int) -> None:
    network = WideResNet(depth, widen, classes=7).eval()
    seen: list[tuple[int, ...]] = []
    for group in (network.conv1, network.block1, network.block2, network.block3):
        group.register_forward_hook(lambda module, inputs, output: seen.append(tuple(output.shape)))
    with torch.inference_mode():
        logits = network(torch.zeros(2, 3, size, size))
    assert logits.shape == (2, 7)
    widths = [16, 16 * widen, 32 * widen, 64 * widen]
    sides = [size, size // 2, size // 4, size // 8]
    assert seen == [(2, width, side, side) for width, side in zip(widths, sides, strict=True)]


def test_pooling_is_over_the_whole_map_at_72_px() -> None:
    network = WideResNet(10, 1, classes=3).eval()
    maps: list[torch.Tensor] = []
    network.bn1.register_forward_hook(lambda module, inputs, output: maps.append(output))
    with torch.inference_mode():
        logits = network(torch.randn(2, 3, 72, 72))
        pooled = network.fc(maps[0].relu().mean(dim=(2, 3)))
    assert maps[0].shape[2:] == (9, 9)
    torch.testing.assert_close(logits, pooled)


def test_the_seed_alone_decides_the_weights() -> None:
    before = torch.random.get_rng_state()
    first = wide_resnet(10, 1, classes=3, seed=5).state_dict()
    torch.rand(3)
    second = wide_resnet(10, 1, classes=3, seed=5).state_dict()
    other = wide_resnet(10, 1, classes=3, seed=6).state_dict()
    torch.random.set_rng_state(before)
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not torch.equal(first["conv1.weight"], other["conv1.weight"])


@pytest.mark.parametrize("depth", [4, 9, 27])
def test_other_depths_are_refused(depth: int) -> None:
    with pytest.raises(ValueError, match="depth 6 n \\+ 4"):
        WideResNet(depth, 1, classes=3)
