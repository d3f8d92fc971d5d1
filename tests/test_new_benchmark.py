"""docs/adding-a-benchmark.md as a reader goes through it: its package, its commands and their results, the laws."""

import contextlib
import glob
import io
import json
import os
import re
import shlex
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from digits_package import read_blocks, read_files, write_package
from page_laws import count_laws

from leaderboard.boards.installed import find_boards
from leaderboard.result import read_result
from piggyback.shell.cli import REQUEUE, load, main
from piggyback.shell.errors import PiggybackError, UnknownName
from piggyback.shell.files import sha256_of
from piggyback.suite.benchmark import find_benchmark

ROOT = Path(__file__).resolve().parents[1]
LINES = 200
TASKS = ("high", "parity", "mirrored")
METHODS = ("piggyback", "feature")
BACKBONE = "backbone/backbone.safetensors"


def forget() -> None:
    """Leave nothing of the package in this process."""
    find_benchmark.cache_clear()
    find_boards.cache_clear()
    for name in [name for name in sys.modules if name.partition(".")[0] == "digits"]:
        del sys.modules[name]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None) -> Iterator[Path]:
    """The package, without its board, where this process and those that it starts find it and work."""
    with pytest.raises(UnknownName):
        find_benchmark("digits")
    write_package(tmp_path, board=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)
    forget()
    yield tmp_path
    forget()


def call(*words: str) -> tuple[int, str]:
    """Exit code and output of a command of the console."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        code = main(words)
    return code, said.getvalue()


def call_lines(block: str) -> dict[str, str]:
    """What each line of a block prints, typed into a shell, which makes names of stars."""
    said = {}
    for line in block.splitlines():
        program, *words = shlex.split(line)
        assert program == "piggyback"
        code, said[line] = call(*(name for word in words for name in (sorted(glob.glob(word)) or [word])))
        assert code == 0, f"{line}\n{said[line]}"
    return said


def answer(*words: str) -> Any:
    code, said = call(*words, "--json")
    assert code == 0, said
    return json.loads(said)


def find_line(said: dict[str, str], words: str) -> str:
    """What the line with these words printed."""
    (found,) = (text for line, text in said.items() if words in line)
    return found


# -- the page's commands --------------------------------------------------------------------------------


def test_the_commands_do_what_the_page_says(folder: Path) -> None:
    verbs, sweep, kept, ranked = read_blocks("sh")
    said = call_lines(verbs)
    check_runs(said)
    check_choice()
    check_help()
    said = call_lines(sweep)
    check_sweep(find_line(said, "sweep submit"))
    said = call_lines(kept)
    assert "13 results added" in find_line(said, "leaderboard add")
    check_plain(find_line(said, "leaderboard show"))
    write_package(folder, board=True)
    find_boards.cache_clear()
    said = call_lines(ranked)
    assert "13 results without a finding, 0 findings" in find_line(said, "leaderboard check")
    check_ranking(find_line(said, "leaderboard show"))
    assert "Handwritten digits" in Path("site/index.html").read_text()
    assert len(list(Path("site/runs/digits").glob("**/index.html"))) == 13


def check_runs(said: dict[str, str]) -> None:
    """Every run has its result; means have their spread; what is measured again is near what was measured."""
    told = answer(*shlex.split("digits report --runs runs --data data --methods piggyback,feature --seeds 0,1"))
    assert told["missing"] == []
    accuracy: dict[str, dict[str, float]] = {}
    for method in METHODS:
        tasks = told["methods"][method]["tasks"]
        assert tuple(tasks) == TASKS
        assert all(task["seeds"] == [0, 1] and task["accuracy"]["deviation"] > 0 for task in tasks.values())
        accuracy[method] = {task: told["accuracy"]["mean"] for task, told in tasks.items()}
    assert all(accuracy["piggyback"][task] > max(accuracy["feature"][task], 0.75) for task in TASKS)
    assert told["methods"]["piggyback"]["parameter_ratio"] == 1 + 3 / 32
    results = [read_result(path) for path in Path("runs/runs").glob("*/result.json")]
    assert len(results) == len(METHODS) * len(TASKS) * 2 + 1  # and one by packnet
    assert {(one.split, one.official_data) for one in results} == {("test", True)}
    counts = {(one.task, one.counts.n) for one in results if one.counts is not None}
    assert counts == {("high", 200), ("parity", 398), ("mirrored", 398)}
    again = re.search(r"val +│ (\d\d\.\d\d) │", find_line(said, "digits evaluate"))
    assert again is not None
    assert float(again[1]) / 100 == pytest.approx(accuracy["piggyback"]["parity"], abs=0.06)


def check_choice() -> None:
    """Learning rate and epoch were chosen on val."""
    (path,) = Path("chosen/runs").glob("*/result.json")
    result = read_result(path)
    assert result.selected_on == "val"
    assert result.recipe is not None
    tried: Any = result.recipe["lr_trials"]
    assert [trial["lr"] for trial in tried] == [3e-4, 1e-3]
    assert all(0.5 < trial["val_accuracy"] < 1 for trial in tried)


def check_help() -> None:
    """Every verb has worked examples, and the help of its fields."""
    for verb, words in (
        ("prepare", "folder to write into"),
        ("backbone", "the same command again"),
        ("train", "Standard deviation of the noise"),
        ("run", "chosen  learning rate and epoch are chosen on val"),
        ("evaluate", "file of the network that the run was trained on"),
        ("report", "those that should be there"),
        ("ground", "packnet, joint or series-joint"),
    ):
        said = io.StringIO()
        with pytest.raises(SystemExit) as ended, contextlib.redirect_stdout(said):
            main(["digits", verb, "--help"])
        assert ended.value.code == 0
        assert f"  piggyback digits {verb} " in said.getvalue()
        assert words in re.sub(r"[\s│]+", " ", said.getvalue()).replace("chosen learning", "chosen  learning")


def check_sweep(submitted: str) -> None:
    """What was not given was made first, everything is done, and a page is there."""
    assert "Handwritten digits, accuracy %" in submitted
    plan = answer("sweep", "plan", "digits.toml")["runs"]
    assert [run["kind"] for run in plan] == ["prepare", "backbone", "run", "run", "score", "page"]
    assert all(run["done"] for run in plan if run["kind"] in ("backbone", "run"))
    assert plan[1]["argv"][:4] == ["digits", "backbone", "--epochs", "3"]
    assert len(list(Path("sweep/digits").glob("recipe-*/runs/*/result.json"))) == 2
    assert Path("sweep/site/index.html").exists()
    given = {"root": os.getcwd(), "out": "swept", "data": "data", "backbone": BACKBONE, "methods": ["joint"]}
    plan = find_benchmark("digits").plan(given)
    assert [run["kind"] for run in plan] == ["run", *["run"] * len(TASKS), "score"]
    assert plan[0]["inputs"] == [os.path.abspath("data"), os.path.abspath(BACKBONE)]
    for more, message in (
        ({"source": "archives"}, "leave source out"),
        ({"backbone": {"epoch": 3}}, "no setting of the recipe in the backbone is called 'epoch'"),
    ):
        with pytest.raises(PiggybackError, match=message):
            find_benchmark("digits").plan({**given, **more})


def check_plain(shown: str) -> None:
    """Without a board: a row for each task and method."""
    assert shown.startswith("digits: a benchmark without a board")
    for task in TASKS:
        assert re.search(rf"│ +1 │ piggyback │ {task} +│", shown)
        assert re.search(rf"│ +\d │ feature +│ {task} +│", shown)


def check_ranking(shown: str) -> None:
    """With a board: a row for each method, ranked over all tasks."""
    assert shown.startswith("Handwritten digits: accuracy (%)")
    assert re.search(r"│ +1 │ piggyback │ 1\.09 │", shown)
    assert re.search(r"│ +2 │ feature +│ +1 │", shown)


# -- the rest of what it says ---------------------------------------------------------------------------


def test_the_benchmark_is_as_short_as_the_page_says() -> None:
    lines = [line for name, body in read_files().items() if name.startswith("digits/") for line in body.splitlines()]
    assert 0 < sum(bool(line.strip()) for line in lines) <= LINES


def test_a_stop_of_the_backbone_costs_no_step_and_no_bit(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("digits", "prepare", "--out", "data")[0] == 0
    words = shlex.split("digits backbone --data data --epochs 2 --out")
    shuffle, taken = load("digits.verbs:shuffle"), list[tuple[int, int]]()

    def stopped(*given: Any, epoch: int, start: int) -> Iterator[Any]:
        for number, batch in enumerate(shuffle(*given, epoch=epoch, start=start), start=start):
            taken.append((epoch, number))
            if len(taken) == 15:
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    assert call(*words, "whole")[0] == 0
    monkeypatch.setattr("digits.verbs.shuffle", stopped)
    assert call(*words, "broken")[0] == REQUEUE
    assert len(taken) == 15
    assert call(*words, "broken")[0] == 0
    assert len(taken) == len(set(taken))
    assert taken[-1] == (1, len(taken) // 2 - 1)
    assert sha256_of(Path("whole/backbone.safetensors")) == sha256_of(Path("broken/backbone.safetensors"))
    for flags, message in (("--epochs 3", "belongs to another run"), ("--norm trained", "norm means nothing where")):
        code = main([*words[:4], *shlex.split(flags), "--out", "whole"])
        assert (code, message in capsys.readouterr().err) == (1, True)


def test_the_laws_hold_for_it_as_the_page_says(tmp_path: Path) -> None:
    write_package(tmp_path, board=False)
    (command,) = read_blocks("")
    assert count_laws(command, package=tmp_path) >= 80
