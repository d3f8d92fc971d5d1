"""The board: its tasks are the official ones, its published rows complete, sourced and in the literature's order."""

from pathlib import Path

import pytest

from decathlon.board import BOARD, TITLES
from decathlon.challenge.points import Score, decathlon_score
from decathlon.tasks import SPLITS, TASKS
from leaderboard.boards import published
from leaderboard.boards.published import PublishedRow
from leaderboard.statistics.aggregation import make_entries
from leaderboard.statistics.ranking import place_entries

# By their printed scores, as the papers order them.
LITERATURE = [
    ("URL + parallel RA", 4005),
    ("NetTailor", 3744),
    ("URL", 3626),
    ("Parallel RA", 3412),
    ("Parallel RA, SVD", 3398),
    ("MDL, joint", 2866),
    ("DAN", 2851),
    ("Piggyback", 2838),
    ("Res. Adapt. (J)", 2643),
    ("LwF", 2515),
    ("Finetune", 2500),
    ("Res. Adapt.", 2118),
    ("Scratch", 1625),
    ("Feature", 544),
]


TABLE8 = "Table 8 of A. Mallya, D. Davis, S. Lazebnik: Piggyback, ECCV 2018"

# Recomputed from the printed accuracies by an independent sum.  The printed scores are 0 to 2.3 lower: the
# server had the exact fractions of right pictures, the paper prints accuracies and baseline with two decimals
# of a percent, and where E_max is small (gtsrb 4.94 %, svhn 6.90 %) half a unit of the last decimal is up to
# half a point.  That band, 2 to 3 points, holds every row but "Feature", which is 0.7 outside and unexplained.
RECOMPUTED = {
    "scratch": (1626.7, 1625),
    "feature": (545.4, 544),
    "finetune": (2500.0, 2500),
    "series": (2119.0, 2118),
    "series-joint": (2644.0, 2643),
    "dan": (2852.5, 2851),
    "piggyback": (2840.2, 2838),
}


def published_rows() -> tuple[PublishedRow, ...]:
    return published.published_rows([BOARD])


def unverified_rows() -> tuple[PublishedRow, ...]:
    return published.unverified_rows([BOARD])


def table8() -> list[PublishedRow]:
    """The seven rows of Table 8 of the Piggyback paper, in its order."""
    return [row for row in published_rows() if row.table == TABLE8]


def complete(rows: tuple[PublishedRow, ...]) -> list[PublishedRow]:
    return [row for row in rows if row.values]


def score_of(row: PublishedRow) -> Score:
    return decathlon_score({task: 1.0 - accuracy for task, accuracy in row.values.items()})


def test_the_tasks_are_the_official_ones() -> None:
    assert BOARD.names == tuple(TASKS)
    for name, task in TASKS.items():
        ids = BOARD.find_ids(name)
        assert ids is not None
        assert (ids.known, ids.categories) == (task.category_ids, task.category_ids[: task.classes])
        assert [ids.official[split][0] for split in SPLITS] == [task.first_image_id(split) for split in SPLITS]
        assert tuple(len(ids.official[split]) for split in SPLITS) == task.pictures
        assert tuple(BOARD.count_official(name, split) for split in SPLITS) == task.pictures


def test_verified_rows_stand_in_the_order_of_the_literature() -> None:
    entries = make_entries([])
    places = place_entries(entries)
    placed = [entry for entry in entries if id(entry) in places]
    assert [(entry.label, entry.total and entry.total.mean) for entry in placed] == LITERATURE
    assert [places[id(entry)] for entry in placed] == [(place, False) for place in range(1, 15)]
    # A rank is within one protocol, and follows the same order there.
    for protocol in {entry.protocol for entry in placed}:
        field = [entry for entry in placed if entry.protocol == protocol]
        assert [entry.rank for entry in field] == list(range(1, len(field) + 1))
    # Recomputing the scores changes no place.
    rows = sorted(complete(published_rows()), key=lambda row: -(score_of(row).score or 0))
    assert [row.label for row in rows] == [label for label, _ in LITERATURE]


def test_scores_and_means_are_recomputed() -> None:
    rows = complete(published_rows())
    assert len(rows) == 14
    for row in rows:
        assert score_of(row).score == pytest.approx(row.printed_score, abs=4)
        # The URL figure cuts means off where Table 8 rounds them: 80.518 stands as 80.52, 78.075 as 78.07.
        assert score_of(row).mean_accuracy == pytest.approx(row.printed_mean, abs=0.00011)
        assert set(row.values) == set(TASKS)


def test_every_row_names_its_source() -> None:
    for row in (*published_rows(), *unverified_rows()):
        assert row.citation.count(":") >= 1
        assert row.table
        assert row.link.startswith("https://") or (row.link == "" and row.evidence == "unverified")
        assert not row.table.startswith("not found") or row.evidence == "unverified"
    assert len({row.label for row in (*published_rows(), *unverified_rows())}) == len(published_rows()) + len(
        unverified_rows()
    )


def test_scores_alone_are_shown_and_never_ranked() -> None:
    alone = [entry for entry in make_entries([]) if entry.benchmark == "decathlon" and not entry.values]
    assert {entry.label: entry.total and entry.total.mean for entry in alone} == {
        "Depthwise soft sharing": 3507,
        "Depthwise sharing": 3234,
        "Series RA (2018)": 3159,
        "Res. adapt. (large)": 3131,
        "Res. adapt. decay": 2621,
        "Res. adapt. dom-pred": 2503,
        "TAPS": None,
    }
    assert all(entry.rank is None and len(entry.missing) == 10 for entry in alone)


def test_unverified_rows_are_off_by_default_and_never_ranked() -> None:
    assert "unverified" not in {entry.evidence for entry in make_entries([])}
    found = [entry for entry in make_entries([], unverified=True) if entry.evidence == "unverified"]
    assert len(found) == len(unverified_rows()) == 15
    assert all(entry.rank is None for entry in found)
    # BA2 and WTPB are printed with one decimal, which allows for 20 points.
    for row in unverified_rows():
        assert score_of(row).score == pytest.approx(row.printed_score, abs=20)
        assert score_of(row).mean_accuracy == pytest.approx(row.printed_mean, abs=0.0006)


def test_what_must_not_be_shipped_is_not_there() -> None:
    scores = {row.printed_score for row in (*published_rows(), *unverified_rows())}
    assert 3401 not in scores  # SpotTune global-k, whose score does not fit its accuracies


def test_nettailors_own_convention_gives_no_ratio() -> None:
    row = next(row for row in published_rows() if row.method == "nettailor")
    assert row.parameter_ratio is None
    assert "3.67 million" in row.note


def test_table8s_ratios() -> None:
    assert [row.parameter_ratio for row in table8()] == [10, 1, 10, 2, 2, 2.17, 1.28]


def test_table8_is_recomputed() -> None:
    assert [row.method for row in table8()] == list(RECOMPUTED)
    for row in table8():
        score, printed = RECOMPUTED[row.method]
        found = score_of(row)
        assert found.score is not None
        assert found.score == pytest.approx(score, abs=0.05)
        assert row.printed_score == printed
        assert 0 <= found.score - printed <= 2.3
        # 0.011 %: the paper cuts one mean off where the others are rounded (77.176 stands as 77.17)
        assert found.mean_accuracy == pytest.approx(row.printed_mean, abs=0.00011)
        assert row.citation
        assert row.table.startswith("Table 8")


def test_a_row_holds_its_own_task_for_each_number() -> None:
    # A permutation of two tasks would keep the mean, but not these points (reference, 1.7).
    earned = score_of(next(row for row in table8() if row.method == "piggyback")).points
    expected = {"aircraft": 316.3, "cifar100": 191.0, "daimlerpedcls": 624.7, "dtd": 272.1, "gtsrb": 200.1}
    expected |= {"imagenet12": 223.6, "omniglot": 247.6, "svhn": 360.0, "ucf101": 213.3, "vgg-flowers": 191.5}
    assert {task: round(value, 1) for task, value in earned.items()} == expected


def test_numbers_are_those_of_the_paper_beside_the_project(shared_data: Path) -> None:
    paper = shared_data.parent / "paper" / "003_62392b12afd0ce3d.txt"
    order = list(TITLES)
    lines = [line.split("\t") for line in paper.read_text(encoding="utf-8").splitlines() if line.count("\t") == 13]
    head = next(place for place, cells in enumerate(lines) if cells[0] == "Method")
    for row, cells in zip(table8(), lines[head + 1 : head + 8], strict=True):
        assert cells[0].startswith(row.label)
        numbers = [float(cell) for cell in cells[1:]]
        assert numbers[0] == row.parameter_ratio
        assert numbers[1:11] == pytest.approx([100 * row.values[task] for task in order])
        assert numbers[11:] == pytest.approx([100 * (row.printed_mean or 0), row.printed_score])
