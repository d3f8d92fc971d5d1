"""The matrix and the four numbers against pixels counted one by one, and cases worked out by hand."""

import csv
import json
import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from piggyback.shell.errors import BadInput
from segmentation.metric.confusion import count_pairs, read_matrix, write_matrix
from segmentation.metric.miou import Scores, score, show, warn_if_background, write_csv
from segmentation.voc import CLASSES

VOID = 255
TRUTH = st.sampled_from([0, 0, 0, 1, 2, 15, 20, VOID])
ANSWERS = st.sampled_from([0, 0, 0, 1, 2, 14, 20])


def both(shape: tuple[int, int]) -> st.SearchStrategy[tuple[np.ndarray, np.ndarray]]:
    return st.tuples(arrays(np.uint8, shape, elements=TRUTH), arrays(np.uint8, shape, elements=ANSWERS))


PAIRS = st.tuples(st.integers(1, 9), st.integers(1, 9)).flatmap(both)


def smooth(seed: int, *, block: int) -> tuple[np.ndarray, np.ndarray]:
    """Label maps in blocks of pixels: long runs for large blocks, none for blocks of 1."""
    random = np.random.default_rng(seed)
    truth = random.choice([0, 3, 7, VOID], (6, 7)).astype(np.uint8).repeat(block, 0).repeat(block, 1)
    answer = random.choice([0, 3, 9, 20], (6, 7)).astype(np.uint8).repeat(block, 0).repeat(block, 1)
    return truth, np.roll(answer, 1, axis=1)


def count_slowly(pairs: list[tuple[np.ndarray, np.ndarray]]) -> dict[tuple[int, int], int]:
    counts: dict[tuple[int, int], int] = {}
    for truth, answer in pairs:
        for right, given_ in zip(truth.ravel().tolist(), answer.ravel().tolist(), strict=True):
            if right != VOID:
                counts[right, given_] = counts.get((right, given_), 0) + 1
    return counts


def score_slowly(counts: dict[tuple[int, int], int]) -> dict[str, object]:
    """The definitions in exact fractions, one class after another; no code in common with ours."""
    total = sum(counts.values())
    ious: list[Fraction | None] = []
    recalls, weighted = [], Fraction(0)
    for label in range(21):
        hits = counts.get((label, label), 0)
        in_truth = sum(n for (right, _), n in counts.items() if right == label)
        either = sum(n for pair, n in counts.items() if label in pair)
        ious.append(Fraction(hits, either) if either else None)
        if in_truth:
            recalls.append(Fraction(hits, in_truth))
            weighted += Fraction(in_truth, total) * Fraction(hits, either)
    present = [iou for iou in ious if iou is not None]
    return {
        "mean_iou": sum(present) / len(present),
        "pixel_accuracy": Fraction(sum(n for (right, given_), n in counts.items() if right == given_), total),
        "mean_accuracy": sum(recalls) / len(recalls),
        "frequency_weighted_iou": weighted,
        "iou": ious,
    }


def agree(scores: Scores, slow: dict[str, object]) -> None:
    for name in ("mean_iou", "pixel_accuracy", "mean_accuracy", "frequency_weighted_iou"):
        assert getattr(scores, name) == pytest.approx(float(slow[name]), abs=1e-14), name  # type: ignore[arg-type]
    assert [None if iou is None else float(iou) for iou in slow["iou"]] == list(scores.iou)  # type: ignore[attr-defined]


@settings(deadline=None)
@given(st.lists(PAIRS, min_size=1, max_size=4))
def test_against_pixels_one_by_one(pairs: list[tuple[np.ndarray, np.ndarray]]) -> None:
    matrix = sum((count_pairs(*pair) for pair in pairs), np.zeros((21, 21), np.int64))
    slow = count_slowly(pairs)
    assert {(r, c): int(matrix[r, c]) for r, c in np.argwhere(matrix).tolist()} == slow
    whole = count_pairs(*(np.concatenate([pair[side].ravel() for pair in pairs])[None] for side in (0, 1)))
    assert np.array_equal(matrix, whole)
    assert matrix.dtype == np.int64
    if slow:
        scores = score(matrix, pictures=len(pairs))
        agree(scores, score_slowly(slow))
        json.dumps(scores.as_json(), allow_nan=False)
    else:
        with pytest.raises(BadInput, match="nothing to score"):
            score(matrix, pictures=len(pairs))


@pytest.mark.parametrize("block", [1, 2, 12])
def test_long_and_short_runs(block: int) -> None:
    pair = smooth(block, block=block)
    slow = count_slowly([pair])
    matrix = count_pairs(*pair)
    assert {(r, c): int(matrix[r, c]) for r, c in np.argwhere(matrix).tolist()} == slow
    agree(score(matrix, pictures=1), score_slowly(slow))
    assert np.array_equal(matrix, count_pairs(pair[0].T, pair[1].T))  # not contiguous


def test_by_hand() -> None:
    truth = np.array([[0, 0, 0, 0], [1, 1, 255, 2]], dtype=np.uint8)
    answer = np.array([[0, 0, 0, 1], [1, 3, 255, 0]], dtype=np.uint8)  # 255 is let be where the truth is void
    scores = score(count_pairs(truth, answer), pictures=1)
    # background 3 of 5, aeroplane 1 of 3, bicycle 0 of 1, bird predicted only: 0 of 1
    assert scores.iou[:4] == (3 / 5, 1 / 3, 0.0, 0.0)
    assert scores.iou[4:] == (None,) * 17
    assert scores.absent == CLASSES[4:]
    assert scores.accuracy[:4] == (3 / 4, 1 / 2, 0.0, None)
    assert scores.mean_iou == pytest.approx((3 / 5 + 1 / 3) / 4)
    assert scores.mean_accuracy == pytest.approx((3 / 4 + 1 / 2) / 3)
    assert scores.pixel_accuracy == pytest.approx(4 / 7)
    assert scores.frequency_weighted_iou == pytest.approx((4 * 3 / 5 + 2 / 3) / 7)
    keys = ["mean_iou", "pixel_accuracy", "mean_accuracy", "frequency_weighted_iou", "iou", "pictures"]
    assert list(scores.as_json()) == keys
    assert scores.as_json()["iou"] == [3 / 5, 1 / 3, 0.0, 0.0, *[None] * 17]


def test_golden_all_background() -> None:
    """The ground truth of seg11valid, counted by the project: what all-background earns on it."""
    pixels = [90730503, 909327, 332697, 1120958, 566747, 1165929, 1791924, 1592013, 2942851, 1506794, 1593248]
    pixels += [1911304, 2308630, 1027153, 1393724, 6682736, 713781, 1043603, 2096985, 2125967, 982492]
    matrix = np.zeros((21, 21), dtype=np.int64)
    matrix[:, 0] = pixels
    scores = score(matrix, pictures=736)
    assert round(100 * scores.pixel_accuracy, 3) == 72.853
    assert round(100 * scores.mean_iou, 3) == 3.469
    assert scores.mean_accuracy == pytest.approx(1 / 21)


def test_beyond_float32() -> None:
    matrix = np.zeros((21, 21), dtype=np.int64)
    matrix[0, 0], matrix[1, 0], matrix[1, 1] = 1 << 60, 1, 1
    assert score(matrix, pictures=1).iou[1] == 0.5
    assert score(matrix, pictures=1).pixel_accuracy <= 1


def test_what_cannot_be_counted() -> None:
    zeros = np.zeros((2, 3), dtype=np.uint8)
    with pytest.raises(BadInput, match="truth is 3 x 2, the prediction 2 x 3 pixels"):
        count_pairs(zeros, zeros.T)
    with pytest.raises(BadInput, match=r"prediction has the label 255 \(void\) in 6 pixels"):
        count_pairs(zeros, zeros + np.uint8(255))
    with pytest.raises(BadInput, match="prediction has the label 21 in 6"):
        count_pairs(zeros, zeros + np.uint8(21))
    with pytest.raises(BadInput, match="truth has the label 254"):
        count_pairs(zeros + np.uint8(254), zeros)
    with pytest.raises(ValueError, match="uint8"):
        count_pairs(zeros.astype(np.int64), zeros)
    assert not count_pairs(zeros[:0], zeros[:0]).any()
    assert not count_pairs(zeros + np.uint8(255), zeros + np.uint8(99)).any()  # void may be answered with anything
    for wrong in (np.zeros((21, 21)), np.zeros((22, 22), np.int64), np.full((21, 21), -1)):
        with pytest.raises(ValueError, match="confusion matrix"):
            score(wrong, pictures=1)


def test_background_is_noticed(capsys: pytest.CaptureFixture[str]) -> None:
    matrix = np.zeros((21, 21), dtype=np.int64)
    assert not warn_if_background(matrix)
    matrix[:, 0] = 5
    assert warn_if_background(matrix)
    assert "every predicted pixel is background" in capsys.readouterr().err
    matrix[3, 3] = 1
    assert not warn_if_background(matrix)
    assert not capsys.readouterr().err


def test_shown_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    matrix = np.zeros((21, 21), dtype=np.int64)
    matrix[0, 0], matrix[15, 15], matrix[15, 0] = 6, 1, 1
    scores = score(matrix, pictures=2)
    show(scores, title="[a]")
    shown = capsys.readouterr().out
    assert "[a]" in shown
    assert "mean IoU 67.86 %, pixel accuracy 87.50 %, mean accuracy 75.00 %" in shown
    assert "over 2 of 21 classes: aeroplane, bicycle" in shown
    assert shown.count("n/a") == 2 * 19 + 1
    assert "nan" not in shown.lower().replace("n/a", "")
    write_csv(tmp_path / "a.csv", scores)
    with (tmp_path / "a.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == list(CLASSES)
    assert float(rows[15]["iou"]) == 0.5
    assert math.isclose(float(rows[0]["iou"]), 6 / 7)
    assert rows[1] == {"label": "1", "class": "aeroplane", "iou": "", "accuracy": ""}


def test_the_matrix_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "confusion.json"
    matrix = np.random.default_rng(0).integers(0, 1 << 50, (21, 21))
    write_matrix(path, matrix)
    again = read_matrix(path)
    assert again.dtype == np.int64
    assert np.array_equal(again, matrix)
    whole = json.loads(path.read_text())
    assert whole["classes"] == list(CLASSES)

    def edited(**change: object) -> None:
        path.write_text(json.dumps(whole | change))

    rows = whole["matrix"]
    for value in (True, 1.0, -1, "1", None, 1 << 70):
        edited(matrix=[[value, *rows[0][1:]], *rows[1:]])
        with pytest.raises(BadInput, match=r"not a count of pixels|more pixels|beyond the largest"):
            read_matrix(path)
    for change, match in (
        ({"matrix": rows[1:]}, "21 rows"),
        ({"matrix": [rows[0][1:], *rows[1:]]}, "row of background"),
        ({"classes": list(CLASSES[::-1])}, "other classes"),
        ({"rows": "prediction"}, "truth in rows"),
        ({"more": 1}, "exactly"),
    ):
        edited(**change)
        with pytest.raises(BadInput, match=match):
            read_matrix(path)
