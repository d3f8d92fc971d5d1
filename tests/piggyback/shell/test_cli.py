import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

import pytest

from piggyback.shell import cli
from piggyback.shell.errors import BadInput, PiggybackError, Requeue, UnknownName

HEAVY = ("PIL", "matplotlib", "numpy", "pydantic", "scipy", "torch", "torchvision")
RUNNER = """
import sys
from piggyback.shell.cli import main
try:
    code = main(sys.argv[1:])
except SystemExit as end:
    code = end.code
roots = sorted({name.partition(".")[0] for name in sys.modules})
sys.stderr.write("\\nroots: " + " ".join(roots))
sys.exit(code or 0)
"""
VERBS = cli.find_commands()


def run_apart(*arguments: str) -> tuple[int, str, set[str]]:
    """Exit code, output and the top-level modules loaded, of the console command in a process of its own."""
    done = subprocess.run([sys.executable, "-c", RUNNER, *arguments], check=False, capture_output=True, text=True)
    return done.returncode, done.stdout, set(done.stderr.rpartition("roots: ")[2].split())


def test_verbs_of_several_packages_are_found() -> None:
    names = {command.name for command in VERBS}
    assert {"demo", "doctor", "payload show", "decathlon prepare", "decathlon run"} <= names
    assert len(names) == len(VERBS)


@pytest.mark.parametrize("arguments", [[], *(command.words for command in VERBS)], ids=" ".join)
def test_no_help_loads_anything_heavy(arguments: list[str]) -> None:
    code, output, roots = run_apart(*arguments, "--help")
    assert code == 0
    assert output.startswith("usage: piggyback")
    assert "piggyback" in roots
    assert not roots & set(HEAVY)


def test_what_a_verb_itself_loads_is_seen() -> None:
    """Control: the test above can fail."""
    code, _, roots = run_apart("payload", "show", "no-such-file")
    assert code == 1
    assert {"torch", "numpy"} <= roots


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of a verb for tests."""

    number: int = 0


Offer = Callable[[Callable[[Options], int]], None]


@pytest.fixture
def offer(monkeypatch: pytest.MonkeyPatch) -> Offer:
    """Makes a function the verb ``go far``, the only one beside ``go``."""

    def put(target: Callable[[Options], int]) -> None:
        module = ModuleType("verbs_for_tests")
        module.__dict__.update(Options=Options, target=target, short=lambda options: 7)
        monkeypatch.setitem(sys.modules, "verbs_for_tests", module)
        common = {"summary": "goes", "options": "verbs_for_tests:Options"}
        commands = [
            cli.Command(name="go", target="verbs_for_tests:short", **common),
            cli.Command(name="go far", target="verbs_for_tests:target", **common),
        ]
        monkeypatch.setattr(cli, "find_commands", lambda: commands)

    return put


@pytest.mark.parametrize("command", VERBS, ids=lambda command: command.name)
def test_examples_can_be_typed(command: cli.Command) -> None:
    lines = command.examples.partition("\n\n")[0].replace("\\\n", "").splitlines()
    assert lines
    for line in lines:
        words = shlex.split(line.partition("piggyback ")[2], comments=True)
        chosen = cli.choose(VERBS, words)
        assert chosen is command, line
        cli.parse(command, words[len(command.words) :])


def test_the_longest_name_wins_and_options_arrive(offer: Offer) -> None:
    offer(lambda options: options.number)
    assert cli.main(["go", "far", "--number", "3"]) == 3
    assert cli.main(["go"]) == 7


@pytest.mark.parametrize(
    ("fault", "code", "said"),
    [
        (BadInput("the file is not there: make it"), 1, "piggyback: the file is not there: make it\n"),
        (PiggybackError("plain"), 1, "piggyback: plain\n"),
        (Requeue(), 75, "piggyback: stopped with a checkpoint; the same command again continues\n"),
        (KeyboardInterrupt(), 130, "piggyback: interrupted; the same command again continues\n"),
        (PermissionError(13, "Permission denied", "/x"), 1, "piggyback: /x: Permission denied\n"),
    ],
)
def test_what_goes_wrong_in_a_verb_is_one_line_and_a_code(
    offer: Offer, capsys: pytest.CaptureFixture[str], fault: BaseException, code: int, said: str
) -> None:
    def fail(options: Options) -> int:
        raise fault

    offer(fail)
    assert cli.main(["go", "far"]) == code
    assert capsys.readouterr() == ("", said)


def test_a_fault_of_ours_is_not_hidden(offer: Offer) -> None:
    def fail(options: Options) -> int:
        raise ZeroDivisionError

    offer(fail)
    with pytest.raises(ZeroDivisionError):
        cli.main(["go", "far"])


def test_an_unknown_name_in_a_verb_fails_and_an_unknown_verb_is_wrong_usage(
    offer: Offer, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(options: Options) -> int:
        raise UnknownName("dtdd", known=["dtd"], kind="task")

    offer(fail)
    assert cli.main(["go", "far"]) == 1
    assert "Did you mean 'dtd'" in capsys.readouterr().err
    assert cli.main(["gone"]) == 2


@pytest.mark.parametrize("arguments", [["decathlon", "prepar"], ["decathlon", "prepar", "--source", "x"]])
def test_an_unknown_verb_gets_the_nearest_one(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    assert cli.main(arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "Did you mean 'decathlon prepare'?" in said.err
    assert said.err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["decathlon", "prepare"],
        ["decathlon", "prepare", "--source", "a", "--out", "b", "--frobnicate"],
        ["decathlon", "run", "--data", "a", "--backbone", "b", "--out", "c", "--epochs", "many"],
        ["payload", "show"],
    ],
)
def test_wrong_arguments_of_a_verb_are_wrong_usage(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(arguments)
    assert end.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


def test_a_noun_alone_lists_its_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["decathlon"]) == 2
    wrong = capsys.readouterr()
    assert cli.main(["decathlon", "--help"]) == 0
    asked = capsys.readouterr()
    assert wrong.err == asked.out
    assert "decathlon prepare" in asked.out
    assert "payload show" not in asked.out


def test_nothing_and_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 0
    assert "payload show" in capsys.readouterr().out
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("piggyback-bench 0.")
    assert cli.main(["--versio"]) == 2


def test_a_closed_pipe_ends_it_quietly() -> None:
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import time; time.sleep(0.5); from piggyback.shell.cli import main; raise SystemExit(main([]))",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    said = process.stderr.read()
    process.stderr.close()
    assert process.wait(60) == 1
    assert said == b""
