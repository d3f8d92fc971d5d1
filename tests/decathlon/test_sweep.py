"""The Decathlon's part of a sweep."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from decathlon.sweep import plan

from decathlon.backbone.options import TrainOptions as BackboneOptions
from decathlon.bench import BACKBONE_FILE
from decathlon.options import DrawOptions, GroundOptions, PrepareOptions, ReportOptions, TrainOptions
from decathlon.recipes import RECIPES, recipe_for, task_before, tasks_of
from decathlon.tasks import MASKED_TASKS
from piggyback.shell.cli import main
from piggyback.shell.errors import BadInput, UnknownName

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


def by_title(**changes: Any) -> dict[str, dict[str, Any]]:
    """The planned runs by their titles without the label, such as ``svhn packnet seed 0``."""
    return {run["title"].partition(" ")[2]: run for run in plan({**GIVEN, **changes})}


def test_packnets_tasks_wait_for_each_other_and_for_the_pruned_network(
    read_command: Callable[[list[str]], Any],
) -> None:
    runs = by_title(methods=["piggyback", "packnet"], settings={"order": ["svhn", "dtd"]})
    for seed in (0, 1):
        network, first, second = (runs[f"{word} packnet seed {seed}"] for word in ("ground", "svhn", "dtd"))
        assert (network["kind"], network["needs"]) == ("run", [])
        assert first["needs"] == [network["id"]]
        assert second["needs"] == [network["id"], first["id"]]
        made, svhn, dtd = (read_command(run["argv"]) for run in (network, first, second))
        assert isinstance(made, GroundOptions)
        assert (made.method, made.folder, made.settings.seed) == ("packnet", Path(network["folder"]), seed)
        assert Path(network["proof"]) == made.folder / BACKBONE_FILE
        assert made.settings.order == ()  # the same for every order
        assert (svhn.ground, svhn.after) == (dtd.ground, None) == (made.folder, None)
        assert dtd.after == svhn.folder == Path(first["folder"])
        assert dtd.settings.order == svhn.settings.order == ("svhn", "dtd")
        masks = runs[f"dtd piggyback seed {seed}"]
        assert masks["needs"] == []
        assert read_command(masks["argv"]).ground is None


def test_the_rule_that_single_runs_and_sweeps_share() -> None:
    recipe, tasks = replace(RECIPES["paper"], order=("svhn", "dtd", "imagenet12")), ["dtd", "svhn"]
    for stands_on in ("backbone", "joint"):
        assert recipe_for(recipe, stands_on=stands_on, tasks=["dtd"]) == recipe
    assert recipe_for(RECIPES["paper"], stands_on="backbone", tasks=tasks).order == ()
    assert recipe_for(RECIPES["paper"], stands_on="pruned", tasks=MASKED_TASKS[::-1]).order == ()
    in_order = recipe_for(RECIPES["paper"], stands_on="pruned", tasks=tasks)
    assert in_order.order == ("dtd", "svhn")
    assert tasks_of(recipe, method="piggyback", stands_on="backbone", tasks=tasks) == tasks
    assert tasks_of(recipe, method="joint", stands_on="joint", tasks=tasks) == [*tasks, "imagenet12"]
    assert tasks_of(recipe, method="joint", stands_on="joint", tasks=["imagenet12", "dtd"]) == ["dtd", "imagenet12"]
    assert tasks_of(in_order, method="packnet", stands_on="pruned", tasks=tasks[::-1]) == ["dtd", "svhn"]
    assert [task_before(in_order, task=task) for task in ("dtd", "svhn")] == [None, "dtd"]


def test_joint_methods_wait_for_one_training_and_may_have_the_backbones_task(
    read_command: Callable[[list[str]], Any],
) -> None:
    order = ["imagenet12", "svhn", "dtd"]
    runs = by_title(methods=["joint", "series-joint"], settings={"order": order}, seeds=[3])
    for method in ("joint", "series-joint"):
        network = runs[f"ground {method} seed 3"]
        assert read_command(network["argv"]).settings.order == tuple(order)
        own = [runs[f"{task} {method} seed 3"] for task in order]
        assert [run["needs"] for run in own] == [[network["id"]]] * 3
        assert {read_command(run["argv"]).ground for run in own} == {Path(network["folder"])}
    report = read_command(runs["score"]["argv"])
    assert (report.tasks, report.methods) == (("dtd", "svhn", "imagenet12"), ("joint", "series-joint"))
    assert len(runs) == 2 * 4 + 1
    alone = by_title(methods=["piggyback"], settings={"order": order}, seeds=[3])
    assert alone.keys() == {"dtd piggyback seed 3", "svhn piggyback seed 3", "score"}


def test_without_an_order_it_is_that_of_the_tasks_where_they_are_not_all(
    read_command: Callable[[list[str]], Any],
) -> None:
    """So that tasks can be added: runs of single tasks stay, and PackNet's new network is scored by itself."""

    two, three, all_nine = (
        by_title(methods=["piggyback", "packnet"], tasks=tasks, seeds=[0])
        for tasks in (["svhn", "dtd"], ["svhn", "dtd", "aircraft"], [])
    )
    first, dtd = (read_command(two[f"{task} packnet seed 0"]["argv"]) for task in ("svhn", "dtd"))
    assert (dtd.after, dtd.settings.order) == (first.folder, ("svhn", "dtd"))
    assert read_command(two["dtd piggyback seed 0"]["argv"]).settings.order == ()
    last = read_command(all_nine["dtd packnet seed 0"]["argv"])
    assert (last.settings.order, last.after) == ((), Path(all_nine["daimlerpedcls packnet seed 0"]["folder"]))
    assert two["dtd piggyback seed 0"] == three["dtd piggyback seed 0"] == all_nine["dtd piggyback seed 0"]
    assert two["ground packnet seed 0"] == three["ground packnet seed 0"] == all_nine["ground packnet seed 0"]
    assert len({one["dtd packnet seed 0"]["id"] for one in (two, three, all_nine)}) == 3
    assert len({one["dtd packnet seed 0"]["folder"].partition("/runs/")[0] for one in (two, three, all_nine)}) == 3
    score, in_order = (read_command(two[title]["argv"]) for title in ("score", "score-in-order"))
    assert (score.methods, in_order.methods) == (("piggyback",), ("packnet",))
    assert (in_order.runs, in_order.tasks) == (dtd.out, ("svhn", "dtd"))
    assert score.runs != in_order.runs
    assert all_nine.keys() & {"score", "score-in-order"} == {"score"}


def test_parts_share_data_backbone_and_the_pruned_network() -> None:
    """But not what is made of another source, or by another recipe."""
    spec = {**DRAWN, "methods": ["packnet"], "seeds": [0]}

    def planned(label: str, **changes: Any) -> dict[str, dict[str, Any]]:
        return {run["id"]: run for run in plan({**spec, "label": label, **changes})}

    def in_common(one: dict[str, dict[str, Any]], other: dict[str, dict[str, Any]]) -> list[str]:
        common = one.keys() & other.keys()
        assert all(one[name] == other[name] for name in common)  # otherwise the plan as a whole is refused
        return sorted(one[name]["argv"][1] for name in common)

    first = planned("a", settings={"order": ["dtd", "svhn"]})
    assert in_common(first, planned("b", settings={"order": ["svhn", "dtd"]})) == [
        "backbone",
        "draw",
        "ground",
        "prepare",
    ]
    assert in_common(first, planned("b", settings={"epochs": 3})) == ["backbone", "draw", "prepare"]
    assert in_common(first, planned("b", backbone="b.safetensors")) == ["draw", "prepare"]
    assert in_common(first, planned("b", source="archives")) == []
    folders = {run["folder"] for name, run in first.items() if run["kind"] in ("prepare", "backbone")}
    assert len(folders) == 3
    assert all(Path(folder).is_relative_to("/srv/me/swept/decathlon") for folder in folders)


def test_planned_commands_do_what_the_plan_says(
    data: Path, backbone: Path, labels: Path, tmp_path: Path, one_thread: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """PackNet on two tasks and joint training with imagenet12, command by command in the plan's order."""
    small = {"size": 16, "batch_size": 3, "min_steps": 4, "update": "eager", "precision": "fp32"}
    spec = {
        **{"out": str(tmp_path / "swept"), "data": str(data), "backbone": str(backbone), "labels": str(labels)},
        **{"recipe": "smoke", "tasks": ["svhn", "aircraft"], "seeds": [0]},
    }
    packnet = {"label": "packnet", "methods": ["packnet"], "settings": small | {"order": ["svhn", "aircraft"]}}
    joint = {"methods": ["joint", "piggyback"], "settings": small | {"order": ["aircraft", "imagenet12", "svhn"]}}
    runs = [*plan(spec | packnet), *plan(spec | joint)]
    assert [run["argv"][1] for run in runs] == [
        *("ground", "train", "train", "report"),
        "ground",
        *["train"] * 5,
        "report",
    ]
    for run in runs:
        assert run["proof"] is None or not Path(run["proof"]).exists()
        assert main(run["argv"]) == 0, run["title"]
        assert run["proof"] is None or Path(run["proof"]).exists()
        assert run["kind"] != "run" or json.loads((Path(run["folder"]) / "status.json").read_text())["state"] == "done"
    assert "missing" not in capsys.readouterr().out
    built = [run for run in runs if "--ground" in run["argv"]]
    assert len(built) == 2 + 3
    for run in built:  # by what is below the folder of the runs alone, as the network was copied there
        words = ["--run", run["folder"], "--data", str(data), "--backbone", str(backbone), "--json"]
        assert main(["decathlon", "evaluate", *words]) == 0
        again = json.loads(capsys.readouterr().out)
        counts = json.loads((Path(run["folder"]) / "result.json").read_text())["counts"]
        assert (again["n"], again["correct"]) == (counts["n"], counts["correct"])


def test_a_network_made_elsewhere_must_be_finished_and_of_the_same_recipe(
    data: Path, backbone: Path, tmp_path: Path, one_thread: None, capsys: pytest.CaptureFixture[str]
) -> None:
    made, out = tmp_path / "made", tmp_path / "out"
    words = ["--method", "packnet", "--recipe", "smoke", "--size", "16", "--update", "eager", "--batch-size", "3"]
    words += ["--data", str(data), "--backbone", str(backbone), "--out", str(out)]
    train = ["decathlon", "train", "--task", "svhn", *words, "--order", "svhn", "--ground", str(made)]
    for wrong in (made, backbone.parent):  # the latter has a file of that name, which nobody pruned
        assert main([*train[:-1], str(wrong)]) == 1
        assert f"{wrong} has no finished network" in "".join(capsys.readouterr().err.splitlines())
        assert not (wrong / "recipe.json").exists()
    assert main(["decathlon", "ground", *words, "--lr", "2e-3", "--folder", str(made)]) == 0
    assert main(train) == 1
    assert "belongs to another run than the one asked for" in capsys.readouterr().err.replace("\n", " ")
    assert not (out / "grounds").exists()
    assert main([*train, "--lr", "2e-3"]) == 0
    copied = next((out / "grounds").iterdir())
    assert (copied / BACKBONE_FILE).read_bytes() == (made / BACKBONE_FILE).read_bytes()
    assert {path.name for path in copied.iterdir()} == {"recipe.json", "status.json", "metrics.jsonl", BACKBONE_FILE}


def test_a_report_misses_the_backbones_task_of_joint_methods_only(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--runs", str(tmp_path / "none"), "--data", str(data), "--tasks", "dtd,imagenet12", "--json"]
    assert main(["decathlon", "report", *words, "--methods", "piggyback,joint"]) == 1
    missing = json.loads(capsys.readouterr().out)["missing"]
    assert missing == ["dtd piggyback seed 0", "dtd joint seed 0", "imagenet12 joint seed 0"]


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
        ({"taks": ["dtd"]}, "unknown field, 'taks'; known: backbone, data"),
        ({"tasks": ["dtdd"]}, "'dtdd'"),
        ({"tasks": ["imagenet12"]}, "imagenet12 is the backbone's own task"),
        (
            {"methods": ["packnet"], "settings": {"order": ["dtd", "aircraft"]}},
            "svhn is not among the tasks of packnet, which are dtd, aircraft: see the recipe's order",
        ),
        ({"methods": ["joint"], "settings": {"order": ["dtd"]}}, "svhn is not among the tasks of joint"),
        (
            {"methods": ["packnet"], "settings": {"order": ["dtd", "aircraft", "svhn"]}},
            "svhn by packnet builds on aircraft, which is not among the sweep's tasks: add it to them",
        ),
        (
            {"methods": ["packnet"], "settings": {"order": ["imagenet12", "dtd", "svhn"]}},
            "imagenet12 is PackNet's first task in any case: leave it out of the order",
        ),
        ({"methods": ["packnet"], "settings": {"order": ["dtd", "dtd"]}}, "the order names a task twice"),
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
    spec = DRAWN | {"methods": ["packnet", "series-joint", "piggyback"]}
    done = subprocess.run([sys.executable, "-c", code, json.dumps(spec)], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
