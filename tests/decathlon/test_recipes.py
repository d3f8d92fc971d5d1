import ast
import inspect
import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from decathlon.batches import epoch_length
from decathlon.bench import Bench
from decathlon.benchmark import BENCHMARK
from decathlon.recipes import DESCRIPTIONS, RECIPES, Recipe
from decathlon.tasks import MASKED_TASKS, TASKS
from piggyback.shell.cli import load
from piggyback.shell.errors import BadInput, UnknownName
from piggyback.suite import bench
from piggyback.suite.bench import Job, key_of, root_of
from piggyback.suite.recipe import find_recipe, recipe_named_in, run_id
from piggyback.suite.verbs.commands import make_commands

JOB = Job(
    benchmark="decathlon",
    task="dtd",
    method="piggyback",
    recipe=Recipe(),
    data=Path("data"),
    backbone=Path("b"),
    out=Path("out"),
    device=torch.device("cpu"),
)


@pytest.fixture
def drawn_digests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Backbone files are called by a letter, and that is their digest."""
    monkeypatch.setattr(bench, "backbone_digest", lambda path: str(path) * 64)


def bench_of(job: Job, *, data: str = "d" * 64) -> Bench:
    """As if opened, with this fingerprint."""
    split = cast(Any, SimpleNamespace(fingerprint=data))
    return Bench(job=job, opened=cast(Any, None), train=split, val=split, test=split)


def test_the_papers_recipe() -> None:
    """Section 6: 60 epochs, decay by 10 after 45, Adam 1e-4; section 3 and the code: 5e-3 and 1e-2."""
    paper = RECIPES["paper"]
    assert (paper.epochs, paper.decay_after * paper.epochs, paper.decay_factor) == (60, 45, 0.1)
    assert (paper.lr, paper.head_rule, paper.threshold, paper.init) == (1e-4, "adam", 5e-3, 1e-2)
    assert paper.lr_grid == ()
    assert paper.size == 64


def test_every_recipe_is_described_and_found() -> None:
    assert RECIPES.keys() == DESCRIPTIONS.keys()
    assert {"paper", "mini", "smoke", "packnet", "ksm", "affine", "adapters", "dan", "baselines"} <= RECIPES.keys()
    assert find_recipe("mini", recipes=RECIPES) is RECIPES["mini"]
    with pytest.raises(UnknownName, match="Did you mean 'smoke'"):
        find_recipe("smok", recipes=RECIPES)


def test_methods_share_one_grid_in_the_mini_recipe() -> None:
    assert len(RECIPES["mini"].lr_grid) == 3
    assert RECIPES["mini"].lr in RECIPES["mini"].lr_grid


def test_flips_only_where_the_mirror_image_has_the_same_label() -> None:
    assert {name for name in MASKED_TASKS if not TASKS[name].mirrored} == {"gtsrb", "omniglot", "svhn"}


def test_views_are_by_task_and_can_be_chosen() -> None:
    assert {name for name in MASKED_TASKS if Recipe().view(name) == "whole"} == {"aircraft", "daimlerpedcls", "gtsrb"}
    assert Recipe(whole=("svhn",)).view("aircraft") == "crop"
    with pytest.raises(UnknownName, match="svnh"):
        Recipe(whole=("svnh",))


@pytest.mark.parametrize(
    ("pictures", "epochs"),
    [(3200, 60), (32, 1000), (33, 500), (1, 1000), (16 * 32, 63), (17 * 32, 60)],
)
def test_small_tasks_get_more_epochs(pictures: int, epochs: int) -> None:
    batches = epoch_length(pictures, batch_size=Recipe().batch_size)
    assert Recipe(min_steps=1000).epochs_for(batches) == epochs
    assert Recipe().epochs_for(batches) == 60


@pytest.mark.parametrize(
    "fields",
    [
        *({name: 0} for name in ("epochs", "batch_size", "lr", "head_lr_factor", "size", "trial_share", "decay_after")),
        *({name: -1} for name in ("seed", "min_steps", "weight_decay", "norm_lr", "decay_factor")),
        *({name: math.nan} for name in ("lr", "init", "weight_decay", "norm_lr", "trial_share")),
        {"lr": math.inf},
        {"seed": 1 << 64},
        {"decay_after": 1.1},
        {"trial_share": 2},
        {"init": 5e-3},
        {"lr_grid": (1e-3, 0.0)},
        {"lr_grid": (math.nan,)},
        {"trained_on": "train+val", "selected_on": "val"},
    ],
    ids=str,
)
def test_a_recipe_that_cannot_be_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(BadInput):
        replace(Recipe(), **fields)  # type: ignore[arg-type]


def test_every_setting_has_a_docstring() -> None:
    for kind in Recipe.__mro__[:-1]:
        body = ast.parse(inspect.getsource(kind)).body[0].body  # type: ignore[attr-defined]
        for field, after in itertools.pairwise(body):
            if isinstance(field, ast.AnnAssign) and "ClassVar" not in ast.unparse(field):
                assert isinstance(after, ast.Expr), ast.unparse(field)


@pytest.mark.usefixtures("drawn_digests")
def test_the_same_key_has_the_same_id_for_ever() -> None:
    """When this fails, a setting was added or renamed: finished runs are then not found again.  Was that meant?"""
    opened = bench_of(JOB)
    assert run_id(key_of(opened)) == "9fe72aedf4"
    assert root_of(opened) == Path("out/runs/dtd-piggyback-seed0-9fe72aedf4")


def test_published_settings_of_other_methods() -> None:
    """Of their authors' code, as ``docs/methods.md`` says of each."""
    packnet, ksm, adapters, dan = (RECIPES[name] for name in ("packnet", "ksm", "adapters", "dan"))
    trained = packnet.epochs - round(packnet.retrain * packnet.epochs)
    assert (trained, packnet.epochs - trained, packnet.lr, packnet.decay_after * packnet.epochs) == (20, 10, 1e-3, 10)
    assert (packnet.first_prune, packnet.first_epochs, packnet.lr * packnet.first_lr_factor) == (0.5, 10, 1e-4)
    assert (packnet.prune, packnet.rule, packnet.head_rule) == (0.75, "sgd", "sgd")
    assert (ksm.epochs, ksm.schedule, ksm.lr, ksm.batch_size, ksm.norm) == (30, "cosine", 2e-4, 32, "trained")
    assert adapters.decay_again is not None
    falls = [round(mark * adapters.epochs) for mark in (adapters.decay_after, adapters.decay_again)]
    assert (adapters.epochs, falls, adapters.lr, adapters.batch_size) == (120, [80, 100], 0.1, 128)
    assert (dan.epochs, dan.decay_after * dan.epochs, dan.batch_size, dan.norm) == (50, 25, 64, "statistics")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"order": ("dtd", "svhn", "dtd")}, "names a task twice"),
        ({"order": ("dtd", "svnh")}, "svnh"),
        ({"prune": 1.0}, "prune is a share between 0 and 1, not 1.0"),
        ({"first_prune": 0.0}, "first_prune is a share"),
        ({"retrain": float("nan")}, "retrain is a share"),
        ({"decay_after": 0.5, "decay_again": 0.4}, "decay_again must lie between"),
        ({"first_epochs": 0}, "first_epochs must be positive"),
    ],
)
def test_settings_of_other_methods_have_their_ranges(fields: dict, message: str) -> None:
    with pytest.raises((BadInput, UnknownName), match=message):
        Recipe(**fields)


@pytest.mark.usefixtures("drawn_digests")
def test_whatever_differs_gives_another_id() -> None:
    recipes = [Recipe(seed=1), Recipe(lr_grid=(1e-4,)), Recipe(norm="trained"), Recipe(update="eager")]
    recipes += [Recipe(accumulate=2), Recipe(weight_lr_factor=0.5)]  # came after the first results
    benches = [bench_of(JOB), *(bench_of(replace(JOB, recipe=recipe)) for recipe in recipes)]
    benches += [bench_of(replace(JOB, task="svhn")), bench_of(replace(JOB, method="feature"))]
    benches += [bench_of(JOB, data="e" * 64), bench_of(replace(JOB, backbone=Path("e")))]
    assert len({run_id(key_of(opened)) for opened in benches}) == len(benches)
    assert json.loads(json.dumps(key_of(benches[0])))["recipe"]["norm"] == "fixed"


def defaults_of(verb: str, arguments: Sequence[str]) -> Any:
    (command,) = (one for one in make_commands(BENCHMARK) if one.name == f"decathlon {verb}")
    assert command.defaults is not None
    return load(command.defaults)(arguments)


@pytest.mark.parametrize(
    "arguments",
    [["--recipe", "mini"], ["--task", "dtd", "--recipe=mini", "--lr", "3"], ["--recipe", "mini", "--recipe"]],
)
def test_the_named_recipe_gives_the_defaults(arguments: list[str]) -> None:
    assert recipe_named_in(arguments, recipes=RECIPES, default="paper") == RECIPES["mini"]
    assert all(defaults_of(verb, arguments).settings == RECIPES["mini"] for verb in ("train", "run", "ground"))


def test_without_a_name_the_papers_recipe_is_taken() -> None:
    assert defaults_of("run", ["--task", "dtd"]).settings == RECIPES["paper"]
    with pytest.raises(UnknownName, match="no recipe is called 'minni'"):
        defaults_of("run", ["--recipe", "minni"])
