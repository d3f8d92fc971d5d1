"""The laws that a page of the documentation has a reader run over a package of his own."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def count_laws(command: str, *, package: Path) -> int:
    """Run the page's command, which puts the package's folder on the path, and give the number of tests that passed."""
    place, *words = command.split()
    assert (place, words[0]) == ("PYTHONPATH=.", "pytest")
    words = [name for word in words for name in (sorted(map(str, ROOT.glob(word))) or [word])]
    done = subprocess.run(
        [sys.executable, "-m", *words, "-p", "no:cacheprovider", "-q"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(package), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None
    return int(passed[1])
