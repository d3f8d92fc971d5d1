"""The table of our methods, which plans read without loading torch."""

import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest

from piggyback.methods import table
from piggyback.methods.contract import Follows
from piggyback.methods.registry import METHODS
from piggyback.methods.table import TABLE, follows, known_methods, stands_on


def test_entries_agree_with_the_methods() -> None:
    assert list(METHODS) == list(TABLE)
    for name, entry in TABLE.items():
        method = METHODS[name]
        assert entry.name == name == method.name
        assert entry.home == f"{type(method).__module__}:{type(method).__name__}"
        assert (entry.stands_on, entry.follows) == (method.stands_on, isinstance(method, Follows))
        assert 0 < len(entry.summary) <= 70
        assert (stands_on(name), follows(name)) == (entry.stands_on, entry.follows)
    assert {entry.stands_on for entry in TABLE.values()} == {"backbone", "pruned", "joint"}
    assert any(entry.follows for entry in TABLE.values())


def test_the_table_loads_no_torch() -> None:
    code = "import sys, piggyback.methods.table as t; t.known_methods(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_methods_of_other_packages_are_known_and_not_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def offered(*, group: str) -> list[EntryPoint]:
        return [EntryPoint(name="theirs", value="not.there:Method", group=group)] if group == table.GROUP else []

    monkeypatch.setattr(table, "entry_points", offered)
    assert known_methods() == (*TABLE, "theirs")
    assert (stands_on("theirs"), follows("theirs")) == ("backbone", False)
