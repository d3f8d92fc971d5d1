"""The contract of a benchmark: what is learned and how it is judged, as data that loads no torch.

A package offers a benchmark through an entry point of the group ``piggyback.benchmarks`` that names a `Benchmark`.
From it the suite makes the verbs, plans sweeps and runs the demo.  What needs torch is behind `Benchmark.opener`; its
contract is `piggyback.suite.bench.Bench`.  ``docs/adding-a-benchmark.md`` walks through a small one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import entry_points
from typing import Any, Final

from piggyback.shell.cli import Command, load
from piggyback.shell.errors import BadInput, UnknownName
from piggyback.suite.recipe import Recipe

GROUP: Final = "piggyback.benchmarks"


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A number that runs measure: a fraction in [0, 1], where more is better.

    Attributes:
        name: its name in results.
        title: its name in tables.
        on_val: its name where it is measured on val, in trials and histories; ``val_`` before `name` when empty.
    """

    name: str
    title: str
    on_val: str = ""


@dataclass(frozen=True, kw_only=True)
class Own:
    """A benchmark's own options for verbs of the suite: for each verb, a frozen dataclass whose fields become flags."""

    train: type[Any] | None = None
    run: type[Any] | None = None
    evaluate: type[Any] | None = None
    report: type[Any] | None = None


@dataclass(frozen=True, kw_only=True)
class Source:
    """How a sweep gets data and backbone; verbs are given without the benchmark's name.

    Attributes:
        prepare: verb that packs ``--source`` into ``--out``; None if data are always given.
        has_pictures: whether that verb brings its pictures itself and takes no ``--source``.
        prepare_words: ``module:function`` from a recipe to further arguments for it, flags and values in turn.
        draw: verb that draws a small release into ``--out``; None if there is none.
        drawn: name of that folder in a sweep.
        drawn_proof: file that it writes last, relative to that folder.
        drawn_release: subfolder that is prepared; empty for the folder itself.
        drawn_backbone: backbone file that it makes, relative to that folder; None if the sweep's file must name one.
        pretrain: verb that trains a backbone, with ``--data`` and ``--out``; None if the backbone is always given.
        presets: recipes for that verb by name, frozen dataclasses whose fields are its flags.  The first is the
            default; with a single one the verb has no ``--recipe``.
        report_words: ``module:function`` from a recipe to further arguments for ``report``.
        report_paths: fields of a sweep's file with paths that ``report`` gets, by flags of the same names.
    """

    prepare: str | None = None
    has_pictures: bool = False
    prepare_words: str | None = None
    draw: str | None = None
    drawn: str = "drawn"
    drawn_proof: str = ""
    drawn_release: str = ""
    drawn_backbone: str | None = None
    pretrain: str | None = None
    presets: Mapping[str, Any] = field(default_factory=dict)
    report_words: str | None = None
    report_paths: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Everything that the suite knows of a benchmark.

    Attributes:
        name: the noun of its verbs, and its name in results.
        title: for headings.
        recipes: by name; all of one class, `Recipe` or a subclass.  The first is the default.
        descriptions: a line for each recipe, for ``--help``.
        opener: ``module:function`` from a `Job` to a `Bench`.
        metrics: shown in reports; learning rates and epochs are chosen by the first.
        tasks: names, in order.  With a single one the verbs have no ``--task``.
        backbone_task: the task that the backbone was trained on, if the benchmark has it too.
        version: of the tasks, recorded in results; results of different versions cannot be compared.
        without: methods that are meaningless here, each with the reason.
        own: its own options for the suite's verbs.
        evaluate: ``module:function`` for a finished run (`piggyback.suite.evaluate.Finished`); the default measures
            val again.
        begin: ``module:function``, called with all jobs before any is trained, and with `strict`, whether the folder
            must have been begun with the same jobs; raises whatever would make them fail, and opens each to find out.
        detail: ``module:function`` that shows a finished run (`piggyback.suite.results.FinishedRun`) after ``train``,
            with `bool` json, and returns further entries for that document; the default shows its metrics.
        report: ``module:function`` that reports finished runs (`piggyback.suite.report.Request`).
        keep: ``module:function`` from the benchmark's own options for ``report`` or ``run`` and the recipe, or None,
            to a predicate that says which finished runs a report covers; all when None.
        run_label: ``module:function`` from task and recipe to the first word of a run's folder; the task's name
            when None.
        source: how sweeps get data and backbone.
        verbs: its own verbs, without its name.
        demo: ``module:function``, called with a folder; None if it takes no part in the demo.
    """

    name: str
    title: str
    recipes: Mapping[str, Recipe]
    opener: str
    metrics: tuple[Metric, ...]
    tasks: tuple[str, ...]
    descriptions: Mapping[str, str] = field(default_factory=dict)
    backbone_task: str | None = None
    version: int = 1
    without: Mapping[str, str] = field(default_factory=dict)
    own: Own = field(default_factory=Own)
    evaluate: str = "piggyback.suite.evaluate:measure_again"
    begin: str | None = None
    detail: str | None = None
    report: str = "piggyback.suite.report:tell"
    keep: str | None = None
    run_label: str | None = None
    source: Source = field(default_factory=Source)
    verbs: tuple[Command, ...] = ()
    demo: str | None = None

    @property
    def default_recipe(self) -> str:
        return next(iter(self.recipes))

    @property
    def trial_metric(self) -> str:
        """Name of the first metric where it is measured on val."""
        return self.metrics[0].on_val or f"val_{self.metrics[0].name}"

    @property
    def recipe_class(self) -> type[Recipe]:
        return type(self.recipes[self.default_recipe])

    @property
    def several(self) -> bool:
        """Whether there is more than one task to train."""
        return len(self.tasks) > 1

    def find_task(self, name: str) -> str:
        """Return the name if it is a task's, the backbone's own included.

        Raises:
            UnknownName: suggests the nearest one.
        """
        known = (*self.tasks, *(() if self.backbone_task is None else (self.backbone_task,)))
        if name not in known:
            raise UnknownName(name, known=known, kind="task")
        return name

    def label_of(self, task: str, recipe: Recipe) -> str:
        """First word of a run's folder."""
        return task if self.run_label is None else str(load(self.run_label)(task, recipe))

    def refuse_method(self, name: str) -> None:
        if name in self.without:
            raise BadInput(f"{self.name} has no {name}: {self.without[name]}; take another method")

    def plan(self, spec: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
        """Plan the runs of one part of a sweep; see `piggyback.suite.sweeps.plan`."""
        planned: Sequence[Mapping[str, Any]] = load("piggyback.suite.sweeps.plan:plan")(self, spec)
        return planned


@cache
def find_benchmark(name: str) -> Benchmark:
    """The installed benchmark of that name.

    Raises:
        UnknownName: suggests the nearest one.
        BadInput: the package that offers it cannot be loaded, or what it offers is no `Benchmark` of that name.
    """
    points = {point.name: point for point in entry_points(group=GROUP)}
    if name not in points:
        raise UnknownName(name, known=points, kind="benchmark")
    try:
        found: object = points[name].load()
    except Exception as fault:  # whatever somebody's package raises; reported, not swallowed
        raise BadInput(f"benchmark {name!r} of {points[name].value} cannot be loaded: {fault}") from fault
    if not isinstance(found, Benchmark) or found.name != name:
        raise BadInput(f"{points[name].value} is not a Benchmark named {name!r}: see docs/adding-a-benchmark.md")
    return found


def find_benchmarks() -> list[Benchmark]:
    """All installed benchmarks, sorted by name.

    Raises:
        BadInput: one of them cannot be loaded.
    """
    return [find_benchmark(name) for name in sorted(entry_points(group=GROUP).names)]
