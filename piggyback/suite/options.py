"""Options of the verbs that the suite makes for every benchmark; imports nothing heavy.

Each class is generic in the benchmark's recipe and in its own options; a benchmark with several tasks gets the
class whose name begins with Task or Tasks.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from piggyback.shell.arguments import Names, Numbers
from piggyback.suite.recipe import Recipe

R = TypeVar("R", bound=Recipe)
O = TypeVar("O")  # noqa: E741 -- own options


@dataclass(frozen=True, kw_only=True)
class Nothing:
    """No options of the benchmark's own."""


@dataclass(frozen=True, kw_only=True)
class FetchOptions:
    """Download the official archives.

    Attributes:
        out: folder for the archives.
        archives: which ones, with commas between; those that need no login when not given.
        url: another place to take them from; the file names are added to it.
        json: print one JSON object instead of a table.
    """

    out: Path
    archives: Names = ()
    url: str | None = None
    json: bool = False


@dataclass(frozen=True, kw_only=True)
class TrainOptions(Generic[R, O]):
    """Train with one method.  The flags of the recipe override what --recipe names.

    Attributes:
        method: what the task may change about the network; docs/methods.md has them.
        data: folder that the verb `prepare` wrote.
        backbone: file of the pretrained network.
        out: folder for runs; the same command again continues, or says that it is done.
        folder: the run's folder; under --out, named by what identifies the run, when not given.
        recipe: name of the recipe.
        settings: the recipe's fields.
        device: such as cpu or cuda:1; the first GPU, or the processor, when not given.
        allow_other_environment: continue a checkpoint of another torch, processor or thread count.
        json: print one JSON object instead of a table.
        own: of the benchmark alone.
    """

    method: str = "piggyback"
    data: Path
    backbone: Path
    out: Path
    folder: Path | None = None
    recipe: str
    settings: R
    device: str | None = None
    allow_other_environment: bool = False
    json: bool = False
    own: O


@dataclass(frozen=True, kw_only=True)
class TaskTrainOptions(TrainOptions[R, O], Generic[R, O]):
    """Train one task with one method.  The flags of the recipe override what --recipe names.

    Attributes:
        task: its name.
        after: folder of the run that this one builds on, for packnet; found under --out when not given.
        ground: folder by the verb `ground`, for packnet, joint and series-joint; its network is copied to --out.
            When not given, the network is looked for there, and made.
    """

    task: str
    after: Path | None = None
    ground: Path | None = None


@dataclass(frozen=True, kw_only=True)
class GroundOptions(Generic[R]):
    """Make the network that a method is built on.  The flags of the recipe override what --recipe names.

    Attributes:
        method: packnet, joint or series-joint; others are built on the backbone itself.
        data: folder that the verb `prepare` wrote.
        backbone: file of the pretrained network.
        out: folder for runs; the same command again continues, or says that it is done.
        folder: the network's folder; under --out, named by what identifies the network, when not given.
        recipe: name of the recipe.
        settings: the recipe's fields.
        device: such as cpu or cuda:1; the first GPU, or the processor, when not given.
        allow_other_environment: continue a checkpoint of another torch, processor or thread count.
        json: print one JSON object.
    """

    method: str
    data: Path
    backbone: Path
    out: Path
    folder: Path | None = None
    recipe: str
    settings: R
    device: str | None = None
    allow_other_environment: bool = False
    json: bool = False


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(Generic[O]):
    """Measure a finished run's payload.

    Attributes:
        run: the run's folder.
        data: folder that the verb `prepare` wrote.
        backbone: file of the network that the run was trained on.
        device: such as cpu or cuda:1.
        json: print one JSON object instead of a table.
        own: of the benchmark alone.
    """

    run: Path
    data: Path
    backbone: Path
    device: str | None = None
    json: bool = False
    own: O


@dataclass(frozen=True, kw_only=True)
class RunOptions(Generic[R, O]):
    """Train with one or more methods and seeds.  The flags of the recipe override what --recipe names.

    Attributes:
        data: folder that the verb `prepare` wrote.
        backbone: file of the pretrained network.
        out: folder for runs; the same command again continues.
        methods: with commas between; docs/methods.md has them.
        seeds: with commas between, in place of the recipe's one.
        recipe: name of the recipe.
        settings: the recipe's fields.
        device: such as cpu or cuda:1; the first GPU, or the processor, when not given.
        parallel: processes that train at the same time; with several GPUs each takes one.  0 is one per GPU.
        allow_other_environment: continue checkpoints of another torch, processor or thread count.
        json: print one JSON object instead of tables.
        own: of the benchmark alone.
    """

    data: Path
    backbone: Path
    out: Path
    methods: Names = ("piggyback",)
    seeds: Numbers = ()
    recipe: str
    settings: R
    device: str | None = None
    parallel: int = 0
    allow_other_environment: bool = False
    json: bool = False
    own: O


@dataclass(frozen=True, kw_only=True)
class TasksRunOptions(RunOptions[R, O], Generic[R, O]):
    """Train several tasks with one or more methods and seeds.  The flags of the recipe override what --recipe names.

    Attributes:
        tasks: which ones, with commas between; all when not given.
    """

    tasks: Names = ()


@dataclass(frozen=True, kw_only=True)
class ReportOptions(Generic[O]):
    """Tables of the finished runs of a folder, and what is missing.

    Attributes:
        runs: folder of the runs.
        data: folder that the verb `prepare` wrote.
        methods: with commas between.
        seeds: those that should be there, with commas between.
        device: where something has to be computed, such as cpu or cuda:1.
        json: print one JSON object instead of tables.
        own: of the benchmark alone.
    """

    runs: Path
    data: Path
    methods: Names = ("piggyback",)
    seeds: Numbers = (0,)
    device: str | None = None
    json: bool = False
    own: O


@dataclass(frozen=True, kw_only=True)
class TasksReportOptions(ReportOptions[O], Generic[O]):
    """Tables of the finished runs of a folder, and what is missing.

    Attributes:
        tasks: those that should be there, with commas between; all when not given.  The backbone's own among them is
            one of joint and series-joint only.
    """

    tasks: Names = ()
