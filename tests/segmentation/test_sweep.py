"""Segmentation's part of a sweep."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from segmentation.sweep import plan

from piggyback.methods.table import TABLE, stands_on
from piggyback.shell.errors import BadInput, UnknownName
from segmentation.options import DrawOptions, PrepareOptions, ReportOptions, TrainOptions
from segmentation.recipes import WITHOUT

GIVEN = {
    "root": "/srv/me",
    "out": "/srv/me/swept",
    "data": "data",
    "backbone": "b.safetensors",
    "methods": ["piggyback", "finetune"],
    "seeds": [0, 1],
    "recipe": "smoke",
}
DRAWN = {key: value for key, value in GIVEN.items() if key not in ("data", "backbone")} | {"source": "drawn"}


def ids(**changes: Any) -> list[str]:
    spec = {**GIVEN, **changes}
    return [run["id"] for run in plan({key: value for key, value in spec.items() if value is not None})]


def test_every_method_with_every_seed() -> None:
    runs = plan(GIVEN)
    assert [run["title"] for run in runs] == [
        *(f"segmentation {method} seed {seed}" for seed in (0, 1) for method in ("piggyback", "finetune")),
        "segmentation score",
    ]
    assert runs[-1]["needs"] == [run["id"] for run in runs[:-1]]
    assert runs[-1]["after"] == "ended"
    assert runs[0]["cost"] == runs[2]["cost"] != runs[1]["cost"]


def test_commands_are_the_console_commands(read_command: Callable[[list[str]], Any]) -> None:
    settings = {"epochs": 2, "lr_grid": [1e-3], "held_out": 4, "flip": True, "dropout": 0}
    runs = plan({**GIVEN, "settings": settings})
    options = read_command(runs[3]["argv"])
    assert isinstance(options, TrainOptions)
    assert (options.method, options.recipe, options.settings.seed) == ("finetune", "smoke", 1)
    assert (options.settings.epochs, options.settings.lr_grid, options.settings.flip) == (2, (1e-3,), True)
    assert (options.settings.dropout, options.settings.size) == (0.0, 64)
    assert (options.data, options.backbone) == (Path("/srv/me/data"), Path("/srv/me/b.safetensors"))
    assert options.folder == Path(runs[3]["folder"]) == options.out / "runs" / runs[3]["id"]
    assert runs[3]["proof"] == str(options.folder / "result.json")
    report = read_command(runs[-1]["argv"])
    assert isinstance(report, ReportOptions)
    assert (report.runs, report.methods, report.seeds) == (options.out, ("piggyback", "finetune"), (0, 1))
    assert report.split == options.settings.evaluate


def test_steps_that_make_data_and_backbone(read_command: Callable[[list[str]], Any]) -> None:
    draw, prepare, first, *_ = plan(DRAWN)
    drawn, packed, options = (read_command(run["argv"]) for run in (draw, prepare, first))
    assert isinstance(drawn, DrawOptions)
    assert isinstance(packed, PrepareOptions)
    assert packed.source == drawn.out / "release"
    assert set(packed.splits) == {options.settings.train, options.settings.evaluate}
    assert packed.out == options.data
    assert Path(draw["proof"]) == options.backbone == drawn.out / "backbone.safetensors"
    assert (prepare["needs"], first["needs"]) == ([draw["id"]], [draw["id"], prepare["id"]])
    only_drawn_backbone = plan({**DRAWN, "backbone": "b"})
    assert read_command(only_drawn_backbone[2]["argv"]).backbone == Path("/srv/me/b")


def test_inputs_are_what_no_step_makes() -> None:
    def inputs(spec: dict[str, Any]) -> dict[str, list[str]]:
        return {run["kind"]: run["inputs"] for run in plan(spec)}

    data, file = "/srv/me/data", "/srv/me/b.safetensors"
    assert inputs(GIVEN) == {"run": [data, file], "score": [data]}
    assert inputs({**GIVEN, "source": "a"}) == {"prepare": ["/srv/me/a"], "run": [file], "score": []}
    assert inputs(DRAWN) == {"prepare": [], "run": [], "score": []}
    assert inputs({**DRAWN, "backbone": "b.safetensors"})["run"] == [file]


def test_runs_of_another_recipe_or_backbone_lie_elsewhere_and_are_not_scored_together(
    read_command: Callable[[list[str]], Any],
) -> None:
    def places(**changes: Any) -> set[Path]:
        options = [read_command(run["argv"]) for run in plan({**GIVEN, **changes})]
        return {one.runs if isinstance(one, ReportOptions) else one.out for one in options}

    first = places()
    assert len(first) == 1
    assert first == places(seeds=[0, 1, 2], methods=["piggyback", "feature", "finetune"])
    for change in ({"settings": {"epochs": 3}}, {"backbone": "c"}, {"data": "data2"}):
        assert len(first | places(**change)) == 2, change


def test_ids_change_with_all_that_changes_a_number_and_with_nothing_else() -> None:
    base = ids()
    assert base == ids()
    assert ids(root="/other", out="/other/swept") == base  # copied with the sweep's file
    for change in ({"settings": {"lr": 0.5}}, {"recipe": "mini"}, {"data": "data2"}, {"backbone": "c"}, {"label": "x"}):
        assert not set(ids(**change)[:-1]) & set(base), change
    drawn = [run["id"] for run in plan(DRAWN)]
    other = [run["id"] for run in plan({**DRAWN, "source": "/releases", "backbone": "b"})]
    assert not set(other[:-1]) & set(drawn)  # data of another source are other runs


def test_parts_share_what_they_draw_and_pack() -> None:
    one, other = ({run["id"]: run for run in plan({**DRAWN, "label": label})} for label in ("a", "b"))
    common = one.keys() & other.keys()
    assert [one[name]["argv"][1] for name in sorted(common)] == ["draw", "prepare"]
    assert all(one[name] == other[name] for name in common)  # otherwise the plan as a whole is refused
    elsewhere = plan({**DRAWN, "label": "c", "source": "releases", "backbone": "b"})
    assert not {run["id"] for run in elsewhere} & one.keys()


def test_methods_that_mean_something_here() -> None:
    """Those that train weights of one task on VGG-16; not those that need other tasks, or its norm layers."""
    assert {name for name in TABLE if stands_on(name) != "backbone"} <= WITHOUT.keys()
    for method in TABLE:
        if method not in WITHOUT:
            assert [run["title"] for run in plan({**GIVEN, "methods": [method], "seeds": [0]})][:-1] == [
                f"segmentation {method} seed 0"
            ]
            continue
        with pytest.raises(BadInput, match=f"segmentation has no {method}: {WITHOUT[method]}; take another method"):
            plan({**GIVEN, "methods": ["piggyback", method]})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tasks": ["voc"]}, "unknown field, 'tasks'; known: backbone, data"),
        ({"methods": ["x"]}, "no method is called 'x'"),
        ({"recipe": "x"}, "no recipe is called 'x'"),
        ({"settings": {"margin": "x"}}, "margin is 'x', not one of"),
        ({"settings": {"epoch": 1}}, "no setting of the recipe in the sweep's settings is called 'epoch'"),
        ({"settings": {"seed": 1}}, "give seeds"),
        ({"settings": {"evaluate": "voc2012_test"}}, "a split without label maps"),
        ({"data": None}, "must give data"),
        ({"backbone": None}, "must give backbone"),
        ({"backbone": {"depth": 1}}, "backbone cannot be"),
    ],
)
def test_specs_with_faults(change: dict[str, Any], words: str) -> None:
    with pytest.raises((BadInput, UnknownName), match=words):
        ids(**change)


def test_a_plan_loads_no_torch() -> None:
    code = (
        "import json, sys; from segmentation.sweep import plan; plan(json.loads(sys.argv[1]));"
        "print(sorted({'torch', 'numpy', 'scipy', 'PIL'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, json.dumps(DRAWN)], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
