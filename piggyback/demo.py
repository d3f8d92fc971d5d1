"""``piggyback demo``: every installed benchmark's demo, one after the other.

A package offers one by an entry point of the group ``piggyback.demo``: a function that takes a folder, makes
its data there, does its main job on them and prints what came out.  The same call again continues.
"""

import time
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Final, cast

from piggyback.console import out
from piggyback.errors import BadInput
from piggyback.options import DemoOptions

GROUP: Final = "piggyback.demo"


def run(options: DemoOptions) -> int:
    """Run all demos, each in a folder of its own below the one asked for.

    Raises:
        BadInput: no installed package has a demo.
    """
    points = sorted(entry_points(group=GROUP), key=lambda point: point.name)
    if not points:
        raise BadInput(f"no package offers a demo (entry points {GROUP!r}): install again, `pip install -e .`")
    begun = time.monotonic()
    for point in points:
        step = cast(Callable[[Path], None], point.load())
        step(options.out / point.name)
    minutes, seconds = divmod(round(time.monotonic() - begun), 60)
    out.print(f"demo done in {minutes} min {seconds} s; everything it made is in {options.out.resolve()}", markup=False)
    return 0
