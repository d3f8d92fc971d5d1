"""Verbs of the core: its own and those of all benchmarks; texts only."""

from typing import Final

from piggyback.shell.cli import Command
from piggyback.suite.verbs.commands import offered_commands

OWN: Final = (
    Command(
        name="demo",
        summary="the main job on data it makes itself, in under 5 minutes",
        options="piggyback.suite.verbs.core_options:DemoOptions",
        target="piggyback.suite.verbs.demo:run",
        examples="  piggyback demo\n  piggyback demo --out somewhere",
    ),
    Command(
        name="doctor",
        summary="check this machine and say what to change",
        options="piggyback.shell.options:DoctorOptions",
        target="piggyback.shell.doctor:run",
        examples="  piggyback doctor\n  piggyback doctor --json",
    ),
    Command(
        name="payload show",
        summary="what payload files hold: bytes by kind, settings, zeros per layer",
        options="piggyback.suite.verbs.core_options:ShowOptions",
        target="piggyback.suite.verbs.payload_show:run_show",
        examples=(
            "  piggyback payload show runs/runs/dtd-piggyback-seed0-0123456789/payload.safetensors\n"
            "  piggyback payload show dtd.safetensors svhn.safetensors --json"
        ),
    ),
)


def offer_commands() -> tuple[Command, ...]:
    """All of them, as installed now."""
    return (*OWN, *offered_commands())
