"""What can go wrong here, for every package that stands on the core.

PiggybackError            a message for the user; the console command prints it and exits with 1
├── BadInput              a file, folder or argument is not what it must be
│   └── BadPayload        a payload file is damaged, of another version, or not one of ours
├── BackboneMismatch      the payload was trained on other frozen weights
├── UnknownName           no task, method or recipe has that name
├── NotTrainable          the task cannot be trained in its present form
└── Diverged              a loss or a weight is not finite any more

Requeue                   no error: the run stopped cleanly and wants to be continued; exit code 75
"""

import difflib
from collections.abc import Iterable


class PiggybackError(Exception):
    """Base of all errors with a message for the user: what is wrong, what was found, what to do."""

    for_user = True  # also for packages that stand without the core, and go by this alone


class BadInput(PiggybackError):
    """A file, folder or argument is not what it must be."""


class BadPayload(BadInput):
    """A payload file is damaged, of another format version, or not one of ours."""


class BackboneMismatch(PiggybackError):
    """A payload was trained on other frozen weights than those it shall be applied to."""


class UnknownName(PiggybackError):
    """No task, method or recipe has that name.

    Args:
        name: what was asked for.
        known: the names there are.
        kind: what they name, for the message.
    """

    def __init__(self, name: str, *, known: Iterable[str], kind: str) -> None:
        known = sorted(known)
        near = difflib.get_close_matches(name, known, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        super().__init__(f"no {kind} is called {name!r}.{hint} Known: {', '.join(known)}.")


class NotTrainable(PiggybackError):
    """The task cannot be trained in its present form."""


class Diverged(PiggybackError):
    """A loss or a weight is not finite any more."""


class Requeue(Exception):
    """The run was asked to stop, and has left a checkpoint."""


def one_line(name: object) -> str:
    """A file's name for a message: as it is, or quoted with escapes where a character would break the line."""
    text = str(name)
    return text if text.isprintable() else repr(text)


def refusal(fault: OSError) -> str:
    """What the system refused, on one line: ``folder/file: No space left on device``."""
    place = f"{one_line(fault.filename)}: " if fault.filename is not None else ""
    return f"{place}{fault.strerror or one_line(fault)}"
