"""The Decathlon's part of a sweep."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from decathlon.backbone_options import TrainOptions as BackboneOptions
from decathlon.options import DrawOptions, PrepareOptions, ReportOptions, TrainOptions
from decathlon.sweep import plan
from decathlon.tasks import MASKED_TASKS
from piggyback.errors import BadInput, UnknownName

GIVEN = {
    "root": "/srv/me",
    "out": "/srv/me/swept",
    "data": "data",
    "backbone": "b.safetensors",
    "methods": ["piggyback", "feature"],
    "tasks": ["dtd", "svhn"],
    "seeds": [0, 1],
    "recipe": "smoke",
}
DRAWN = {key: value for key, value in GIVEN.items() if key not in ("data", "backbone")} | {
    "source": "drawn",
    "backbone": {"recipe": "smoke", "epochs": 1},
}


def ids(**changes: Any) -> list[str]:
    spec = {**GIVEN, **changes}
    return [run["id"] for run in plan({key: value for key, value in spec.items() if value is not None})]


def test_every_task_with_every_method_and_seed() -> None:
    runs = plan(GIVEN)
    assert [run["title"] for run in runs] == [
        *(f"decathlon {t} {m} seed {s}" for s in (0, 1) for t in ("dtd", "svhn") for m in ("piggyback", "feature")),
        "decathlon score",
    ]
    assert runs[-1]["needs"] == [run["id"] for run in runs[:-1]]
    assert (runs[-1]["after"], runs[-1]["proof"]) == ("ended", None)
    assert {run["cost"] for run in runs[:4]} == {run["cost"] for run in runs[4:8]}  # whatever the seed
    assert len({run["cost"] for run in runs[:4]}) == 4
    assert len(plan({**GIVEN, "tasks": []})) == 2 * 2 * len(MASKED_TASKS) + 1


def test_commands_are_the_console_commands(read_command: Callable[[list[str]], Any]) -> None:
    settings = {"epochs": 2, "lr_grid": [1e-3, 2e-3], "flip": False, "norm": "trained", "whole": []}
    runs = plan({**GIVEN, "settings": settings, "labels": "labels.zip"})
    options = read_command(runs[0]["argv"])
    assert isinstance(options, TrainOptions)
    assert (options.task, options.method, options.recipe, options.settings.seed) == ("dtd", "piggyback", "smoke", 0)
    assert (options.settings.epochs, options.settings.lr_grid, options.settings.flip) == (2, (1e-3, 2e-3), False)
    assert (options.settings.norm, options.settings.whole, options.settings.size) == ("trained", (), 32)
    assert (options.data, options.backbone) == (Path("/srv/me/data"), Path("/srv/me/b.safetensors"))
    assert options.folder == Path(runs[0]["folder"]) == options.out / "runs" / runs[0]["id"]
    assert runs[0]["proof"] == str(options.folder / "result.json")
    report = read_command(runs[-1]["argv"])
    assert isinstance(report, ReportOptions)
    assert (report.methods, report.tasks, report.seeds) == (("piggyback", "feature"), ("dtd", "svhn"), (0, 1))
    assert (report.runs, report.labels) == (options.out, Path("/srv/me/labels.zip"))


def test_steps_that_make_data_and_backbone(read_command: Callable[[list[str]], Any]) -> None:
    draw, prepare, backbone, first, *_ = plan(DRAWN)
    drawn, packed, trained, options = (read_command(run["argv"]) for run in (draw, prepare, backbone, first))
    assert isinstance(drawn, DrawOptions)
    assert isinstance(packed, PrepareOptions)
    assert isinstance(trained, BackboneOptions)
    assert drawn.out == packed.source
    assert packed.out == trained.data == options.data
    assert Path(backbone["proof"]) == options.backbone == trained.out / "backbone.safetensors"
    assert (trained.settings.epochs, trained.settings.depth) == (1, 10)
    assert [run["needs"] for run in (draw, prepare, backbone, first)] == [
        [],
        [draw["id"]],
        [prepare["id"]],
        [backbone["id"]],
    ]
    assert draw["proof"] == str(drawn.out / "drawn.json")
    assert prepare["proof"] is None


def inputs(**changes: Any) -> dict[str, list[str]]:
    """What must be there, by the kind of run."""
    spec = {**GIVEN, **changes}
    found = plan({key: value for key, value in spec.items() if value is not None})
    return {run["kind"]: run["inputs"] for run in found}


def test_inputs_are_what_no_step_makes() -> None:
    data, file = "/srv/me/data", "/srv/me/b.safetensors"
    assert inputs() == {"run": [data, file], "score": [data]}
    assert inputs(labels="l.zip")["score"] == [data, "/srv/me/l.zip"]
    assert inputs(source="a") == {"prepare": ["/srv/me/a"], "run": [file], "score": []}
    assert inputs(backbone={}) == {"backbone": [data], "run": [data], "score": [data]}
    assert [run["inputs"] for run in plan(DRAWN)] == [[]] * 12


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
    moved = {"root": "/other", "out": "/other/swept"}
    assert ids(**moved) == base  # copied with the sweep's file
    assert set(ids(tasks=["dtd"])) & set(base)
    for change in ({"settings": {"lr": 0.5}}, {"recipe": "mini"}, {"data": "data2"}, {"backbone": "c"}, {"label": "x"}):
        assert not set(ids(**change)[:-1]) & set(base), change
    drawn = [run["id"] for run in plan(DRAWN)]
    for change in ({"source": "/archives"}, {"backbone": {"recipe": "smoke", "epochs": 2}}):
        other = [run["id"] for run in plan({**DRAWN, **change})]
        assert not set(other[-9:-1]) & set(drawn), change  # data of another source are other runs
    prepare = next(run["id"] for run in plan({**DRAWN, "source": "/archives"}))
    assert prepare.startswith("decathlon-prepare-")
    assert prepare not in drawn


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"taks": ["dtd"]}, "'taks', which means nothing here; known: backbone, data"),
        ({"tasks": ["dtdd"]}, "'dtdd'"),
        ({"tasks": ["imagenet12"]}, "imagenet12 is the backbone's own task"),
        ({"tasks": "dtd"}, "tasks cannot be 'dtd'"),
        ({"methods": ["x"]}, "no method is called 'x'"),
        ({"recipe": "x"}, "no recipe is called 'x'"),
        ({"settings": {"norm": "x"}}, "norm is 'x', not one of"),
        ({"settings": {"epoch": 1}}, "no setting of the recipe in the sweep's settings is called 'epoch'"),
        ({"settings": {"norm_lr": "x"}}, "the sweep's settings: "),
        ({"data": None}, "must give data"),
        ({"backbone": None}, "must give backbone"),
        ({"backbone": 3}, "backbone cannot be 3"),
        ({"backbone": {"depht": 10}}, "no setting of the recipe in the backbone is called 'depht'"),
        ({"backbone": {"recipe": "smoke", "depth": 11}}, "depth is 11"),
        ({"labels": 3}, "labels cannot be 3"),
        ({"seeds": [0.5]}, "seeds must be whole numbers"),
    ],
)
def test_specs_with_faults(change: dict[str, Any], words: str) -> None:
    with pytest.raises((BadInput, UnknownName), match=words):
        ids(**change)


def test_a_plan_loads_no_torch() -> None:
    code = (
        "import json, sys; from decathlon.sweep import plan; plan(json.loads(sys.argv[1]));"
        "print(sorted({'torch', 'numpy', 'scipy', 'PIL'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, json.dumps(DRAWN)], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
