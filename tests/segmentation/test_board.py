"""The board: its classes are VOC's, its published rows sourced."""

from leaderboard.boards.published import read_rows
from segmentation.board import BOARD


def test_published_rows_name_their_split_and_source() -> None:
    rows = read_rows(BOARD)
    ious = {row.label: row.values["mean_iou"] for row in rows}
    assert ious["Piggyback (FCN, stride 32)"] == 0.6141
    assert ious["Finetune (FCN, stride 32)"] == 0.6108
    assert ious["FCN-32s"] == 0.636
    assert len(rows) == 4
    for row in rows:
        assert (row.split, row.evidence) == ("seg11valid", "published")
        assert row.citation.count(":") >= 1
        assert row.table
        assert row.link.startswith("https://")
