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

GIVEN: Final = {
    "every": "piggyback,piggyback-ternary,feature,finetune,scratch,norm,affine,ksm,packnet,joint,series,series-joint,"
    "parallel,dan",
    "most": "piggyback,piggyback-ternary,feature,finetune,scratch,affine,ksm,series,parallel,dan",
    "exact": "--recipe smoke --update eager --precision fp32 --device cpu",
    "tasks": "--data tasks/data --backbone tasks/backbone/backbone.safetensors",
    "small": "--head-lr-factor 5 --parallel 1",
    "scenes": "--data scenes/data --backbone scenes/drawn/backbone.safetensors",
    "seen": "--train voc2012_train --deconvolution fixed --size 0 --epochs 2 --batch-size 8 --lr 5e-4 --dropout 0.1 "
    "--head-lr-factor 4 --parallel 1",
    "voc": "scenes/drawn/release/VOCdevkit/VOC2012",
    "seg11": "scenes/drawn/release/VOCdevkit/VOC2012/ImageSets/Segmentation/seg11valid.txt",
    "maps": "scenes/runs/runs/*-piggyback-seed0-*/predictions/seg11valid",
    "slurm": "--cluster slurm --profiles profiles.toml",
}
"""What stands in braces in the commands; words in brackets are taken in turn, - is none."""

DECATHLON: Final = """
decathlon draw --out tasks/release
decathlon prepare --source tasks/release --out tasks/data [--json -]
decathlon backbone train --data tasks/data --out tasks/backbone --recipe smoke --depth 10 --widen 2 --size 32 \
    --epochs 3 --decay-epochs 2 --device cpu --json
decathlon backbone evaluate {tasks} --size 32 --json --split [val test]
decathlon run {tasks} {exact} {small} --out tasks/runs --methods {every} --tasks dtd,svhn [--json -]
decathlon run {tasks} {exact} {small} --out tasks/runs --methods piggyback,feature --tasks dtd,svhn --seed 1
decathlon run {tasks} {exact} {small} --out tasks/nine --methods piggyback,feature --lr 9e-4
decathlon run {tasks} {exact} {small} --out tasks/grid --methods piggyback,ksm --tasks dtd --lr-grid 1e-3 2e-3 \
    --min-steps 60 --trial-share 0.5
decathlon run {tasks} {exact} {small} --out tasks/val --methods piggyback,packnet --tasks dtd,svhn --selected-on val \
    --epochs 3
decathlon run {tasks} {exact} {small} --out tasks/both --methods piggyback,dan --tasks dtd --trained-on train+val
decathlon run {tasks} {exact} {small} --out tasks/order --methods packnet,joint --tasks svhn,dtd --order svhn dtd
decathlon run {tasks} {exact} {small} --out tasks/ten --methods joint --tasks svhn,dtd --order svhn dtd imagenet12
decathlon run {tasks} {exact} {small} --out tasks/other --methods piggyback,finetune,series --tasks aircraft \
    --schedule cosine --rule sgd --head-rule sgd --weight-decay 5e-4 --norm trained --normalise own-train --whole dtd
decathlon run {tasks} {exact} --out tasks/official --methods piggyback,feature --tasks gtsrb --norm statistics \
    --normalise official-task --decay-after 0.5 --decay-again 0.8 --min-steps 50 --no-flip --parallel 2 --json
decathlon evaluate {tasks} --device cpu --run tasks/runs/runs/dtd-[piggyback packnet series-joint]-seed0-* --json
decathlon evaluate {tasks} --device cpu --run tasks/runs/runs/svhn-ksm-seed0-* --split test
decathlon merge --backbone tasks/backbone/backbone.safetensors --out tasks/merged.safetensors \
    --payload tasks/runs/runs/dtd-[piggyback series]-seed0-*/payload.safetensors --json
decathlon merge --backbone tasks/backbone/backbone.safetensors --out tasks/merged-dan.safetensors \
    --payload tasks/runs/runs/dtd-[dan joint]-seed0-*/payload.safetensors
decathlon merge --backbone tasks/runs/grounds/packnet-*/backbone.safetensors --out tasks/merged-packnet.safetensors \
    --payload tasks/runs/runs/dtd-packnet-seed0-*/payload.safetensors
payload show tasks/runs/runs/*/payload.safetensors [--json -]
decathlon report --runs tasks/runs --data tasks/data --methods {every} --tasks dtd,svhn [--json -]
decathlon report --runs tasks/nine --data tasks/data --seeds 0,1
decathlon submit --runs tasks/runs --out tasks/partial.json --json [- --partial]
decathlon submit --runs tasks/nine --out tasks/results.json
decathlon score tasks/results.zip --labels tasks/data/labels_test --json
decathlon score tasks/[results partial].json --labels tasks/data/labels_test
decathlon train --task dtd {tasks} {exact} --epochs 12 --out tasks/stopped --json
decathlon train --task dtd {tasks} {exact} --epochs 12 --out tasks/stopped --json
decathlon train --task dtb {tasks} --out tasks/none
decathlon run [--methods=pigback --recipe=smok --lr=-1] {tasks} --out tasks/none
"""

SEGMENTATION: Final = """
segmentation draw --out scenes/drawn
segmentation prepare --source scenes/drawn/release --out scenes/data --json
segmentation prepare --source scenes/drawn/release --out scenes/data --splits sbd_train,voc2012_train
segmentation backbone import scenes/drawn/backbone.safetensors --convention caffe --out scenes/imported.safetensors
segmentation run {scenes} {exact} {seen} --out scenes/runs --methods {most} --json
segmentation run {scenes} {exact} {seen} --out scenes/runs --methods piggyback --seeds 0,1
segmentation run {scenes} {exact} {seen} --out scenes/grid --methods feature --lr-grid 5e-4 1e-3 --held-out 30
segmentation run {scenes} {exact} {seen} --out scenes/both --methods feature --lr-grid 5e-4 1e-3 --held-out 30 \
    --trained-on train+val --trial-share 1 --sheets 0
segmentation run {scenes} {exact} --out scenes/other --methods piggyback,finetune --flip --accumulate 2 --loss sum \
    --weight-decay 1e-4 --weight-lr-factor 0.1 --head-rule sgd --decay-after 0.5 --parallel 2
segmentation run {scenes} {exact} --out scenes/margin --methods feature --margin fcn --deconvolution fixed \
    --train voc2012_train --parallel 1
segmentation run {scenes} {exact} --out scenes/none --methods [norm packnet joint series-joint]
segmentation run {scenes} {exact} --out scenes/none --lr-grid 1e-3
segmentation train {scenes} {exact} --epochs 8 --deconvolution fixed --out scenes/stopped --method feature --json
segmentation train {scenes} {exact} --epochs 8 --deconvolution fixed --out scenes/stopped --method feature --json
segmentation evaluate {scenes} --device cpu --run scenes/runs/runs/*-piggyback-seed0-* --out scenes/again --json
segmentation evaluate {scenes} --device cpu --run scenes/runs/runs/*-ksm-* --out scenes/train --split voc2012_train \
    --sheets 0 [- --allow-overlap]
segmentation report --runs scenes/runs --data scenes/data --methods {most} [--json -]
segmentation report --runs scenes/runs --data scenes/data --seeds 0,1,2
segmentation sizes --json
segmentation sizes --recipe smoke --backbone scenes/drawn/backbone.safetensors
segmentation miou --truth {voc}/SegmentationClass --predictions {maps} --ids {seg11} --csv scenes/miou.csv --json
segmentation miou --truth {voc}/SegmentationClass --predictions {maps}
segmentation rle --predictions {maps} --out scenes/rle.json --json
segmentation bundle --predictions {maps} --pictures {voc}/JPEGImages --ids {seg11} --out scenes/voc.tgz --json
segmentation bundle --predictions {maps} --pictures {voc}/JPEGImages
"""

SWEEP: Final = """
sweep new [smoke profiles decathlon-table8 packnet-orders segmentation full] --force
sweep plan [smoke decathlon-table8 packnet-orders segmentation].toml --json
sweep plan full.toml --profile gpu
sweep doctor --folder fake --no-node-check --json
sweep submit smoke.toml {slurm} --dry-run --profile [gpu preemptible]
sweep submit smoke.toml {slurm} --dry-run --json
sweep submit packnet-orders.toml {slurm}
sweep submit smoke.toml {slurm} --json
sweep status smoke.toml --json
sweep cancel smoke.toml dtd --json
sweep status smoke.toml
sweep retry smoke.toml dtd {slurm} --snapshot
sweep plan local.toml --json
sweep submit local.toml --cluster local --dry-run
sweep submit local.toml --cluster local --max-parallel 2 --wait
sweep submit local.toml --cluster local --wait --json
sweep status local.toml
sweep logs local.toml decathlon-score
"""

LOCAL_SWEEP: Final = """
name = "local"
out = "sweep-local"
benchmark = [
    {name = "decathlon", methods = ["packnet", "series-joint"]},
    {name = "decathlon", label = "seeds", methods = ["affine"], seeds = [0, 1], tasks = ["dtd"]},
    {name = "segmentation", methods = ["feature"]},
]
[defaults.decathlon]
data = "tasks/data"
backbone = "tasks/backbone/backbone.safetensors"
tasks = ["svhn", "dtd"]
recipe = "smoke"
settings = {update = "eager", precision = "fp32", min_steps = 30}
[defaults.segmentation]
data = "scenes/data"
backbone = "scenes/drawn/backbone.safetensors"
recipe = "smoke"
settings = {update = "eager", precision = "fp32", deconvolution = "fixed"}
"""

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

LEADERBOARD: Final = """
leaderboard add runs/tasks runs/scenes runs/sweep-local --store store --json
leaderboard add runs/tasks --store store
leaderboard check store --labels tasks/data/labels_test --json
leaderboard show store --protocol official --method 'piggy*'
leaderboard show store --view [decathlon points segmentation reproduced] --format [table md csv json latex]
leaderboard show store --view [decathlon points segmentation reproduced] --no-published --json
leaderboard show --view [decathlon points segmentation reproduced] --unverified --json
leaderboard compare scratch [parallel norm piggyback nobody] --store store --json
leaderboard compare piggyback finetune --store store
leaderboard compare piggyback feature --store store --benchmark segmentation
leaderboard build store --out page --json
leaderboard build store --runs runs/scenes --out page-all --unverified
"""

HELP: Final = """
--help
--version

decathlom run
decathlon [- rn]
payload show nothing.safetensors
decathlon run --help --recipe [mini packnet adapters]
"""

PARTS: Final = {
    "decathlon": (DECATHLON, ("tasks/**/*",)),
    "segmentation": (SEGMENTATION, ("scenes/**/*",)),
    "sweep": (SWEEP, ("*.toml", "fake/*", "sweep*/**/*")),
    "leaderboard": (LEADERBOARD, ("store/**/*", "page*/**/*")),
    "help": (HELP, ()),
}
"""Commands, and the files to record after them; sweep and leaderboard take what the parts before have made."""


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
    (work / "local.toml").write_text(LOCAL_SWEEP)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "100", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": ""}
    environment |= {"PYTHONSAFEPATH": "1", "FAKE": str(fake), "PATH": f"{fake / 'bin'}:{os.environ['PATH']}"}
    return Recorder(work=work, environment=environment)


def record(recorder: Recorder, part: str) -> None:
    """Run a part's commands, with every choice of the words in brackets, and record its files."""
    commands, patterns = PARTS[part]
    if part == "leaderboard":
        recorder.prepare_store()
    if part == "help":
        verbs = re.findall(r"^  (\S+(?: \S+)*)  ", recorder.run("-h"), re.MULTILINE)
        commands += "\n".join(f"{name} --help" for name in (*verbs, "sweep", "decathlon", "leaderboard"))
    for line in commands.strip().splitlines():
        parts = enumerate(re.split(r"\[(.*?)\]", line))
        for words in product(*(part.split() if place % 2 else [part] for place, part in parts)):
            recorder.run("".join("" if word == "-" else word for word in words))
    for pattern in patterns:
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
    parser.add_argument("--only", default=",".join(PARTS), help="parts, with commas between")
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
