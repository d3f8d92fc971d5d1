"""``piggyback leaderboard build``: a store's results and published ones as a static page."""

from leaderboard.boards.plain_boards import boards_for
from leaderboard.page.page import Built, build_page
from leaderboard.page.site_folder import check_target
from leaderboard.statistics.aggregation import make_entries
from leaderboard.statistics.answers import with_intervals
from leaderboard.store.reading import read_store
from leaderboard.store.staging import find_runs
from leaderboard.tables.reproduction import reproduced_view
from leaderboard.tables.view_builders import board_views
from leaderboard.verbs.notices import warn_of_broken_boards
from leaderboard.verbs.options import BuildOptions
from leaderboard.verbs.showing import count_left_out, held_backbones
from leaderboard.verbs.storing import Added, add_runs, show_added
from piggyback.shell.console import print_json, say
from piggyback.shell.errors import shown


def run_build(options: BuildOptions) -> int:
    """``piggyback leaderboard build``; findings are counted, and do not stop the page.

    Returns:
        1 if one of `options.runs` was refused; the page is built all the same.
    """
    check_target(options.out, store=options.store)  # before the long work
    done = Added()
    if options.runs:
        options.store.mkdir(parents=True, exist_ok=True)  # a sweep without a finished run has a page too
        found = [run for folder in options.runs for run in find_runs(folder, without=options.store)]
        done = add_runs(options.store, list(dict.fromkeys(found)))
    built = build_from_store(options)
    warn_of_broken_boards()
    if options.json:
        counts = {"pages": built.pages, "results": built.results, "rows": built.rows, **vars(done)}
        print_json({"site": str(built.path.parent), "index": str(built.path), **counts, "left_out": built.left_out})
        return 1 if done.refused else 0
    if options.runs:
        show_added(options.store, done)
    if built.left_out:
        kinds = ", ".join(f"{count} {kind}" for kind, count in built.left_out.items())
        say(f"left out for faults: {kinds}; `piggyback leaderboard check {shown(options.store)}` names each")
    say(f"{shown(built.path)}: {built.rows} rows, {built.results} results with a page of their own")
    return 1 if done.refused else 0


def build_from_store(options: BuildOptions) -> Built:
    """Read a store, make the tables and write the page.

    Raises:
        ResultError: there is no such store, or the page cannot be written.
    """
    held = held_backbones(options.same_backbone)
    results, findings = read_store(options.store)
    entries = with_intervals(make_entries(results, unverified=options.unverified))
    boards = boards_for(one.result for one in results)
    views = (*board_views(boards, entries), reproduced_view(entries, held=held))
    return build_page(
        options.out,
        store=options.store,
        boards=boards,
        views=views,
        results=results,
        findings=findings,
        left_out=count_left_out(results, findings, boards),
    )
