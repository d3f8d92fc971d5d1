"""Methods of other packages: found by entry point in a process that has them installed, and in no other."""

import subprocess
import sys
from pathlib import Path

import pytest

from piggyback.methods.registry import METHODS, named_method
from piggyback.methods.table import GROUP
from piggyback.shell.errors import BadInput, UnknownName

NAME = "dan-diagonal"
DIAGONAL = '''"""One factor for each filter: the "diagonal" controller of deep adaptation networks."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Diagonal:
    """Effective weight (1 + d) W, with a number d for each output filter, times `gain`; d starts at zero."""

    gain: float = 1.0
    name: Literal["dan-diagonal"] = "dan-diagonal"
    adapts: Literal["weights"] = "weights"
    stands_on: Literal["backbone"] = "backbone"
    merge: Literal["exact"] = "exact"

    def start(self, weight: Tensor) -> dict[str, Tensor]:
        return {"factor": weight.new_zeros(len(weight), *(1 for _ in weight.shape[1:]))}

    def keep(self, trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"factor": trained["factor"].clone()}

    def apply(self, weight: Tensor, kept: Mapping[str, Tensor]) -> Tensor:
        return weight + self.gain * kept["factor"] * weight

    def pull_back(self, gradient: Tensor, weight: Tensor, trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
        product = self.gain * gradient * weight
        return {"factor": product.sum(dim=tuple(range(1, product.ndim)), keepdim=True)}

    def bits(self, shape: tuple[int, ...], *, tasks: int = 1, masked: int = 0) -> int:
        return 32 * tasks * shape[0]
'''
NETWORK = """
import sys
import torch
from torch import nn
import piggyback
from piggyback.methods.registry import named_method
from piggyback.suite.verbs.payload_show import run_show
from piggyback.suite.verbs.core_options import ShowOptions
from pathlib import Path

torch.manual_seed(0)
network = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten(), nn.Linear(3, 4), nn.Linear(4, 2))
inputs = torch.ones(2, 2, 3, 3)
path = Path(sys.argv[1])
"""
TRAIN = (
    NETWORK
    + """
adapter = piggyback.attach(network, method=named_method("dan-diagonal"), head="3")
before = network(inputs)
adapter.add_task("task", head=nn.Linear(4, 2))
optimizer = adapter.optimizer(mask_lr=0.1)
for _ in range(3):
    optimizer.zero_grad()
    network(inputs).pow(2).sum().backward()
    optimizer.step()
ratio = network[0].weight / adapter.frozen["0.weight"]
assert (ratio[:, :1, :1, :1] - ratio).abs().max() < 1e-6
assert (ratio.flatten(1)[:, 0] - 1).abs().min() > 0.05
adapter.save(path, task="task")
torch.save(network(inputs), path.with_suffix(".logits"))
"""
)
LOAD = (
    NETWORK
    + """
adapter = piggyback.attach(network, method=piggyback.Feature(), head="3")
adapter.load(path)
assert torch.equal(network(inputs), torch.load(path.with_suffix(".logits")))
assert adapter.task("task").method == named_method("dan-diagonal")
payload = piggyback.read_payload(path)
assert payload.bytes_by_kind["value"] == 4 * (3 + 4)
assert payload.shapes == {"0.weight": (3, 2, 3, 3), "2.weight": (4, 3)}
assert piggyback.parameter_ratio([payload.method], shapes=list(payload.shapes.values())) == 1 + (3 + 4) / (54 + 12)
assert run_show(ShowOptions(file=path)) == 0
"""
)


def install(folder: Path, *, module: str = DIAGONAL, value: str = "diagonal:Diagonal") -> Path:
    """A distribution as an installer leaves it: a module, and metadata with an entry point."""
    info = folder / "dan_diagonal-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / "diagonal.py").write_text(module)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: dan-diagonal\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{GROUP}]\n{NAME} = {value}\n")
    return folder


def run(code: str, *words: object, place: Path | None) -> subprocess.CompletedProcess[str]:
    """A process that finds what is installed in `place`."""
    prefix = f"import sys; sys.path.append({str(place)!r})\n" if place is not None else ""
    command = [sys.executable, "-c", prefix + code, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package, ``site``, and a task by its method."""
    folder = tmp_path_factory.mktemp("trained")
    done = run(TRAIN, folder / "task.safetensors", place=install(folder / "site"))
    assert done.returncode == 0, done.stderr
    return folder


def test_a_method_of_another_package_trains_saves_and_loads(trained: Path) -> None:
    done = run(LOAD, trained / "task.safetensors", place=trained / "site")
    assert done.returncode == 0, done.stderr
    assert "dan-diagonal, gain 1" in done.stdout
    assert "parameter ratio 1.95455" in done.stdout  # 1 + 9 (3 + 4) / (54 + 12)


def test_its_payload_says_what_is_missing_where_it_is_not_installed(trained: Path) -> None:
    done = run(LOAD, trained / "task.safetensors", place=None)
    assert "UnknownName: no method is called 'dan-diagonal'. Known: affine, dan," in done.stderr


def test_a_name_that_nobody_offers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(install(tmp_path / "site")))
    with pytest.raises(UnknownName, match=r"no method is called 'dan-diagnoal'\. Did you mean 'dan-diagonal'"):
        named_method("dan-diagnoal")


def change(*pairs: tuple[str, str]) -> str:
    """The module with other words in it."""
    module = DIAGONAL
    for old, new in pairs:
        assert old in module
        module = module.replace(old, new)
    return module


NO_CONTRACT = r"diagonal:Diagonal is no method called 'dan-diagonal': see docs/adding-a-method\.md"
NOT_LOADED = r"method 'dan-diagonal' of diagonal:\w+ cannot be loaded: "


@pytest.mark.parametrize(
    ("module", "value", "words"),
    [
        ("raise RuntimeError('no licence')", "diagonal:Diagonal", NOT_LOADED + "no licence"),
        ("def Diagonal(", "diagonal:Diagonal", NOT_LOADED),
        (DIAGONAL, "diagonal:Other", NOT_LOADED + "module 'diagonal' has no attribute 'Other'"),
        (change(("gain: float = 1.0", "gain: float")), "diagonal:Diagonal", NOT_LOADED + r".*'gain'"),
        (DIAGONAL.replace("dan-diagonal", "diagonal"), "diagonal:Diagonal", NO_CONTRACT),
        (change(("    def bits", "    def size")), "diagonal:Diagonal", NO_CONTRACT),
        ("class Diagonal:\n    name = 'dan-diagonal'", "diagonal:Diagonal", NO_CONTRACT),
        ("Diagonal = dict", "diagonal:Diagonal", NO_CONTRACT),
        (change(("@dataclass(frozen=True, kw_only=True)\n", "")), "diagonal:Diagonal", NO_CONTRACT),
        (change(("frozen=True, ", "")), "diagonal:Diagonal", NO_CONTRACT),
        (change(('"weights"', '"wieghts"')), "diagonal:Diagonal", NO_CONTRACT),
        (change(('"weights"', '"modules"')), "diagonal:Diagonal", NO_CONTRACT),
        (change(('"backbone"', '"ground"')), "diagonal:Diagonal", NO_CONTRACT),
        (change(('"exact"', '"nearly"')), "diagonal:Diagonal", NO_CONTRACT),
    ],
)
def test_a_broken_offer_is_refused(
    module: str, value: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(install(tmp_path / "site", module=module, value=value)))
    monkeypatch.delitem(sys.modules, "diagonal", raising=False)
    with pytest.raises(BadInput, match=words):
        named_method(NAME)
    sys.modules.pop("diagonal", None)


def test_our_own_names_are_not_to_be_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = install(tmp_path / "site")
    points = next(place.glob("*.dist-info")) / "entry_points.txt"
    points.write_text(points.read_text().replace(NAME, "piggyback"))
    monkeypatch.syspath_prepend(str(place))
    assert named_method("piggyback") is METHODS["piggyback"]
