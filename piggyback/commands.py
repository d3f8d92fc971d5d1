"""The core's own verbs for the console command; texts only."""

from typing import Final

from piggyback.cli import Command

COMMANDS: Final[tuple[Command, ...]] = ()
