"""Bring the test cluster up by hand: ``python tests/slurm/cluster/up.py``; Ctrl-C brings it down.

Prints what to paste into another shell, so that sbatch, squeue and ``piggyback sweep`` there find it.
"""

import argparse
import signal
import sys
from pathlib import Path

from cluster import find_missing, run_cluster
from layout import ClusterError, Options


def read_arguments() -> argparse.Namespace:
    defaults = Options()
    parser = argparse.ArgumentParser(description="A real Slurm with two nodes, until Ctrl-C.")
    parser.add_argument("--folder", type=Path, help="where its files go: a new or empty folder, removed at the end")
    parser.add_argument("--accounting", action=argparse.BooleanOptionalAction, default=defaults.accounting)
    parser.add_argument("--grace", type=int, default=defaults.grace, help="seconds before a preempted job ends")
    parser.add_argument("--warning", action=argparse.BooleanOptionalAction, default=defaults.warning)
    parser.add_argument("--requeue", action=argparse.BooleanOptionalAction, default=defaults.requeue)
    parser.add_argument("--max-array-size", type=int, default=defaults.max_array_size)
    parser.add_argument("--node-timeout", type=int, default=defaults.node_timeout)
    return parser.parse_args()


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> int:
    arguments = vars(read_arguments())
    folder = arguments.pop("folder")
    if missing := find_missing():
        say(missing)
        return 1
    # Both end it the same way, also where a script's & has had SIGINT ignored.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    try:
        with run_cluster(Options(**arguments), folder=folder) as cluster:
            say(f"export SLURM_CONF={cluster.layout.slurm_conf}")
            say(f"# up, logs in {cluster.layout.folder / 'log'}; Ctrl-C brings it down")
            signal.pause()
    except KeyboardInterrupt:
        say("# down")
    except ClusterError as problem:
        say(str(problem))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
