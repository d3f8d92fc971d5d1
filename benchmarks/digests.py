"""Digests of what the console command prints and writes: small runs of everything, before and after a change of code.

python benchmarks/digests.py --work FOLDER --out digests.json [--only decathlon,segmentation,sweep,leaderboard,help]
python benchmarks/digests.py --compare before.json after.json

It draws small data, trains with every method, sends sweeps to a Slurm of shell scripts and to the local queue, builds
a page of results, and asks every verb for its help.  A digest has a key: the file's path, or ``printed/`` and the
command.  Texts are made plain first: numbers that differ from one run to the next, such as times, are replaced.  The
plain texts lie in FOLDER/plain, for a diff of two folders.  All other files count byte for byte, so both runs must be
made on one machine, with the same torch.  It imports nothing of the project, and runs the ``piggyback`` that lies
beside the python that it is run with.
"""

import argparse
import hashlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Final

TEXTS: Final = (".json", ".jsonl", ".csv", ".txt", ".html", ".css", ".js", ".svg", ".toml", ".sh", ".args", ".log")
LEFT_OUT: Final = {"checkpoints", "attempts", "sending", "queue", "code", "submitit", "board", "site"}  # folders
EVIDENCE: Final = (
    *("result.json", "test-result.json", "recipe.json", "metrics.jsonl", "sparsity.json", "confusion.json"),
    *("predictions.npz", "sheet.png", "log.txt"),
)
"""Files of a run that a store takes."""
MASKS: Final = tuple(
    (re.compile(pattern, re.MULTILINE), put)
    for pattern, put in (
        (r'"(wall_s|seconds|updated|when|hours|cost)": [\d.e-]+', r'"\1": 1.0'),
        (r'"pid": \d+', '"pid": 1'),
        (r'"commit": "\w+"', '"commit": "0"'),
        (r'"dirty": true', '"dirty": false'),
        (r"\b1\d{18}\b", "1"),  # a file's time in nanoseconds
        (r"\blocal-\d+\b", "local-1"),  # a process of the local queue
        (r"^== .* job (\S+) restart (\d+) on .*", r"== job \1 restart \2"),  # begins a log
        (r"\b\d+:\d\d:\d\d\b", "0:00:00"),
        (r", \d+ s$", ", 0 s"),  # of an epoch
        (r"^│ minutes .*", "│ minutes"),
        (r"/code/code-[0-9a-f]{10}\b", "/code/0"),  # a snapshot is named by all its files
    )
)
LAST_COLUMN: Final = re.compile(r"│ +\d+ │$", re.MULTILINE)  # of tables where that is seconds

DATA: Final = tomllib.loads(Path(__file__).with_suffix(".toml").read_text())
GIVEN: Final[dict[str, str]] = DATA["given"]
COMMANDS: Final[dict[str, str]] = DATA["commands"]
PATTERNS: Final = {
    "decathlon": ("tasks/**/*",),
    "segmentation": ("scenes/**/*",),
    "sweep": ("*.toml", "fake/*", "sweep*/**/*"),
    "leaderboard": ("store/**/*", "page*/**/*"),
    "help": (),
}
"""The files to record after each part's commands."""

FAKES: Final = {
    "sbatch": """[ -e "$1" ] || exit 0
            number=$(($(cat "$FAKE/number") + 1)); echo $number > "$FAKE/number"
            cp "$1" "$FAKE/sent-$number.sh"; echo "Submitted batch job $number" """,
    "squeue": """echo "$@" >> "$FAKE/squeue.args"
            for number in $(seq 101 "$(cat "$FAKE/number")"); do
                for job in $number ${number}_0 ${number}_1 ${number}_2 ${number}_3; do echo "$job|PENDING|"; done
            done | grep -vwFf "$FAKE/ended"; true""",
    "sacct": "exit 1",
    "scancel": """for job in "$@"; do echo "$job" >> "$FAKE/ended"; done""",
    "scontrol": """echo "$@" >> "$FAKE/scontrol.args"; echo "MaxArraySize            = 1001" """,
    "srun": "exit 1",
}
"""A Slurm whose jobs never start, and which writes down what it is told."""


@dataclass(kw_only=True)
class Recorder:
    """Runs commands in a folder, and takes the digests of what they print and write.

    Attributes:
        work: the folder.
        environment: variables of all commands.
        found: digests by key, several where it stands for a folder of pictures.
    """

    work: Path
    environment: dict[str, str]
    found: dict[str, list[str]] = field(default_factory=dict)

    def run(self, command: str) -> str:
        """Run a command, record its exit code and what it printed, and give its standard output.

        It may have names of `GIVEN` in braces, and patterns of paths; one whose folder is called ``stopped`` gets a
        SIGTERM after its first epoch, the first time.
        """
        begun, key = time.monotonic(), f"printed/{' '.join(command.split()).replace('/', ':')}"
        stopped = re.findall(r"--out (\S+/stopped)", command) if key not in self.found else []
        while key in self.found:
            key += " again"
        words = [path for word in shlex.split(command.format_map(GIVEN)) for path in self.expand(word)]
        with subprocess.Popen(
            [str(Path(sys.executable).with_name("piggyback")), *words],
            cwd=self.work,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            for out in stopped:
                while process.poll() is None and not any(self.work.glob(f"{out}/runs/*/metrics.jsonl")):
                    time.sleep(0.01)
                process.send_signal(signal.SIGTERM)
            printed, said = process.communicate()
        if "--parallel 2" in command or command.startswith("payload show"):  # these print in no order
            printed, said = ("\n".join(sorted(text.splitlines())) for text in (printed, said))
        left = [path.suffix for out in stopped for path in self.work.glob(f"{out}/runs/*/checkpoints/*")]
        self.keep(key, f"exit code {process.returncode}{' '.join(['', *left])}\n{printed}\n--- standard error\n{said}")
        print(f"{time.monotonic() - begun:6.1f} s  {process.returncode:3}  {key}", flush=True)
        return printed

    def expand(self, word: str) -> list[str]:
        """The paths in the folder that a word stands for, or the word."""
        paths = sorted(self.work.glob(word)) if "*" in word else []
        return [str(path.relative_to(self.work)) for path in paths] or [word]

    def plain(self, text: str) -> str:
        """A text without what differs from one run to the next."""
        for path, put in ((str(self.work), "WORK"), (sys.executable, "PYTHON"), (sys.prefix, "PREFIX")):
            text = text.replace(path, put)
        for pattern, put in MASKS:
            text = pattern.sub(put, text)
        if "┃ seconds ┃" in text:
            text = LAST_COLUMN.sub("│ 0 │", text)
        try:  # the order of an object's keys means nothing
            return json.dumps(json.loads(text), indent=1, sort_keys=True)
        except ValueError:
            return text

    def keep(self, key: str, data: bytes | str) -> None:
        """Record bytes as they are, or a text's plain form, which is kept."""
        if isinstance(data, str):
            data = self.plain(data).encode()
            write(self.work / "plain" / f"{key}.txt", data)
        self.found.setdefault(key, []).append(hashlib.sha256(data).hexdigest())

    def files(self, pattern: str) -> Iterator[tuple[str, Path]]:
        """Name and path of the files in the folder that fit and are the same whenever they are made."""
        for path in sorted(self.work.glob(pattern)):
            name = path.relative_to(self.work)
            if path.is_file() and path.name != ".lock" and not LEFT_OUT & set(name.parts):
                yield str(name), path

    def keep_files(self, pattern: str) -> None:
        """Record the files that fit, pictures of one folder together."""
        for name, path in self.files(pattern):
            if path.suffix in (".png", ".jpg", ".mat"):
                self.keep(f"{name.removesuffix(path.name)}*{path.suffix}", path.name.encode() + path.read_bytes())
            else:
                self.keep(name, path.read_text() if path.suffix in TEXTS else path.read_bytes())

    def prepare_store(self) -> None:
        """Lay out what a store takes: test labels, and of runs copies with plain texts, the same bytes every time."""
        for pattern in ("tasks/**/*", "scenes/**/*", "sweep-local/**/*"):
            for name, path in self.files(pattern):
                if path.name in EVIDENCE:
                    text = path.suffix in TEXTS
                    data = self.plain(path.read_text()).encode() if text else path.read_bytes()
                    write(self.work / "runs" / name, data)
        for path in self.work.glob("tasks/data/labels_test/*_test.json"):
            shown = json.loads(path.read_text())["annotations"]
            truth = {"ids": [one["image_id"] for one in shown], "labels": [one["category_id"] for one in shown]}
            name = f"decathlon-{path.name.replace('_test', '-test')}"
            write(self.work / "store" / "truth" / name, json.dumps(truth).encode())


def write(path: Path, data: bytes) -> None:
    """Write a file, and make its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def set_up(work: Path) -> Recorder:
    """A folder with a Slurm of shell scripts and a sweep's file; commands have one thread and a fixed width there."""
    fake = work / "fake"
    for name, body in FAKES.items():
        write(fake / "bin" / name, f"#!/bin/sh\n{body}\n".encode())
        (fake / "bin" / name).chmod(0o755)
    (fake / "number").write_text("100")
    (fake / "ended").write_text("none\n")
    for name, text in DATA["files"].items():
        (work / name).write_text(text)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "100", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": ""}
    environment |= {"PYTHONSAFEPATH": "1", "FAKE": str(fake), "PATH": f"{fake / 'bin'}:{os.environ['PATH']}"}
    return Recorder(work=work, environment=environment)


def record(recorder: Recorder, part: str) -> None:
    """Run a part's commands, with every choice of the words in brackets, and record its files."""
    commands = COMMANDS[part]
    if part == "leaderboard":
        recorder.prepare_store()
    if part == "help":
        verbs = re.findall(r"^  (\S+(?: \S+)*)  ", recorder.run("-h"), re.MULTILINE)
        commands += "\n".join(f"{name} --help" for name in (*verbs, "sweep", "decathlon", "leaderboard"))
    for line in commands.strip().splitlines():
        parts = enumerate(re.split(r"\[(.*?)\]", line))
        for words in product(*(part.split() if place % 2 else [part] for place, part in parts)):
            recorder.run("".join("" if word == "-" else word for word in words))
    for pattern in PATTERNS[part]:
        recorder.keep_files(pattern)


def compare(before: Path, after: Path) -> int:
    """Print the keys whose digests differ; 1 where there are any."""
    one, other = (json.loads(path.read_text()) for path in (before, after))
    for key in sorted(key for key in {*one, *other} if one.get(key) != other.get(key)):
        print("only after " if key not in one else "only before" if key not in other else "differs    ", key)
    return int(one != other)


def main(arguments: Sequence[str] | None = None) -> int:
    """Record or compare, as asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="a folder for all that is made; new, unless --only is given")
    parser.add_argument("--out", type=Path, help="the file of digests to write")
    parser.add_argument("--only", default=",".join(COMMANDS), help="parts, with commas between")
    parser.add_argument("--compare", nargs=2, type=Path, metavar=("BEFORE", "AFTER"))
    options = parser.parse_args(arguments)
    if options.compare:
        return compare(*options.compare)
    if options.work is None or options.out is None:
        parser.error("give --work and --out, or --compare")
    recorder = set_up(options.work.resolve())
    for part in options.only.split(","):
        record(recorder, part)
    found = {key: "\n".join(sorted(several)) for key, several in sorted(recorder.found.items())}
    digests = {key: hashlib.sha256(text.encode()).hexdigest() for key, text in found.items()}
    options.out.write_text(json.dumps(digests, indent=1) + "\n")
    print(f"{len(digests)} digests in {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
