"""How long every ``--help`` takes: medians of whole processes.

python benchmarks/help.py [--rounds 7]
"""

import argparse
import statistics
import subprocess
import sys
import time

from piggyback.shell.cli import find_commands


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    for words in ([], *(command.name.split() for command in find_commands())):
        times = []
        for _ in range(options.rounds):
            begun = time.perf_counter()
            subprocess.run([sys.executable, "-m", "piggyback", *words, "--help"], check=True, capture_output=True)
            times.append(time.perf_counter() - begun)
        print(f"| {' '.join(['piggyback', *words]):40} | {statistics.median(times):.3f} s |")


if __name__ == "__main__":
    main()
