"""Drawn networks and drawn sequences of public calls: either an error of ours, or nothing is lost.

After each call the network is what the current task makes of the backbone, in bits; the backbone has the bits that it
had at `attach`; a call that is refused changes nothing; what others have written into the network is told before it is
lost; and in the end every task, saved and loaded onto a fresh network, gives the same logits.

``LAWS_SEQUENCES=5000`` draws so many sequences with a fresh seed, which is shown with a failure and with the counts in
the end; ``LAWS_SEED`` repeats them.
"""

import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import SystemRandom
from typing import Final

import pytest
from drawn_calls import Attach, Call
from drawn_networks import Plan, plans
from drawn_sequences import CALLS, attachments, sequences
from drawn_session import Session
from hypothesis import HealthCheck, Phase, given, seed, settings

from piggyback import METHODS

FRESH: Final = "LAWS_SEQUENCES" in os.environ
SEQUENCES: Final = int(os.environ.get("LAWS_SEQUENCES", "100"))
SEED: Final = int(os.environ.get("LAWS_SEED", SystemRandom().randrange(1 << 32))) if FRESH else 0
TOTAL: Final[Counter[str]] = Counter()


def replay(plan: Plan, attach: Attach, calls: list[Call], *, outcomes: Counter[str]) -> None:
    """Do a sequence and look at the laws after each call."""
    outcomes["sequences"] += 1
    with tempfile.TemporaryDirectory() as folder:
        session = Session(plan, Path(folder), outcomes)
        attach.run(session)
        if session.adapter is None:
            return
        session.check(what="attach")
        for call in calls:
            call.run(session)
            session.check(what=str(call))
            outcomes[f"call {type(call).__name__}"] += 1
        session.finish()


@pytest.fixture(scope="module", autouse=True)
def counts() -> Iterator[None]:
    """With fresh seeds, what was drawn; the laws say nothing of what never was, or never succeeded."""
    yield
    if not FRESH:
        return
    lines = [f"{count:7} {outcome}" for outcome, count in sorted(TOTAL.items())]
    print(f"\n{TOTAL['sequences']} sequences, LAWS_SEED={SEED}", *lines, sep="\n")  # noqa: T201
    succeeded = {"Step", "Switch", "Save", "Load", "Merged", "Optimizer", *(f"AddTask {name}" for name in METHODS)}
    expected = {f"{name}: done" for name in succeeded} | {f"call {name}" for name in CALLS}
    expected |= {"Save: NetworkChanged", "Step: NetworkChanged", "weights adopted"}
    assert not expected - TOTAL.keys(), f"never drawn: {sorted(expected - TOTAL.keys())}"
    assert TOTAL["masks moved"] > TOTAL["Step: done"] / 20


@pytest.mark.parametrize("method", METHODS)
def test_no_sequence_of_calls_loses_anything(method: str) -> None:
    """One run for each method that the adapter has for its own; single tasks may have any other."""
    outcomes: Counter[str] = Counter()

    @settings(
        max_examples=-(-SEQUENCES // len(METHODS)),
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )
    @given(plans(METHODS[method]), attachments(method), sequences())
    def law(plan: Plan, attach: Attach, calls: list[Call]) -> None:
        replay(plan, attach, calls, outcomes=outcomes)

    print(f"LAWS_SEED={SEED}")  # noqa: T201 -- pytest shows it where the test fails
    seed(f"{SEED} {method}")(law)()
    TOTAL.update(outcomes)
    assert outcomes["Save: done"] >= 1
    assert outcomes["Optimizer: done"] == 0 or outcomes["Step: done"] >= 1
