import io

import pytest
from rich.console import Console

from piggyback.shell import console

WORDS = "lr 0.0001 12.5  0.0003* 13.5  0.001 diverged"


def test_texts_are_shown_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    console.table("a [/b] c", "[red]task", "x", rows=[("[/i]", "[bold]1")], caption="done: /runs/[/x] [y]")
    console.notice("note: [/z] is damaged")
    shown = capsys.readouterr()
    for text in ("a [/b] c", "[red]task", "[/i]", "[bold]1", "done: /runs/[/x] [y]"):
        assert text in shown.out
    assert shown.err == "note: [/z] is damaged\n"


def test_a_table_in_a_file_is_as_wide_as_it_needs(capsys: pytest.CaptureFixture[str]) -> None:
    long = "/a/long/folder" * 20
    console.table("t", "task", *"abcd", rows=[("dtd", *[WORDS] * 4)], caption=f"done: {long}")
    console.notice(f"note: {long}")
    shown = capsys.readouterr()
    assert any(line.count(WORDS) == 4 for line in shown.out.splitlines())
    assert f"done: {long}" in shown.out.splitlines()
    assert shown.err == f"note: {long}\n"


def test_a_narrow_terminal_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Console(file=io.StringIO(), force_terminal=True, width=40, color_system=None)
    monkeypatch.setattr(console, "out", terminal)
    console.table("t", "task", "x", rows=[("dtd", "0123456789" * 6)])
    text = terminal.file.getvalue()  # type: ignore[attr-defined]
    assert max(len(line) for line in text.splitlines()) <= 40
    assert "".join(character for character in text if character.isdigit()) == "0123456789" * 6


def test_displays_may_be_nested_at_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Console(file=io.StringIO(), force_terminal=True, width=80)
    monkeypatch.setattr(console, "err", terminal)
    with console.progress_bar() as outer:
        outer.add_task("all [/x]", total=2)
        with console.progress_bar() as inner:
            inner.add_task("resize", total=3)
            assert [line.description for line in outer.tasks] == ["all [/x]", "resize"]
        assert [line.description for line in outer.tasks] == ["all [/x]"]
    with console.progress_bar() as later:
        assert later is not outer


def test_json_is_one_document_without_nan(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_json({"a": "[/b]"})
    assert capsys.readouterr().out == '{\n "a": "[/b]"\n}\n'
    with pytest.raises(ValueError, match="JSON compliant"):
        console.print_json({"a": float("inf")})
