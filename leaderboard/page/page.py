"""The static page: a folder of plain HTML that works from a disk, without a server, a request or a script."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Final

from leaderboard.boards.board import Board, Confusion
from leaderboard.boards.installed import REPRODUCED
from leaderboard.page.charts import Chart, class_chart, score_chart
from leaderboard.page.evidence import ClassScore, mean_class_scores, read_class_scores
from leaderboard.page.links import Links, entry_name, make_links
from leaderboard.page.runs import write_entry_page, write_run_page
from leaderboard.page.site_folder import check_target, new_folder
from leaderboard.page.tables import anchor_of, show_view
from leaderboard.page.templating import render
from leaderboard.statistics.entries import Entry
from leaderboard.store.processes import spread
from leaderboard.store.reading import Finding, StoredResult
from leaderboard.tables.views import View
from piggyback.shell.errors import Fault

ASSETS: Final = ("page.css", "page.js", "icon.svg")
HEADING: Final = "Reproduced?"
INTRO: Final = "Numbers measured with this program beside those that were published for the same method."
"""Of the one table that is no board's."""

RANKED_NOTE: Final = (
    "Ranks are given among entries of one benchmark and one protocol: the part that was judged, official data or not, "
    "the parts trained on, and the backbone. Rows of different protocols stand in one table, and are not one ranking."
)
PUBLISHED_NOTE: Final = (
    "Published rows differ in their backbones, in whether they trained on train or on train and val, and in their test "
    "crops; where nobody says, neither do we."
)
SEEDS_NOTE: Final = (
    "n is the number of seeds, \N{PLUS-MINUS SIGN} the sample standard deviation over them; one seed says nothing "
    "about spread. Incomplete entries have no total and no rank."
)
UNVERIFIED_NOTE: Final = (
    "Unverified rows, where they are shown, come from nobody's reading of the source, and are never ranked."
)


@dataclass(frozen=True, kw_only=True)
class Built:
    """Outcome of a build.

    Attributes:
        path: of the page to open.
        pages: number of HTML files.
        results: number of results with a page of their own.
        rows: in all tables together.
        left_out: number of results left out, by the kind of their fault.
    """

    path: Path
    pages: int
    results: int
    rows: int
    left_out: Mapping[str, int]


def build_page(
    out: Path,
    *,
    store: Path,
    boards: Mapping[str, Board],
    views: Sequence[View],
    results: Sequence[StoredResult],
    findings: Sequence[Finding] = (),
    left_out: int = 0,
) -> Built:
    """Write the site; it replaces an older one as a whole.

    Args:
        out: folder of the site.
        store: whose results these are; `out` may not be in it.
        boards: of all benchmarks in `views` and `results`.
        views: the tables, in order.
        results: those that passed every check; each gets a page, with its evidence files.
        findings: faults of the others, which are counted on the page and not shown.
        left_out: how many results those are.

    Raises:
        ResultError: `out` is not a site of ours, or cannot be written.
    """
    check_target(out, store=store)
    links = make_links(views, results=results)
    faults = Counter(finding.kind for finding in findings)
    with new_folder(out) as site:
        _write_assets(site)
        _write_results(site, results=results, boards=boards, links=links)
        charts = _write_charts(site, boards=boards, views=views)
        values = _index(views, boards=boards, links=links, charts=charts)
        page = render("index.html", **values, faults=sorted(faults.items(), key=_most_first), left_out=left_out)
        (site / "index.html").write_bytes(page)
    return Built(
        path=out / "index.html",
        pages=1 + len(links.runs) + len(links.entries),
        results=len(links.runs),
        rows=sum(len(view.rows) for view in views),
        left_out=dict(sorted(faults.items(), key=_most_first)),
    )


def _most_first(one: tuple[str, int]) -> tuple[int, str]:
    return -one[1], one[0]


def _index(
    views: Sequence[View], *, boards: Mapping[str, Board], links: Links, charts: Sequence[Chart]
) -> dict[str, object]:
    tables = [show_view(view, links=links) for view in views]
    entries = {entry_name(row.entry): row.entry for view in views for row in view.rows}
    kinds = Counter(entry.evidence for entry in entries.values())
    counted = [f"{kinds[kind]} {kind}" for kind in ("measured", "published", "unverified") if kinds[kind]]
    return {
        "title": "Leaderboard \N{MIDDLE DOT} piggyback-bench",
        "root": "",
        "tables": tables,
        "headings": _headings(boards),
        "comparisons": _comparisons(boards),
        "charts": charts,
        "sources": links.sources,
        "methods": sorted({row.method for table in tables for row in table.rows}),
        "protocols": list(dict.fromkeys(row.protocol for table in tables for row in table.rows)),
        "evidences": [kind for kind in ("measured", "published", "unverified") if kinds[kind]],
        "counts": f"Rows: {', '.join(counted) or 'none'}. Results with a page: {len(links.runs):,}.",
    }


def _headings(boards: Mapping[str, Board]) -> dict[str, tuple[str, str]]:
    """Heading and first sentence of each table's section, by the table's anchor."""
    headings = {REPRODUCED: (HEADING, INTRO)}
    for board in boards.values():
        headings[anchor_of(board.views[0])] = board.title, board.intro
        if board.total is not None:
            headings[anchor_of(board.total.view)] = board.total.title, board.total.intro
    return headings


def _comparisons(boards: Mapping[str, Board]) -> list[str]:
    """Sentences to read before comparing rows: general ones, and each board's."""
    notes = [note for board in boards.values() for note in board.notes]
    ratios = [board.ratio_note for board in boards.values() if board.ratio_note]
    return [RANKED_NOTE, PUBLISHED_NOTE, *notes, SEEDS_NOTE, *ratios, UNVERIFIED_NOTE]


def _write_assets(site: Path) -> None:
    for folder in ("assets", "entries", "images"):
        (site / folder).mkdir()
    for name in ASSETS:
        (site / "assets" / name).write_bytes(files("leaderboard.page").joinpath("assets", name).read_bytes())


def _write_results(site: Path, *, results: Sequence[StoredResult], boards: Mapping[str, Board], links: Links) -> None:
    belongs: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
    for name, entry in links.entries.items():
        write_entry_page(entry, name=name, links=links, site=site)
        for place in dict.fromkeys(one.place for one in entry.stored):
            belongs[place].append((entry.label, f"entries/{name}.html"))

    def write(one: StoredResult) -> None:
        main = boards[one.result.benchmark].main
        write_run_page(one, main=main, links=links, entries=belongs.get(one.place, ()), site=site)

    spread(write, results)


def _write_charts(site: Path, *, boards: Mapping[str, Board], views: Sequence[View]) -> list[Chart]:
    rows = {view.name: [row.entry for row in view.rows] for view in views}
    charts: list[Chart] = []
    for board in boards.values():
        entries = rows.get(board.views[0], [])
        for chart in (score_chart(board, entries), class_chart(board, _class_scores(board, entries))):
            if chart is not None:
                taken = chart.name in {one.name for one in charts}
                charts.append(replace(chart, name=f"{chart.name}-{board.name}") if taken else chart)
    for chart in charts:
        for theme, picture in chart.pictures.items():
            (site / "images" / f"{chart.name}-{theme}.svg").write_bytes(picture)
    return charts


def _class_scores(board: Board, entries: Sequence[Entry]) -> list[tuple[str, Sequence[ClassScore]]]:
    """Label and mean scores per class of the entries whose results have a confusion matrix."""
    scores: list[tuple[str, Sequence[ClassScore]]] = []
    for entry in entries if isinstance(board.evidence, Confusion) else ():
        runs = []
        for one in entry.stored:
            if Confusion.file in one.files:
                try:
                    runs.append(read_class_scores(one.folder))
                except Fault:  # changed since the check; the run's own page says so
                    continue
        if runs:
            scores.append((entry.label, mean_class_scores(runs)))
    return scores
