"""What is the Decathlon's own in a sweep: tasks in an order, labels, a backbone that is trained."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from decathlon.backbone.options import TrainOptions as BackboneOptions
from decathlon.benchmark import BENCHMARK
from piggyback.shell.cli import main
from piggyback.shell.errors import BadInput, UnknownName
from piggyback.suite.networks.making import NETWORK_FILE
from piggyback.suite.options import GroundOptions
from piggyback.suite.sweeps import plan as sweeps

plan = partial(sweeps.plan, BENCHMARK)
Read = Callable[[list[str]], Any]
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


def by_title(**changes: Any) -> dict[str, dict[str, Any]]:
    """The planned runs by their titles without the label, such as ``svhn packnet seed 0``."""
    return {run["title"].partition(" ")[2]: run for run in plan({**GIVEN, **changes})}


def test_packnets_tasks_wait_for_each_other_and_for_the_pruned_network(
    read_command: Read,
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
        assert Path(network["proof"]) == made.folder / NETWORK_FILE
        assert made.settings.order == ()  # the same for every order
        assert (svhn.ground, svhn.after) == (dtd.ground, None) == (made.folder, None)
        assert dtd.after == svhn.folder == Path(first["folder"])
        assert dtd.settings.order == svhn.settings.order == ("svhn", "dtd")
        masks = runs[f"dtd piggyback seed {seed}"]
        assert masks["needs"] == []
        assert read_command(masks["argv"]).ground is None


def test_joint_methods_wait_for_one_training_and_may_have_the_backbones_task(
    read_command: Read,
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
    read_command: Read,
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


def test_data_of_another_source_and_a_backbone_of_another_training_are_other_runs() -> None:
    drawn = [run["id"] for run in plan(DRAWN)]
    for change in ({"source": "/archives"}, {"backbone": {"recipe": "smoke", "epochs": 2}}):
        other = [run["id"] for run in plan({**DRAWN, **change})]
        assert not set(other[-9:-1]) & set(drawn), change
    prepare = next(run["id"] for run in plan({**DRAWN, "source": "/archives"}))
    assert prepare.startswith("decathlon-prepare-")
    assert prepare not in drawn


def test_settings_of_runs_and_labels_reach_their_commands(read_command: Read) -> None:
    settings = {"epochs": 2, "flip": False, "norm": "trained", "whole": []}
    runs = plan({**GIVEN, "settings": settings, "labels": "labels.zip"})
    found = read_command(runs[0]["argv"]).settings
    assert (found.epochs, found.flip, found.norm, found.whole, found.size) == (2, False, "trained", (), 32)
    assert read_command(runs[-1]["argv"]).own.labels == Path("/srv/me/labels.zip")
    assert runs[-1]["inputs"] == ["/srv/me/data", "/srv/me/labels.zip"]
    assert all("/srv/me/labels.zip" not in run["inputs"] for run in runs[:-1])


def test_a_trained_backbone_has_its_own_settings(read_command: Read) -> None:
    _, prepare, backbone, *_ = plan(DRAWN)
    trained = read_command(backbone["argv"])
    assert isinstance(trained, BackboneOptions)
    assert (trained.settings.epochs, trained.settings.depth) == (1, 10)
    on_given_data = {run["kind"]: run["inputs"] for run in plan({**GIVEN, "backbone": {}})}
    assert on_given_data == {kind: ["/srv/me/data"] for kind in ("backbone", "run", "score")}
    assert backbone["needs"] == [prepare["id"]]


@pytest.mark.parametrize(
    ("change", "words"),
    [
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
            "imagenet12 is the first task of packnet in any case: leave it out of the order",
        ),
        ({"methods": ["packnet"], "settings": {"order": ["dtd", "dtd"]}}, "the order names a task twice"),
        ({"backbone": {"depht": 10}}, "no setting of the recipe in the backbone is called 'depht'"),
        ({"backbone": {"recipe": "smoke", "depth": 11}}, "depth is 11"),
        ({"labels": 3}, "labels cannot be 3"),
    ],
)
def test_specs_with_faults(change: dict[str, Any], words: str) -> None:
    with pytest.raises((BadInput, UnknownName), match=words):
        ids(**change)
