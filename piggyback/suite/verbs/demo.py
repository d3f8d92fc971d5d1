"""``piggyback demo``: every installed benchmark's demo, one after the other.

`Benchmark.demo` names a function that takes a folder, makes its data there, does its main job on them and prints the
outcome.  The same call again continues.
"""

import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from piggyback.shell.cli import DONE, dispatch, load
from piggyback.shell.console import out
from piggyback.shell.errors import BadInput, PiggybackError
from piggyback.suite.benchmark import GROUP, find_benchmarks
from piggyback.suite.verbs.core_options import DemoOptions


def run(options: DemoOptions) -> int:
    """Run all demos, each in its own folder below `options.out`.

    Raises:
        BadInput: no installed package has a demo.
    """
    demos = {benchmark.name: benchmark.demo for benchmark in find_benchmarks() if benchmark.demo is not None}
    if not demos:
        raise BadInput(f"no package offers a demo (entry points {GROUP!r}): install again, `pip install -e .`")
    begun = time.monotonic()
    for name, demo in demos.items():
        load(demo)(options.out / name)
    board, site = options.out / "board", options.out / "site"
    show_page = ["leaderboard", "build", str(board), "--runs", str(options.out), "--out", str(site)]
    take_step("a page of all results", show_page, root=options.out)
    minutes, seconds = divmod(round(time.monotonic() - begun), 60)
    out.print(f"demo done in {minutes} min {seconds} s; everything it made is in {options.out.resolve()}", markup=False)
    return 0


@dataclass(frozen=True)
class DemoFolder:
    """Layout of a benchmark's demo: pictures drawn in the form of the official release, the same packed, runs."""

    root: Path

    @property
    def release(self) -> Path:
        return self.root / "release"

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def runs(self) -> Path:
        return self.root / "runs"


def announce(title: str) -> None:
    out.print(f"\n{title}", style="bold", markup=False)


def take_step(title: str, arguments: Sequence[str], *, root: Path) -> None:
    """Run one verb of the console command; its arguments are printed, so that they can be typed again.

    Args:
        title: what the step does.
        arguments: the verb and its flags.
        root: the demo's folder, for the message when it fails.
    """
    announce(title)
    out.print(f"$ piggyback {shlex.join(arguments)}", style="cyan", markup=False, soft_wrap=True)
    if dispatch(arguments) != DONE:
        raise PiggybackError(f"the demo's step {arguments[:2]} failed, see above: delete {root} to start over")
