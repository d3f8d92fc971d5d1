"""The console command: finds verbs through entry points, loads only the chosen one.

A package offers verbs by an entry point of the group ``piggyback.commands`` that names a tuple of
`Command`.  The module that holds it must import nothing heavy: option classes and texts only.  What a verb
does stands elsewhere and is imported when the verb runs, so that no ``--help`` ever loads torch.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Final, cast

from piggyback.errors import PiggybackError, Requeue, UnknownName

DONE: Final = 0
FAILED: Final = 1
USAGE: Final = 2
REQUEUE: Final = 75
INTERRUPTED: Final = 130


@dataclass(frozen=True, kw_only=True)
class Command:
    """One verb of the console command.

    Attributes:
        name: the words to type after ``piggyback``, such as ``decathlon prepare``.
        summary: one line for the list of verbs.
        options: ``module:class`` of a frozen dataclass; its fields become the flags, its docstring their help.
        target: ``module:function``, called with an instance of `options`; returns an exit code.
        examples: worked examples, shown under ``--help``.
        defaults: ``module:function`` that makes, from the arguments as typed, an instance of `options` that
            holds the defaults; for verbs whose defaults depend on a flag, such as ``--recipe``.
    """

    name: str
    summary: str
    options: str
    target: str
    examples: str = ""
    defaults: str | None = None


def load(place: str) -> Any:
    """What ``module:name`` stands for."""
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


def find_commands() -> list[Command]:
    """All verbs of all installed packages, in the order of their names."""
    found: list[Command] = []
    for point in entry_points(group="piggyback.commands"):
        found.extend(cast(tuple[Command, ...], point.load()))
    return sorted(found, key=lambda command: command.name)


def overview(commands: Sequence[Command]) -> str:
    """The text of ``piggyback --help`` for some of the verbs."""
    width = max((len(command.name) for command in commands), default=0)
    lines = [
        "usage: piggyback NOUN VERB [options]     (each with --help)",
        "",
        *(f"  {command.name:{width}}  {command.summary}" for command in commands),
        "",
        "Exit codes: 0 done, 1 failed with a message, 2 usage, 75 stopped to be requeued, 130 interrupted.",
    ]
    return "\n".join(lines)


def parse(command: Command, arguments: Sequence[str]) -> object:
    """The verb's options from its arguments; exits with 2 on wrong ones and with 0 after ``--help``."""
    import tyro

    description = f"{command.summary}\n\nExamples:\n{command.examples}" if command.examples else command.summary
    keywords: dict[str, Any] = {}
    if command.defaults is not None:
        keywords["default"] = load(command.defaults)(arguments)
    config = (tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff)
    prog = f"piggyback {command.name}"
    return tyro.cli(
        load(command.options), args=list(arguments), prog=prog, description=description, config=config, **keywords
    )


def dispatch(arguments: Sequence[str]) -> int:
    """Find the verb, parse its options, run it.

    Raises:
        UnknownName: there is no such verb.
    """
    commands = find_commands()
    words = [word for word in arguments if not word.startswith("-")]
    typed = " ".join(words)
    chosen = [command for command in commands if (typed + " ").startswith(command.name + " ")]
    if chosen:
        command = max(chosen, key=lambda command: len(command.name))
        options = parse(command, arguments[len(command.name.split()) :])
        return cast(int, load(command.target)(options))
    below = [command for command in commands if (command.name + " ").startswith(typed + " ")] if words else commands
    asks_for_help = not arguments or any(flag in arguments for flag in ("-h", "--help"))
    if below and (asks_for_help or words):
        sys.stdout.write(overview(below) + "\n")
        return DONE if asks_for_help else USAGE
    raise UnknownName(typed or " ".join(arguments), known=(command.name for command in commands), kind="verb")


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of ``piggyback``; turns every error a user can cause into one message."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        return dispatch(arguments)
    except UnknownName as fault:
        sys.stderr.write(f"piggyback: {fault}\n")
        return USAGE if not find_match(arguments) else FAILED
    except PiggybackError as fault:
        sys.stderr.write(f"piggyback: {fault}\n")
        return FAILED
    except Requeue:
        sys.stderr.write("piggyback: stopped with a checkpoint; the same command again continues\n")
        return REQUEUE
    except KeyboardInterrupt:
        sys.stderr.write("piggyback: interrupted; the same command again continues\n")
        return INTERRUPTED
    except BrokenPipeError:  # `piggyback ... | head` closed our output; say nothing, as other tools do
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED


def find_match(arguments: Sequence[str]) -> bool:
    """Whether the arguments name a verb: then a failure is the verb's, not one of usage."""
    typed = " ".join(word for word in arguments if not word.startswith("-")) + " "
    return any(typed.startswith(command.name + " ") for command in find_commands())
