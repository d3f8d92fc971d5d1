import math
from collections.abc import Callable
from typing import get_args

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate

from segmentation.network.fcn import (
    VGG16,
    BilinearUpscore,
    Deconvolution,
    FCN32s,
    LearnedUpscore,
    Margin,
    Shape,
    bilinear_kernel,
    make_head,
    shape_of,
)

ONE = Shape(channels=((1,),) * 5, hidden=1)
SMALL = Shape(channels=((2,), (3,), (4, 4), (3,), (4,)), hidden=5)
MARGINS = get_args(Margin)
Cells = list[tuple[int, ...]]


@pytest.fixture
def plain_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch's own convolutions: oneDNN's take three times as long for one channel."""
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)


def one_channel(margin: Margin, *, floor: bool = False) -> tuple[FCN32s, Cells, Cells]:
    """The real layers with one channel each; the sizes of the score map and of the upscored map are noted as they
    pass."""
    torch.manual_seed(0)
    network = FCN32s(ONE, margin=margin).eval()
    network.head = head = make_head(network, classes=1, deconvolution="fixed")
    cells: Cells = []
    scaled: Cells = []
    head.score.register_forward_hook(lambda layer, given, made: cells.append(tuple(made.shape[-2:])))
    head.upscore.register_forward_hook(lambda layer, given, made: scaled.append(tuple(made.shape[-2:])))
    pools = [layer for layer in network.features if isinstance(layer, nn.MaxPool2d)]
    assert len(pools) == 5
    for pool in pools if floor else ():
        pool.ceil_mode = False
    return network, cells, scaled


@torch.inference_mode()
@pytest.mark.usefixtures("plain_kernels")
@pytest.mark.parametrize("margin", MARGINS)
def test_every_height_gives_a_map_of_exactly_its_size(margin: Margin) -> None:
    network, _, _ = one_channel(margin)
    for height in range(1, 1001):
        assert network(torch.zeros(1, 3, height, 1)).shape == (1, 1, height, 1), height


@torch.inference_mode()
@pytest.mark.usefixtures("plain_kernels")
@pytest.mark.parametrize(
    ("margin", "short", "none"),
    [
        # The published count, 372 by arithmetic, is of these 360 and of heights 14 to 25; there, and for 1 to 13 where
        # arithmetic on "no cell" and "less than none" still comes out large enough, fc6 has nothing to stand on.
        ("fcn", 360, range(1, 26)),
        ("same", 450, range(1, 32)),
    ],
)
def test_pooling_that_rounds_down_fails(margin: Margin, short: int, none: range) -> None:
    network, _, scaled = one_channel(margin, floor=True)
    too_small, no_map = [], []
    for height in range(1, 1000):
        try:
            given = network(torch.zeros(1, 3, height, 32)).shape[-2]
        except RuntimeError:
            no_map.append(height)
            continue
        if given != height:
            too_small.append(height)
            assert scaled[-1][0] - network.offset == given
    assert len(too_small) == short
    assert no_map == list(none)
    assert 375 in too_small
    if margin == "fcn":
        assert network(torch.zeros(1, 3, 375, 32)).shape[-2] == 365
        assert len(too_small) + len([height for height in no_map if height > 13]) == 372


@torch.inference_mode()
def test_known_sizes() -> None:
    network, cells, scaled = one_channel("fcn")
    assert network.offset == 19
    for height, width in ((375, 500), (500, 333), (333, 281)):
        assert network(torch.zeros(1, 3, height, width)).shape == (1, 1, height, width)
    assert cells == [(12, 16), (16, 11), (11, 9)]
    assert scaled == [(416, 544), (544, 384), (384, 320)]


@torch.inference_mode()
@pytest.mark.parametrize("margin", MARGINS)
@pytest.mark.parametrize("size", [(1, 1), (2000, 1), (1, 2000), (2000, 2000)], ids=str)
def test_extreme_sizes(margin: Margin, size: tuple[int, int]) -> None:
    network, _, _ = one_channel(margin)
    given = network(torch.rand(1, 3, *size))
    assert given.shape == (1, 1, *size)
    assert given.isfinite().all()


def delta_network(margin: Margin) -> FCN32s:
    """Convolutions that pass on their middle: what is left is pooling, upscoring and the crop."""
    network = FCN32s(ONE, margin=margin).eval()
    network.head = make_head(network, classes=1, deconvolution="fixed")
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.zeros_(layer.bias)
            nn.init.zeros_(layer.weight)
            side = layer.kernel_size[0] // 2
            layer.weight.data[0, 0, side, side] = 1
    return network


@torch.inference_mode()
@pytest.mark.parametrize("across", [False, True])
@pytest.mark.parametrize("margin", MARGINS)
def test_the_crop_is_at_the_right_place(margin: Margin, across: bool) -> None:
    """One bright row lights the cell of the 32 rows around it; the answer lies around the middle of these.

    Over all rows of a cell the answer's middle is therefore right on average, and never off by more than 15.5 rows;
    a crop that is off by one moves the average by one.
    """
    height, rows = 230, range(80, 144)
    pictures = torch.zeros(len(rows), 3, height, 40)
    for number, row in enumerate(rows):
        pictures[number, :, row] = 1
    network = delta_network(margin)
    answers = network(pictures.mT if across else pictures)
    profile = (answers.mT if across else answers)[:, 0, :, 20].double()
    middle = (profile * torch.arange(height)).sum(1) / profile.sum(1)
    off = middle - torch.tensor(list(rows))
    assert off.mean().item() == pytest.approx(0, abs=1e-4)
    assert off.abs().max().item() == pytest.approx(15.5, abs=1e-4)
    assert profile.amax(1).tolist() == pytest.approx([63 / 64] * len(rows))


def test_the_kernel_interpolates() -> None:
    """Against torch's own interpolation, away from the edges, where that one repeats the last cell."""
    torch.manual_seed(0)
    scores = torch.randn(2, 3, 4, 5)
    scaled = BilinearUpscore(3)(scores)
    assert scaled.shape == (2, 3, 160, 192)
    by_torch = interpolate(scores, scale_factor=32, mode="bilinear", align_corners=False)
    assert torch.allclose(scaled[..., 32:-32, 32:-32], by_torch[..., 16:-16, 16:-16], atol=1e-5)
    kernel = bilinear_kernel(64)
    assert kernel[0, 0].item() == 1 / 64**2
    assert kernel[31, 31].item() == kernel[32, 31].item() == (63 / 64) ** 2
    assert torch.equal(kernel, kernel.flip(0))
    assert torch.equal(kernel, kernel.T)


def test_a_learned_deconvolution_starts_as_the_fixed_one() -> None:
    torch.manual_seed(0)
    scores = torch.randn(2, 21, 2, 3)
    learned, fixed = LearnedUpscore(21), BilinearUpscore(21)
    assert torch.allclose(learned(scores), fixed(scores), atol=1e-6)
    assert [tuple(one.shape) for one in learned.parameters()] == [(21, 21, 64, 64)]
    assert list(fixed.parameters()) == []
    assert list(fixed.state_dict()) == []


@pytest.mark.parametrize("hidden", [True, False])
@pytest.mark.parametrize("deconvolution", get_args(Deconvolution))
def test_the_first_loss_is_ln_21_and_every_new_layer_learns(deconvolution: Deconvolution, hidden: bool) -> None:
    torch.manual_seed(0)
    network = FCN32s(SMALL, hidden=hidden, margin="same")
    network.head = make_head(network, classes=21, deconvolution=deconvolution)
    labels = torch.randint(0, 21, (2, 40, 70))
    pictures = torch.randn(2, 3, 40, 70)
    logits = network(pictures)
    assert logits.shape == (2, 21, 40, 70)
    loss = cross_entropy(logits, labels)
    assert loss.item() == pytest.approx(math.log(21))
    loss.backward()
    assert network.head.score.weight.grad.abs().sum() > 0
    names = {name for name, _ in network.head.named_parameters()}
    own = {f"hidden.{layer}.{part}" for layer in ("fc6", "fc7") for part in ("weight", "bias")}
    upscore = {"upscore.weight"} if deconvolution == "learned" else set()
    assert names == {"score.weight", "score.bias"} | upscore | (set() if hidden else own)


def test_new_hidden_layers_keep_the_spread_of_what_passes() -> None:
    torch.manual_seed(0)
    network = FCN32s(Shape(channels=((2,), (2,), (2,), (2,), (16,)), hidden=256), hidden=False)
    hidden = make_head(network, classes=2, deconvolution="fixed").hidden.eval()
    given = torch.randn(50, 16, 7, 7).relu()
    spread = [given.square().mean().item()]
    for layer in (hidden.fc6, hidden.fc7):
        given = layer(given).relu()
        spread.append(given.square().mean().item())
    assert spread[1:] == pytest.approx(spread[:1] * 2, rel=0.35)
    assert not hidden.fc6.bias.any()
    assert not hidden.fc7.bias.any()


def test_dropout_is_of_single_elements_and_only_while_training() -> None:
    network = FCN32s(SMALL, dropout=0.5)
    assert [layer.p for layer in network.hidden if isinstance(layer, nn.Dropout)] == [0.5, 0.5]
    torch.manual_seed(0)
    dropped = network.hidden.drop6(torch.ones(1, 8, 8, 8))  # type: ignore[operator, union-attr]
    assert all(0 < (channel == 0).float().mean() < 1 for channel in dropped[0])
    maps = torch.ones(1, 3, 33, 33)
    assert torch.equal(network.eval()(maps), network(maps))


def torchvision_style(shape: Shape) -> tuple[nn.Sequential, nn.Sequential]:
    """Features and hidden layers as torchvision's VGG has them: padding 1, pooling by rounding down, linear layers."""
    layers: list[nn.Module] = []
    before = 3
    for stage in shape.channels:
        for width in stage:
            layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU()]
            before = width
        layers.append(nn.MaxPool2d(2, 2))
    classifier = nn.Sequential(
        *(nn.Linear(before * 49, shape.hidden), nn.ReLU(), nn.Dropout()),
        *(nn.Linear(shape.hidden, shape.hidden), nn.ReLU(), nn.Dropout()),
        nn.Linear(shape.hidden, 1000),
    )
    return nn.Sequential(*layers), classifier.eval()


@pytest.fixture
def pair() -> tuple[FCN32s, Callable[[Tensor], Tensor], nn.Sequential]:
    """Our network with the weights of a small VGG; that VGG's features, and its classifier."""
    torch.manual_seed(0)
    features, classifier = torchvision_style(SMALL)
    network = FCN32s(SMALL, margin="same").eval()
    network.features.load_state_dict(features.state_dict())
    hidden = network.hidden
    with torch.no_grad():
        hidden.fc6.weight.copy_(classifier[0].weight.reshape(5, 4, 7, 7))
        hidden.fc7.weight.copy_(classifier[3].weight.reshape(5, 5, 1, 1))
        hidden.fc6.bias.copy_(classifier[0].bias)
        hidden.fc7.bias.copy_(classifier[3].bias)
    return network, features, classifier


@torch.inference_mode()
def test_the_trunk_is_vggs(pair: tuple[FCN32s, Callable[[Tensor], Tensor], nn.Sequential]) -> None:
    """A picture of 224 gives 7x7 cells; the middle one of fc6's map stands where the linear layer looks."""
    network, features, classifier = pair
    pictures = torch.randn(2, 3, 224, 224)
    assert torch.allclose(network.features(pictures), features(pictures), atol=1e-6)
    maps = network.hidden(network.features(pictures))
    linear = classifier[:6](features(pictures).flatten(1))
    assert maps.shape == (2, 5, 7, 7)
    assert linear.abs().max() > 1e-3
    assert torch.allclose(maps[:, :, 3, 3], linear, atol=1e-6)


@torch.inference_mode()
def test_fc6_without_padding_is_the_linear_layer(
    pair: tuple[FCN32s, Callable[[Tensor], Tensor], nn.Sequential],
) -> None:
    network, _, classifier = pair
    published = FCN32s(SMALL, margin="fcn").eval()
    published.load_state_dict(network.state_dict())
    cells = torch.randn(3, 4, 7, 7)
    assert torch.allclose(published.hidden(cells)[:, :, 0, 0], classifier[:6](cells.flatten(1)), atol=1e-6)
    assert published.features[0].padding == (100, 100)
    assert all(layer.padding == (1, 1) for layer in published.features[2:] if isinstance(layer, nn.Conv2d))


def test_the_layers_of_vgg_16_are_torchvisions_but_for_rounding() -> None:
    from torchvision.models import vgg16

    with torch.device("meta"):
        ours, theirs = FCN32s(VGG16).features, vgg16().features
    assert [type(layer) for layer in ours] == [type(layer) for layer in theirs]
    assert {name: part.shape for name, part in ours.state_dict().items()} == {
        name: part.shape for name, part in theirs.state_dict().items()
    }
    pools = [layer for layer in ours if isinstance(layer, nn.MaxPool2d)]
    assert all((pool.kernel_size, pool.stride, pool.ceil_mode) == (2, 2, True) for pool in pools)


@pytest.mark.parametrize(
    ("channels", "hidden"), [(((1,),) * 4, 1), (((1,),) * 4 + ((),), 1), (((1,),) * 4 + ((0,),), 1), (((1,),) * 5, 0)]
)
def test_shapes_that_cannot_be_are_refused(channels: tuple[tuple[int, ...], ...], hidden: int) -> None:
    with pytest.raises(ValueError, match="five stages"):
        shape_of(channels, hidden=hidden)
