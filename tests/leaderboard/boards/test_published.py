"""The published rows: complete, sourced, and in the order of the literature."""

from pathlib import Path

import pytest

from leaderboard.boards.published import PublishedRow, published_rows, table8, unverified_rows
from leaderboard.boards.score import BASELINE_ERRORS
from leaderboard.statistics.aggregation import make_entries
from leaderboard.statistics.ranking import place_in_challenge
from leaderboard.tables.view_builders import TASKS

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


def complete(rows: tuple[PublishedRow, ...]) -> list[PublishedRow]:
    return [row for row in rows if row.accuracies]


def test_verified_rows_stand_in_the_order_of_the_literature() -> None:
    entries = make_entries([])
    places = place_in_challenge(entries)
    placed = [entry for entry in entries if id(entry) in places]
    assert [(entry.label, entry.total and entry.total.mean) for entry in placed] == LITERATURE
    assert [places[id(entry)] for entry in placed] == [(place, False) for place in range(1, 15)]
    # A rank is within one protocol, and follows the same order there.
    for protocol in {entry.protocol for entry in placed}:
        field = [entry for entry in placed if entry.protocol == protocol]
        assert [entry.rank for entry in field] == list(range(1, len(field) + 1))
    # Recomputing the scores changes no place.
    rows = sorted(complete(published_rows()), key=lambda row: -(row.score.score or 0))
    assert [row.label for row in rows] == [label for label, _ in LITERATURE]


def test_scores_and_means_are_recomputed() -> None:
    rows = complete(published_rows())
    assert len(rows) == 14
    for row in rows:
        assert row.score.score == pytest.approx(row.printed_score, abs=4)
        # The URL figure cuts means off where Table 8 rounds them: 80.518 stands as 80.52, 78.075 as 78.07.
        assert row.score.mean_accuracy == pytest.approx(row.printed_mean, abs=0.00011)
        assert set(row.accuracies) == set(BASELINE_ERRORS)


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
        assert row.score.score == pytest.approx(row.printed_score, abs=20)
        assert row.score.mean_accuracy == pytest.approx(row.printed_mean, abs=0.0006)


def test_what_must_not_be_shipped_is_not_there() -> None:
    scores = {row.printed_score for row in (*published_rows(), *unverified_rows())}
    assert 3401 not in scores  # SpotTune global-k, whose score does not fit its accuracies


def test_nettailors_own_convention_gives_no_ratio() -> None:
    row = next(row for row in published_rows() if row.method == "nettailor")
    assert row.parameter_ratio is None
    assert "3.67 million" in row.note


def test_table8_and_segmentation() -> None:
    assert [row.parameter_ratio for row in table8()] == [10, 1, 10, 2, 2, 2.17, 1.28]
    voc = {row.label: row.metrics["mean_iou"] for row in published_rows() if row.benchmark == "segmentation"}
    assert voc["Piggyback (FCN, stride 32)"] == 0.6141
    assert voc["Finetune (FCN, stride 32)"] == 0.6108
    assert voc["FCN-32s"] == 0.636
    assert all(row.split == "seg11valid" for row in published_rows() if row.benchmark == "segmentation")


def test_numbers_are_those_of_the_paper_beside_the_project(shared_data: Path) -> None:
    paper = shared_data.parent / "paper" / "003_62392b12afd0ce3d.txt"
    order = list(TASKS)
    lines = [line.split("\t") for line in paper.read_text(encoding="utf-8").splitlines() if line.count("\t") == 13]
    head = next(place for place, cells in enumerate(lines) if cells[0] == "Method")
    for row, cells in zip(table8(), lines[head + 1 : head + 8], strict=True):
        assert cells[0].startswith(row.label)
        numbers = [float(cell) for cell in cells[1:]]
        assert numbers[0] == row.parameter_ratio
        assert numbers[1:11] == pytest.approx([100 * row.accuracies[task] for task in order])
        assert numbers[11:] == pytest.approx([100 * (row.printed_mean or 0), row.printed_score])
