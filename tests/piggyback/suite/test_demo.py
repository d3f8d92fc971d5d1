import re
from collections.abc import Callable
from pathlib import Path

import pytest

from piggyback.shell.errors import BadInput
from piggyback.suite.verbs.commands import demo
from piggyback.suite.verbs.core_options import DemoOptions


class Point:
    """An entry point for tests."""

    def __init__(self, name: str, step: Callable[[Path], None]) -> None:
        self.name, self.step = name, step

    def load(self) -> Callable[[Path], None]:
        return self.step


def test_every_package_gets_a_folder_of_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[Path] = []
    points = [Point("second", seen.append), Point("first", seen.append)]
    monkeypatch.setattr(demo, "entry_points", lambda group: points if group == "piggyback.demo" else [])
    assert demo.run(DemoOptions(out=tmp_path)) == 0
    assert seen == [tmp_path / "first", tmp_path / "second"]
    assert re.search(r"demo done in \d+ min \d+ s", capsys.readouterr().out)


def test_without_any_demo_there_is_a_message(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(demo, "entry_points", lambda group: [])
    with pytest.raises(BadInput, match="no package offers a demo"):
        demo.run(DemoOptions(out=tmp_path))


def test_the_decathlon_offers_one() -> None:
    from importlib.metadata import entry_points

    assert [point.value for point in entry_points(group=demo.GROUP, name="decathlon")] == ["decathlon.demo:run_demo"]
