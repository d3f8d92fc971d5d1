"""Views: columns, order, marks, notes; and the rule of the verdicts."""

from collections.abc import Callable
from typing import Any

import pytest

from decathlon.board import BOARD as DECATHLON
from leaderboard.statistics.aggregation import make_entries
from leaderboard.statistics.entries import Entry, Protocol, Value
from leaderboard.store.reading import StoredResult
from leaderboard.tables.reproduction import HeldBackbone, reproduced_view, verdict, why_not_comparable
from leaderboard.tables.view_builders import board_view, points_view, protocol_letters
from leaderboard.tables.views import Row, View
from segmentation.board import BOARD as SEGMENTATION

Maker = Callable[..., StoredResult]
TenMaker = Callable[..., list[StoredResult]]
OURS = "b" * 12
HELD = HeldBackbone(digits="bbbb", network="WRN-28-4")


def values(view: View, label: str) -> dict[str, Any]:
    (row,) = [row for row in view.rows if row.entry.label == label]
    return {key: cell.value for key, cell in row.cells.items()}


def test_the_decathlon_has_table_8s_columns_and_order() -> None:
    view = board_view(DECATHLON, make_entries([]))
    assert [column.title for column in view.columns] == [
        *("place", "rank", "method", "#par", "ImNet.", "Airc.", "C100", "DPed", "DTD", "GTSR", "Flwr", "OGlt", "SVHN"),
        *("UCF", "mean", "score", "n", "evidence", "protocol"),
    ]
    shown = values(view, "Piggyback")
    assert (shown["ratio"], shown["imagenet12"], shown["mean"], shown["score"]) == (1.28, 0.5769, 0.766, 2838)
    assert (shown["place"], shown["rank"], shown["n"]) == (8, 1, None)
    assert all(set(row.cells) <= {column.key for column in view.columns} for row in view.rows)
    assert {row.entry.benchmark for row in view.rows} == {"decathlon"}


def test_places_and_ranks_stay_those_among_all() -> None:
    entries = make_entries([])
    view = board_view(DECATHLON, entries, shown=lambda entry: entry.method == "lwf")
    assert [(row.cells["place"].value, row.cells["rank"].value) for row in view.rows] == [(10, 5)]
    assert view.notes[-1].startswith("LwF: Z. Li, D. Hoiem")


def test_seeds_are_told_without_the_backbones_own(make_ten: TenMaker, make_stored: Maker) -> None:
    own = make_stored("imagenet12", method="backbone")
    stored = [own, *make_ten(seeds=(0, 1, 2), without=("imagenet12",))]
    assert values(board_view(DECATHLON, make_entries(stored)), "piggyback")["n"] == 3
    assert values(board_view(DECATHLON, make_entries([*stored, make_stored("dtd", seed=3)])), "piggyback")["n"] == "3-4"


def test_points_are_shown_of_official_data_alone(make_ten: TenMaker) -> None:
    stored = make_ten(correct=1000) + make_ten(method="feature", official=False)
    view = points_view(DECATHLON, make_entries(stored, published=False))
    assert [row.entry.method for row in view.rows] == ["piggyback"]
    shown = values(view, "piggyback")
    assert shown["svhn"] == 1000.0
    assert shown["score"] == 10000.0


def test_segmentation_says_that_there_is_no_interval(make_stored: Maker) -> None:
    one = make_stored("pascal-voc", benchmark="segmentation", split="seg11valid", metrics={"mean_iou": 0.61})
    view = board_view(SEGMENTATION, make_entries([one]))
    assert values(view, "piggyback")["mean_iou"] == 0.61
    assert any("no intervals" in note for note in view.notes)
    assert not any("no intervals" in note for note in board_view(SEGMENTATION, make_entries([])).notes)


def test_notes_name_protocols_sources_and_what_was_left_out(make_ten: TenMaker) -> None:
    view = board_view(DECATHLON, make_entries(make_ten(split="val")), left_out=3)
    assert view.notes[-1].startswith("3 results were left out by the checks")
    assert any(
        note.startswith("Protocol E: official data, val, trained on train, backbone bbbbbbbbbbbb")
        for note in view.notes
    )
    assert any("single seed" in note for note in view.notes)
    assert any("On val" in note for note in view.notes)
    text = " ".join(view.notes)
    assert all(row.entry.table in text for row in view.rows if row.entry.evidence == "published")
    assert "left out" not in " ".join(board_view(DECATHLON, make_entries([])).notes)


def test_protocols_have_letters() -> None:
    entry = make_entries([])[0]
    many = [
        Entry(
            board=DECATHLON,
            method="m",
            label="m",
            evidence="measured",
            values={},
            protocol=Protocol(split=f"{number}", official=True, trained_on=None, backbone="b", data="official"),
        )
        for number in range(30)
    ]
    letters = list(protocol_letters([entry, *many]).values())
    assert letters[:3] == ["A", "B", "C"]
    assert letters[25:29] == ["Z", "AA", "AB", "AC"]


@pytest.mark.parametrize(
    ("mean", "spread", "n", "said"),
    [
        (0.80, None, 1, "within 1 point"),
        (0.81, None, 1, "within 1 point"),
        (0.8101, None, 1, "above"),
        (0.79, None, 1, "within 1 point"),
        (0.7899, None, 1, "below"),
        (0.82, 0.01, 3, "within spread"),
        (0.8201, 0.01, 3, "above"),
        (0.7799, 0.01, 2, "below"),
        (0.805, 0.001, 3, "within 1 point"),
        (0.80, 0.0, 2, "within spread"),
    ],
)
def test_the_rule_of_the_verdicts(mean: float, spread: float | None, n: int, said: str) -> None:
    assert verdict(Value(mean=mean, spread=spread, n=n), 0.80) == said


def test_a_score_has_no_percentage_point() -> None:
    assert verdict(Value(mean=2838.005), 2838, points=True) == "above"
    assert verdict(Value(mean=2838.0), 2838, points=True) == "within 1 point"
    assert verdict(Value(mean=2830.0, spread=5.0, n=3), 2838, points=True) == "within spread"
    assert verdict(Value(mean=2827.0, spread=5.0, n=3), 2838, points=True) == "below"


def protocol(**other: Any) -> Protocol:
    told = {"split": "test", "official": True, "trained_on": None, "backbone": f"backbone {OURS}", "data": "official"}
    return Protocol(**(told | other))


@pytest.mark.parametrize(
    ("ours", "theirs", "reason"),
    [
        ({}, {}, ""),
        ({"trained_on": "train"}, {}, ""),
        ({"official": False}, {}, "not official data"),
        ({"official": None}, {}, "not official data"),
        ({"split": "val"}, {}, "val, published test"),
        ({"trained_on": "train"}, {"trained_on": "train+val"}, "trained on train, published on train+val"),
        ({"backbone": "backbone cccccccccccc"}, {}, "other or unknown backbone"),
    ],
)
def test_why_numbers_are_not_comparable(ours: dict[str, Any], theirs: dict[str, Any], reason: str) -> None:
    assert (
        why_not_comparable(
            protocol(**ours), protocol(**theirs), held=[HeldBackbone(digits=OURS[:6], network="backbone")]
        )
        == reason
    )


def test_a_backbone_is_the_published_one_only_when_the_user_says_so() -> None:
    published = protocol(backbone="WRN-28-4, 64 px")
    cases = [
        ("bbbb", "WRN-28-4", ""),
        (OURS + "cccc", "wrn", ""),
        ("bbbc", "WRN", "other"),
        ("bbbb", "ResNet", "other"),
    ]
    for digits, network, reason in cases:
        held = [HeldBackbone(digits=digits, network=network)]
        assert why_not_comparable(protocol(), published, held=held)[:5] == reason
    assert why_not_comparable(protocol(), published) == "other or unknown backbone"


def reproduced(stored: list[StoredResult], **more: Any) -> dict[str, Row]:
    view = reproduced_view(make_entries(stored, unverified=True), **more)
    return {f"{row.cells['number'].value}": row for row in view.rows}


def test_reproduced_has_a_verdict_per_number(make_ten: TenMaker, make_stored: Maker) -> None:
    stored = [*make_ten(correct=5745, n=10000, without=("svhn",)), make_stored("svhn", correct=9724, n=10000)]
    rows = reproduced(stored, held=(HELD,))
    assert list(rows)[:2] == ["ImNet.", "Airc."]
    assert list(rows)[-2:] == ["mean", "score"]
    said = {number: row.cells["verdict"].value for number, row in rows.items()}
    assert (said["DTD"], said["SVHN"], said["ImNet."]) == ("within 1 point",) * 3
    assert (said["UCF"], said["Airc."], said["score"]) == ("above", "below", "below")
    assert rows["UCF"].cells["difference"].value == pytest.approx(0.5745 - 0.4748)
    assert rows["score"].cells["published"].kind == "points"
    assert rows["score"].cells["published"].value == 2838


def test_reproduced_gives_no_verdict_across_protocols(make_ten: TenMaker) -> None:
    for other in ({"official": False}, {"split": "val"}):
        rows = reproduced(make_ten(**other), held=(HELD,))
        assert {row.cells["verdict"].value for row in rows.values()} == {"not comparable"}
        assert all(row.cells["reason"].value for row in rows.values())
    assert {row.cells["reason"].value for row in reproduced(make_ten()).values()} == {"other or unknown backbone"}


def test_reproduced_never_looks_at_unverified_rows(make_ten: TenMaker) -> None:
    view = reproduced_view(make_entries(make_ten(method="norm") + make_ten(method="covnorm"), unverified=True))
    assert not view.rows
    assert view.notes[0].startswith("No method of the measured results")
    rows = reproduced_view(make_entries(make_ten(method="norm") + make_ten(), unverified=True))
    assert any(note == "Without a verified published row: norm." for note in rows.notes)
