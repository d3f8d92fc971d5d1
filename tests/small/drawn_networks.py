"""Networks that hypothesis draws: small, and as odd as networks of users are.

A `Plan` says what a network is made of; the same plan and seed build the same network again.  Every part gives an
output of the shape of its input, so that any parts follow one another, stand inside each other, and come twice.
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Final

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from piggyback import Method

WIDE: Final = 4  # channels throughout; also the classes of the backbone's own head, so that its weight can be tied
SHAPES: Final = {  # of one input
    "vectors": (WIDE,),
    "sequences": (WIDE, 5),
    "pictures": (WIDE, 4, 4),
    "volumes": (WIDE, 3, 3, 3),
    "tokens": (3, WIDE),
}
NAMES: Final = (
    *("a", "b", "c", "0", "weight", "bias", "added", "head", "module", "mask", "norm", "running_mean"),
    *("größe", "权重", "a b", "a/b", "parametrizations", "original", "num_batches_tracked", "%s", "\\", "line\nline"),
)


class Short:
    """A dataclass that shows only what differs from its defaults, so that a failing sequence can be read."""

    def __repr__(self) -> str:
        shown = [(f.name, getattr(self, f.name)) for f in fields(self) if getattr(self, f.name) != f.default]
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in shown)})"


@dataclass(frozen=True, repr=False)
class Part(Short):
    """One part of a network.

    Attributes:
        kind: of `PARTS` for the ground, or ``block``, or what is done with an earlier part (`AGAIN`).
        name: among its neighbours; taken ones get a number.
        of: the number of that earlier part.
        inner: the parts of a block.
        frozen: whether the user froze it.
    """

    kind: str
    name: str
    of: int = 0
    inner: tuple["Part", ...] = ()
    frozen: bool = False


@dataclass(frozen=True, repr=False)
class Plan(Short):
    """What a network is made of.

    Attributes:
        ground: of `SHAPES`.
        parts: in the order in which they are called.
        head: how the head's slot lies in the network, of `HEADS`.
        pruned: whether half of each weight is zero, as PackNet wants it.
    """

    ground: str
    parts: tuple[Part, ...]
    head: str = "last"
    pruned: bool = False


HEADS: Final = (
    "last",
    "first",
    "nested",
    "two names",
    "two names, the other given",
    "tied to a weight",
    "none",
    "bare",
    "two",
)
AGAIN: Final = ("again", "alias", "tied", "same memory")


# -- parts that torch has not ---------------------------------------------------------------------------


class Chain(nn.Module):
    """Parts one after the other, with a way around them all; some may be registered and never called."""

    def __init__(self) -> None:
        super().__init__()
        self._calls: list[str] = []

    def add(self, name: str, module: nn.Module, *, called: bool = True) -> None:
        while hasattr(self, name):
            name += "1"
        self.add_module(name, module)
        if called:
            self._calls.append(name)

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for name in self._calls:
            y = self._modules[name](y)
        return x + y


class Network(nn.Module):
    """The parts, a mean over all places, and a head."""

    def __init__(self, ground: str) -> None:
        super().__init__()
        self._ground = ground
        self._slots: tuple[str, ...] = ()

    def forward(self, x: Tensor) -> Tensor:
        y = self.get_submodule("trunk")(x)
        if self._ground == "tokens":
            y = y.mean(1)
        elif self._ground != "vectors":
            y = y.flatten(2).mean(2)
        return sum((self.get_submodule(slot)(y) for slot in self._slots), 0 * y) if self._slots else y


class Bare(nn.Module):
    """Bare parameters and constant buffers of several types and sizes, under names that layers use."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(()) + 1)
        self.in_proj_weight = nn.Parameter(torch.randn(WIDE, WIDE))
        self.codes = nn.Parameter(torch.tensor([0, 1, 2], dtype=torch.int8), requires_grad=False)
        self.register_buffer("bias", torch.randn(()))
        self.register_buffer("switches", torch.tensor([True, False]))
        self.register_buffer("nothing", torch.empty(0, 3))
        self.register_buffer("unsaved", torch.tensor(0.5), persistent=False)
        self.register_buffer("absent", None)
        self.register_parameter("missing", None)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight + self.bias * self.unsaved + self.in_proj_weight.mean()


class Expanded(nn.Module):
    """A buffer whose values share one place in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.randn(1).expand(WIDE))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale.sum()


class Average(nn.Module):
    """A moving average of what it sees in training, which it takes away: a buffer that no norm layer has."""

    def __init__(self, *, persistent: bool) -> None:
        super().__init__()
        self.register_buffer("average", torch.zeros(()), persistent=persistent)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            with torch.no_grad():
                self.average.lerp_(x.mean().to(self.average.dtype), 0.1)
        return x - self.average


class OwnNorm(nn.Module):
    """A user's batch norm, no subclass of torch's."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(WIDE) + 0.5)
        self.register_buffer("running_mean", torch.randn(WIDE) / 5)
        self.register_buffer("running_var", torch.rand(WIDE) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.scale, None, self.training)


class Places(nn.Module):
    """An embedding of the place of each token, added to it."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(SHAPES["tokens"][0], WIDE, padding_idx=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.embedding(torch.arange(x.shape[1], device=x.device))


class Attention(nn.Module):
    """Attention of tokens to one another, with one weight for all three projections or three."""

    def __init__(self, *, together: bool) -> None:
        super().__init__()
        sizes = {} if together else {"kdim": WIDE, "vdim": WIDE}
        self.attention = nn.MultiheadAttention(WIDE, 2, batch_first=True, **sizes)
        if not together:  # torch joins them where the sizes are those of the queries
            self.attention = nn.MultiheadAttention(WIDE, 2, batch_first=True, kdim=WIDE - 1, vdim=WIDE - 2)

    def forward(self, x: Tensor) -> Tensor:
        few = self.attention
        return few(x, x[..., : few.kdim], x[..., : few.vdim], need_weights=False)[0]


class Recurrent(nn.Module):
    """A layer with weights under other names."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.GRU(WIDE, WIDE, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)[0]


class WithChild(nn.Conv2d):
    """A convolution with a child that is called as ours are."""

    def __init__(self) -> None:
        super().__init__(WIDE, WIDE, 3, padding=1)
        self.added = nn.Conv2d(WIDE, WIDE, 1)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.added(x)


def strided_linear() -> nn.Module:
    """A weight with gaps between its values."""
    layer = nn.Linear(WIDE, WIDE)
    layer.weight = nn.Parameter(torch.randn(WIDE, 2 * WIDE)[:, ::2])
    return layer


def turned_linear() -> nn.Module:
    """A weight stored by columns."""
    layer = nn.Linear(WIDE, WIDE, bias=False)
    layer.weight = nn.Parameter(torch.randn(WIDE, WIDE).t())
    return layer


def old_style(wrap: Callable[[nn.Module], nn.Module], layer: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # deprecated, and in many networks
        return wrap(layer)


def pruned_linear() -> nn.Module:
    layer = nn.Linear(WIDE, WIDE)
    prune.random_unstructured(layer, "weight", amount=0.3)
    return layer


def linear() -> nn.Module:
    return nn.Linear(WIDE, WIDE)


ANYWHERE: Final[Mapping[str, Callable[[], nn.Module]]] = {
    "relu": nn.ReLU,
    "dropout": lambda: nn.Dropout(0.2),
    "bare": Bare,
    "expanded": Expanded,
    "average": lambda: Average(persistent=True),
    "unsaved average": lambda: Average(persistent=False),
}
ROWS: Final[Mapping[str, Callable[[], nn.Module]]] = {  # where channels come last
    "linear": linear,
    "linear without bias": lambda: nn.Linear(WIDE, WIDE, bias=False),
    "strided linear": strided_linear,
    "turned linear": turned_linear,
    "layer norm": lambda: nn.LayerNorm(WIDE),
    "layer norm without weights": lambda: nn.LayerNorm(WIDE, elementwise_affine=False),
    "rms norm": lambda: nn.RMSNorm(WIDE),
    "weight norm": lambda: parametrizations.weight_norm(linear()),
    "spectral norm": lambda: parametrizations.spectral_norm(linear()),
    "old weight norm": lambda: old_style(nn.utils.weight_norm, linear()),
    "old spectral norm": lambda: old_style(nn.utils.spectral_norm, linear()),
    "pruned": pruned_linear,
}


def planes(number: int) -> Mapping[str, Callable[[], nn.Module]]:
    """Parts where channels come first, with so many dimensions behind them."""
    convolution = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[number - 1]
    transposed = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[number - 1]
    batch = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[number - 1]
    instance = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)[number - 1]
    return {
        "convolution": lambda: convolution(WIDE, WIDE, 3, padding=1),
        "convolution of one tap": lambda: convolution(WIDE, WIDE, 1, bias=False),
        "grouped": lambda: convolution(WIDE, WIDE, 3, padding=1, groups=2),
        "depthwise": lambda: convolution(WIDE, WIDE, 3, padding=1, groups=WIDE, bias=False),
        "transposed": lambda: transposed(WIDE, WIDE, 3, padding=1),
        "grouped transposed": lambda: transposed(WIDE, WIDE, 3, padding=1, groups=2),
        "batch norm": lambda: batch(WIDE),
        "batch norm without weights": lambda: batch(WIDE, affine=False),
        "batch norm without statistics": lambda: batch(WIDE, track_running_stats=False),
        "cumulative batch norm": lambda: batch(WIDE, momentum=None),
        "instance norm": lambda: instance(WIDE, affine=True, track_running_stats=True),
        "group norm": lambda: nn.GroupNorm(2, WIDE),
        "own norm": OwnNorm,
        "weight norm": lambda: parametrizations.weight_norm(convolution(WIDE, WIDE, 1)),
    }


PARTS: Final[Mapping[str, Mapping[str, Callable[[], nn.Module]]]] = {
    "vectors": {**ROWS, **ANYWHERE, "batch norm": lambda: nn.BatchNorm1d(WIDE), "own norm": OwnNorm},
    "sequences": {**planes(1), **ANYWHERE},
    "pictures": {**planes(2), **ANYWHERE, "with a child": WithChild},
    "volumes": {**planes(3), **ANYWHERE},
    "tokens": {
        **ROWS,
        **ANYWHERE,
        "attention": lambda: Attention(together=True),
        "attention of three": lambda: Attention(together=False),
        "places": Places,
        "recurrent": Recurrent,
    },
}


# -- building -------------------------------------------------------------------------------------------


def build(plan: Plan, *, seed: int = 0) -> nn.Module:
    """The network of a plan, in training mode, in float32."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made: list[nn.Module] = []
        if plan.head == "bare":
            network: nn.Module = make_part(plan.parts[0], plan.ground, made)
        else:
            network = Network(plan.ground)
            trunk = Chain()
            if plan.head == "first":
                network._slots = ("fc",)
                network.add_module("fc", nn.Linear(WIDE, WIDE))
            network.add_module("trunk", trunk)
            add_parts(trunk, plan.parts, plan.ground, made)
            add_head(network, plan.head, made)
        settle(network, pruned=plan.pruned)
    return network


def heads_of(plan: Plan) -> tuple[str, ...]:
    """The names of the slots that `attach` is given."""
    if plan.head in ("none", "bare"):
        return ()
    slots = {"nested": ("top.fc",), "two names": ("top.fc",), "two": ("fc", "top.fc")}
    return slots.get(plan.head, ("fc",))


def add_head(network: Network, where: str, made: list[nn.Module]) -> None:
    """One head, under one or two names, or two of them; the network calls it by the name above where it has one."""
    above = where == "nested" or where.startswith("two")
    network._slots = () if where == "none" else ("fc", "top.fc") if where == "two" else ("top.fc" if above else "fc",)
    if where in ("none", "first"):
        return
    head = nn.Linear(WIDE, WIDE)
    if above:
        network.add_module("top", nn.Module())
        network.get_submodule("top").add_module("fc", nn.Linear(WIDE, WIDE) if where == "two" else head)
    if where != "nested":
        network.add_module("fc", head)
    if where == "tied to a weight":
        for module in made:
            if isinstance(module, nn.Linear) and "weight" in module._parameters:
                module.weight = head.weight
                break


def add_parts(chain: Chain, parts: tuple[Part, ...], ground: str, made: list[nn.Module]) -> None:
    for part in parts:
        chain.add(part.name, make_part(part, ground, made), called=part.kind != "alias")


def make_part(part: Part, ground: str, made: list[nn.Module]) -> nn.Module:
    """The module of a part; one that is about an earlier part is a plain one where there is none."""
    if part.kind == "block":
        block = Chain()
        add_parts(block, part.inner, ground, made)
        return block
    earlier = made[part.of % len(made)] if made else nn.Identity()
    if part.kind in ("again", "alias"):
        return earlier
    first = next(iter(PARTS[ground]))
    module = PARTS[ground][first if part.kind in AGAIN else part.kind]()
    weight = earlier._parameters.get("weight")
    if part.kind in ("tied", "same memory") and weight is not None and weight.shape == module.weight.shape:
        if part.kind == "tied":
            module.weight = weight
        else:
            module.weight.data = weight.data
    if part.frozen:
        module.requires_grad_(False)
    made.append(module)
    return module


@torch.no_grad()
def settle(network: nn.Module, *, pruned: bool) -> None:
    """Statistics of the backbone's own in norm layers; zeros in weights where they are wanted."""
    for module in network.modules():
        for name, tensor in module._buffers.items():
            if name == "running_mean" and tensor is not None:
                tensor.normal_(0, 0.2)
            if name == "running_var" and tensor is not None:
                tensor.uniform_(0.5, 1.5)
        weight = module._parameters.get("weight")
        if pruned and weight is not None and weight.ndim > 1:
            weight[weight.abs() <= weight.abs().flatten().median()] = 0.0


# -- drawing --------------------------------------------------------------------------------------------


def parts_of(ground: str) -> st.SearchStrategy[Part]:
    kinds = st.sampled_from([*PARTS[ground], *AGAIN])
    leaf = st.builds(
        Part,
        kind=kinds,
        name=st.sampled_from(NAMES),
        of=st.integers(0, 3),
        frozen=st.sampled_from([False] * 7 + [True]),
    )
    inner = st.lists(leaf, min_size=1, max_size=3).map(tuple)
    block = st.builds(Part, kind=st.just("block"), name=st.sampled_from(NAMES), inner=inner)
    return leaf | leaf | block


def plans_on(ground: str, *, pruned: bool) -> st.SearchStrategy[Plan]:
    parts = st.lists(parts_of(ground), min_size=1, max_size=4)
    first = st.builds(Part, kind=st.just(next(iter(PARTS[ground]))), name=st.sampled_from(NAMES))
    return st.builds(
        Plan,
        ground=st.just(ground),
        parts=st.builds(lambda one, more: (one, *more), first, parts),
        head=st.sampled_from(["last"] * 4 + list(HEADS)),
        pruned=st.just(True) if pruned else st.sampled_from([False] * 5 + [True]),
    )


def plans(method: Method) -> st.SearchStrategy[Plan]:
    """Any plan; one that gives the method something to do comes more often."""
    grounds = sorted(SHAPES) + ["pictures"] * (9 if method.adapts == "modules" else 0)
    return st.sampled_from(grounds).flatmap(lambda ground: plans_on(ground, pruned=method.stands_on == "pruned"))


def inputs(plan: Plan, *, seed: int, size: int = 4, dtype: torch.dtype = torch.float32) -> Tensor:
    """A batch of noise."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, *SHAPES[plan.ground], generator=generator).to(dtype)
