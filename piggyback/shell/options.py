"""Options of the shell's own verb; imports nothing heavy."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class DoctorOptions:
    """Check this machine.

    Attributes:
        json: print one JSON object instead of lines.
    """

    json: bool = False
