import json
from pathlib import Path

import pytest

from decathlon.demo import Folder, Scale, plan_commands, run_scaled
from decathlon.drawn.pictures import DRAWN
from decathlon.drawn.release import Amounts, plan_pictures, write_release
from decathlon.release.annotations import read_annotations
from decathlon.release.labels import read_labels
from decathlon.release.packed import open_split, read_manifest
from decathlon.release.prepare import prepare
from decathlon.tasks import MASKED_TASKS
from piggyback.shell.cli import choose, find_commands, parse
from piggyback.shell.errors import BadInput

FEW = Amounts(backbone=(40, 20, 20), task=(12, 10, 10))


def test_a_drawn_release_is_of_the_official_form(tmp_path: Path) -> None:
    source, out = tmp_path / "release", tmp_path / "data"
    write_release(source, tasks=("dtd", "imagenet12"), amounts=FEW)
    report = prepare(source, out)
    assert report.good
    assert {one.task: dict(one.counts) for one in report.tasks} == {
        "dtd": {"train": 12, "val": 10, "test": 10},
        "imagenet12": {"train": 40, "val": 20, "test": 20},
    }
    planned = plan_pictures("dtd", amounts=FEW.task, seed=0)
    train = open_split(out, "dtd", "train")
    assert train.labels.tolist() == [picture.place for picture in planned[:12]]
    assert train.image_ids.tolist() == [40000000 + number for number in range(1, 13)]
    assert open_split(out, "dtd", "val").image_ids[0] == 40100013
    assert open_split(out, "dtd", "test").labels.tolist() == [-1] * 10
    assert not train.official
    names = read_annotations(source / "annotations" / "dtd_train.json", task="dtd", split="train").category_names
    assert names == DRAWN["dtd"].classes


def test_folders_are_not_categories_and_test_labels_lie_apart(tmp_path: Path) -> None:
    write_release(tmp_path, tasks=("cifar100",), amounts=FEW)
    stripped = json.loads((tmp_path / "annotations" / "cifar100_test_stripped.json").read_text())
    assert "annotations" not in stripped
    assert all("/test/0" in image["file_name"] for image in stripped["images"])
    labels = read_labels(tmp_path / "labels_test").tasks["cifar100"]
    assert len(labels.labels) == 10
    prepare(tmp_path, tmp_path / "out")
    manifest = read_manifest(tmp_path / "out", "cifar100")
    assert manifest is not None
    assert manifest.folder_mismatches >= 5


def test_a_release_is_drawn_once_and_not_over_another(tmp_path: Path) -> None:
    write_release(tmp_path, tasks=("svhn",), amounts=FEW)
    path = tmp_path / "data" / "svhn.tar"
    before = path.stat().st_mtime_ns
    write_release(tmp_path, tasks=("svhn",), amounts=FEW)
    assert path.stat().st_mtime_ns == before
    with pytest.raises(BadInput, match="holds other drawings"):
        write_release(tmp_path, tasks=("svhn",), amounts=FEW, seed=1)


def test_every_step_is_a_command_that_can_be_typed() -> None:
    commands = find_commands()
    for _, arguments in plan_commands(Folder(Path("demo")), scale=Scale()):
        command = choose(commands, arguments)
        assert command is not None
        assert parse(command, arguments[len(command.words) :]) is not None


@pytest.mark.filterwarnings("ignore:.*lr_scheduler.step:UserWarning")
def test_a_very_small_demo_goes_to_the_end_and_the_second_time_trains_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scale = Scale(amounts=FEW, epochs=2, steps=1, update="eager")
    masks, heads = run_scaled(tmp_path, scale=scale)
    text = capsys.readouterr().out
    assert masks.tasks.keys() == heads.tasks.keys() == set(MASKED_TASKS)
    assert (masks.parameter_ratio, heads.parameter_ratio) == (1.28125, 1.0)
    assert masks.report is not None
    assert masks.report.complete
    assert not masks.report.official
    assert "not a decathlon score" in text
    assert "1.28125" in text
    assert (tmp_path / "results.zip").is_file()
    results = sorted((tmp_path / "runs" / "runs").rglob("result.json"))
    assert len(results) == 2 * len(MASKED_TASKS)
    times = [path.stat().st_mtime_ns for path in results]
    assert run_scaled(tmp_path, scale=scale) == (masks, heads)
    assert [path.stat().st_mtime_ns for path in results] == times
