"""Which parameters are masked, in networks of many kinds."""

from collections.abc import Callable, Mapping

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import piggyback
from piggyback.shell.errors import BadInput


def shared_layer() -> nn.Module:
    layer = nn.Linear(12, 12)
    return nn.Sequential(layer, nn.ReLU(), layer, nn.ReLU(), nn.Linear(12, 4))


# a network, the shape of its input, and the weights that are masked: no head, no bias, no norm layer
NETWORKS: Mapping[str, tuple[Callable[[], nn.Module], tuple[int, ...], tuple[str, ...]]] = {
    "grouped and depthwise": (
        lambda: nn.Sequential(
            nn.Conv2d(4, 8, 3, groups=2),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, groups=8),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(64, 4),
        ),
        (4, 6, 6),
        ("0.weight", "2.weight"),
    ),
    "transposed": (
        lambda: nn.Sequential(
            nn.ConvTranspose2d(4, 6, 3, stride=2),
            nn.ReLU(),
            nn.ConvTranspose2d(6, 8, 2, groups=2, bias=False),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(32, 4),
        ),
        (4, 3, 3),
        ("0.weight", "2.weight"),
    ),
    "one and three dimensions": (
        lambda: nn.Sequential(
            nn.Conv1d(4, 8, 3),
            nn.ReLU(),
            nn.Unflatten(2, (2, 2, 2)),
            nn.Conv3d(8, 8, 2, padding=1),
            nn.Flatten(),
            nn.Linear(216, 4),
        ),
        (4, 10),
        ("0.weight", "3.weight"),
    ),
    "layer norm": (
        lambda: nn.Sequential(
            nn.Linear(12, 16), nn.LayerNorm(16), nn.GELU(), nn.Linear(16, 16), nn.RMSNorm(16), nn.Linear(16, 4)
        ),
        (12,),
        ("0.weight", "3.weight"),
    ),
    "a weight that two layers share": (shared_layer, (12,), ("0.weight",)),
    # queries, keys and values come out of one parameter of the attention itself, which is no layer's
    "attention": (
        lambda: nn.Sequential(
            nn.TransformerEncoderLayer(8, 2, dim_feedforward=16, dropout=0.0, batch_first=True),
            nn.Flatten(),
            nn.Linear(40, 4),
        ),
        (5, 8),
        ("0.self_attn.in_proj_weight", "0.self_attn.out_proj.weight", "0.linear1.weight", "0.linear2.weight"),
    ),
}


def build(kind: str) -> tuple[nn.Module, str]:
    """The network in evaluation mode, and its head's name."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = NETWORKS[kind][0]().eval()
    return network, list(dict(network.named_children()))[-1]


@pytest.mark.parametrize("method", [piggyback.Binary(), piggyback.Ternary()], ids=lambda method: method.name)
@pytest.mark.parametrize("kind", NETWORKS)
def test_masks_on_layers_of_many_kinds(
    kind: str, method: piggyback.Method, make_batches: Callable, run_steps: Callable, moved_masks: Callable
) -> None:
    network, head = build(kind)
    _, shape, weights = NETWORKS[kind]
    batches = make_batches(16, shape)
    original = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with torch.no_grad():
        expected = network(batches[0][0])
    adapter = piggyback.attach(network, method=method, head=head, norm="fixed")
    assert adapter.anatomy.weights == weights
    new_head = nn.Linear(network.get_submodule(head).in_features, 4)
    new_head.load_state_dict({name: original[f"{head}.{name}"] for name in ("weight", "bias")})
    adapter.add_task("task", head=new_head)
    with torch.no_grad():
        assert torch.equal(network(batches[0][0]), expected)  # a mask of ones is the backbone

    run_steps(network, adapter.optimizer(mask_lr=2e-3, head_lr=1e-3, update="eager"), batches)
    masks = moved_masks(adapter, "task")
    for name, tensor in network.state_dict().items():
        shared_with = "0.weight" if kind.startswith("a weight that") and name == "2.weight" else name
        if shared_with in weights:
            turned = masks.get(f"negative of {shared_with}", torch.zeros((), dtype=torch.bool))
            signed = torch.where(turned, -original[name], original[name])
            assert torch.equal(tensor, torch.where(masks[f"mask of {shared_with}"], signed, 0.0))
        elif not name.startswith(f"{head}."):
            assert torch.equal(tensor, original[name]), name
    assert not torch.equal(network.state_dict()[f"{head}.weight"], original[f"{head}.weight"])
    base = adapter.base_state_dict()
    assert base.keys() == original.keys()
    assert all(torch.equal(base[name], original[name]) for name in base)


def test_biases_and_norm_layers_of_attention_are_not_masked() -> None:
    network, head = build("attention")
    adapter = piggyback.attach(network, method=piggyback.Binary(), head=head)
    assert {"0.self_attn.in_proj_bias", "0.self_attn.out_proj.bias"} <= set(adapter.anatomy.rest)
    assert {"0.norm1.weight", "0.norm2.bias"} <= set(adapter.anatomy.norm)


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan"), -0.0, 0.0, -3.0])
@pytest.mark.parametrize("method", [piggyback.Binary(), piggyback.Ternary()], ids=lambda method: method.name)
def test_a_weight_masked_out_is_plus_zero_whatever_it_was(value: float, method: piggyback.Method) -> None:
    """Where, not multiply: 0 * inf and 0 * nan are nan, 0 * -3 is -0."""
    weight = torch.tensor([value, 1.0])
    kept = method.keep({"mask_real": torch.tensor([0.0, 1.0])})
    masked = method.apply(weight, kept)
    assert masked.tolist() == [0.0, 1.0]
    assert not torch.signbit(masked).any()
    shown = method.apply(weight, method.keep(method.start(weight)))
    assert torch.equal(shown.view(torch.int32), weight.view(torch.int32))  # bits: nan equals nan, -0 is not 0


def test_a_weight_that_is_not_finite_reaches_the_network_as_zero() -> None:
    network = nn.Sequential(nn.Linear(3, 2, bias=False), nn.Linear(2, 2))
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([[float("inf"), 1.0, 2.0], [3.0, float("nan"), -0.0]]))
    adapter = piggyback.attach(network, method=piggyback.Binary(), head="1")
    adapter.add_task("task", head=nn.Linear(2, 2))
    real = adapter.task("task").trained["0.weight"]["mask_real"]
    real.copy_(torch.tensor([[0.0, 1.0, 1.0], [1.0, 0.0, 0.0]]))
    adapter.switch("task")
    assert network[0].weight.tolist() == [[0.0, 1.0, 2.0], [3.0, 0.0, 0.0]]
    assert not torch.signbit(network[0].weight).any()


def test_a_network_without_layers_to_mask_is_refused() -> None:
    with pytest.raises(BadInput, match="nothing to adapt"):
        piggyback.attach(nn.Sequential(nn.ReLU(), nn.Linear(2, 2)), method=piggyback.Binary(), head="1")


def test_a_head_slot_that_is_not_there_is_refused_by_name() -> None:
    network, _ = build("layer norm")
    with pytest.raises(BadInput, match=r"no module 'fc'.*it has 0, 1, 2, 3, 4, 5"):
        piggyback.attach(network, method=piggyback.Binary(), head="fc")


def test_without_a_head_slot_everything_is_the_backbone() -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    adapter = piggyback.attach(network, method=piggyback.Binary())
    assert adapter.anatomy.weights == ("0.weight", "2.weight")
    with pytest.raises(BadInput, match="no head slot"):
        adapter.add_task("task", head=nn.Linear(4, 2))
    adapter.add_task("task")
    optimizer = adapter.optimizer(update="eager")
    F.mse_loss(network(torch.ones(1, 3)), torch.zeros(1, 2)).backward()
    optimizer.step()
    gradients: list[Tensor | None] = [network[0].bias.grad, network[2].bias.grad]
    assert gradients == [None, None]
