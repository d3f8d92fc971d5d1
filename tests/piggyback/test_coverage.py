"""What of a network is masked, what is left out and why, and who is told."""

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

import piggyback
from piggyback.budget import ratio_of_payload, ratio_of_task
from piggyback.methods.series import Series
from piggyback.network.coverage import Coverage
from piggyback.payload import BLANK, KEY, check, seal
from piggyback.shell.errors import BadInput, BadPayload, UnknownName

MASKING = ("piggyback", "piggyback-ternary", "affine", "ksm", "dan", "packnet")


class Attending(nn.Module):
    """Attention with equal sizes, then one whose keys and values have other sizes, a bare parameter and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.randn(1, 5, 8))
        self.one = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm = nn.LayerNorm(8)
        self.two = nn.MultiheadAttention(8, 2, kdim=6, vdim=4, batch_first=True, add_bias_kv=True)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.one(*[x + self.place] * 3, need_weights=False)[0])
        return self.head(self.two(y, y[..., :6], y[..., :4], need_weights=False)[0].mean(1))


PROJECTIONS = {
    *("one.in_proj_weight", "one.out_proj.weight", "two.out_proj.weight"),
    *("two.q_proj_weight", "two.k_proj_weight", "two.v_proj_weight"),
}


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make().eval()


def train(network: nn.Module, optimizer: torch.optim.Optimizer, shape: tuple[int, ...], *, steps: int = 8) -> None:
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        optimizer.zero_grad()
        inputs = torch.randn(16, *shape, generator=generator)
        F.cross_entropy(network(inputs), torch.randint(0, 4, (16,), generator=generator)).backward()
        optimizer.step()


def kinds(coverage: Coverage) -> dict[str, tuple[str, str]]:
    return {part.name: (part.kind, part.reason) for part in coverage.parts}


# -- attention ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MASKING)
def test_all_projections_of_attention_are_adapted(name: str, tmp_path: Path) -> None:
    method = piggyback.METHODS[name]
    network = seeded(Attending)
    if name == "packnet":
        with torch.no_grad():
            for key, tensor in network.named_parameters():
                if key in PROJECTIONS:
                    tensor[tensor.abs() < tensor.abs().median()] = 0.0
    original = copy.deepcopy(network)
    adapter = piggyback.attach(network, method=method, head="head", norm="fixed")
    assert set(adapter.anatomy.weights) == PROJECTIONS
    adapter.add_task("task", head=nn.Linear(8, 4))
    train(network, adapter.optimizer(mask_lr=5e-3, update="eager"), (5, 8))
    frozen = dict(original.named_parameters())
    for key, tensor in network.named_parameters():
        if key in PROJECTIONS:
            moved = (tensor != frozen[key]).double().mean()
            assert moved > 0.05, key
            if name == "piggyback":
                assert moved < 0.95, key
                assert set(tensor[tensor != frozen[key]].tolist()) == {0.0}
        elif not key.startswith("head."):
            assert torch.equal(tensor, frozen[key]), key
    adapter.save(tmp_path / "task", task="task")
    network.eval()
    inputs = torch.randn(2, 5, 8)
    expected = network(inputs)
    assert torch.equal(adapter.merged("task")(inputs), expected)
    other = piggyback.attach(original, method=method, head="head")
    other.load(tmp_path / "task")
    assert torch.equal(original(inputs), expected)


@pytest.mark.parametrize("name", ["series", "parallel"])
def test_methods_that_find_no_convolution_beside_attention_say_so(name: str) -> None:
    with pytest.raises(BadInput, match=rf"method '{name}' finds no .* the network has .*Linear"):
        piggyback.attach(seeded(Attending), method=piggyback.METHODS[name], head="head")


def test_modules_go_behind_layers_and_not_behind_attention() -> None:
    network = seeded(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.MultiheadAttention(4, 2), nn.Linear(4, 4)))
    adapter = piggyback.attach(network, method=piggyback.METHODS["series"], head="2")
    adapter.add_task("task", head=nn.Linear(4, 3))
    assert list(adapter.task("task").modules) == ["0"]
    found = kinds(adapter.coverage())
    assert found["0.weight"] == ("module", "")
    assert found["1.in_proj_weight"] == ("frozen", "not reached by series")


@dataclass(frozen=True, kw_only=True)
class Everywhere(Series):
    """A method that would put a module behind whatever it is asked about."""

    def module(self, layer: nn.Module) -> nn.Module | None:
        return nn.Identity()


def test_attention_is_no_layer_to_put_modules_behind() -> None:
    adapter = piggyback.attach(seeded(Attending), method=Everywhere(), head="head")
    adapter.add_task("task", head=nn.Linear(8, 4))
    assert list(adapter.task("task").modules) == ["one.out_proj", "two.out_proj"]


def test_a_file_from_before_attention_was_masked_is_read(tmp_path: Path) -> None:
    """Such a file has no mask on the projections, and no coverage."""
    network = seeded(Attending)
    plain = copy.deepcopy(network)
    outside = [name for name in PROJECTIONS if name.endswith("proj_weight")]
    adapter = piggyback.attach(network, method=piggyback.Binary(), head="head", exclude=outside)
    adapter.add_task("old", head=nn.Linear(8, 4))
    train(network, adapter.optimizer(mask_lr=5e-3, update="eager"), (5, 8), steps=3)
    adapter.save(tmp_path / "new", task="old")
    data = (tmp_path / "new").read_bytes()
    header = check(data) | {"sha256": BLANK}
    for entry in (None, {}, 3, {"left_out": {}, "trunk": 3, "masked": 2, "norm": 0}):
        text = json.dumps(header | {"coverage": entry}, sort_keys=True)
        (tmp_path / "wrong").write_bytes(seal(save(load(data), metadata={KEY: text})))
        with pytest.raises(BadPayload, match="'coverage'"):
            piggyback.read_payload(tmp_path / "wrong")
    del header["coverage"]
    (tmp_path / "old").write_bytes(seal(save(load(data), metadata={KEY: json.dumps(header, sort_keys=True)})))
    other = piggyback.attach(plain, method=piggyback.Binary(), head="head")
    inputs = torch.randn(2, 5, 8)
    for file in ("old", "new"):
        other.load(tmp_path / file, task=file)
        assert torch.equal(plain(inputs), network.eval()(inputs))
        other.save(tmp_path / "again", task=file)  # and goes on
        assert piggyback.read_payload(tmp_path / "again").kept.keys() == PROJECTIONS - set(outside)
    assert dict(other.coverage("old").left_out)["not reached by piggyback"] > 300


# -- the report ---------------------------------------------------------------------------------------------


class Mixed(nn.Module):
    """One of everything that no mask method works on."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(10, 6)
        self.place = nn.Parameter(torch.randn(6))
        self.lstm = nn.LSTM(6, 4, batch_first=True)
        self.pair = nn.Bilinear(4, 4, 5)
        self.own = Scale()
        self.hidden = nn.Linear(5, 8)
        self.norm = nn.BatchNorm1d(8)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.lstm(self.words(x) + self.place)[0][:, -1]
        return self.head(self.norm(self.hidden(self.own(self.pair(y, y)))))


class Scale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(5))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


def test_every_parameter_is_told_of_once_with_what_becomes_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    network = seeded(Mixed)
    adapter = piggyback.attach(network, method=piggyback.Binary(), head="head")
    coverage = adapter.coverage()
    lstm = {name: ("frozen", "LSTM layer") for name, _ in network.named_parameters() if name.startswith("lstm")}
    assert kinds(coverage) == lstm | {
        "words.weight": ("frozen", "embedding"),
        "place": ("frozen", "bare parameter"),
        "pair.weight": ("frozen", "Bilinear layer"),
        "pair.bias": ("frozen", "Bilinear layer"),
        "own.weight": ("frozen", "Scale layer"),
        "hidden.weight": ("masked", ""),
        "hidden.bias": ("frozen", "bias"),
        "norm.weight": ("norm", ""),
        "norm.bias": ("norm", ""),
        "head.weight": ("head", ""),
        "head.bias": ("head", ""),
    }
    assert sum(part.size for part in coverage.parts) == sum(p.numel() for p in network.parameters())
    assert [part.kind for part in coverage.modules["hidden"]] == ["masked", "frozen"]
    assert {part.layer for part in coverage.modules["lstm"]} == {"LSTM"}
    trunk = sum(p.numel() for name, p in network.named_parameters() if not name.startswith("head"))
    assert coverage.masked_share == 40 / trunk
    assert coverage.shares.left_out_share == (trunk - 40 - 16) / trunk
    assert next(iter(coverage.left_out)) == "LSTM layer"  # most first
    assert coverage.left_out == {
        "LSTM layer": 4 * 4 * (6 + 4 + 2),
        "Bilinear layer": 85,
        "embedding": 60,
        "bias": 8,
        "bare parameter": 6,
        "Scale layer": 5,
    }
    assert str(coverage.shares) in repr(adapter)
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "86.4% of the trunk's parameters as they are, most of it 'LSTM layer' (46.6%)" in told


def test_a_network_that_is_masked_nearly_whole_causes_no_notice(
    make_network: Callable, make_head: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    network = nn.Sequential(nn.Linear(60, 60), nn.Linear(60, 4))  # 60 biases in 3660: 1.6 %
    adapter = piggyback.attach(network, method=piggyback.Binary(), head="1")
    assert adapter.coverage().masked_share == 3600 / 3660
    for method in ("feature", "finetune", "scratch", "norm"):  # by their nature
        piggyback.attach(make_network(), method=piggyback.METHODS[method], head="head")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("name", "share"),
    [
        ("piggyback", 2328),
        ("parallel", 216 + 576),
        ("series", 216 + 576),
        ("feature", 0),
        ("norm", 0),
        ("finetune", None),
    ],
)
def test_the_share_is_the_methods(name: str, share: int | None, make_network: Callable, make_head: Callable) -> None:
    network = make_network()
    adapter = piggyback.attach(network, method=piggyback.METHODS[name], head="head", norm="trained")
    trunk = sum(p.numel() for key, p in network.named_parameters() if not key.startswith("head"))
    assert adapter.coverage().masked_share == (trunk if share is None else share) / trunk
    adapter.add_task("task", head=make_head(0))
    assert adapter.coverage("task") == adapter.coverage()
    adapter.add_task("other", head=make_head(1), method=piggyback.Binary())
    assert adapter.coverage("other").masked_share == 2328 / trunk
    with pytest.raises(UnknownName):
        adapter.coverage("nobody's")


def test_asking_draws_no_random_numbers(make_network: Callable) -> None:
    adapter = piggyback.attach(make_network(), method=piggyback.METHODS["series"], head="head")
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    adapter.coverage()
    piggyback.attach(make_network(), method=piggyback.METHODS["series"], head="head")
    assert torch.equal(torch.rand(3), expected)


# -- what is left out ---------------------------------------------------------------------------------------


def old_weight_norm(layer: nn.Module) -> None:
    with pytest.warns(FutureWarning):
        weight_norm(layer)


PARAMETRIZED = {
    "weight norm": (parametrizations.weight_norm, r"remove_parametrizations\(layer, 'weight'\)"),
    "spectral norm": (parametrizations.spectral_norm, r"remove_parametrizations\(layer, 'weight'\)"),
    "orthogonal": (parametrizations.orthogonal, r"remove_parametrizations\(layer, 'weight'\)"),
    "old weight norm": (old_weight_norm, "remove_weight_norm"),
    "old spectral norm": (spectral_norm, "remove_spectral_norm"),
    "pruning": (lambda layer: prune.l1_unstructured(layer, "weight", 0.5), r"prune\.remove\(layer, 'weight'\)"),
    "pruned biases": (lambda layer: prune.random_unstructured(layer, "bias", 0.5), r"prune\.remove\(layer, 'bias'\)"),
}


@pytest.mark.parametrize("kind", PARAMETRIZED)
@pytest.mark.parametrize("place", ["0", "2"])
def test_a_parametrized_layer_is_refused_by_name(kind: str, place: str) -> None:
    network = seeded(lambda: nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 6), nn.Linear(6, 4)))
    parametrize, advice = PARAMETRIZED[kind]
    parametrize(network[int(place)])
    before = {name: p.requires_grad for name, p in network.named_parameters()}
    with pytest.raises(BadInput, match=rf"layer '{place}' is parametrized.*{advice}.*exclude='{place}'"):
        piggyback.attach(network, method=piggyback.Binary(), head="3")
    assert {name: p.requires_grad for name, p in network.named_parameters()} == before
    adapter = piggyback.attach(network, method=piggyback.Binary(), head="3", exclude=place)
    other = {"0": "2", "2": "0"}[place]
    assert adapter.anatomy.weights == (f"{other}.weight",)
    adapter.add_task("task", head=nn.Linear(6, 4))
    train(network, adapter.optimizer(mask_lr=1e-2, update="eager"), (5,))
    assert "excluded" in adapter.coverage("task").left_out


def test_a_head_may_be_parametrized() -> None:
    head = parametrizations.weight_norm(nn.Linear(6, 4))
    adapter = piggyback.attach(nn.Sequential(nn.Linear(5, 6), head), method=piggyback.Binary(), head="1")
    adapter.add_task("task", head=parametrizations.weight_norm(nn.Linear(6, 4)))


def test_a_layer_that_makes_its_weight_itself_is_refused_by_name() -> None:
    class Doubled(nn.Linear):
        def __init__(self) -> None:
            super().__init__(5, 5)
            self.part = nn.Parameter(self._parameters.pop("weight").data / 2)

        def __getattr__(self, name: str) -> object:
            made = name == "weight" and "part" in self._parameters
            return 2 * self.part if made else super().__getattr__(name)

    network = nn.Sequential(Doubled(), nn.Linear(5, 5), nn.Linear(5, 2))
    with pytest.raises(BadInput, match=r"layer '0' \(Doubled\) has no parameter 'weight'.*exclude='0'"):
        piggyback.attach(network, method=piggyback.Binary(), head="2")


EXCLUDES = {
    "a type": (nn.Conv2d, {"hidden.weight"}, {"conv1.weight", "conv1.bias", "conv2.weight"}),
    "types": ((nn.Linear, nn.BatchNorm2d), {"conv1.weight", "conv2.weight"}, {"hidden.weight", "hidden.bias"}),
    "a module": ("conv2", {"conv1.weight", "hidden.weight"}, {"conv2.weight"}),
    "a parameter": (["conv1.weight"], {"conv2.weight", "hidden.weight"}, {"conv1.weight"}),
}


@pytest.mark.parametrize("kind", EXCLUDES)
@pytest.mark.parametrize("name", ["piggyback", "ksm", "packnet", "finetune", "series", "parallel"])
def test_what_is_excluded_stays_as_it_is(
    kind: str,
    name: str,
    make_ground: Callable,
    make_head: Callable,
    make_batches: Callable,
    run_steps: Callable,
    tmp_path: Path,
) -> None:
    exclude, weights, parameters = EXCLUDES[kind]
    left = set(parameters)
    method = piggyback.METHODS[name]
    network = make_ground(method)
    original = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    if name in ("series", "parallel") and kind == "a type":
        with pytest.raises(BadInput, match=f"'{name}' finds no"):
            piggyback.attach(network, method=method, head="head", exclude=exclude)
        return
    adapter = piggyback.attach(network, method=method, head="head", exclude=exclude, norm="trained")
    assert set(adapter.anatomy.weights) == weights
    assert {key for key, (_, why) in kinds(adapter.coverage()).items() if why == "excluded"} >= left
    adapter.add_task("task", head=make_head(0))
    adapter.train()
    if kind == "types":
        assert not network.bn1.training
    run_steps(network, adapter.optimizer(mask_lr=1e-2, update="eager"), make_batches(4))
    if kind == "types":
        left |= {f"bn1.{part}" for part in ("weight", "bias", "running_mean", "running_var")}
    for key in left:
        assert torch.equal(network.state_dict()[key], original[key]), key
    moved = {key for key in weights if not torch.equal(network.state_dict()[key], original[key])}
    assert moved or name == "series"
    adapter.save(tmp_path / "task", task="task")
    for again in (exclude, ()):  # the file says what was left out
        other = piggyback.attach(make_ground(method), method=method, head="head", exclude=again)
        other.load(tmp_path / "task")
        inputs = torch.randn(2, 3, 8, 8)
        adapter.eval()
        other.eval()
        assert torch.equal(other.network(inputs), network(inputs))


def test_a_file_with_masks_on_what_is_left_out_is_refused(
    make_network: Callable, make_head: Callable, tmp_path: Path
) -> None:
    adapter = piggyback.attach(make_network(), method=piggyback.Binary(), head="head")
    adapter.add_task("task", head=make_head(0))
    adapter.save(tmp_path / "task", task="task")
    other = piggyback.attach(make_network(), method=piggyback.Binary(), head="head", exclude="conv2")
    with pytest.raises(BadPayload, match=r"about the weight 'conv2\.weight': here it is excluded"):
        other.load(tmp_path / "task")


@pytest.mark.parametrize(
    ("exclude", "message"),
    [
        ("conv3", "names 'conv3'.*did you mean 'conv"),
        ("head", "no such part outside its heads"),
        (3, "takes types of layers"),
        ([int], "takes types of layers"),
    ],
)
def test_what_cannot_be_excluded(exclude: object, message: str, make_network: Callable) -> None:
    with pytest.raises(BadInput, match=message):
        piggyback.attach(make_network(), method=piggyback.Binary(), head="head", exclude=exclude)


def test_nothing_may_be_left_for_a_method_to_do(make_network: Callable) -> None:
    with pytest.raises(BadInput, match=r"finds no weights of layers.*3 .*Conv2d|finds no weights of layers"):
        piggyback.attach(make_network(), method=piggyback.Binary(), head="head", exclude=nn.Module)


# -- what the user froze ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["piggyback", "finetune"])
def test_what_the_user_froze_stays_frozen(
    name: str, make_network: Callable, make_head: Callable, make_batches: Callable, run_steps: Callable
) -> None:
    network = make_network()
    network.conv2.requires_grad_(False)
    network.bn1.requires_grad_(False)
    original = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    adapter = piggyback.attach(network, method=piggyback.METHODS[name], head="head", norm="trained")
    found = kinds(adapter.coverage())
    assert found["conv2.weight"] == found["bn1.bias"] == ("frozen", "frozen before attach")
    assert found["conv1.weight"][0] in ("masked", "trained")
    for task in ("one", "two"):
        adapter.add_task(task, head=make_head(0))
        adapter.train()
        run_steps(network, adapter.optimizer(mask_lr=1e-2, update="eager"), make_batches(4))
    for key in ("conv2.weight", *(key for key in original if key.startswith("bn1"))):
        assert torch.equal(network.state_dict()[key], original[key]), key
    for key in ("conv1.weight", "bn2.running_mean", "bn2.weight"):
        assert not torch.equal(network.state_dict()[key], original[key]), key


def test_a_backbone_frozen_as_a_whole_is_a_backbone(make_network: Callable) -> None:
    network = make_network().requires_grad_(False)
    adapter = piggyback.attach(network, method=piggyback.Binary(), head="head")
    assert not adapter.anatomy.left
    network = make_network().requires_grad_(False)
    network.head.requires_grad_(True)  # as for a plain head on frozen features
    assert not piggyback.attach(network, method=piggyback.Binary(), head="head").anatomy.left


def test_flags_that_an_adapter_has_left_behind_are_not_the_users(make_network: Callable, make_head: Callable) -> None:
    network = make_network()
    network.hidden.requires_grad_(False)
    adapter = piggyback.attach(network, method=piggyback.METHODS["parallel"], head="head")
    adapter.add_task("task", head=make_head(0))
    adapter.base()
    for keep in (True, False):
        if not keep:
            del adapter
        again = piggyback.attach(network, method=piggyback.Binary(), head="head")
        assert set(again.anatomy.left) == {"hidden.weight", "hidden.bias"}
    network.conv1.requires_grad_(True)  # somebody has looked at the flags, so that they mean what they say
    network.hidden.requires_grad_(True)
    last = piggyback.attach(network, method=piggyback.Binary(), head="head")
    assert {"hidden.weight", "conv1.weight"} == set(last.anatomy.weights)


def test_parts_of_a_head_that_the_user_froze_stay_so(
    make_network: Callable, make_batches: Callable, run_steps: Callable
) -> None:
    adapter = piggyback.attach(make_network(), method=piggyback.Binary(), head="head")
    head = nn.Sequential(nn.Linear(24, 8), nn.Linear(8, 4))
    head[0].requires_grad_(False)
    fixed, free = head[0].weight.clone(), head[1].weight.clone()
    adapter.add_task("task", head=head)
    run_steps(adapter.network, adapter.optimizer(update="eager"), make_batches(2))
    assert torch.equal(head[0].weight, fixed)
    assert not torch.equal(head[1].weight, free)


# -- methods that reach nothing -----------------------------------------------------------------------------


def convolutions(kind: type[nn.Module]) -> nn.Module:
    return nn.Sequential(kind(2, 3, 3), nn.Flatten(), nn.Linear(6, 4))


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("series", lambda: convolutions(nn.Conv1d)),
        ("series", lambda: convolutions(nn.Conv3d)),
        ("series", lambda: convolutions(nn.ConvTranspose2d)),
        ("series", lambda: nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 4))),
        ("parallel", lambda: nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 4))),
        ("norm", lambda: convolutions(nn.Conv2d)),
        ("piggyback", lambda: nn.Sequential(nn.LSTM(2, 3), nn.Linear(3, 4))),
    ],
)
def test_a_method_that_reaches_nothing_is_refused(name: str, make: Callable[[], nn.Module]) -> None:
    network = make()
    head = str(len(network) - 1)
    before = [parameter.requires_grad for parameter in network.parameters()]
    with pytest.raises(
        BadInput, match=rf"method '{name}' finds no .*the network has [12] (Conv|Linear|LSTM).*'feature'"
    ):
        piggyback.attach(network, method=piggyback.METHODS[name], head=head)
    assert [parameter.requires_grad for parameter in network.parameters()] == before
    other = piggyback.attach(network, method=piggyback.Feature(), head=head)
    with pytest.raises(BadInput, match=f"method '{name}' finds no"):
        other.add_task("task", head=nn.Linear(6, 4), method=piggyback.METHODS[name])
    assert not other.tasks
    assert other.current is None


def test_masks_on_weights_that_are_all_zero_are_refused() -> None:
    network = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 4))
    nn.init.zeros_(network[0].weight)
    adapter = piggyback.attach(network, method=piggyback.Binary(), head="1")
    with pytest.raises(BadInput, match="finds nothing to train outside the head: all weights are zero"):
        adapter.add_task("task", head=nn.Linear(6, 4))


def test_the_ratio_charges_what_is_there(tmp_path: Path) -> None:
    """A Conv1d and a transposed convolution have no adapter; shapes alone cannot tell the latter."""
    assert piggyback.parameter_ratio([piggyback.METHODS["series"]], shapes=[(8, 3, 3)]) == 1.0
    shapes = [(4, 4, 3, 3), (4, 4, 3, 3)]
    both = piggyback.parameter_ratio([piggyback.METHODS["series"]], shapes=shapes)
    assert (
        piggyback.parameter_ratio([piggyback.METHODS["series"]], shapes=shapes, reached=[True, False]) == (both + 1) / 2
    )
    parts = (nn.Conv2d(4, 4, 3), nn.ConvTranspose2d(4, 4, 3), nn.Flatten(), nn.Linear(64, 4))
    network = nn.Sequential(*copy.deepcopy(parts))
    adapter = piggyback.attach(network, method=piggyback.METHODS["series"], head="3")
    adapter.add_task("task", head=nn.Linear(64, 4))
    adapter.save(tmp_path / "task", task="task")
    expected = 1 + 16 / (2 * 144)
    assert ratio_of_task(adapter, "task", count=1) == expected
    assert ratio_of_payload(piggyback.read_payload(tmp_path / "task"), count=1) == expected
    masks = piggyback.attach(nn.Sequential(*parts), method=piggyback.Binary(), head="3", exclude="0")
    masks.add_task("task", head=nn.Linear(64, 4))
    masks.save(tmp_path / "half", task="task")
    assert ratio_of_task(masks, "task", count=1) == 1 + 1 / 64  # of the whole backbone
    assert ratio_of_payload(piggyback.read_payload(tmp_path / "half"), count=1) == 1 + 1 / 64
