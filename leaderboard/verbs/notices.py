"""Notices of the verbs on standard error."""

from leaderboard.boards.installed import find_boards
from piggyback.shell.console import notice


def warn_of_broken_boards() -> None:
    """Name the unusable boards of installed packages."""
    for sentence in find_boards().broken:
        notice(sentence)
