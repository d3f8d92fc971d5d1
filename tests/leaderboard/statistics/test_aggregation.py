"""From results to entries: what belongs together, what never does, and who is ranked."""

import re
from collections.abc import Callable
from statistics import stdev

import pytest

from decathlon.challenge.points import BASELINE_ERRORS, decathlon_score
from leaderboard.boards.plain_boards import boards_for
from leaderboard.statistics.aggregation import is_shown, make_entries
from leaderboard.statistics.entries import Entry
from leaderboard.statistics.labels import tell_apart
from leaderboard.statistics.ranking import ranks
from leaderboard.store.reading import StoredResult

Maker = Callable[..., StoredResult]
TenMaker = Callable[..., list[StoredResult]]
SEGMENTATION = {"benchmark": "segmentation", "split": "seg11valid"}


def measured(stored: list[StoredResult]) -> list[Entry]:
    return make_entries(stored, published=False)


def only(stored: list[StoredResult]) -> Entry:
    (entry,) = measured(stored)
    return entry


def test_mean_and_sample_spread_over_seeds(make_stored: Maker) -> None:
    entry = only([make_stored(seed=seed, correct=correct) for seed, correct in enumerate((900, 910, 940))])
    value = entry.values["svhn"]
    assert value.mean == pytest.approx(0.9166667)
    assert value.spread == pytest.approx(stdev([0.9, 0.91, 0.94]))
    assert value.n == 3
    assert value.results == tuple(f"decathlon/svhn/piggyback/seed{seed}-test-0" for seed in range(3))
    assert entry.label == "piggyback"  # learning rates that the runs chose themselves do not tell recipes apart


def test_a_single_seed_has_no_spread(make_stored: Maker) -> None:
    value = only([make_stored()]).values["svhn"]
    assert (value.spread, value.n) == (None, 1)


def test_the_score_is_over_seeds(make_ten: TenMaker) -> None:
    stored = make_ten(seeds=(0,), correct=990) + make_ten(seeds=(1,), correct=980)
    entry = only(stored)
    scores = [decathlon_score(dict.fromkeys(BASELINE_ERRORS, error)).score or 0 for error in (0.01, 0.02)]
    assert entry.total is not None
    assert entry.mean is not None
    assert entry.total.mean == pytest.approx(sum(scores) / 2)
    assert entry.total.spread == pytest.approx(stdev(scores))
    assert (entry.total.n, entry.rank, entry.missing) == (2, 1, ())
    assert entry.mean.mean == pytest.approx(0.985)
    assert entry.points["svhn"].n == 2
    assert sum(value.mean for value in entry.points.values()) == pytest.approx(entry.total.mean)


def test_incomplete_entries_have_no_total_and_no_rank(make_ten: TenMaker) -> None:
    entry = only(make_ten(without=("dtd",)))
    assert (entry.total, entry.mean, entry.rank, entry.missing) == (None, None, None, ("dtd",))
    assert len(entry.points) == 9


def test_tasks_of_different_seeds_give_no_total(make_ten: TenMaker, make_stored: Maker) -> None:
    entry = only([*make_ten(seeds=(0, 1), without=("dtd",)), make_stored("dtd", seed=0)])
    assert (entry.total, entry.rank, entry.missing) == (None, None, ())
    assert "do not all have the same seeds" in entry.note


def test_data_that_are_not_official_give_no_points(make_ten: TenMaker) -> None:
    entry = only(make_ten(official=False))
    assert (entry.total, entry.points, entry.rank) == (None, {}, None)
    assert len(entry.values) == 10


def test_one_task_that_is_not_official_is_not_mixed_in(make_ten: TenMaker, make_stored: Maker) -> None:
    entries = measured([*make_ten(without=("dtd",)), make_stored("dtd", official=False)])
    assert sorted(len(entry.values) for entry in entries) == [1, 9]
    assert all(entry.total is None for entry in entries)


@pytest.mark.parametrize(
    "other",
    [{"split": "val"}, {"trained_on": "train+val"}, {"backbone": "c" * 64}, {"official": False}, {"task_version": 2}],
)
def test_protocols_are_never_mixed(make_ten: TenMaker, other: dict[str, object]) -> None:
    here, there = measured(make_ten(seeds=(0,)) + make_ten(seeds=(1,), **other))
    assert here.protocol != there.protocol
    assert here.protocol.label != there.protocol.label
    assert all(value.n == 1 for entry in (here, there) for value in entry.values.values())
    assert {entry.rank for entry in (here, there)} <= {1, None}


def test_the_backbones_own_accuracy_serves_methods_that_keep_it(make_ten: TenMaker, make_stored: Maker) -> None:
    own = make_stored("imagenet12", method="backbone", correct=600, recipe={"epochs": 90})
    nine = make_ten(seeds=(0, 1), without=("imagenet12",))
    packnet = make_ten(without=("imagenet12",), method="packnet")
    stranger = make_ten(without=("imagenet12",), method="mine")
    entries = {entry.method: entry for entry in measured([own, *nine, *packnet, *stranger])}
    entry = entries["piggyback"]
    assert entry.total is not None
    assert entry.total.n == 2
    assert entry.values["imagenet12"].mean == 0.6
    assert entry.values["imagenet12"].results == (own.place,)
    assert entry.points["imagenet12"].n == 1
    assert "imagenet12 is the backbone's own" in entry.note
    assert own in entry.stored
    for method in ("packnet", "mine"):
        assert entries[method].missing == ("imagenet12",)
        assert entries[method].total is None
    assert entries["backbone"].rank is None


@pytest.mark.parametrize("other", [{"backbone": "c" * 64}, {"split": "val"}, {"official": False}])
def test_another_backbones_accuracy_does_not_serve(
    make_ten: TenMaker, make_stored: Maker, other: dict[str, object]
) -> None:
    own = make_stored("imagenet12", method="backbone", **other)
    entry = next(one for one in measured([own, *make_ten(without=("imagenet12",))]) if one.method == "piggyback")
    assert entry.missing == ("imagenet12",)


def test_a_methods_own_imagenet12_goes_before_the_backbones(make_ten: TenMaker, make_stored: Maker) -> None:
    own = make_stored("imagenet12", method="backbone", correct=600)
    entry = next(one for one in measured([own, *make_ten(correct=700)]) if one.method == "piggyback")
    assert entry.values["imagenet12"].mean == 0.7


def test_ties_share_a_rank(make_ten: TenMaker) -> None:
    stored = [
        one
        for method, correct in (("a", 990), ("b", 990), ("c", 980))
        for one in make_ten(method=method, correct=correct)
    ]
    assert [(entry.method, entry.rank, entry.tied) for entry in measured(stored)] == [
        ("a", 1, True),
        ("b", 1, True),
        ("c", 3, False),
    ]
    assert ranks([3.0, 5.0, 3.0, 1.0]) == [(2, True), (1, False), (2, True), (4, False)]


def test_recipes_are_told_apart(make_stored: Maker) -> None:
    recipes = ({"epochs": 60, "seed": 0}, {"epochs": 30, "seed": 0})
    entries = measured([make_stored(recipe=recipe, attempt=f"{recipe['epochs']}") for recipe in recipes])
    assert sorted(entry.label for entry in entries) == ["piggyback (epochs=30)", "piggyback (epochs=60)"]
    many = [{name: f"{value}" for name in "abcd"} for value in range(2)]
    first, second = tell_apart(many)
    assert first.startswith(" (a=0, b=0, c=0, ")
    assert first[-7:] != second[-7:]
    assert len(tell_apart([{"a": "x" * 1000}, {"a": "x" * 999}])[0]) < 60


def test_orders_of_tasks_are_told_apart_by_their_names(make_stored: Maker) -> None:
    orders: tuple[list[object], ...] = (["svhn", "dtd"], ["dtd", "svhn", "vgg-flowers", "ucf101"], [], ["svhn", 1, 2])
    stored = [make_stored(recipe={"order": order}, attempt=f"{len(order)}") for order in orders]
    odd, none, many, few = sorted(entry.label for entry in measured(stored))
    assert few == "piggyback (order=svhn dtd)"
    assert re.fullmatch("piggyback \\(order=dtd svhn vgg-flowers uc\N{HORIZONTAL ELLIPSIS}, [0-9a-f]{6}\\)", many)
    assert none == "piggyback (order=[])"
    assert odd == 'piggyback (order=["svhn", 1, 2])'


def test_a_repeated_seed_counts_once_and_not_by_its_number(make_stored: Maker) -> None:
    for correct in ((900, 800), (800, 900)):
        entry = only([make_stored(attempt=f"{place}", correct=right) for place, right in enumerate(correct)])
        assert entry.values["svhn"].n == 1
        assert entry.values["svhn"].mean == correct[0] / 1000
        assert entry.note.startswith("1 repeated results not counted")


def test_drawn_data_of_another_version_are_another_entry(make_ten: TenMaker, make_stored: Maker) -> None:
    stored = [*make_ten(official=False), make_stored("dtd", official=False, data="other", seed=1)]
    full, rest = sorted(measured(stored), key=lambda entry: -len(entry.values))
    assert len(full.values) == 10
    assert full.values["dtd"].n == 1
    assert set(rest.values) == {"dtd"}
    assert full.protocol.data != rest.protocol.data


def test_segmentation_is_ranked_by_mean_iou(make_stored: Maker) -> None:
    runs = [segmentation(make_stored, *one) for one in (("piggyback", 0.61), ("finetune", 0.62))]
    assert [(entry.method, entry.rank) for entry in measured(runs)] == [("finetune", 1), ("piggyback", 2)]
    other = segmentation(make_stored, "feature", 0.9, task="cityscapes")
    assert [entry.rank for entry in measured([*runs, other])].count(1) == 2


def segmentation(make_stored: Maker, method: str, iou: float, *, task: str = "pascal-voc") -> StoredResult:
    return make_stored(
        task,
        method=method,
        metrics={"mean_iou": iou, "pixel_accuracy": 0.9},
        data="d1" * 32 + "+" + "e2" * 32,
        **SEGMENTATION,
    )


def test_a_published_number_in_a_store_is_unverified(make_stored: Maker) -> None:
    one = make_stored(origin="published", citation="Somebody", table="Table 1", label="Best of all")
    assert measured([one]) == []
    (entry,) = [one for one in make_entries([one], published=False, unverified=True) if one.label == "Best of all"]
    assert (entry.evidence, entry.rank, entry.citation) == ("unverified", None, "Somebody")


def test_results_without_a_place_in_a_table_are_left_aside(make_stored: Maker) -> None:
    strange = [
        make_stored("mnist"),
        make_stored(metrics={"loss": 1.0}),
        make_stored("pascal-voc", **SEGMENTATION),
    ]
    boards = boards_for(one.result for one in strange)
    assert [is_shown(one, boards) for one in strange] == [False] * 3
    assert measured([*strange, make_stored()])[0].values.keys() == {"svhn"}


def test_order_is_complete_then_incomplete_then_unverified(make_ten: TenMaker) -> None:
    stored = make_ten() + make_ten(method="feature", without=("dtd",)) + make_ten(split="val", correct=999)
    told = [
        ("unverified" if entry.evidence == "unverified" else "ranked" if entry.rank else "incomplete")
        for entry in make_entries(stored, unverified=True)
        if entry.benchmark == "decathlon"
    ]
    assert told == sorted(told, key=["ranked", "incomplete", "unverified"].index)
    ranked = [entry.protocol.split for entry in make_entries(stored) if entry.rank and entry.benchmark == "decathlon"]
    assert ranked == ["test"] * 15 + ["val"]


def test_results_of_any_order_give_the_same_entries(make_ten: TenMaker) -> None:
    stored = make_ten(seeds=(0, 1, 2)) + make_ten(method="feature", official=False)
    assert measured(stored) == measured(stored[::-1])
