import json
import sys
from types import SimpleNamespace

import pytest

from piggyback.shell import doctor
from piggyback.shell.checks import Check
from piggyback.shell.options import DoctorOptions
from piggyback.update import MaskUpdate


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The checks that all packages offer, to be filled by the test."""
    found: list[object] = []
    point = SimpleNamespace(name="tests", load=lambda: lambda: iter(found))
    monkeypatch.setattr(doctor, "entry_points", lambda group: [point])
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
    assert [check["state"] for check in report["checks"]] == ["ok", "note", "broken"]


def test_torchvision_of_another_torch_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.check_torch().state == "ok"
    monkeypatch.setitem(sys.modules, "torchvision", None)  # importing it now fails
    check = doctor.check_torch()
    assert check.state == "broken"
    assert "pip install --upgrade torch torchvision" in check.advice


def test_an_old_torch_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch, "__version__", "2.9.1+cu128")
    assert doctor.check_torch().state == "broken"
    monkeypatch.setattr(torch, "__version__", "2.10.0")
    assert doctor.check_torch().state == "ok"


def test_a_mask_update_is_really_compiled() -> None:
    check = doctor.check_compiler()
    assert (check.state, check.found.split(" in ")[0]) == ("ok", "a mask update compiled")


def test_without_a_compiler_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: MaskUpdate, weight: object) -> None:
        raise RuntimeError("g++ not found\nlong story")

    monkeypatch.setattr(MaskUpdate, "_compile", fail)
    check = doctor.check_compiler()
    assert check.state == "note"
    assert check.found.endswith("g++ not found")


def test_a_compiler_that_computes_wrongly_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MaskUpdate, "_compile", lambda self, weight: lambda *tensors: None)
    assert doctor.check_compiler().state == "broken"


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
        extra = [point] if group == "piggyback.demo" else []
        return SimpleNamespaceList([*found, *extra])

    monkeypatch.setattr(doctor, "entry_points", with_gone)
    check = doctor.check_entry_points()
    assert check.state == "broken"
    assert "piggyback.demo gone" in check.found


class SimpleNamespaceList(list[object]):
    """Entry points with their names, as `importlib.metadata` gives them."""

    @property
    def names(self) -> set[str]:
        return {point.name for point in self}  # type: ignore[attr-defined]
