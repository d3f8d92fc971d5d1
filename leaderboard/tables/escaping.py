"""Untrusted text for terminals, Markdown, CSV and LaTeX; the page escapes in its templates."""

import re
import unicodedata
from collections.abc import Mapping
from typing import Final

LONGEST: Final = 300
"""Characters of one text in a table."""

# Controls, invisible formatting (which can turn a line's direction), surrogates, unassigned ones, line separators.
_UNSEEN: Final = frozenset({"Cc", "Cf", "Cs", "Cn", "Co", "Zl", "Zp"})
_NUMBER: Final = re.compile(r"[+-]?\d{1,15}(\.\d{1,15})?")
_FORMULA: Final = (
    *("=", "+", "-", "@", "\t", "\r", "\n", "\0"),
    # Their full-width forms, which East Asian spreadsheets may take for the same.
    *("\N{FULLWIDTH EQUALS SIGN}", "\N{FULLWIDTH PLUS SIGN}", "\N{FULLWIDTH HYPHEN-MINUS}"),
    "\N{FULLWIDTH COMMERCIAL AT}",
)
_MARKDOWN: Final = frozenset("\\`*_{}[]<>#!&~$@^")
_LATEX: Final[Mapping[str, str]] = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "`": r"\textasciigrave{}",
    "'": r"\textquotesingle{}",
    '"': r"\textquotedbl{}",
    "[": "{[}",  # else an argument of the line break before it
    "]": "{]}",
    "*": "{*}",  # else a starred line break
    "-": "{-}",  # two of them would become a dash
}


def visible(text: str, *, longest: int = LONGEST) -> str:
    r"""One line of the text, cut at a length, with escapes such as ``\x1b`` for what does not print."""
    cut = text if len(text) <= longest else f"{text[: longest - 1]}…"
    return "".join(_escape(one) if unicodedata.category(one) in _UNSEEN else one for one in cut)


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def markdown(text: str, *, longest: int = LONGEST) -> str:
    """Text for a cell of a table in GitHub's Markdown: nothing in it is markup, a link or the end of the cell.

    A backslash before ASCII punctuation makes it plain (CommonMark 0.31, section 2.4); the vertical bar is written as
    a character reference, since a table is split before anything else is read (GFM, section 4.10); ``://`` and
    ``www.`` begin links by themselves (GFM, section 6.9).
    """
    escaped = "".join(f"\\{one}" if one in _MARKDOWN else one for one in visible(text, longest=longest))
    linkless = re.sub(
        r"www\.", lambda found: f"{found[0][:3]}\\.", escaped.replace("://", "\\://"), flags=re.IGNORECASE
    )
    return linkless.replace("|", "&#124;")


def csv_field(text: str) -> str:
    """Text for a field of CSV that a spreadsheet opens: an apostrophe precedes what would be a formula.

    The beginnings are those of OWASP's ASVS 5.0, requirement 1.2.10, and a few more, also after blanks; plain numbers
    stay as they are.
    """
    if _NUMBER.fullmatch(text):
        return text
    formula = text.startswith(_FORMULA) or text.lstrip().startswith(_FORMULA)
    return f"'{visible(text)}" if formula else visible(text)


def latex(text: str) -> str:
    """Text for a cell of a tabular: every special character prints as itself, in text mode with T1 and textcomp."""
    return "".join(_LATEX.get(one, one) for one in visible(text))
