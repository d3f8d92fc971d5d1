"""Faults: what is wrong with a file of a store, as a value and as an error."""


class Fault(ValueError):
    """Something in a store is not what it must be.

    Attributes:
        kind: a word for the kind of fault, such as ``not-json``.
        message: what is wrong, what was found, what to do; one line.
        file: name of the file in the result's folder; empty where the fault is the folder's.
    """

    def __init__(self, kind: str, message: str, *, file: str = "") -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.file = file


LONGEST_SHOWN = 160


def shown(value: object, *, longest: int = LONGEST_SHOWN) -> str:
    """A text from a stranger for one line of a terminal: cut short, with escapes for what does not print."""
    try:
        text = str(value)
    except RecursionError:  # nested as deeply as JSON can be
        text = type(value).__name__
    text = text if len(text) <= longest else f"{text[: longest - 3]}..."
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)
