"""docs/adding-a-benchmark.md, walked through as a reader would: its package, its commands, its results, the laws."""

import contextlib
import glob
import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from digits_package import read_blocks, read_files, write_package

from leaderboard.boards.installed import find_boards
from leaderboard.result import read_result
from piggyback.shell.cli import REQUEUE, main
from piggyback.shell.errors import UnknownName
from piggyback.shell.files import sha256_of
from piggyback.suite.benchmark import find_benchmark

ROOT = Path(__file__).resolve().parents[1]
LINES = 200
TASKS = ("high", "parity", "mirrored")
METHODS = ("piggyback", "feature")
BACKBONE = "backbone/backbone.safetensors"


def forget() -> None:
    """Nothing of the package is left in this process."""
    find_benchmark.cache_clear()
    find_boards.cache_clear()
    for name in [name for name in sys.modules if name.partition(".")[0] == "digits"]:
        del sys.modules[name]


@contextlib.contextmanager
def installed(folder: Path, *, board: bool) -> Iterator[None]:
    """The package is found by this process and by those that it starts, and `folder` is the place to work in."""
    with pytest.MonkeyPatch.context() as patch:
        write_package(folder, board=board)
        patch.syspath_prepend(str(folder))
        patch.setenv("PYTHONPATH", str(folder))
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.chdir(folder)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        forget()
        yield
        torch.set_num_threads(threads)
    forget()


def call(*words: str) -> tuple[int, str]:
    """Exit code and output of a command of the console."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        code = main(words)
    return code, said.getvalue()


def call_line(line: str) -> tuple[int, str]:
    """As `call`, of a line as it is typed: the shell makes names of stars."""
    program, *words = shlex.split(line)
    assert program == "piggyback"
    return call(*(name for word in words for name in (sorted(glob.glob(word)) or [word])))


def answer(*words: str) -> Any:
    code, said = call(*words, "--json")
    assert code == 0, said
    return json.loads(said)


@dataclass(frozen=True, kw_only=True)
class Walk:
    """The page's commands, done.

    Attributes:
        folder: where they were done.
        said: what each printed.
        shown: the table of results with and without a board.
    """

    folder: Path
    said: dict[str, str]
    shown: dict[bool, str]


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Walk]:
    """All of the page's commands, one after the other; the package stays installed."""
    folder = tmp_path_factory.mktemp("walk")
    with pytest.raises(UnknownName):
        find_benchmark("digits")
    first, sweep, plain, ranked = (block.splitlines() for block in read_blocks("sh"))
    said, shown = dict[str, str](), dict[bool, str]()
    with installed(folder, board=False):
        for lines, board in ((first, False), (sweep, False), (plain, False), (ranked, True)):
            write_package(folder, board=board)
            find_boards.cache_clear()
            for line in lines:
                code, said[line] = call_line(line)
                assert code == 0, (line, said[line])
                if " show " in line:
                    shown[board] = said[line]
        yield Walk(folder=folder, said=said, shown=shown)


def test_the_benchmark_is_as_short_as_the_page_says() -> None:
    lines = [line for name, body in read_files().items() if name.startswith("digits/") for line in body.splitlines()]
    assert sum(bool(line.strip()) for line in lines) <= LINES


def test_every_verb_has_help_with_examples(walk: Walk, capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("prepare", "backbone", "train", "run", "evaluate", "report", "ground"):
        with pytest.raises(SystemExit) as ended:
            main(["digits", verb, "--help"])
        assert ended.value.code == 0
        assert f"  piggyback digits {verb} " in capsys.readouterr().out
    assert main(["digits", "--help"]) == 0
    assert "digits backbone  train the backbone on the digits 0 to 4" in capsys.readouterr().out


def test_its_runs_have_results_seeds_and_a_spread(walk: Walk) -> None:
    words = ("--runs", "runs", "--data", "data", "--methods", ",".join(METHODS), "--seeds", "0,1")
    told = answer("digits", "report", *words)
    assert told["missing"] == []
    for method in METHODS:
        assert tuple(told["methods"][method]["tasks"]) == TASKS
        for task in told["methods"][method]["tasks"].values():
            assert (task["seeds"], task["accuracy"]["n"]) == ([0, 1], 2)
            assert task["accuracy"]["deviation"] > 0
    accuracy = {m: {t: told["methods"][m]["tasks"][t]["accuracy"]["mean"] for t in TASKS} for m in METHODS}
    assert all(accuracy["piggyback"][task] > max(accuracy["feature"][task], 0.75) for task in TASKS)
    assert told["methods"]["piggyback"]["parameter_ratio"] == 1 + 3 / 32
    results = [read_result(path) for path in sorted(Path("runs/runs").glob("*/result.json"))]
    assert len(results) == 2 * 2 * 3 + 1  # and one by packnet
    assert {one.split for one in results} == {"test"}
    assert {(one.task, one.counts.n) for one in results if one.counts} == {
        ("high", 200),
        ("parity", 398),
        ("mirrored", 398),
    }
    assert all(one.official_data for one in results)


def test_learning_rate_and_epoch_are_chosen_on_val(walk: Walk) -> None:
    (path,) = Path("chosen/runs").glob("*/result.json")
    result = read_result(path)
    assert result.selected_on == "val"
    assert result.recipe is not None
    tried: Any = result.recipe["lr_trials"]
    assert [trial["lr"] for trial in tried] == [3e-4, 1e-3]
    assert all(0.5 < trial["val_accuracy"] < 1 for trial in tried)


def test_a_finished_run_is_measured_again(walk: Walk) -> None:
    (line,) = (line for line in walk.said if " evaluate " in line)
    (run, _) = sorted(glob.glob("runs/runs/parity-piggyback-seed*"))
    told = answer("digits", "evaluate", "--run", run, "--data", "data", "--backbone", BACKBONE)
    assert (told["task"], told["method"]) == ("parity", "piggyback")
    assert 0.8 < told["val"] < 1
    assert f"{100 * told['val']:.2f}" in walk.said[line]


def test_a_sweep_makes_what_is_not_given_and_ends_with_a_page(walk: Walk) -> None:
    plan = answer("sweep", "plan", "digits.toml")["runs"]
    assert [run["kind"] for run in plan] == ["prepare", "backbone", "run", "run", "score", "page"]
    assert all(run["done"] for run in plan if run["kind"] in ("backbone", "run"))
    assert plan[1]["argv"][:2] == ["digits", "backbone"]
    assert plan[1]["argv"][2:4] == ["--epochs", "3"]
    (submitted,) = (line for line in walk.said if line.startswith("piggyback sweep submit"))
    assert "Handwritten digits, accuracy %" in walk.said[submitted]
    assert (walk.folder / "sweep" / "page" / "index.html").exists()
    assert len(list(walk.folder.glob("sweep/digits/recipe-*/runs/*/result.json"))) == 2


def test_a_sweep_takes_what_is_given(walk: Walk) -> None:
    spec = {"root": str(walk.folder), "out": "swept", "data": "data", "backbone": BACKBONE, "methods": ["joint"]}
    plan = find_benchmark("digits").plan(spec)
    assert [run["kind"] for run in plan] == ["run", *["run"] * len(TASKS), "score"]
    assert plan[0]["inputs"] == [str(walk.folder / "data"), str(walk.folder / BACKBONE)]
    code = main(["sweep", "plan", "none.toml"])
    assert code == 1
    for more, message in (
        ({"source": "archives"}, "digits has its pictures itself: leave source out"),
        ({"backbone": {"epoch": 3}}, "no setting of the recipe in the backbone is called 'epoch'"),
    ):
        with pytest.raises(Exception, match=message):
            find_benchmark("digits").plan({**spec, **more})


def test_its_results_are_kept_and_ranked_with_a_board_and_without_one(walk: Walk) -> None:
    assert "12 results" in walk.said["piggyback leaderboard add runs --store store"]
    plain, ranked = walk.shown[False], walk.shown[True]
    assert plain.startswith("digits: a benchmark without a board")
    assert ranked.startswith("Handwritten digits: accuracy (%)")
    assert len(re.findall(r"│ +piggyback +│", plain)) == len(re.findall(r"│ feature +│", plain)) == 3
    assert re.search(r"│ +1 │ piggyback │ 1\.09 │", ranked)
    assert re.search(r"│ +2 │ feature +│ +1 │", ranked)
    page = (walk.folder / "site" / "index.html").read_text()
    assert "Handwritten digits" in page
    assert len(list(walk.folder.glob("site/runs/digits/**/index.html"))) == 13


def test_a_stop_of_the_backbone_costs_no_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with installed(tmp_path, board=False):
        assert main(["digits", "prepare", "--out", "data"]) == 0
        words = ["digits", "backbone", "--data", "data", "--epochs", "2", "--out"]
        from digits import verbs  # found only now

        shuffle, seen = verbs.shuffle, list[int]()

        def stopped(*given: Any, **how: Any) -> Iterator[Any]:
            for batch in shuffle(*given, **how):
                seen.append(how["epoch"])
                if len(seen) == 15:
                    os.kill(os.getpid(), signal.SIGTERM)
                yield batch

        assert main([*words, "whole"]) == 0
        monkeypatch.setattr(verbs, "shuffle", stopped)
        assert main([*words, "broken"]) == REQUEUE
        assert len(seen) == 15
        assert main([*words, "broken"]) == 0
        assert len(seen) == len(re.findall("1", "".join(map(str, seen)))) + seen.count(0)
        assert sha256_of(Path("whole/backbone.safetensors")) == sha256_of(Path("broken/backbone.safetensors"))


def test_the_laws_hold_for_it_as_the_page_says(tmp_path: Path) -> None:
    write_package(tmp_path, board=False)
    (command,) = read_blocks("")
    place, *words = command.split()
    assert (place, words[0]) == ("PYTHONPATH=.", "pytest")
    done = subprocess.run(
        [sys.executable, "-m", *words, "-p", "no:cacheprovider", "-q"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None
    assert int(passed[1]) >= 40


def test_what_the_page_says_of_the_project_is_what_pip_reads() -> None:
    project = tomllib.loads(read_files()["pyproject.toml"])["project"]
    assert project["entry-points"] == {"piggyback.benchmarks": {"digits": "digits.benchmark:BENCHMARK"}}
    assert "scikit-learn" in project["dependencies"]
