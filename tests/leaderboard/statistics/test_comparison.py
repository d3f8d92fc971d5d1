"""Two entries of a store on the same pictures, from predictions and truth on disk."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from decathlon.board import BOARD
from decathlon.challenge.points import BASELINE_ERRORS
from leaderboard.boards.board import PictureIds
from leaderboard.statistics.aggregation import make_entries
from leaderboard.statistics.answers import Judge, with_intervals
from leaderboard.statistics.comparison import SAME, Comparison, compare, find_pairs
from leaderboard.statistics.entries import Entry
from leaderboard.store.reading import StoredResult
from piggyback.shell.errors import ResultError

Maker = Callable[..., StoredResult]
N = 40


def ids_of(task: str) -> PictureIds:
    ids = BOARD.find_ids(task)
    assert ids is not None
    return ids


class DrawnStore:
    """A store with the truth of all ten tasks, and runs with chosen right pictures."""

    def __init__(self, root: Path, make_stored: Maker) -> None:
        self.root, self.make, self.stored = root, make_stored, list[StoredResult]()
        (root / "truth").mkdir()
        for task in BASELINE_ERRORS:
            self.write_truth(task, list(self.ids(task)), [ids_of(task).categories[0]] * N)

    def ids(self, task: str) -> range:
        return ids_of(task).official["test"][:N]

    def write_truth(self, task: str, ids: list[int], labels: list[int]) -> None:
        text = json.dumps({"ids": ids, "labels": labels})
        (self.root / "truth" / f"decathlon-{task}-test.json").write_text(text)

    def add(self, task: str, right: Sequence[bool], *, method: str, seed: int = 0) -> StoredResult:
        one, other = ids_of(task).categories[:2]
        # In another order than the truth's, with pictures of val before, as a run's own file has them.
        order = np.random.default_rng(seed).permutation(N)
        image_ids = np.array([ids_of(task).official["val"][0], *np.array(self.ids(task))[order]])
        category_ids = np.array([one, *np.where(np.array(right), one, other)[order]])
        stored = self.make(task, method=method, seed=seed, correct=int(sum(right)), n=N, root=self.root)
        stored.folder.mkdir(parents=True)
        path = stored.folder / "predictions.npz"
        np.savez(path, task=task, image_ids=image_ids, category_ids=category_ids)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        assert stored.result.fingerprints is not None
        told = stored.result.fingerprints.model_copy(update={"predictions": digest})
        stored = replace(stored, result=stored.result.model_copy(update={"fingerprints": told}))
        self.stored.append(stored)
        return stored

    def entries(self) -> list[Entry]:
        return make_entries(self.stored, published=False)

    def compare(self, first: str = "a", second: str = "b") -> Comparison:
        ((one, other),) = find_pairs(self.entries(), first, second)
        return compare(one, other)


@pytest.fixture
def board(tmp_path: Path, make_stored: Maker) -> DrawnStore:
    return DrawnStore(tmp_path, make_stored)


def right(*wrong: int) -> list[bool]:
    return [place not in wrong for place in range(N)]


def test_pictures_that_only_one_has_right_are_counted(board: DrawnStore) -> None:
    board.add("svhn", right(0, 1), method="a")
    board.add("svhn", right(1, 2, 3, 4, 5, 6, 7, 8, 9), method="b")
    found = board.compare()
    (line,) = found.lines
    (test,) = line.tests
    assert (test.only_first, test.only_second) == (8, 1)
    assert test.p == line.p == line.p_holm == pytest.approx(2 * 10 / 2**9)
    assert line.difference == pytest.approx(7 / N)
    assert found.score is None
    assert found.mean is not None
    assert found.mean.value == pytest.approx(7 / N)
    assert found.mean.interval is not None
    low, high = found.mean.interval
    assert 0 < low < 7 / N < high


def test_seeds_are_paired_and_the_largest_probability_counts(board: DrawnStore) -> None:
    for seed in (0, 1):
        board.add("svhn", right(), method="a", seed=seed)
    board.add("svhn", right(*range(10)), method="b", seed=0)
    board.add("svhn", right(*range(3)), method="b", seed=1)
    board.add("svhn", right(*range(30)), method="b", seed=7)
    (line,) = board.compare().lines
    assert [test.seeds for test in line.tests] == [(0, 0), (1, 1)]
    assert [test.p for test in line.tests] == pytest.approx([2 / 2**10, 2 / 2**3])
    assert line.p == pytest.approx(0.25)


def test_seeds_without_a_common_one_are_paired_in_order(board: DrawnStore) -> None:
    board.add("svhn", right(), method="a", seed=3)
    board.add("svhn", right(0), method="b", seed=4)
    (line,) = board.compare().lines
    assert [test.seeds for test in line.tests] == [(3, 4)]


def test_equal_answers_do_not_differ(board: DrawnStore) -> None:
    for task in BASELINE_ERRORS:
        for method in "ab":
            board.add(task, right(3), method=method)
    found = board.compare()
    assert {line.p for line in found.lines} == {1.0}
    assert found.score is not None
    assert found.score.value == 0.0
    assert found.score.interval == (0.0, 0.0)
    assert found.mean is not None
    assert found.mean.interval == (0.0, 0.0)


def test_the_backbones_shared_result_makes_no_difference_and_spoils_no_interval(board: DrawnStore) -> None:
    for task in BASELINE_ERRORS:
        if task != "imagenet12":
            board.add(task, right(3), method="feature")
            board.add(task, right(3, 4, 5), method="piggyback")
    board.add("imagenet12", right(*range(20)), method="backbone")
    found = board.compare("feature", "piggyback")
    (shared,) = [line for line in found.lines if line.name == "imagenet12"]
    assert (shared.p, shared.why_no_test) == (None, SAME)
    assert found.score is not None
    assert found.score.interval is not None
    assert found.score.interval[0] < found.score.value < found.score.interval[1]


def test_what_cannot_be_judged_says_why_and_spoils_nothing_else(board: DrawnStore) -> None:
    for task in ("svhn", "dtd", "gtsrb", "ucf101", "omniglot"):
        board.add(task, right(0), method="a")
        board.add(task, right(1), method="b")
    (board.root / "truth" / "decathlon-svhn-test.json").unlink()
    (board.root / "truth" / "decathlon-dtd-test.json").write_text("{")
    first = {one.result.task: one for one in board.stored if one.result.method == "a"}
    (first["gtsrb"].folder / "predictions.npz").unlink()
    (first["ucf101"].folder / "predictions.npz").write_bytes(b"PK")
    found = board.compare()
    why = {line.name: line.why_no_test for line in found.lines}
    assert why["svhn"] == "truth/decathlon-svhn-test.json is not in the store"
    assert why["dtd"].startswith("truth/decathlon-dtd-test.json is not JSON")
    assert why["gtsrb"].startswith("predictions.npz cannot be read")
    assert why["ucf101"] == "predictions.npz is not the file that the record names by its digest"
    assert why["omniglot"] == ""
    assert found.mean is not None
    assert found.mean.interval is None


def test_pictures_that_were_not_answered_are_a_fault_and_not_wrong_answers(board: DrawnStore) -> None:
    board.add("svhn", right(0), method="a")
    board.add("svhn", right(1), method="b")
    more = list(ids_of("svhn").official["test"][: N + 1])
    board.write_truth("svhn", more, [ids_of("svhn").categories[0]] * (N + 1))
    (line,) = board.compare().lines
    assert line.why_no_test == "predictions.npz does not answer every picture of the truth"


def test_a_record_whose_counts_the_predictions_do_not_give_is_a_fault(board: DrawnStore) -> None:
    board.add("svhn", right(0), method="a")
    board.add("svhn", right(1), method="b")
    one, other = ids_of("svhn").categories[:2]
    board.write_truth("svhn", list(board.ids("svhn")), [other, *[one] * (N - 1)])
    (line,) = board.compare().lines
    assert line.why_no_test == "predictions.npz does not give the record's counts"


def test_what_a_judge_says_is_in_the_order_of_the_truth(board: DrawnStore) -> None:
    stored = board.add("svhn", right(2, 5), method="a", seed=4)
    assert np.flatnonzero(~Judge(board.root).right(stored, board=BOARD)).tolist() == [2, 5]


def test_intervals_over_seeds_need_the_pictures(board: DrawnStore) -> None:
    for seed in (0, 1, 2):
        board.add("svhn", right(*range(seed + 8)), method="a", seed=seed)
    (entry,) = with_intervals(board.entries())
    interval = entry.values["svhn"].interval
    assert interval is not None
    assert interval[0] < entry.values["svhn"].mean < interval[1]
    (board.root / "truth" / "decathlon-svhn-test.json").unlink()
    (entry,) = with_intervals(board.entries())
    assert entry.values["svhn"].interval is None


def test_intervals_of_one_seed_need_its_counts_alone(make_stored: Maker) -> None:
    (entry,) = with_intervals(make_entries([make_stored(correct=900, n=1000)], published=False))
    assert entry.values["svhn"].interval == pytest.approx((0.88, 0.918), abs=0.003)
    assert entry.points["svhn"].interval is not None
    huge = make_stored(correct=10**30, n=10**30)
    assert with_intervals(make_entries([huge], published=False))[0].values["svhn"].interval is None


def test_totals_get_intervals_when_all_ten_tasks_have(make_stored: Maker) -> None:
    stored = [make_stored(task, correct=950) for task in BASELINE_ERRORS]
    (entry,) = with_intervals(make_entries(stored, published=False))
    assert entry.total is not None
    assert entry.total.interval is not None
    assert entry.total.interval[0] < entry.total.mean < entry.total.interval[1]
    assert entry.mean is not None
    assert entry.mean.interval == pytest.approx((0.9457, 0.9542), abs=0.001)


def test_segmentation_has_neither_test_nor_interval(make_stored: Maker) -> None:
    stored = [
        make_stored("pascal-voc", method=method, benchmark="segmentation", metrics={"mean_iou": iou})
        for method, iou in (("a", 0.6), ("b", 0.5))
    ]
    entries = make_entries(stored, published=False)
    assert with_intervals(entries) == entries
    ((one, other),) = find_pairs(entries, "a", "b")
    found = compare(one, other)
    assert [line.difference for line in found.lines] == pytest.approx([0.1])
    assert (found.mean, found.score) == (None, None)
    assert "confusion matrix" in found.notes[0]


def test_pairs_are_of_one_protocol(make_stored: Maker) -> None:
    stored = [make_stored(method="a"), make_stored(method="a", split="val"), make_stored(method="b", split="val")]
    pairs = find_pairs(make_entries(stored, published=False), "a", "b")
    assert [(one.protocol.split, other.protocol.split) for one, other in pairs] == [("val", "val")]
    with pytest.raises(ResultError, match="no method and no label c; its methods: a, b"):
        find_pairs(make_entries(stored, published=False), "a", "c")
    with pytest.raises(ResultError, match="no protocol in common"):
        find_pairs(make_entries([stored[0], stored[2]], published=False), "a", "b")


def test_pairs_are_of_one_recipe_where_there_are_several(make_stored: Maker) -> None:
    stored = [
        make_stored(method=method, recipe={"epochs": epochs}, attempt=f"{epochs}")
        for method, all_epochs in (("a", (30, 60)), ("b", (30, 60)), ("c", (10, 20)))
        for epochs in all_epochs
    ]
    entries = make_entries(stored, published=False)
    assert [(one.label, other.label) for one, other in find_pairs(entries, "a", "b")] == [
        ("a (epochs=30)", "b (epochs=30)"),
        ("a (epochs=60)", "b (epochs=60)"),
    ]
    with pytest.raises(ResultError, match=r"several entries.*a \(epochs=30\); a \(epochs=60\)"):
        find_pairs(entries, "a", "c")
    assert len(find_pairs(entries, "a (epochs=60)", "c (epochs=10)")) == 1
