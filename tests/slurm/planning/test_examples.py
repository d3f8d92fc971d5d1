"""The sweeps and profiles that ship with the package: they plan, they are what their comments say, and submit."""

import re
import shutil
import tomllib
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from piggyback.shell.errors import SweepError
from slurm.planning.planned_run import PlannedRun
from slurm.planning.plans import Plan, plan
from slurm.planning.profiles import PROFILES, read_profile
from slurm.planning.sweep_files import EXAMPLES, read_sweep
from slurm.sending.sbatch import sbatch_texts
from slurm.sending.submission import Target, submit

ROOT = Path(__file__).parents[3]
SWEEPS = sorted(path.stem for path in EXAMPLES.glob("*.toml") if path.stem != PROFILES)
RUNS = {"smoke": 14, "decathlon-table8": 288, "packnet-orders": 89, "segmentation": 15, "full": 302}
PLACES = {
    "smoke": set(),
    "decathlon-table8": {"archives", "wrn28_4.safetensors"},
    "packnet-orders": {"archives", "wrn28_4.safetensors"},
    "segmentation": {"archives", "vgg16.safetensors"},
    "full": {"archives", "wrn28_4.safetensors", "vgg16.safetensors"},
}
TASKS = ("aircraft", "cifar100", "daimlerpedcls", "dtd", "gtsrb", "omniglot", "svhn", "ucf101", "vgg-flowers")
TABLE_8 = {"scratch", "feature", "finetune", "series", "series-joint", "dan", "piggyback"}
TABLE_2 = {"feature", "packnet", "piggyback", "finetune"}


def read_example(name: str, folder: Path) -> Plan:
    """The plan of an example that was copied into a user's folder."""
    shutil.copyfile(EXAMPLES / f"{name}.toml", folder / f"{name}.toml")
    return plan(read_sweep(folder / f"{name}.toml"))


def find_profiles() -> list[str]:
    return list(tomllib.loads((EXAMPLES / f"{PROFILES}.toml").read_text())["profile"])


def test_the_examples_are_there() -> None:
    assert set(SWEEPS) == RUNS.keys()
    assert [read_sweep(EXAMPLES / f"{name}.toml").name for name in SWEEPS] == SWEEPS


def test_the_folder_at_the_top_has_the_same_files() -> None:
    if not (ROOT / "pyproject.toml").exists():
        pytest.skip("not in a checkout")
    shown, shipped = (
        {path.name: path.read_bytes() for path in folder.glob("*.toml")} for folder in (ROOT / "sweeps", EXAMPLES)
    )
    assert shown == shipped


@pytest.mark.parametrize("name", SWEEPS)
def test_plans_are_what_the_comments_say(name: str, tmp_path: Path) -> None:
    planned = read_example(name, tmp_path)  # refuses ids that are there twice and needs that no run meets
    assert len(planned.runs) == RUNS[name]
    said = re.search(r"^# (\d+) runs", (EXAMPLES / f"{name}.toml").read_text(), flags=re.M)
    assert said is not None
    assert int(said[1]) == RUNS[name]
    assert {path.name for run in planned.runs for path in run.inputs} == PLACES[name]
    assert all(path.is_relative_to(tmp_path) for run in planned.runs for path in run.inputs)


def flag(run: PlannedRun, name: str) -> str:
    """The word behind a flag of a run's command."""
    return run.argv[run.argv.index(f"--{name}") + 1]


def count_runs(runs: Sequence[PlannedRun], *, by: str) -> Counter[str]:
    """Trainings of tasks by the word behind a flag."""
    return Counter(flag(run, by) for run in runs if run.argv[:2] == ("decathlon", "train"))


def test_table_8_is_nine_tasks_with_every_method_and_three_seeds(tmp_path: Path) -> None:
    runs = read_example("decathlon-table8", tmp_path).runs
    kinds = Counter(run.kind for run in runs)
    assert kinds == {"prepare": 1, "run": 279, "score": 7, "page": 1}
    methods = {**dict.fromkeys(TABLE_8 | {"piggyback-ternary"}, 27), "packnet": 2 * 27, "series-joint": 30}
    assert methods.keys() >= TABLE_2
    assert count_runs(runs, by="method") == methods
    assert count_runs(runs, by="task") == {**dict.fromkeys(TASKS, 30), "imagenet12": 3}
    assert count_runs(runs, by="seed") == {"0": 91, "1": 91, "2": 91}
    assert {flag(run, "method"): flag(run, "recipe") for run in runs if run.kind == "run"} == {
        **dict.fromkeys(("piggyback", "piggyback-ternary"), "paper"),
        **dict.fromkeys(("feature", "finetune"), "baselines"),
        **dict.fromkeys(("scratch", "series", "series-joint"), "adapters"),
        **{"dan": "dan", "packnet": "packnet"},
    }
    both = {run.id for run in read_example("full", tmp_path).runs}
    assert both == {run.id for run in (*runs, *read_example("segmentation", tmp_path).runs)}


def test_table_8_with_all_methods_trained_in_the_same_way(tmp_path: Path) -> None:
    """What the file calls its switch: the other list of methods, and one part alone."""
    text = (EXAMPLES / "decathlon-table8.toml").read_text()
    text = text[: text.index("\n# Table 2's")]
    switch = re.search(r"^# (methods = .*)\n# +(.*\])$", text, flags=re.M)
    assert switch is not None
    text, count = re.subn(r"^methods = .*$", f"{switch[1]} {switch[2]}", text, flags=re.M)
    assert count == 1
    (tmp_path / "s.toml").write_text(text.replace("# lr_grid", "lr_grid"))
    runs = plan(read_sweep(tmp_path / "s.toml")).runs
    assert count_runs(runs, by="method") == dict.fromkeys(TABLE_8 | TABLE_2 | {"piggyback-ternary"}, 27)
    assert Counter(run.kind for run in runs) == {"prepare": 1, "run": 9 * 27 + 2 * 3, "score": 1, "page": 1}
    assert {flag(run, "recipe") for run in runs if run.kind == "run"} == {"paper"}
    assert all("--lr-grid 3e-05 0.0001 0.0003" in " ".join(run.argv) for run in runs if run.kind == "run")


@pytest.mark.parametrize("name", ["decathlon-table8", "packnet-orders"])
def test_packnets_tasks_wait_for_each_other_in_two_orders(name: str, tmp_path: Path) -> None:
    runs = {run.id: run for run in read_example(name, tmp_path).runs}
    networks = {run.id for run in runs.values() if run.argv[:4] == ("decathlon", "ground", "--method", "packnet")}
    assert len(networks) == 3  # one for each seed, of both orders
    found = []
    for run in [run for run in runs.values() if flag_or_none(run, "method") == "packnet" and run.id not in networks]:
        need, *before = run.needs
        assert need in networks
        assert flag(runs[need], "seed") == flag(run, "seed")
        assert flag(run, "ground") == str(runs[need].folder)
        assert ([flag(run, "after")] if before else []) == [str(runs[one].folder) for one in before]
        assert [flag(runs[one], "seed") for one in before] == [flag(run, "seed")] * len(before)
        found.append((flag(runs[before[0]], "task") if before else None, flag(run, "task")))
    pairs = Counter(found)
    assert set(pairs.values()) == {3}  # seeds
    for order in (TASKS, TASKS[::-1]):
        assert pairs.keys() >= set(zip((None, *order[:-1]), order, strict=True))
    assert len(pairs) == 2 * len(TASKS)


def flag_or_none(run: PlannedRun, name: str) -> str | None:
    return flag(run, name) if f"--{name}" in run.argv else None


def test_packnet_orders_has_masks_beside_it(tmp_path: Path) -> None:
    runs = read_example("packnet-orders", tmp_path).runs
    assert count_runs(runs, by="method") == {"packnet": 54, "piggyback": 27}
    assert Counter(run.kind for run in runs) == {"prepare": 1, "run": 84, "score": 3, "page": 1}
    assert {flag(run, "epochs") for run in runs if flag_or_none(run, "method") == "packnet"} == {"45"}


@pytest.mark.parametrize("name", SWEEPS)
def test_commands_are_the_console_commands(name: str, tmp_path: Path, read_command: Callable[[list[str]], Any]) -> None:
    """Of each verb with each method in each part, the last one."""
    runs = {
        (run.argv[:2], flag_or_none(run, "method"), run.title.split()[0]): run
        for run in read_example(name, tmp_path).runs
    }
    assert len(runs) >= 5
    for run in runs.values():
        options = read_command(list(run.argv))
        if run.kind == "run":
            assert options.folder == run.folder
            assert str(options.settings.seed) == flag(run, "seed")
            assert getattr(options, "ground", None) == (Path(flag(run, "ground")) if "--ground" in run.argv else None)


def test_table_8_with_a_backbone_of_its_own(tmp_path: Path) -> None:
    """What the file's last default says one may do."""
    text = (EXAMPLES / "decathlon-table8.toml").read_text()
    text = re.sub(r"^backbone = .*\n", "", text, flags=re.M)
    text = text.replace("# [defaults.decathlon.backbone]\n# recipe", "[defaults.decathlon.backbone]\nrecipe")
    (tmp_path / "s.toml").write_text(text)
    runs = plan(read_sweep(tmp_path / "s.toml")).runs
    assert [run.kind for run in runs[:3]] == ["prepare", "backbone", "run"]  # one backbone for all parts
    assert len(runs) == RUNS["decathlon-table8"] + 1


@pytest.mark.parametrize("name", SWEEPS)
def test_commented_lines_are_fields_that_exist(name: str, tmp_path: Path) -> None:
    """With every ``# field = value`` of the settings in force, it still plans."""
    text = (EXAMPLES / f"{name}.toml").read_text()
    freed = re.sub(
        r"^# (norm|lr_grid|trained_on|deconvolution|held_out|weight_lr_factor|labels|data) =", r"\1 =", text, flags=re.M
    )
    (tmp_path / "s.toml").write_text(freed)
    assert len(plan(read_sweep(tmp_path / "s.toml")).runs) == RUNS[name]
    assert (freed != text) == (name != "smoke")


def test_nothing_is_sent_while_archives_and_backbones_are_missing(tmp_path: Path) -> None:
    planned = read_example("full", tmp_path)
    with pytest.raises(SweepError) as caught:
        submit(planned, target=Target(cluster="local"))
    said = str(caught.value)
    assert [f"{tmp_path / name}, which {count} of 302 runs need" in said for name, count in
            (("archives", 2), ("wrn28_4.safetensors", 279), ("vgg16.safetensors", 12))] == [True] * 3  # fmt: skip
    assert not planned.folder.plan.exists()
    assert not (planned.folder.root / "jobs").exists()


@pytest.mark.parametrize("profile", find_profiles())
@pytest.mark.parametrize("name", SWEEPS)
@pytest.mark.usefixtures("no_slurm")
def test_profiles_ask_for_every_sweep(name: str, profile: str, tmp_path: Path) -> None:
    planned = read_example(name, tmp_path)
    asked = read_profile(EXAMPLES / f"{PROFILES}.toml", name=profile)
    texts = sbatch_texts(planned.folder, planned.runs, name=planned.name, profile=asked)
    found = {re.findall(r"job-name=\S*?-([a-z]+)$", text, flags=re.M)[0]: text for text in texts}
    for text in texts:
        assert "#SBATCH --requeue\n" in text
        assert f"#SBATCH --signal=USR2@{asked.signal_s}\n" in text
        assert f"#SBATCH --time={asked.minutes}\n" in text
    assert ("--gpus-per-node=1\n" in found["run"]) == (profile != "default")
    assert "--gpus" not in found["prepare"]


def test_commented_lines_of_profiles_are_fields_that_exist(tmp_path: Path) -> None:
    text = (EXAMPLES / f"{PROFILES}.toml").read_text()
    freed, count = re.subn(r"^( *)# (?=[\w]+ = |')", r"\1", text, flags=re.M)
    assert count > 10
    (tmp_path / "p.toml").write_text(freed)
    gpu = read_profile(tmp_path / "p.toml", name="gpu")
    assert gpu.setup[-1] == "conda activate piggyback"
    backbone = gpu.of_kind("backbone")
    assert (backbone.nodes, backbone.gpus, gpu.of_kind("run").nodes) == (2, 4, 1)
    assert read_profile(tmp_path / "p.toml", name="preemptible").additional["exclude"] == "node[13-14]"


def test_the_profiles() -> None:
    assert find_profiles() == ["default", "gpu", "preemptible"]
    default = read_profile(EXAMPLES / f"{PROFILES}.toml", name="default")
    assert (default.partition, default.account, default.gpus) == (None, None, 0)  # works unedited


def test_a_submitted_plan_knows_its_inputs(tmp_path: Path) -> None:
    planned = read_example("full", tmp_path)
    planned.folder.write_plan(planned.name, planned.runs)
    assert planned.folder.read_plan() == (planned.name, list(planned.runs))


def test_profiles_on_the_page_are_profiles(tmp_path: Path) -> None:
    page = ROOT / "docs" / "slurm.md"
    if not page.exists():
        pytest.skip("not in a checkout")
    blocks = re.findall(r"^```toml\n(.*?)^```$", page.read_text(), flags=re.M | re.S)
    assert len(blocks) == 2
    for number, block in enumerate(blocks):
        (tmp_path / f"{number}.toml").write_text(block if number == 0 else f"[profile.gpu]\n{block}")
    assert read_profile(tmp_path / "0.toml", name="gpu").of_kind("prepare").gpus == 0
    assert read_profile(tmp_path / "1.toml", name="gpu").of_kind("backbone").nodes == 2
