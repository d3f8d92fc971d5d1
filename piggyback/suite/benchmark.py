"""The contract of a benchmark: what is learned and how it is judged, as data that loads no torch.

A package offers a benchmark by an entry point of the group ``piggyback.benchmarks`` that names a `Benchmark`.  From it
the suite makes the verbs, plans sweeps and runs the demo.  What needs torch stands behind `Benchmark.opener`; its
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
    """A number that runs measure, a fraction in [0, 1]; more is better.

    Attributes:
        name: in results.
        title: for tables.
        on_val: its name where it is measured on val, in trials and histories; ``val_`` before `name` when empty.
    """

    name: str
    title: str
    on_val: str = ""


@dataclass(frozen=True, kw_only=True)
class Own:
    """Options that a benchmark adds to verbs of the suite: per verb, a frozen dataclass whose fields become flags."""

    train: type[Any] | None = None
    run: type[Any] | None = None
    evaluate: type[Any] | None = None
    report: type[Any] | None = None


@dataclass(frozen=True, kw_only=True)
class Source:
    """How a sweep comes by data and backbone; verbs stand without the benchmark's name.

    Attributes:
        prepare: the verb that packs ``--source`` into ``--out``; None: data are always given.
        has_pictures: whether that verb has its pictures itself, and takes no ``--source``.
        prepare_words: ``module:function`` from a recipe to more words for it, flags and values in turn.
        draw: the verb that draws a small release into ``--out``; None: there is none.
        drawn: name of that folder in a sweep.
        drawn_proof: file that it writes last, below that folder.
        drawn_release: folder below it that is prepared; empty where it is that folder itself.
        drawn_backbone: backbone file that it makes, below that folder; None: the sweep's file must name one.
        pretrain: the verb that trains a backbone, with ``--data`` and ``--out``; None: it is always given.
        presets: recipes for that by name, frozen dataclasses whose fields are flags of the verb.  The first is used
            when none is named; with a single one the verb has no ``--recipe``.
        report_words: ``module:function`` from a recipe to more words for ``report``.
        report_paths: fields of a sweep's file with paths that are handed to ``report``, by flags of their names.
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
    """What a benchmark gives to the suite.

    Attributes:
        name: the noun of its verbs, and in results.
        title: for headings.
        recipes: by name; all of one class, `Recipe` or made from it.  The first is used when none is named.
        descriptions: a line for each, for ``--help``.
        opener: ``module:function`` from a `Job` to a `Bench`.
        metrics: shown in reports; by the first, rates and epochs are chosen.
        tasks: names, in order.  With a single one the verbs have no ``--task``.
        backbone_task: the task that the backbone was trained on, where the benchmark has it too.
        version: of the tasks as results record it; another number says that results cannot be compared.
        without: methods that mean nothing here, and why.
        own: options of its own for the suite's verbs.
        evaluate: ``module:function`` for a finished run (`piggyback.suite.evaluate.Finished`); the suite's own
            measures val again.
        begin: ``module:function``, called with all jobs before any is trained, and with
            `strict`, whether the folder must have been begun with the same; raises what would keep them from it.
        detail: ``module:function`` that shows a finished run (`piggyback.suite.results.FinishedRun`) after ``train``
            with `bool` json, and gives more for that document; the suite's own shows its metrics.
        report: ``module:function`` that tells what runs gave (`piggyback.suite.report.Request`).
        keep: ``module:function`` from the options of its own for ``report`` or ``run`` and the recipe, or None, to a
            predicate of finished runs: which ones a report is about; all when None.
        run_label: ``module:function`` from task and recipe to the first word of a run's folder; the task's name
            when None.
        source: how sweeps come by data and backbone.
        verbs: its own, without its name.
        demo: ``module:function``, called with a folder; None: it has no part in the demo.
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
        """Name of the recipe that is used when none is named."""
        return next(iter(self.recipes))

    @property
    def trial_metric(self) -> str:
        """What the first metric is called where it is measured on val."""
        return self.metrics[0].on_val or f"val_{self.metrics[0].name}"

    @property
    def recipe_class(self) -> type[Recipe]:
        """The class of all its recipes."""
        return type(self.recipes[self.default_recipe])

    @property
    def several(self) -> bool:
        """Whether it has more than one task to train."""
        return len(self.tasks) > 1

    def find_task(self, name: str) -> str:
        """The name itself, where it is a task's.

        Raises:
            UnknownName: naming the nearest one.
        """
        known = (*self.tasks, *(() if self.backbone_task is None else (self.backbone_task,)))
        if name not in known:
            raise UnknownName(name, known=known, kind="task")
        return name

    def label_of(self, task: str, recipe: Recipe) -> str:
        """The first word of the folder of a run."""
        return task if self.run_label is None else str(load(self.run_label)(task, recipe))

    def refuse_method(self, name: str) -> None:
        """Raise BadInput for a method that means nothing here."""
        if name in self.without:
            raise BadInput(f"{self.name} has no {name}: {self.without[name]}; take another method")

    def plan(self, spec: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
        """The runs of a part of a sweep; see `piggyback.suite.sweeps.plan`."""
        planned: Sequence[Mapping[str, Any]] = load("piggyback.suite.sweeps.plan:plan")(self, spec)
        return planned


@cache
def find_benchmark(name: str) -> Benchmark:
    """The installed benchmark of that name.

    Raises:
        UnknownName: naming the nearest one.
        BadInput: a package offers it that cannot be loaded, or that keeps no contract.
    """
    points = {point.name: point for point in entry_points(group=GROUP)}
    if name not in points:
        raise UnknownName(name, known=points, kind="benchmark")
    try:
        found: object = points[name].load()
    except Exception as fault:  # whatever somebody's package raises; reported, not swallowed
        raise BadInput(f"benchmark {name!r} of {points[name].value} cannot be loaded: {fault}") from fault
    if not isinstance(found, Benchmark) or found.name != name:
        raise BadInput(f"{points[name].value} is no benchmark called {name!r}: see docs/adding-a-benchmark.md")
    return found


def find_benchmarks() -> list[Benchmark]:
    """All installed benchmarks, by name.

    Raises:
        BadInput: one of them cannot be loaded.
    """
    return [find_benchmark(name) for name in sorted(entry_points(group=GROUP).names)]
