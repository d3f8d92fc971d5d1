import json
from types import SimpleNamespace

import pytest

from piggyback.shell import doctor
from piggyback.shell.checks import Check
from piggyback.shell.options import DoctorOptions


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The checks that all packages offer, to be filled by the test."""
    found: list[object] = []
    point = SimpleNamespace(name="tests", load=lambda: lambda: iter(found))
    monkeypatch.setattr(doctor, "entry_points", lambda group: [point])
    monkeypatch.setattr(doctor, "check_entry_points", lambda: Check(name="entry points", state="ok", found="all"))
    return found


def test_something_broken_is_exit_1_and_a_note_is_not(only: list[object], capsys: pytest.CaptureFixture[str]) -> None:
    only.append(Check(name="a", state="ok", found="fine"))
    only.append(Check(name="b", state="note", found="slow", advice="go faster"))
    assert doctor.run(DoctorOptions()) == 0
    assert "go faster" in capsys.readouterr().out
    only.append(Check(name="c", state="broken", found="gone", advice="get it"))
    assert doctor.run(DoctorOptions()) == 1
    assert "broken: c" in capsys.readouterr().out
    assert doctor.run(DoctorOptions(json=True)) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is False
    names = ["python", "a", "b", "c", "disk", "memory", "entry points"]
    assert [check["name"] for check in report["checks"]] == names
    assert [check["state"] for check in report["checks"]][1:4] == ["ok", "note", "broken"]


def test_little_room_is_noted() -> None:
    assert doctor.room("disk", 1 << 20, where="", advice="clear up").advice == "clear up"
    assert doctor.room("disk", 1 << 40, where="", advice="clear up").state == "ok"
    assert doctor.room("memory", None, where="", advice="").state == "ok"


def test_an_entry_point_that_does_not_load_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.check_entry_points().state == "ok"
    real = doctor.entry_points
    point = SimpleNamespace(name="gone", load=lambda: __import__("no_such_module_of_ours"))

    def with_gone(group: str) -> object:
        found = list(real(group=group))
        extra = [point] if group == "piggyback.benchmarks" else []
        return SimpleNamespaceList([*found, *extra])

    monkeypatch.setattr(doctor, "entry_points", with_gone)
    check = doctor.check_entry_points()
    assert check.state == "broken"
    assert "piggyback.benchmarks gone" in check.found


def test_checks_that_do_not_load_are_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    good = SimpleNamespace(name="good", load=lambda: lambda: iter([Check(name="a", state="ok", found="fine")]))
    point = SimpleNamespace(name="gone", load=lambda: __import__("no_such_module_of_ours"))
    monkeypatch.setattr(doctor, "entry_points", lambda group: SimpleNamespaceList([good, point]))
    found = {check.name: check for check in doctor.all_checks(show=None)}
    assert list(found) == ["python", "a", "disk", "memory", "entry points"]
    assert "piggyback.doctor gone" in found["entry points"].found


class SimpleNamespaceList(list[object]):
    """Entry points with their names, as `importlib.metadata` gives them."""

    @property
    def names(self) -> set[str]:
        return {point.name for point in self}  # type: ignore[attr-defined]
