"""Notices that every verb gives on standard error."""

from leaderboard.boards.installed import find_boards
from piggyback.shell.console import notice


def warn_of_broken_boards() -> None:
    """Name the boards of installed packages that cannot be used, on standard error."""
    for sentence in find_boards().broken:
        notice(sentence)
