import ast
import inspect
import itertools
import json
import math
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from piggyback.shell import cli
from piggyback.shell.errors import BadInput, UnknownName
from piggyback.suite import bench
from piggyback.suite.bench import Job, key_of, root_of
from piggyback.suite.options import RunOptions, TrainOptions
from piggyback.suite.recipe import read_recipe, run_id, settings_of
from piggyback.suite.verbs.commands import make_commands
from segmentation.bench import Bench
from segmentation.benchmark import BENCHMARK, TASK
from segmentation.options import SizesOptions
from segmentation.recipes import DESCRIPTIONS, RECIPES, FCNRecipe

COMMANDS = make_commands(BENCHMARK)
VERBS = {command.name.removeprefix("segmentation "): command for command in COMMANDS}
PRINTS = {"train": "t" * 64, "evaluate": "e" * 64, "backbone": "b" * 64}


@pytest.fixture
def drawn_digests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Backbone files are called by their digest."""
    monkeypatch.setattr(bench, "backbone_digest", str)


def bench_of(recipe: FCNRecipe | None = None, *, method: str = "piggyback", **prints: str) -> Bench:
    """As if opened, with these fingerprints."""
    given = {**PRINTS, **prints}
    job = Job(
        benchmark="segmentation",
        task=TASK,
        method=method,
        recipe=recipe or FCNRecipe(),
        data=Path("data"),
        backbone=Path(given["backbone"]),
        out=Path("out"),
        device=torch.device("cpu"),
    )
    train, evaluation = (cast(Any, SimpleNamespace(fingerprint=given[name])) for name in ("train", "evaluate"))
    return Bench(job=job, opened=cast(Any, None), train=train, evaluation=evaluation)


def test_the_papers_recipe() -> None:
    """Section 6: 15 epochs, SBD's train and seg11valid; section 3 and the code: Adam 1e-4, 5e-3 and 1e-2; FCN's
    repository: one picture as it is, padded by 100, no mirroring, a constant learning rate, dropout of a half."""
    paper = RECIPES["paper"]
    assert (paper.epochs, paper.train, paper.evaluate) == (15, "sbd_train", "seg11valid")
    assert (paper.lr, paper.head_rule, paper.threshold, paper.init) == (1e-4, "adam", 5e-3, 1e-2)
    assert (paper.weight_lr_factor, paper.head_lr_factor) == (1, 1)
    assert (paper.batch_size, paper.size, paper.margin, paper.flip) == (1, 0, "fcn", False)
    assert (paper.decay_after, paper.dropout, paper.deconvolution, paper.new_hidden) == (1, 0.5, "learned", 4096)
    assert paper.lr_grid == ()
    assert paper == FCNRecipe()


def test_every_recipe_is_described() -> None:
    assert RECIPES.keys() == DESCRIPTIONS.keys() == {"paper", "mini", "smoke"}


def test_the_mini_recipe_chooses_its_rate_on_held_out_pictures() -> None:
    mini = RECIPES["mini"]
    assert len(mini.lr_grid) > 1
    assert mini.lr in mini.lr_grid
    assert mini.held_out == 20


@pytest.mark.parametrize(
    "changes",
    [
        *({name: 0} for name in ("epochs", "batch_size", "accumulate", "lr", "new_hidden")),
        *({name: 0} for name in ("head_lr_factor", "weight_lr_factor", "decay_factor", "decay_after", "trial_share")),
        *({name: -1} for name in ("weight_decay", "held_out", "size", "seed", "dropout")),
        *({name: math.nan} for name in ("lr", "init", "threshold", "weight_decay", "dropout", "decay_after")),
        *({name: math.inf} for name in ("lr", "init", "weight_decay")),
        {"threshold": -math.inf},
        {"seed": 1 << 63},
        *({name: 1 << 63} for name in ("epochs", "batch_size", "accumulate")),  # itertools would take no such number
        *({name: 1e300} for name in ("lr", "head_lr_factor", "weight_lr_factor", "init")),  # nor torch, for float32
        {"lr_grid": (1e300,), "held_out": 1},
        {"size": 8193},
        {"new_hidden": 65_537},
        {"decay_after": 1.1},
        {"trial_share": 2},
        {"dropout": 1},
        {"init": 5e-3},
        {"lr_grid": (1e-3, 0.0), "held_out": 1},
        {"lr_grid": (math.nan,), "held_out": 1},
        {"lr_grid": (1e-3,)},
        {"train": "voc2012_test"},
        {"evaluate": "voc2012_test"},
    ],
    ids=str,
)
def test_a_recipe_that_cannot_be_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(BadInput) as told:
        replace(FCNRecipe(), **changes)  # type: ignore[arg-type]
    assert "\n" not in str(told.value)


def test_an_unknown_split_gets_the_nearest_one() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'sbd_train'"):
        FCNRecipe(train="sbd_trian")


def test_every_setting_has_a_docstring() -> None:
    for kind in FCNRecipe.__mro__[:-1]:
        body = ast.parse(inspect.getsource(kind)).body[0].body  # type: ignore[attr-defined]
        for field, after in itertools.pairwise(body):
            if isinstance(field, ast.AnnAssign) and "ClassVar" not in ast.unparse(field):
                assert isinstance(after, ast.Expr), ast.unparse(field)


@pytest.mark.usefixtures("drawn_digests")
def test_the_same_key_has_the_same_id_for_ever() -> None:
    """When this fails, a setting was added or renamed: finished runs are then not found again.  Was that meant?"""
    opened = bench_of()
    assert run_id(key_of(opened)) == "c1a32e3ebc"
    assert root_of(opened) == Path("out/runs/seg11valid-piggyback-seed0-c1a32e3ebc")


OTHERS: dict[type, object] = {bool: True, int: 7, float: 0.75, str: "x", tuple: ((0.5,))}


@pytest.mark.usefixtures("drawn_digests")
def test_whatever_differs_gives_another_id() -> None:
    choices = {
        "head_rule": "sgd",
        "loss": "sum",
        "trained_on": "train+val",
        "deconvolution": "fixed",
        "margin": "same",
        "train": "sbd_val",
        "evaluate": "voc2012_val",
        "precision": "fp32",
        "update": "eager",
        "lr_grid": (1e-4,),
        "threshold": 1e-3,
        "schedule": "cosine",
        "decay_again": 1.0,
        "rule": "sgd",
        "norm_lr": 0.5,
        "norm": "trained",
        "selected_on": "val",
    }
    given = asdict(FCNRecipe(held_out=1))
    changed = {name: choices[name] if name in choices else OTHERS[type(value)] for name, value in given.items()}
    assert all(changed[name] != given[name] for name in given)
    assert changed.keys() == {entry.name for entry in fields(FCNRecipe)}
    recipes = [FCNRecipe(**{**given, name: value}) for name, value in changed.items()]
    benches = [bench_of(recipe) for recipe in (None, FCNRecipe(held_out=1), *recipes)]
    benches += [bench_of(**{name: "x"}) for name in PRINTS] + [bench_of(method="feature")]
    assert len({run_id(key_of(opened)) for opened in benches}) == len(benches)
    assert len({root_of(opened) for opened in benches}) == len(benches)


def test_settings_that_came_later_stay_out_of_files_until_they_are_used() -> None:
    assert not settings_of(FCNRecipe()).keys() & set(FCNRecipe.LATER)
    assert settings_of(FCNRecipe(rule="sgd")).keys() & set(FCNRecipe.LATER) == {"rule"}


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_a_recipe_comes_back_from_a_result(recipe: FCNRecipe) -> None:
    values = json.loads(json.dumps({**settings_of(recipe), "lr_used": 1e-4, "lr_trials": []}))
    assert read_recipe(values, kind=FCNRecipe, name="result.json") == recipe


def defaults_of(verb: str, arguments: Sequence[str]) -> Any:
    defaults = VERBS[verb].defaults
    assert defaults is not None
    return cli.load(defaults)(arguments)


@pytest.mark.parametrize(
    "arguments", [["--recipe", "mini"], ["--recipe=mini", "--lr", "3"], ["--recipe", "smoke", "--recipe", "mini"]]
)
def test_the_named_recipe_gives_the_defaults(arguments: list[str]) -> None:
    for verb in ("train", "run", "sizes"):
        assert defaults_of(verb, arguments).settings == RECIPES["mini"]
    assert defaults_of("run", ["--epochs", "2"]).settings == RECIPES["paper"]
    with pytest.raises(UnknownName, match="no recipe is called 'minni'"):
        defaults_of("run", ["--recipe", "minni"])


PLACES = ["--data", "d", "--backbone", "b", "--out", "o"]


def test_flags_override_the_named_recipe() -> None:
    options = cli.parse(VERBS["run"], [*PLACES, "--recipe", "mini", "--epochs", "2", "--no-flip", "--seeds", "3,1"])
    assert isinstance(options, RunOptions)
    assert options.settings == replace(RECIPES["mini"], epochs=2, flip=False)
    assert (options.recipe, options.seeds, options.methods) == ("mini", (3, 1), ("piggyback",))
    options = cli.parse(VERBS["train"], [*PLACES, "--recipe", "smoke", "--method", "feature", "--lr", "0.5"])
    assert isinstance(options, TrainOptions)
    assert options.settings == replace(RECIPES["smoke"], lr=0.5)
    options = cli.parse(VERBS["sizes"], ["--recipe", "smoke", "--recipe", "mini"])
    assert isinstance(options, SizesOptions)
    assert (options.recipe, options.settings) == ("mini", RECIPES["mini"])


@pytest.mark.parametrize(
    "arguments",
    [
        [*PLACES, "--seeds", "1,x"],
        [*PLACES, "--margin", "wide"],
        [*PLACES, "--rec", "mini"],
        PLACES[:-2],
    ],
    ids=" ".join,
)
def test_wrong_arguments_are_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.parse(VERBS["run"], arguments)
    assert end.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


def test_every_verb_leads_somewhere() -> None:
    for command in COMMANDS:
        assert command.examples
        assert callable(cli.load(command.target)), command.name
        options = cli.load(command.options) if isinstance(command.options, str) else command.options()
        assert getattr(options, "__origin__", options).__doc__


def test_what_help_needs_is_light() -> None:
    modules = ("benchmark", "options", "release.archives", "release.splits", "voc", "recipes")
    code = f"import sys, {', '.join(f'segmentation.{name}' for name in modules)}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    roots = {name.partition(".")[0] for name in done.stdout.split()}
    assert "segmentation" in roots
    assert not roots & {"PIL", "matplotlib", "numpy", "pydantic", "scipy", "torch", "torchvision", "pycocotools"}
