"""What the laws for sweeps cannot see on our benchmarks."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from piggyback.suite.benchmark import Benchmark, Metric
from piggyback.suite.recipe import Recipe
from piggyback.suite.sweeps.plan import plan


@dataclass(frozen=True, kw_only=True)
class Later(Recipe):
    """A recipe to which a field came later."""

    LATER: ClassVar[tuple[str, ...]] = ("accumulate",)


def planned(**spec: Any) -> list[str]:
    """The command of the first run of a toy benchmark."""
    benchmark = Benchmark(
        name="toy",
        title="Toy",
        recipes={"paper": Later(), "large": Later(accumulate=4)},
        opener="not.there:open_bench",
        metrics=(Metric(name="accuracy", title="accuracy"),),
        tasks=("a", "b"),
    )
    given: Mapping[str, Any] = {"root": "/srv", "out": "/srv/swept", "data": "data", "backbone": "b"}
    argv: list[str] = plan(benchmark, {**given, **spec})[0]["argv"]
    return argv


def test_a_later_field_set_back_to_its_default_is_said_to_the_command() -> None:
    """It stays out of ids; the named recipe has another value, though."""
    argv = planned(recipe="large", settings={"accumulate": 1})
    assert argv[argv.index("--accumulate") + 1] == "1"
    assert "--accumulate" not in planned(recipe="large")
    assert "--accumulate" not in planned(settings={"accumulate": 1})
