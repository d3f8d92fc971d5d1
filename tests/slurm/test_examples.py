"""The sweeps and profiles that ship with the package: they plan, they are what their comments say, and submit."""

import re
import shutil
import tomllib
from collections import Counter
from pathlib import Path

import pytest

from piggyback.sweeps import METHOD_NAMES
from slurm.errors import SweepError
from slurm.plans import Plan, plan
from slurm.sending import Target, submit
from slurm.submission import sbatch_texts
from slurm.sweep_files import EXAMPLES, PROFILES, read_profile, read_sweep

ROOT = Path(__file__).parents[2]
SWEEPS = sorted(path.stem for path in EXAMPLES.glob("*.toml") if path.stem != PROFILES)
RUNS = {"smoke": 14, "decathlon-table8": 111, "segmentation": 15, "full": 125}
PLACES = {
    "smoke": set(),
    "decathlon-table8": {"archives", "wrn28_4.safetensors"},
    "segmentation": {"archives", "vgg16.safetensors"},
    "full": {"archives", "wrn28_4.safetensors", "vgg16.safetensors"},
}


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


def test_table_8_is_nine_tasks_with_every_method_and_three_seeds(tmp_path: Path) -> None:
    runs = read_example("decathlon-table8", tmp_path).runs
    kinds = Counter(run.kind for run in runs)
    assert kinds == {"prepare": 1, "run": 9 * len(METHOD_NAMES) * 3, "score": 1, "page": 1}
    assert all("--recipe paper" in " ".join(run.argv) for run in runs if run.kind == "run")
    words = {word for run in runs if run.kind == "run" for word in run.title.split()}
    assert words >= {*METHOD_NAMES, "0", "1", "2", "omniglot"}
    both = {run.id for run in read_example("full", tmp_path).runs}
    assert both == {run.id for run in (*runs, *read_example("segmentation", tmp_path).runs)}


def test_table_8_with_a_backbone_of_its_own(tmp_path: Path) -> None:
    """What the comment at the end of the file says one may do."""
    text = (EXAMPLES / "decathlon-table8.toml").read_text()
    text = re.sub(r"^backbone = .*\n", "", text, flags=re.M)
    text = text.replace("# [benchmark.backbone]\n# recipe", "[benchmark.backbone]\nrecipe")
    (tmp_path / "s.toml").write_text(text)
    runs = plan(read_sweep(tmp_path / "s.toml")).runs
    assert [run.kind for run in runs[:3]] == ["prepare", "backbone", "run"]
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
    assert [f"{tmp_path / name}, which {count} of 125 runs need" in said for name, count in
            (("archives", 2), ("wrn28_4.safetensors", 108), ("vgg16.safetensors", 12))] == [True] * 3  # fmt: skip
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
