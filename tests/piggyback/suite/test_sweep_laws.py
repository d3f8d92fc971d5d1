"""Laws for any benchmark's part of a sweep: what is planned, what it needs, and that it can be done."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from small_benchmarks import Small

from piggyback.methods.registry import METHODS
from piggyback.methods.table import stands_on
from piggyback.shell.cli import main
from piggyback.shell.errors import BadInput, UnknownName
from piggyback.suite.options import ReportOptions, TrainOptions
from piggyback.suite.sweeps.plan import plan

Read = Callable[[list[str]], Any]
Spec = dict[str, Any]
DATA, FILE = "/srv/me/data", "/srv/me/b.file"


@pytest.fixture
def given(small: Small) -> Spec:
    """Two methods, two seeds and, where there are several, two tasks, on data and a backbone that are there."""
    spec: Spec = {
        **{"root": "/srv/me", "out": "/srv/me/swept", "data": "data", "backbone": "b.file"},
        **{"methods": ["piggyback", "feature"], "seeds": [0, 1], "recipe": list(small.benchmark.recipes)[-1]},
    }
    return {**spec, "tasks": list(small.benchmark.tasks[1::-1])} if small.benchmark.several else spec


@pytest.fixture
def drawn(small: Small, given: Spec) -> Spec:
    """The same, on data and a backbone that the sweep makes."""
    if small.benchmark.source.draw is None:
        pytest.skip(f"{small.name} draws nothing: test_what_a_benchmark_does_not_draw_is_refused")
    spec = {key: value for key, value in given.items() if key not in ("data", "backbone")} | {"source": "drawn"}
    if small.benchmark.source.drawn_backbone is None:
        spec["backbone"] = {"recipe": list(small.benchmark.source.presets)[-1], "epochs": 1}
    return spec


@pytest.fixture
def ids(small: Small, given: Spec) -> Callable[..., list[str]]:
    """Ids of what is planned when some of it is changed; None takes a field away."""

    def planned(**changes: Any) -> list[str]:
        spec = {**given, **changes}
        return [run["id"] for run in plan(small.benchmark, {k: v for k, v in spec.items() if v is not None})]

    return planned


# -- what is planned ------------------------------------------------------------------------------------


def test_every_task_with_every_method_and_seed(small: Small, given: Spec) -> None:
    runs = plan(small.benchmark, given)
    tasks = [f" {task}" for task in given["tasks"]] if small.benchmark.several else [""]
    assert [run["title"] for run in runs] == [
        *(f"{small.name}{task} {m} seed {s}" for s in (0, 1) for task in tasks for m in ("piggyback", "feature")),
        f"{small.name} score",
    ]
    *trained, score = runs
    assert score["needs"] == [run["id"] for run in trained]
    assert (score["after"], score["proof"]) == ("ended", None)
    half = len(trained) // 2
    costs = [run["cost"] for run in trained]
    assert costs[:half] == costs[half:]  # whatever the seed
    assert len(set(costs)) == half
    assert len({run["id"] for run in runs}) == len({run["folder"] for run in runs}) == len(runs)
    every = plan(small.benchmark, {key: value for key, value in given.items() if key != "tasks"})
    assert len(every) == 2 * 2 * len(small.benchmark.tasks) + 1


def test_commands_are_the_console_commands(small: Small, given: Spec, read_command: Read) -> None:
    settings = {"epochs": 3, "lr_grid": [1e-3, 2e-3], "trial_share": 0.5, **small.choosing}
    *trained, score = plan(small.benchmark, {**given, "settings": settings})
    start = small.benchmark.recipes[given["recipe"]]
    for run, seed in ((trained[0], 0), (trained[-1], 1)):
        options = read_command(run["argv"])
        assert isinstance(options, TrainOptions)
        expected = {**asdict(start), **settings, "lr_grid": (1e-3, 2e-3), "seed": seed}
        assert (options.recipe, asdict(options.settings)) == (given["recipe"], expected)
        assert (str(options.data), str(options.backbone)) == (DATA, FILE)
        assert options.folder == Path(run["folder"]) == options.out / "runs" / run["id"]
        assert run["proof"] == str(options.folder / "result.json")
    assert read_command(trained[0]["argv"]).method == "piggyback"
    report = read_command(score["argv"])
    assert isinstance(report, ReportOptions)
    assert (report.runs, report.methods, report.seeds) == (options.out, ("piggyback", "feature"), (0, 1))
    if small.benchmark.several:
        assert [read_command(run["argv"]).task for run in (trained[0], trained[-1])] == given["tasks"]
        assert report.tasks == tuple(given["tasks"])


@pytest.mark.parametrize("method", METHODS)
def test_methods_are_planned_or_refused_with_their_reason(
    small: Small, given: Spec, method: str, read_command: Read
) -> None:
    """A network that a method is built on is made once for each seed, before all that need it."""
    spec = {**given, "methods": ["feature", method], "seeds": [3]}
    reason = small.benchmark.without.get(method)
    if reason is not None:
        with pytest.raises(BadInput, match=f"{small.name} has no {method}: {reason}; take another method"):
            plan(small.benchmark, spec)
        return
    networks = [run for run in plan(small.benchmark, spec) if run["argv"][1] == "ground"]
    own = [run for run in plan(small.benchmark, spec) if f" {method} seed 3" in run["title"] and run not in networks]
    assert len(own) == len(given.get("tasks", [""]))
    if stands_on(method) == "backbone":
        assert networks == []
        assert [run["needs"] for run in own] == [[]] * len(own)
        return
    (network,) = networks
    made = read_command(network["argv"])
    assert (made.method, made.folder, made.settings.seed) == (method, Path(network["folder"]), 3)
    assert Path(network["proof"]).parent == made.folder
    for run in own:
        assert run["needs"][0] == network["id"]
        assert read_command(run["argv"]).ground == made.folder


# -- what it needs --------------------------------------------------------------------------------------


def test_steps_that_make_data_and_backbone(small: Small, drawn: Spec, read_command: Read) -> None:
    runs = plan(small.benchmark, drawn)
    steps = [run for run in runs if run["kind"] in ("prepare", "backbone")]
    first = next(run for run in runs if run["kind"] == "run")
    draw, prepare, *backbone = steps
    made, packed, options = (read_command(run["argv"]) for run in (draw, prepare, first))
    assert Path(draw["proof"]).is_relative_to(made.out)
    assert packed.source.is_relative_to(made.out)
    assert packed.out == options.data
    assert (draw["needs"], prepare["needs"], prepare["proof"]) == ([], [draw["id"]], None)
    if backbone:
        trained = read_command(backbone[0]["argv"])
        assert (trained.data, trained.settings.epochs) == (options.data, 1)
        assert Path(backbone[0]["proof"]) == options.backbone == trained.out / "backbone.safetensors"
        assert (backbone[0]["needs"], first["needs"]) == ([prepare["id"]], [backbone[0]["id"]])
    else:
        assert options.backbone.is_relative_to(made.out)
        assert first["needs"] == [draw["id"], prepare["id"]]
    file = next(run for run in plan(small.benchmark, {**drawn, "backbone": "b.file"}) if run["kind"] == "run")
    assert str(read_command(file["argv"]).backbone) == FILE


def test_inputs_are_what_no_step_makes(small: Small, given: Spec) -> None:
    def inputs(**changes: Any) -> dict[str, list[str]]:
        return {run["kind"]: run["inputs"] for run in plan(small.benchmark, {**given, **changes})}

    assert inputs() == {"run": [DATA, FILE], "score": [DATA]}
    if small.benchmark.source.prepare is not None and not small.benchmark.source.has_pictures:
        assert inputs(source="archives") == {"prepare": ["/srv/me/archives"], "run": [FILE], "score": []}


def test_what_is_drawn_needs_nothing(small: Small, drawn: Spec) -> None:
    assert not any(run["inputs"] for run in plan(small.benchmark, drawn))


def test_parts_share_what_they_make(small: Small, drawn: Spec) -> None:
    one, other = ({run["id"]: run for run in plan(small.benchmark, {**drawn, "label": label})} for label in ("a", "b"))
    common = one.keys() & other.keys()
    assert {one[name]["kind"] for name in common} <= {"prepare", "backbone"}
    assert all(one[name] == other[name] for name in common)  # otherwise the plan as a whole is refused
    assert common == {name for name, run in one.items() if run["kind"] in ("prepare", "backbone")}
    elsewhere = plan(small.benchmark, {**drawn, "label": "c", "source": "releases", "backbone": "b.file"})
    assert not {run["id"] for run in elsewhere} & one.keys()


# -- what tells runs apart ------------------------------------------------------------------------------

CHANGES = ({"settings": {"epochs": 7}}, {"data": "data2"}, {"backbone": "c.file"}, {"label": "x"})


def test_ids_change_with_all_that_changes_a_number_and_with_nothing_else(
    small: Small, ids: Callable[..., list[str]]
) -> None:
    base = ids()
    assert base == ids()
    assert ids(root="/other", out="/other/swept") == base  # copied with the sweep's file
    assert set(ids(seeds=[1, 2])) & set(base)
    for change in (*CHANGES, {"recipe": small.benchmark.default_recipe}):
        assert not set(ids(**change)[:-1]) & set(base), change


def test_runs_of_another_recipe_or_backbone_lie_elsewhere_and_are_not_scored_together(
    small: Small, given: Spec, read_command: Read
) -> None:
    def places(**changes: Any) -> set[Path]:
        options = [read_command(run["argv"]) for run in plan(small.benchmark, {**given, **changes})]
        return {one.runs if isinstance(one, ReportOptions) else one.out for one in options}

    first = places()
    assert len(first) == 1
    assert first == places(seeds=[0, 1, 2], methods=["piggyback", "feature", "finetune"])
    for change in CHANGES:
        assert len(first | places(**change)) == 2, change


# -- faults, and what it costs --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"taks": ["a"]}, "unknown field, 'taks'; known: backbone, data"),
        ({"methods": ["x"]}, "no method is called 'x'"),
        ({"methods": []}, "methods are empty"),
        ({"recipe": "x"}, "no recipe is called 'x'"),
        ({"settings": {"norm": "x"}}, "norm is 'x', not one of"),
        ({"settings": {"epoch": 1}}, "no setting of the recipe in the sweep's settings is called 'epoch'"),
        ({"settings": {"seed": 1}}, "give seeds"),
        ({"settings": {"norm_lr": "x"}}, "the sweep's settings: "),
        ({"data": None}, "must give data"),
        ({"backbone": None}, "must give backbone"),
        ({"backbone": 3}, "backbone cannot be 3"),
        ({"seeds": [0.5]}, "seeds must be whole numbers"),
    ],
)
def test_specs_with_faults(small: Small, ids: Callable[..., list[str]], change: dict[str, Any], words: str) -> None:
    if small.benchmark.source.has_pictures and "data" in change:  # then the sweep prepares them
        assert ids(**change)[0].startswith(f"{small.name}-prepare-")
        return
    with pytest.raises((BadInput, UnknownName), match=words):
        ids(**change)


def test_what_a_benchmark_does_not_draw_is_refused(small: Small, given: Spec) -> None:
    spec = {key: value for key, value in given.items() if key != "data"} | {"source": "drawn"}
    if small.benchmark.source.draw is not None:
        assert plan(small.benchmark, spec)[0]["title"] == f"{small.name} draw"
        return
    with pytest.raises(BadInput, match=r"leave source out|give a source or data|must give data"):
        plan(small.benchmark, spec)


def test_tasks_that_there_are_not(small: Small, ids: Callable[..., list[str]]) -> None:
    if not small.benchmark.several:
        with pytest.raises(BadInput, match="unknown field, 'tasks'"):
            ids(tasks=list(small.benchmark.tasks))
        return
    with pytest.raises(UnknownName, match="'nothing'"):
        ids(tasks=["nothing"])
    with pytest.raises(BadInput, match="tasks cannot be 'all'"):
        ids(tasks="all")


def test_a_plan_loads_no_torch(small: Small, given: Spec) -> None:
    code = (
        "import json, sys; from piggyback.suite.benchmark import find_benchmark;"
        "find_benchmark(sys.argv[1]).plan(json.loads(sys.argv[2]));"
        "print(sorted({'torch', 'numpy', 'scipy', 'PIL'} & set(sys.modules)))"
    )
    spec = {**given, "methods": [name for name in METHODS if name not in small.benchmark.without]}
    words = [sys.executable, "-c", code, small.name, json.dumps(spec)]
    assert subprocess.run(words, capture_output=True, text=True, check=True).stdout == "[]\n"


# -- what is planned, done ------------------------------------------------------------------------------


def test_planned_commands_do_what_the_plan_says_and_a_store_takes_their_results(
    small: Small,
    made: tuple[Path, Path],
    one_thread: None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Command by command in the plan's order, with every kind of method that the benchmark has."""
    data, backbone = made
    kinds = {stands_on(name): name for name in METHODS if name not in small.benchmark.without}
    settings = {**small.settings, "epochs": 1}
    spec = {
        **{"out": str(tmp_path / "swept"), "data": str(data), "backbone": str(backbone), "settings": settings},
        **{"methods": ["piggyback", *kinds.values()], "seeds": [0]},
        **({"tasks": list(small.written)} if small.benchmark.several else {}),
    }
    runs = plan(small.benchmark, spec)
    done = set[str]()
    for run in runs:
        assert done >= set(run["needs"])
        assert run["proof"] is None or not Path(run["proof"]).exists()
        assert main(run["argv"]) == 0, run["title"]
        assert run["proof"] is None or Path(run["proof"]).exists()
        assert run["kind"] != "run" or json.loads((Path(run["folder"]) / "status.json").read_text())["state"] == "done"
        done.add(run["id"])
    assert "missing" not in capsys.readouterr().out
    store = tmp_path / "store"
    assert main(["leaderboard", "add", "--store", str(store), str(tmp_path / "swept"), "--json"]) == 0
    added = json.loads(capsys.readouterr().out)
    assert len(added["added"]) == sum(run["kind"] == "run" and run["argv"][1] == "train" for run in runs), added
    assert main(["leaderboard", "check", str(store), "--json"]) == 0, capsys.readouterr().out
