"""Errors that a user can cause: one tree for all packages.

PiggybackError            a message for the user; the console command prints it and exits with 1
├── BadInput              a file, folder or argument is not what it must be
│   ├── Fault             ... with a word for the kind of fault and the name of the file, for callers that sort faults
│   ├── BadPayload        a payload file is damaged, of another version, or not one of ours
│   └── ResultError       a result file is missing, damaged, or contradicts itself
├── BackboneMismatch      the payload was trained on other frozen weights
├── UnknownName           no task, method or recipe has that name
├── NotTrainable          the task cannot be trained in its present form
├── NetworkChanged        something else than the adapter has written into its network
├── Diverged              a loss or a weight is not finite any more
└── SweepError            a sweep cannot be planned, sent or asked about

Requeue                   no error: the run stopped cleanly and wants to be continued; exit code 75
"""

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final

LONGEST_SHOWN: Final = 160  # characters: two lines of most terminals


class PiggybackError(Exception):
    """Base of all errors with a message for the user: what is wrong, what was found, what to do."""

    for_user = True  # also for packages of others, which may mark an exception of their own like this


class BadInput(PiggybackError):
    """A file, folder or argument is not what it must be."""


class Fault(BadInput):
    """A file has other content than it must have.

    Attributes:
        kind: a word for the kind of fault, such as ``not-json``.
        message: what is wrong, what was found, what to do; one line that continues after the file's name.
        file: the file's name for messages; empty if the caller names it.
    """

    def __init__(self, kind: str, message: str, *, file: str = "") -> None:
        super().__init__(f"{file} {message}" if file else message)
        self.kind = kind
        self.message = message
        self.file = file


class BadPayload(BadInput):
    """A payload file is damaged, of another format version, or not one of ours."""


class ResultError(BadInput):
    """A result file is missing, damaged, or contradicts itself.

    Attributes:
        kind: a word for the kind of fault, as in `Fault`.
    """

    def __init__(self, message: str, *, kind: str = "schema") -> None:
        super().__init__(message)
        self.kind = kind


class BackboneMismatch(PiggybackError):
    """A payload was trained on frozen weights other than those it is applied to."""


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


class NetworkChanged(PiggybackError):
    """Something else than the adapter has written into its network, so that the tasks there would be lost or wrong."""


class Diverged(PiggybackError):
    """A loss or a weight is not finite any more."""


class SweepError(PiggybackError):
    """A sweep cannot be planned, sent or asked about."""


class Requeue(Exception):
    """The run was asked to stop, and has left a checkpoint."""


@contextmanager
def reading(file: object, *, what: str, advice: str = "") -> Iterator[None]:
    """Turn any exception of a reader of a foreign format into one `Fault`; our own errors pass unchanged.

    Readers of archives, arrays and pictures raise a dozen kinds of exceptions on damaged files, some of them only in
    some versions, so that no list of them is complete.

    Args:
        file: its name, for the message; empty if the caller names it.
        what: a noun for what it should be, such as ``zip of labels``.
        advice: what to do.

    Raises:
        Fault: ``damaged``.
    """
    try:
        yield
    except PiggybackError:
        raise
    except Exception as fault:
        advised = f"; {advice}" if advice else ""
        message = f"is damaged or not a {what} ({type(fault).__name__}: {shown(fault)}){advised}"
        raise Fault("damaged", message, file=one_line(file)) from fault


def one_line(name: object) -> str:
    """A file's name for a message, quoted with escapes if a character would break the line."""
    text = str(name)
    return text if text.isprintable() else repr(text)


def shown(value: object, *, longest: int = LONGEST_SHOWN) -> str:
    """Untrusted text for one line of a message: cut to `longest`, with escapes for what does not print."""
    try:
        text = str(value)
    except RecursionError:  # nested as deeply as JSON can be
        text = type(value).__name__
    text = text if len(text) <= longest else f"{text[: longest - 3]}..."
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def refusal(fault: OSError) -> str:
    """What the system refused, on one line: ``folder/file: No space left on device``."""
    place = f"{one_line(fault.filename)}: " if fault.filename is not None else ""
    return f"{place}{fault.strerror or one_line(fault)}"
