"""The console command: finds verbs through entry points, loads only the chosen one.

A package offers verbs by an entry point of the group ``piggyback.commands`` that names a tuple of `Command`, or a
function that gives one.  The module that holds it must import nothing heavy: option classes and texts only.  What a
verb does is elsewhere and is imported when the verb runs, so that no ``--help`` ever loads torch.
"""

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points, version
from itertools import takewhile
from typing import Any, Final, cast

from piggyback.shell.errors import PiggybackError, Requeue, UnknownName, refusal

DONE: Final = 0
FAILED: Final = 1
USAGE: Final = 2
REQUEUE: Final = 75  # sysexits.h: EX_TEMPFAIL, try again later
INTERRUPTED: Final = 130  # 128 + SIGINT, as shells report it


@dataclass(frozen=True, kw_only=True)
class Command:
    """One verb of the console command.

    Attributes:
        name: the words to type after ``piggyback``, such as ``decathlon prepare``.
        summary: one line for the list of verbs.
        options: ``module:class`` of a frozen dataclass, or a function that gives one; its fields become the flags,
            its docstring their help.
        target: ``module:function``, or the function, called with an instance of `options`; returns an exit code.
        examples: worked examples, shown under ``--help``.
        defaults: ``module:function``, or the function, that makes, from the arguments as typed, an instance of
            `options` that holds the defaults; for verbs whose defaults depend on a flag, such as ``--recipe``.
    """

    name: str
    summary: str
    options: str | Callable[[], Any]
    target: str | Callable[[Any], int]
    examples: str = ""
    defaults: str | Callable[[Sequence[str]], Any] | None = None

    @property
    def words(self) -> list[str]:
        return self.name.split()


def load(place: str | Callable[..., Any]) -> Any:
    """Import what ``module:name`` names; any other object is returned as it is."""
    if not isinstance(place, str):
        return place
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


def find_commands() -> list[Command]:
    """The verbs of all installed packages, sorted by name."""
    found: list[Command] = []
    for point in entry_points(group="piggyback.commands"):
        offered: tuple[Command, ...] | Callable[[], tuple[Command, ...]] = point.load()
        found.extend(offered() if callable(offered) else offered)
    return sorted(found, key=lambda command: command.name)


def choose(commands: Sequence[Command], arguments: Sequence[str]) -> Command | None:
    """The verb that the arguments begin with; the longest, where one name begins another."""
    fitting = [command for command in commands if list(arguments[: len(command.words)]) == command.words]
    return max(fitting, key=lambda command: len(command.words), default=None)


def overview(commands: Sequence[Command]) -> str:
    """Text of ``piggyback --help`` for some of the verbs."""
    width = max((len(command.name) for command in commands), default=0)
    lines = [
        "usage: piggyback NOUN VERB [options]     (each with --help)",
        "",
        *(f"  {command.name:{width}}  {command.summary}" for command in commands),
        "",
        "Exit codes: 0 done, 1 failed with a message, 2 usage, 75 stopped to be requeued, 130 interrupted.",
    ]
    return "\n".join(lines) + "\n"


def orient(commands: Sequence[Command], arguments: Sequence[str]) -> int:
    """Answer arguments that name no verb: with the version, the verbs there are, or the nearest one."""
    words = list(takewhile(lambda argument: not argument.startswith("-"), arguments))
    below = [command for command in commands if command.words[: len(words)] == words]
    flags = arguments[len(words) :]
    if not words and list(flags) == ["--version"]:
        sys.stdout.write(f"piggyback-bench {version('piggyback-bench')}\n")
        return DONE
    if below and (not arguments or set(flags) & {"-h", "--help"}):
        sys.stdout.write(overview(below))
        return DONE
    if below and words:
        sys.stderr.write(overview(below))
        return USAGE
    known = [command.name for command in commands]
    sys.stderr.write(f"piggyback: {UnknownName(' '.join(words or arguments), known=known, kind='verb')}\n")
    return USAGE


def parse(command: Command, arguments: Sequence[str]) -> object:
    """Make the verb's options from its arguments; exits with 2 on wrong ones and with 0 after ``--help``."""
    import tyro  # start-up time: the list of verbs needs none of it

    description = f"{command.summary}\n\nExamples:\n{command.examples}" if command.examples else command.summary
    keywords: dict[str, Any] = {}
    if command.defaults is not None:
        keywords["default"] = load(command.defaults)(arguments)
    config = (tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff)
    prog = f"piggyback {command.name}"
    options = load(command.options) if isinstance(command.options, str) else command.options()
    return tyro.cli(options, args=list(arguments), prog=prog, description=description, config=config, **keywords)


def dispatch(arguments: Sequence[str]) -> int:
    """Find the verb, parse its options, run it; the verb's errors are raised.

    Returns:
        The verb's exit code; `USAGE`, after a message, if there is no such verb.
    """
    commands = find_commands()
    command = choose(commands, arguments)
    if command is None:
        return orient(commands, arguments)
    options = parse(command, arguments[len(command.words) :])
    return cast(int, load(command.target)(options))


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of ``piggyback``; turns every error a user can cause into one message."""
    try:
        code = dispatch(sys.argv[1:] if arguments is None else arguments)
        sys.stdout.flush()  # here a closed pipe can still be answered, not at the interpreter's end
        return code
    except PiggybackError as fault:
        return end(FAILED, str(fault))
    except Requeue:
        return end(REQUEUE, "stopped with a checkpoint; the same command again continues")
    except KeyboardInterrupt:
        return end(INTERRUPTED, "interrupted; the same command again continues")
    except BrokenPipeError:  # `piggyback ... | head` closed our output; say nothing, as other tools do
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except OSError as fault:  # a full disk, a folder that may not be written
        return end(FAILED, refusal(fault))
    except Exception as fault:
        if not getattr(fault, "for_user", False):  # how packages of others may mark their messages
            raise
        return end(FAILED, str(fault))


def end(code: int, message: str) -> int:
    """Print on standard error why the command ends; returns its exit code."""
    sys.stderr.write(f"piggyback: {message}\n")
    return code
