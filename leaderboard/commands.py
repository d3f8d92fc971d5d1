"""The leaderboard's verbs for the console command; texts only."""

from typing import Final

from piggyback.shell.cli import Command

COMMANDS: Final = (
    Command(
        name="leaderboard add",
        summary="put finished runs into a store of results",
        options="leaderboard.verbs.options:AddOptions",
        target="leaderboard.verbs.storing:run_add",
        examples=(
            "  piggyback leaderboard add sweeps/smoke --store board\n  piggyback leaderboard add runs --store board"
        ),
    ),
    Command(
        name="leaderboard check",
        summary="test a store of results: form, place, sums, and numbers counted again",
        options="leaderboard.verbs.options:CheckOptions",
        target="leaderboard.verbs.storing:run_check",
        examples=(
            "  piggyback leaderboard check board\n  piggyback leaderboard check board --labels labels_test.zip --json"
        ),
    ),
    Command(
        name="leaderboard show",
        summary="a table of results beside published ones",
        options="leaderboard.verbs.options:ShowOptions",
        target="leaderboard.verbs.showing:run_show",
        examples=(
            "  piggyback leaderboard show\n"
            "  piggyback leaderboard show board --view reproduced --method piggyback\n"
            "  piggyback leaderboard show board --protocol official --no-published --format latex"
        ),
    ),
    Command(
        name="leaderboard compare",
        summary="test whether two methods differ on the same pictures",
        options="leaderboard.verbs.options:CompareOptions",
        target="leaderboard.verbs.comparing:run_compare",
        examples="  piggyback leaderboard compare piggyback feature --store board",
    ),
    Command(
        name="leaderboard build",
        summary="a static page of a store: tables, charts, and the evidence behind each number",
        options="leaderboard.verbs.options:BuildOptions",
        target="leaderboard.verbs.building:run_build",
        examples=(
            "  piggyback leaderboard build board --out site\n"
            "  piggyback leaderboard build board --runs runs --out site\n"
            "  piggyback leaderboard build board --out site --unverified"
        ),
    ),
)
