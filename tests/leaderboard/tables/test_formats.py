"""Formats: what they look like, and that no text of a stranger becomes more than text in any of them."""

import csv
import io
import json
import re
import unicodedata
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt  # comes with rich

from decathlon.board import BOARD as DECATHLON
from leaderboard.statistics.aggregation import make_entries
from leaderboard.statistics.entries import Entry, Protocol, Value
from leaderboard.tables.escaping import csv_field, latex, markdown, visible
from leaderboard.tables.formats import cell_text, number_text, print_view, to_csv, to_json, to_latex, to_markdown
from leaderboard.tables.view_builders import board_view
from leaderboard.tables.views import Cell, Column, Kind, Row, View
from segmentation.board import BOARD as SEGMENTATION

PARSER = MarkdownIt("commonmark").enable(["table", "strikethrough"])
SPECIALS = "\\`*_{}[]<>#!&~$@^|=+-:;'\"%\t\r\n\x00\x1b\u202e\u2028 wW.hs/aA1=\uff1d"
TEXTS = st.text(max_size=60) | st.text(alphabet=SPECIALS, max_size=40) | st.just("\ud800")
HOSTILE = [
    "'><plaintext>",
    "</script><script>alert(1)</script>",
    "=cmd|' /C calc'!A0",
    "a | b\n| c | d |",
    "[x](javascript:alert(1)) ![y](http://a.b/c.png) <http://a.b> http://a.b www.a.b",
    "\x1b[31mred\x1b]0;title\x07\r\nnext",
    "\u202egnp.exe \u2066x\u2069 \u200b",
    "$x^2_3$ \\input{/etc/passwd} 100% & # ~ {x}",
    "&lt;b&gt; &#60;",
    "[2pt] *",
    "\\",
    "-5",
    "- 5",
    " =1+1",
    "\ud800",
    "x" * 5000,
]


def hostile_entry(text: str) -> Entry:
    return Entry(
        board=DECATHLON,
        method=text,
        label=text,
        evidence="measured",
        protocol=Protocol(split=text, official=False, trained_on=text, backbone=text, data=text),
        values={"svhn": Value(mean=0.5, spread=0.01, n=3, results=(text,))},
        citation=text,
        table=text,
        link=text,
        note=text,
        missing=("dtd",),
    )


def view_of(text: str) -> View:
    return board_view(DECATHLON, [hostile_entry(text)])


def each_hostile(function: object) -> object:
    for text in HOSTILE:
        function = example(text)(function)  # type: ignore[arg-type]
    return function


@given(TEXTS)
@each_hostile
def test_visible_texts_are_one_printing_line(text: str) -> None:
    found = visible(text)
    assert not {unicodedata.category(one) for one in found} & {"Cc", "Cf", "Cs", "Cn", "Co", "Zl", "Zp"}
    assert len(found.splitlines()) <= 1
    assert len(found) <= 300 * 10
    found.encode()


@given(TEXTS)
@each_hostile
def test_markdown_cells_hold_the_text_and_nothing_else(text: str) -> None:
    source = f"| a | b |\n| --- | --- |\n| {markdown(text)} | end |\n"
    tokens = PARSER.parse(source)
    cells = [token for token in tokens if token.type == "inline"]
    assert [token.type for token in tokens].count("table_open") == 1
    assert [cell.content for cell in cells][::3] == ["a", "end"]
    assert len(cells) == 4
    kinds = {child.type for child in cells[2].children or []}
    assert kinds <= {"text"}
    assert "".join(child.content for child in cells[2].children or []) == visible(text).strip()
    assert not re.search(r"(?<!\\)://|www\.", markdown(text), re.IGNORECASE)  # begin links in GitHub's dialect


@given(TEXTS)
@each_hostile
def test_csv_fields_are_no_formulas(text: str) -> None:
    field = csv_field(text)
    if not re.fullmatch(r"[+-]?\d+(\.\d+)?", field):
        assert field.lstrip()[:1] not in set("=+-@\t\r\n\0\uff1d\uff0b\uff0d\uff20")
    assert len(field.splitlines()) <= 1


def test_negative_numbers_stay_numbers() -> None:
    assert [csv_field(text) for text in ("-5", "+5", "-0.5", "-5+cmd", "--5", "-", "=1")] == [
        *("-5", "+5", "-0.5", "'-5+cmd", "'--5", "'-", "'=1"),
    ]


UNLATEX = {
    r"\textbackslash{}": "\\",
    r"\textasciicircum{}": "^",
    r"\textasciitilde{}": "~",
    r"\textless{}": "<",
    r"\textgreater{}": ">",
    r"\textbar{}": "|",
    r"\textasciigrave{}": "`",
    r"\textquotesingle{}": "'",
    r"\textquotedbl{}": '"',
    **{f"\\{one}": one for one in "{}$&#%_"},
    **{f"{{{one}}}": one for one in "[]*-"},
}
LATEX = re.compile("|".join(re.escape(key) for key in sorted(UNLATEX, key=len, reverse=True)))


@given(TEXTS)
@each_hostile
def test_latex_cells_print_the_text(text: str) -> None:
    escaped = latex(text)
    assert not set(LATEX.sub("", escaped)) & set("\\{}$&#%_^~<>|`'\"[]*-")
    assert LATEX.sub(lambda found: UNLATEX[found[0]], escaped) == visible(text)


@given(TEXTS)
@each_hostile
def test_whole_documents_keep_their_form(text: str) -> None:
    view = view_of(text)
    lines = to_markdown(view).split("\n")
    bars = [line for line in lines if line.startswith("|")]
    assert len(bars) == 3
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in bars}) == 1
    assert len(lines) == 1 + 1 + 3 + 1 + len(view.notes) + 1
    told = list(csv.reader(io.StringIO(to_csv(view))))
    assert len(told) == 2
    assert len(told[0]) == len(told[1]) == len(set(told[0]))
    body = to_latex(view).split("\n")
    assert all(line.startswith("%") for line in body if not line.startswith(("\\", "")) and line)
    assert sum(line.endswith(r"\\") for line in body if not line.startswith("%")) == 2
    again = json.loads(json.dumps(to_json(view), allow_nan=False))
    assert again["rows"][0]["label"] == text


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("form", ["table", "md", "csv", "latex", "json"])
def test_nothing_printed_controls_a_terminal(text: str, form: str, capsys: pytest.CaptureFixture[str]) -> None:
    print_view(view_of(text), format=form)
    out = capsys.readouterr().out
    assert out.isascii() or form != "json"
    assert not {one for one in out if unicodedata.category(one) in ("Cc", "Cf", "Cs")} - {"\n"}
    assert out.endswith("\n")


@pytest.mark.parametrize(
    ("value", "kind", "text"),
    [
        (0.76604, "percent", "76.60"),
        (-0.0112, "percent", "-1.12"),
        (-1e-9, "percent", "0.00"),
        (2838.0, "points", "2838"),
        (316.26, "points", "316.3"),
        (1.28, "ratio", "1.28"),
        (10.0, "ratio", "10"),
        (3, "count", "3"),
        (1e300, "ratio", "1e+300"),
    ],
)
def test_numbers_as_they_are_shown(value: float, kind: Kind, text: str) -> None:
    assert number_text(value, kind=kind) == text


def test_spreads_intervals_ties_and_single_seeds_are_marked() -> None:
    score = Column(key="score", title="score", kind="points")
    assert cell_text(Cell(value=2838, spread=12.34, n=3, interval=(2801.0, 2870.5)), score, bounded=True) == (
        "2838 ± 12.3 [2801, 2870.5]"
    )
    seeds = Column(key="n", title="n", kind="count")
    assert [cell_text(Cell(value=value), seeds) for value in (1, 3, "1-3", "2-3")] == ["1*", "3", "1-3*", "2-3"]
    rank = Column(key="rank", title="rank", kind="count")
    assert [cell_text(Cell(value=2, hint=hint), rank) for hint in ("", "tie")] == ["2", "2="]
    task = Column(key="svhn", title="SVHN", kind="percent")
    assert cell_text(Cell(value=0.9, interval=(0.8, 0.95)), task) == "90.00"
    assert cell_text(Cell(value=2838, kind="points"), task) == "2838"


def test_markdown_of_published_rows() -> None:
    lines = to_markdown(board_view(DECATHLON, make_entries([]), shown=lambda entry: entry.method == "piggyback")).split(
        "\n"
    )
    assert lines[:2] == ["**Visual Decathlon: top-1 accuracy (%)**", ""]
    assert lines[4] == (
        "| 8 | 1 | Piggyback | 1.28 | 57.69 | 65.29 | 79.87 | 96.99 | 57.45 | 97.27 | 79.09 | 87.63 | 97.24 | 47.48 "
        "| 76.60 | 2838 | published | A |"
    )


def test_latex_of_published_rows() -> None:
    text = to_latex(board_view(SEGMENTATION, make_entries([]), shown=lambda entry: entry.method == "piggyback"))
    assert text.startswith(
        "% PASCAL VOC segmentation (%)\n\\begin{tabular}{rlrll}\n\\hline\nrank & method & mean IoU &"
    )
    assert "\n1 & Piggyback (FCN, stride 32) & 61.41 & published & A \\\\\n" in text


def test_latex_has_a_minus_before_negative_numbers() -> None:
    column = Column(key="difference", title="difference", kind="percent")
    row = Row(entry=hostile_entry("m"), cells={"difference": Cell(value=-0.0112)})
    assert "\n$-$1.12 \\\\\n" in to_latex(View(name="v", title="t", columns=[column], rows=[row]))


def test_csv_has_every_digit_and_the_sources() -> None:
    entry = replace(hostile_entry("m"), values={"svhn": Value(mean=1 / 3, spread=0.01, n=3, results=("p",))})
    view = board_view(DECATHLON, [entry, *(one for one in make_entries([]) if one.method == "dan")])
    ours, dan = csv.DictReader(io.StringIO(to_csv(view)))
    assert float(ours["svhn"]) == 1 / 3
    assert (ours["svhn_spread"], ours["svhn_n"], ours["official"]) == ("0.01", "3", "no")
    assert (dan["svhn"], dan["svhn_n"], dan["ratio"], dan["trained_on"]) == ("0.9677", "", "2.17", "train+val")
    assert dan["citation"].startswith("A. Rosenfeld, J. K. Tsotsos")


def test_an_empty_view_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    view = board_view(DECATHLON, [])
    print_view(view, format="table")
    assert "nothing to show" in capsys.readouterr().out
    assert "Nothing to show." in to_markdown(view)
    assert to_csv(view).count("\n") == 1
    assert to_json(view)["rows"] == []
