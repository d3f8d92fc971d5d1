"""`piggyback segmentation fetch`: get VOC's and SBD's archives, continue broken downloads, check every byte.

These servers come and go (pytorch/vision#8471, #9271), so the verb first says how to place the archives by hand.
"""

from collections.abc import Sequence
from pathlib import Path

from piggyback.data.download import Archive, describe, fetch_and_report, find_archive
from piggyback.shell.console import notice, out
from piggyback.suite.options import FetchOptions
from segmentation.release.archives import ARCHIVES, DEFAULT


def run(options: FetchOptions) -> int:
    """Fetch, print the outcome; return 1 where an archive is missing in the end.

    Instructions by hand go to standard output before anything is downloaded; with --json to standard error.
    """
    names = options.archives or DEFAULT
    text = explain([find_archive(name, archives=ARCHIVES) for name in names], folder=options.out)
    if options.json:
        notice(text)
    else:
        out.print(text, markup=False, soft_wrap=True)
    return fetch_and_report(options.out, archives=ARCHIVES, names=names, url=options.url, json=options.json)


def explain(archives: Sequence[Archive], *, folder: Path) -> str:
    """Instructions for fetching by hand: where each file goes, and how to check that it is the right one."""
    lines = ["By hand, where a server is gone: get these files from anywhere, put them here, run this again to check."]
    for archive in archives:
        lines += [
            f"  {folder / archive.name}",
            f"    {archive.holds}",
            f"    {describe(archive)}",
            f"    official place: {archive.folder}{archive.name}",
        ]
    lines += [
        "Unpacked already?  Then nothing has to be fetched: give `piggyback segmentation prepare --source` the folder",
        "that holds VOCdevkit/ or benchmark_RELEASE/.",
    ]
    return "\n".join(lines)
