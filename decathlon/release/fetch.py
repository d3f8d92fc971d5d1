"""`piggyback decathlon fetch`: get the official archives, continue broken downloads, check every byte."""

from decathlon.release.archives import ARCHIVES
from piggyback.data.download import fetch_and_report
from piggyback.suite.options import FetchOptions


def run(options: FetchOptions) -> int:
    """Fetch, print the outcome; return 1 where an archive that was asked for is missing in the end."""
    return fetch_and_report(options.out, archives=ARCHIVES, names=options.archives, url=options.url, json=options.json)
