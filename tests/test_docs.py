"""The pages under docs/ against the code: the walk through a new method is run, and tables are computed again."""

import math
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from page_laws import count_laws

import piggyback
from decathlon.backbone.wrn import wide_resnet
from decathlon.recipes import RECIPES
from piggyback.methods.contract import AddsModules, Method, StoresSome
from piggyback.methods.registry import METHODS, named_method
from piggyback.network.anatomy import dissect
from piggyback.shell.errors import UnknownName

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
NEW = "adding-a-method.md"
PAGES = ("methods.md", NEW, "adding-a-benchmark.md", "payload-format.md", "decisions.md", "will-it-work.md")
TASKS = 9


def read(page: str) -> str:
    return (DOCS / page).read_text()


def blocks(language: str) -> list[str]:
    """Those of the page about new methods."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", read(NEW), flags=re.M | re.S)
    return [body for kind, body in found if kind == language]


def table(page: str, *, first: str, second: str) -> list[dict[str, str]]:
    """The rows of the table whose first two columns are called so, by the names of all columns."""
    lines = read(page).splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(f"| {first} | {second} |"))
    end = next(number for number in range(start, len(lines)) if not lines[number].startswith("|"))
    header, _, *rows = ([cell.strip() for cell in line.strip("|").split(" |")] for line in lines[start:end])
    return [dict(zip(header, row, strict=True)) for row in rows]


def test_links_lead_somewhere() -> None:
    found = 0
    for page in PAGES:
        slugs = {
            re.sub(r"[^\w -]", "", title).lower().replace(" ", "-")
            for title in re.findall("^#+ (.*)$", read(page), re.M)
        }
        for target in re.findall(r"\]\(([^)]+)\)", read(page)):
            place, _, anchor = target.partition("#")
            if "://" in target:
                continue
            found += 1
            assert (DOCS / place).exists()
            assert place or anchor in slugs
    assert found >= 3


# -- methods.md -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shapes() -> list[tuple[int, ...]]:
    """Of the weights of the Decathlon's WRN-28-4."""
    network = wide_resnet(classes=1, seed=0)
    found = [tuple(network.get_parameter(name).shape) for name in dissect(network, head="fc").weights]
    assert sum(map(math.prod, found)) == 5_839_280
    return found


def test_the_table_of_methods_is_what_they_declare_and_cost(shapes: list[tuple[int, ...]]) -> None:
    rows = table("methods.md", first="method", second="effective weight, or module")
    assert [row["method"] for row in rows] == [f"`{name}`" for name in METHODS]
    for row, method in zip(rows, METHODS.values(), strict=True):
        assert (row["stands on"], row["merge"]) == (method.stands_on, method.merge)
        assert all(row.values())
        ends = []
        depends = method.bits((2, 2, 3, 3), masked=1) != method.bits((2, 2, 3, 3))
        for share in (0, 1) if depends else (0,):
            off = [share * math.prod(shape[:2]) for shape in shapes]
            bits = sum(method.bits(shape, tasks=TASKS, masked=m) for shape, m in zip(shapes, off, strict=True))
            ratio = piggyback.parameter_ratio([method] * TASKS, shapes=shapes, masked=off)
            ends.append((f"{bits / TASKS / 5_839_280:.3f}", f"{ratio:.3f}"))
        assert row["b"] == " to ".join(bits for bits, _ in ends)
        assert row["ratio"] == " to ".join(ratio for _, ratio in ends)


@pytest.mark.parametrize(("share", "ratio"), [("a tenth", 0.1), ("half", 0.5)])
def test_ratios_of_ksm_in_the_text(shapes: list[tuple[int, ...]], share: str, ratio: float) -> None:
    off = [round(ratio * math.prod(shape[:2])) for shape in shapes]
    expected = piggyback.parameter_ratio([METHODS["ksm"]] * TASKS, shapes=shapes, masked=off)
    assert re.search(rf"with {share} of (the kernels|them)( masked the ratio is)? {expected:.3f}", read("methods.md"))


def test_every_method_has_its_section_and_every_recipe_there_is_one() -> None:
    titles = re.findall(r"^### (.*)$", read("methods.md"), flags=re.M)
    named = [name for title in titles for name in re.findall(r"`([^`]+)`", title.partition(":")[0])]
    assert sorted(named) == sorted(METHODS)
    recipes = {name for title in titles for name in re.findall(r"recipe `([^`]+)`", title)}
    assert recipes == RECIPES.keys() - {"mini", "methods", "smoke"}


# -- payload-format.md ----------------------------------------------------------------------------------


def test_the_parts_of_each_method_are_those_that_it_stores() -> None:
    rows = table("payload-format.md", first="method", second="of each weight")
    described = {name: row for row in rows for name in re.findall(r"`([^`]+)`", row["method"])}
    assert described.keys() == METHODS.keys()
    for name, method in METHODS.items():
        stored, kept = stored_parts(method)
        found = {part for part in re.findall(r"`((?:mask|value)/\w+)`", described[name]["of each weight"])}
        assert found == ({*stored} if name != "packnet" else {*stored} - {"mask/owner2", "mask/owner3"})
        modules = {part for part in re.findall(r"`(\w+\.\w+)`", described[name]["of each weight"])}
        assert modules == module_parts(method)
        settings = set(re.findall(r"`(\w+)`", read("payload-format.md").partition("**Settings**")[2].split("\n\n")[0]))
        assert {*piggyback.payload.method_settings(method)} <= settings
        assert isinstance(method, StoresSome) == bool(kept)


def stored_parts(method: Method) -> tuple[set[str], set[str]]:
    """What is stored of a weight, and of which parts only some values."""
    if method.adapts != "weights":
        return set(), set()
    kept = method.keep(method.start(torch.ones(2, 2, 3, 3)))
    some = set(method.stored(kept)) if isinstance(method, StoresSome) else set()
    return {f"{'mask' if tensor.dtype == torch.bool else 'value'}/{key}" for key, tensor in kept.items()}, some


def module_parts(method: Method) -> set[str]:
    if not isinstance(method, AddsModules):
        return set()
    module = method.module(torch.nn.Conv2d(2, 2, 3))
    assert module is not None
    return set(module.state_dict())


# -- adding-a-method.md ---------------------------------------------------------------------------------


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """The page's package as an installer leaves it: the module, and metadata with its entry points."""
    module, _, laws = blocks("python")
    (project,) = blocks("toml")
    described = tomllib.loads(project)["project"]
    (tmp_path / "sign_delta.py").write_text(module)
    (tmp_path / "laws.py").write_text(laws)
    info = tmp_path / f"{described['name'].replace('-', '_')}-{described['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Name: {described['name']}\nVersion: {described['version']}\n")
    lines = []
    for group, entries in described["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {place}" for name, place in entries.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    return tmp_path


@pytest.fixture
def installed(package: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The package where this process finds it."""
    with pytest.raises(UnknownName):
        named_method("sign-delta")
    monkeypatch.syspath_prepend(str(package))
    yield package
    sys.modules.pop("sign_delta", None)


def test_the_walk_through_leads_to_a_payload(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(installed)
    generator = torch.Generator().manual_seed(0)
    pictures = [torch.randn(4, 3, 32, 32, generator=generator) for _ in range(3)]
    batches = [(each, torch.randint(0, 37, (4,), generator=generator)) for each in pictures[:2]]
    names: dict[str, Any] = {"batches": batches}
    exec(compile(blocks("python")[1], NEW, "exec"), names)
    adapter, network = names["adapter"], names["network"].eval()

    kept = {name: adapter.task("pets").kept_of(name) for name in adapter.anatomy.weights}
    assert sum(int(parts["positive"].sum()) for parts in kept.values()) not in (0, 11_166_912)  # some went either way
    assert all(parts["scale"] != 0 for parts in kept.values())
    for name, parts in kept.items():
        signs = torch.where(parts["positive"], 1.0, -1.0)
        assert torch.equal(network.get_parameter(name), adapter.frozen[name] + parts["scale"] * signs)

    plain = torchvision.models.resnet18()
    plain.load_state_dict(adapter.base_state_dict())
    other = piggyback.attach(plain, method=METHODS["feature"], head="fc")
    assert other.load("pets.safetensors") == "pets"
    other.eval()
    with torch.no_grad():
        assert torch.equal(plain(pictures[2]), network(pictures[2]))
    assert other.task("pets").method == named_method("sign-delta")
    payload = piggyback.read_payload(Path("pets.safetensors"))
    assert payload.bytes_by_kind["mask"] <= sum(-(-math.prod(shape) // 8) for shape in payload.shapes.values())
    assert payload.bytes_by_kind["value"] == 4 * len(payload.shapes)


def test_its_gradients_are_those_of_its_equation(installed: Path) -> None:
    """Of W + s sign(d) for s, by autograd, and of W + d for d."""
    method = named_method("sign-delta")
    generator = torch.Generator().manual_seed(0)
    weight, gradient, delta = torch.randn(3, 4, 2, 3, 3, generator=generator, dtype=torch.float64)
    scale = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    trained = {"delta": delta, "scale": scale}
    (gradient * method.apply(weight, {"positive": delta >= 0, "scale": scale})).sum().backward()
    pulled = method.pull_back(gradient, weight, trained)
    assert pulled["scale"].item() == pytest.approx(scale.grad.item(), rel=1e-12)
    assert torch.equal(pulled["delta"], gradient)


def test_the_laws_hold_for_it_as_the_page_says(package: Path) -> None:
    (command,) = blocks("")
    assert count_laws(command, package=package) >= 10


def test_the_page_is_as_short_as_it_says() -> None:
    module = blocks("python")[0]
    lines = [line for line in module[module.index("@dataclass") :].splitlines() if line.strip()]
    assert len(lines) <= 40
    use = [line for line in blocks("python")[1].splitlines() if line.strip()]
    assert len(use) <= 12
