"""Label maps from a network: their size, what is kept, what is made again, and what is never removed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import interpolate

import segmentation.prediction as prediction
from piggyback.shell.errors import BadInput, Diverged, Requeue
from piggyback.suite.bench import Job
from segmentation.bench import Bench, open_bench
from segmentation.metric.confusion import count_pairs
from segmentation.prediction import Scored, claim, count_places, predict_picture, predict_split
from segmentation.release.label_files import encode_label_map, read_label_file, write_label_map
from segmentation.release.packed import PackedSplit, open_split

SOURCE = {"payload": "1", "split": "2", "environment": {"device": "abacus"}}


class Colours(nn.Module):
    """A network of its own for what surrounds it: the class depends on the colour; keeps the inputs' shapes."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.layer = nn.Conv2d(3, 21, 5, padding=2)
        self.seen: list[tuple[int, ...]] = []

    def forward(self, pictures: Tensor) -> Tensor:
        self.seen.append(tuple(pictures.shape))
        assert not self.training
        return self.layer(pictures)


@pytest.fixture
def bench(job: Job) -> Bench:
    return open_bench(job)


@pytest.fixture
def predict(bench: Bench, tmp_path: Path) -> Callable[..., Scored]:
    """Predicts the split to evaluate on into ``tmp_path / "out"``."""

    def run(*, network: nn.Module | None = None, split: PackedSplit | None = None, **more: Any) -> Scored:
        keywords = {"folder": tmp_path / "out", "source": SOURCE, **more}
        return predict_split(bench.predictor, (network or Colours()).train(), split or bench.evaluation, **keywords)

    return run


@pytest.fixture
def network() -> Colours:
    return Colours()


# -- one picture ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 48, 17, 90])
def test_a_label_map_has_the_pictures_own_size(job: Job, change: Any, network: Colours, size: int) -> None:
    bench = open_bench(change(job, size=size))
    network.eval()
    for place in range(5):
        picture = bench.evaluation.picture(place)
        height, width = picture.shape[:2]
        labels = predict_picture(bench.predictor, network, picture)
        scale = size / max(height, width) if size else 1
        rows, columns = round(height * scale), round(width * scale)
        assert network.seen[-1] == (1, 3, rows, columns)  # alone, and nothing around it
        assert (labels.dtype, labels.shape) == (np.uint8, (height, width))

        seen = np.array(Image.fromarray(picture).resize((columns, rows), Image.Resampling.BILINEAR))
        fed = (torch.from_numpy(seen / 255) - torch.tensor(MEAN)) / torch.tensor(STD)
        with torch.no_grad():
            logits = network(fed.permute(2, 0, 1)[None].float())
            logits = interpolate(logits, (height, width), mode="bilinear", align_corners=False)
        assert (labels == logits[0].argmax(0).numpy()).mean() > 0.999  # ties may fall otherwise
        assert len(np.unique(labels)) > 2


MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def test_a_picture_of_one_pixel(bench: Bench, network: Colours) -> None:
    one = np.full((1, 1, 3), 9, dtype=np.uint8)
    assert predict_picture(bench.predictor, network.eval(), one).shape == (1, 1)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_are_no_background(bench: Bench, network: Colours, value: float) -> None:
    with torch.no_grad():
        assert network.layer.bias is not None
        network.layer.bias[7] = value
    with pytest.raises(Diverged, match="not finite"):
        predict_picture(bench.predictor, network.eval(), bench.evaluation.picture(0))


def test_some_pictures_are_counted_and_nothing_is_kept(bench: Bench, network: Colours, tmp_path: Path) -> None:
    before = set(tmp_path.rglob("*"))
    matrix = count_places(bench.predictor, network.train(), bench.train, (6, 1))
    expected = sum(
        count_pairs(bench.train.label_map(place), predict_picture(bench.predictor, network, bench.train.picture(place)))
        for place in (1, 6)
    )
    assert np.array_equal(matrix, expected)
    assert set(tmp_path.rglob("*")) == before


# -- a split --------------------------------------------------------------------------------------------


def test_a_split_is_predicted_kept_and_counted(bench: Bench, predict: Any, network: Colours, tmp_path: Path) -> None:
    done: list[int] = []
    scored = predict(network=network, on_picture=done.append)
    assert done == [1, 2, 3, 4, 5]
    assert (scored.folder, scored.pictures) == (tmp_path / "out", 5)
    total = np.zeros((21, 21), dtype=np.int64)
    for place, one in enumerate(bench.evaluation.ids):
        labels = predict_picture(bench.predictor, network, bench.evaluation.picture(place))
        assert (scored.folder / f"{one}.png").read_bytes() == encode_label_map(labels)
        total += count_pairs(bench.evaluation.label_map(place), labels)
    assert np.array_equal(scored.matrix, total)
    names = {f"{one}.png" for one in bench.evaluation.ids}
    assert {path.name for path in scored.folder.iterdir()} == names | {"of.json"}

    network.seen.clear()
    assert np.array_equal(predict(network=network).matrix, total)
    assert network.seen == []  # all of it was there


def test_a_split_without_label_maps_is_predicted_too(job: Job, predict: Any) -> None:
    split = open_split(job.data, "voc2012_test")
    assert not split.labelled
    scored = predict(split=split)
    assert (scored.matrix.sum(), scored.pictures) == (0, 2)
    for place, one in enumerate(split.ids):
        assert read_label_file(scored.folder / f"{one}.png").shape == split.picture(place).shape[:2]


def test_a_stop_leaves_what_is_done(bench: Bench, predict: Any, network: Colours, stop_after: Any) -> None:
    whole = predict(network=network)
    kept = {path.name: path.read_bytes() for path in whole.folder.iterdir()}
    for path in whole.folder.iterdir():
        path.unlink()
    network.seen.clear()
    with pytest.raises(Requeue):
        predict(network=network, stop=stop_after(2))
    assert sorted(path.stem for path in whole.folder.glob("*.png")) == sorted(bench.evaluation.ids[:2])
    again = predict(network=network, stop=stop_after(5))  # asked for after the last one: nothing is left to stop
    assert len(network.seen) == 5
    assert np.array_equal(again.matrix, whole.matrix)
    assert {path.name: path.read_bytes() for path in whole.folder.iterdir()} == kept


def cut(data: bytes, labels: np.ndarray) -> bytes:
    return data[: len(data) // 2]


def change_a_byte(data: bytes, labels: np.ndarray) -> bytes:
    return data[:-20] + bytes([data[-20] ^ 1]) + data[-19:]


def turn(data: bytes, labels: np.ndarray) -> bytes:
    return encode_label_map(np.zeros((labels.shape[0] + 1, labels.shape[1]), dtype=np.uint8))


def put_void(data: bytes, labels: np.ndarray) -> bytes:
    return encode_label_map(np.where(np.arange(labels.shape[1]) < 3, 255, labels).astype(np.uint8))


@pytest.mark.parametrize(
    "damage", [cut, change_a_byte, turn, put_void, lambda *_: b"", lambda *_: b"\xff\xd8JPEG"],
    ids=["half", "a byte", "another size", "void", "empty", "no PNG"],
)  # fmt: skip
def test_a_png_that_cannot_be_ours_is_made_again(
    bench: Bench, predict: Any, network: Colours, damage: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = predict(network=network)
    path = whole.folder / f"{bench.evaluation.ids[3]}.png"
    good = path.read_bytes()
    path.write_bytes(damage(good, read_label_file(path)))
    assert path.read_bytes() != good
    network.seen.clear()
    assert np.array_equal(predict(network=network).matrix, whole.matrix)
    assert len(network.seen) == 1
    assert path.read_bytes() == good
    said = capsys.readouterr().err
    assert str(path) in said
    assert "predicted again" in said


# -- whose folder it is ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "other",
    [{"payload": "3"}, {"split": "3"}, {"environment": {"device": "slide rule"}}],
    ids=["payload", "split", "machine"],
)
def test_predictions_of_something_else_are_made_again(
    bench: Bench, predict: Any, network: Colours, other: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    first = predict(network=network)
    stray = first.folder / "2001_000001.png"  # of a picture that is not in this split
    write_label_map(stray, np.zeros((2, 2), dtype=np.uint8))
    second = Colours()
    with torch.no_grad():
        second.layer.weight.neg_()
    again = predict(network=second, source={**SOURCE, **other})
    assert len(second.seen) == 5
    assert not np.array_equal(again.matrix, first.matrix)
    assert not stray.exists()
    assert "they are made again" in capsys.readouterr().err
    assert json.loads((first.folder / "of.json").read_text()) == {**SOURCE, **other}


def test_a_damaged_word_on_whose_they_are_counts_as_another(predict: Any, network: Colours) -> None:
    folder = predict(network=network).folder
    (folder / "of.json").write_text("{")
    predict(network=network)
    assert len(network.seen) == 10


@pytest.mark.parametrize("name", ["2007_000033.png", "notes.txt", "seg11valid"])
def test_a_folder_with_other_things_is_left_alone(predict: Any, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "out"
    (folder / name).mkdir(parents=True) if "." not in name else folder.mkdir()
    if "." in name:
        (folder / name).write_bytes(b"a day's work")
    with pytest.raises(BadInput, match=r"out holds files that are not a run's predictions.*take another --out"):
        predict()
    assert [path.name for path in folder.iterdir()] == [name]


def test_an_empty_folder_may_be_taken(predict: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".of.json.0badcafe.tmp").write_bytes(b"{")  # what a kill leaves of writing it
    assert predict().pictures == 5
    assert capsys.readouterr().err == ""


def test_a_kill_while_old_predictions_are_removed_mixes_none(
    predict: Any, network: Colours, killed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = predict(network=network)
    unlink, ends = Path.unlink, list[Path]()

    def unlink_two(path: Path, **more: Any) -> None:
        if path.suffix == ".png":
            ends.append(path)
            if len(ends) == 3:
                raise killed
        unlink(path, **more)

    other = {**SOURCE, "payload": "9"}
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", unlink_two)
        with pytest.raises(killed):
            claim(whole.folder, source=other)
    network.seen.clear()
    assert np.array_equal(predict(network=network, source=other).matrix, whole.matrix)
    assert len(network.seen) == 5


def test_a_kill_at_any_picture_changes_no_number(
    bench: Bench, predict: Any, network: Colours, killed: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole = predict(network=network)
    write = prediction.write_label_map
    for number in range(5):
        folder = tmp_path / f"killed {number}"
        written: list[Path] = []

        def write_some(path: Path, labels: Any, *, number: int = number, written: list[Path] = written) -> None:
            if len(written) == number:
                (path.parent / f".{path.name}.0badcafe.tmp").write_bytes(b"\x89PNG")
                raise killed
            written.append(path)
            write(path, labels)

        with monkeypatch.context() as patch:
            patch.setattr(prediction, "write_label_map", write_some)
            with pytest.raises(killed):
                predict(network=network, folder=folder)
        network.seen.clear()
        again = predict(network=network, folder=folder)
        assert len(network.seen) == 5 - number
        assert np.array_equal(again.matrix, whole.matrix)
        for path in whole.folder.glob("*.png"):
            assert (folder / path.name).read_bytes() == path.read_bytes()
