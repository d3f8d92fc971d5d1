"""``piggyback demo``: what the demos of all benchmarks have in common."""

import re
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from piggyback.shell.errors import BadInput, PiggybackError
from piggyback.suite.benchmark import Benchmark, find_benchmark, find_benchmarks
from piggyback.suite.verbs import demo
from piggyback.suite.verbs.core_options import DemoOptions


def offer(monkeypatch: pytest.MonkeyPatch, *benchmarks: Benchmark) -> None:
    monkeypatch.setattr(demo, "find_benchmarks", lambda: list(benchmarks))


def test_every_benchmark_gets_a_folder_of_its_own_and_all_a_page(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[Path] = []
    monkeypatch.setitem(sys.modules, "toy_demo", SimpleNamespace(run=seen.append))
    plain = replace(find_benchmark("decathlon"), demo=None)
    offer(monkeypatch, *(replace(plain, name=name, demo="toy_demo:run") for name in ("first", "second")), plain)
    assert demo.run(DemoOptions(out=tmp_path)) == 0
    assert seen == [tmp_path / "first", tmp_path / "second"]
    said = capsys.readouterr().out
    assert re.search(r"demo done in \d+ min \d+ s", said)
    assert "$ piggyback leaderboard build" in said
    assert (tmp_path / "site" / "index.html").exists()


def test_without_any_demo_there_is_a_message(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    offer(monkeypatch, replace(find_benchmark("decathlon"), demo=None))
    with pytest.raises(BadInput, match="no package offers a demo"):
        demo.run(DemoOptions(out=tmp_path))


def test_a_step_that_fails_ends_the_demo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "dispatch", lambda arguments: 1)
    with pytest.raises(PiggybackError, match=f"step .* failed, see above: delete {tmp_path} to start over"):
        demo.take_step("nothing to show", ["payload", "show", str(tmp_path / "none")], root=tmp_path)
    assert "nothing to show\n$ piggyback payload show " in capsys.readouterr().out


def test_our_benchmarks_offer_one() -> None:
    assert {one.name: one.demo for one in find_benchmarks()}.items() >= {
        ("decathlon", "decathlon.demo:run_demo"),
        ("segmentation", "segmentation.demo:run_demo"),
    }
