"""Pages of single results, and of entries over several: the evidence behind each number."""

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from markupsafe import Markup

from leaderboard.boards.board import Metric
from leaderboard.page.curves import bar, layer_figure, layer_rows, training_curves
from leaderboard.page.evidence import (
    ClassScore,
    EvidenceFile,
    Layer,
    carry,
    read_class_scores,
    read_epochs,
    read_layers,
    read_log,
    read_sides,
)
from leaderboard.page.links import Links, anchor, safe_link
from leaderboard.page.tables import style_of, write_value
from leaderboard.page.templating import render
from leaderboard.result import Result
from leaderboard.statistics.entries import Entry, Value
from leaderboard.store.reading import StoredResult
from leaderboard.tables.view_builders import KINDS
from leaderboard.tables.views import Kind
from piggyback.shell.errors import Fault

LONGEST_VALUE: Final = 600  # characters of a recipe's value

_FRACTIONS: Final = ("accuracy", "error", "iou", "top1", "top5", "zeros")
_ENCODER: Final = json.JSONEncoder(ensure_ascii=False)
_UNKNOWN: Final = "\N{EN DASH}"

Pairs = Sequence[tuple[str, str]]


@dataclass(kw_only=True)
class _Drawn:
    """The contents of a result's evidence files, and what was wrong with them."""

    epochs: Sequence[Mapping[str, float]] = ()
    layers: Sequence[Layer] = ()
    classes: Sequence[ClassScore] = ()
    sheet: tuple[int, int] | None = None
    log: str = ""
    faults: list[str] = field(default_factory=list)


def write_run_page(
    stored: StoredResult, *, main: Metric, links: Links, entries: Sequence[tuple[str, str]], site: Path
) -> None:
    """Write the page of one result, with its evidence files beside it.

    Args:
        stored: the result.
        main: the metric that its benchmark ranks by.
        links: addresses of the pages.
        entries: label and address of the entries that it is part of.
        site: folder of the site.
    """
    address = links.runs[stored.place]
    folder = os.path.dirname(f"{site}/{address}")
    os.makedirs(folder)
    files = carry(stored, into=folder)
    drawn, result = _draw(stored, files), stored.result
    heading = f"{result.label or result.method} on {result.task}" + _seed(result)
    page = render(
        "run.html",
        title=f"{heading} \N{MIDDLE DOT} piggyback-bench",
        root="../" * address.count("/"),
        heading=heading,
        lead=_lead(result),
        entries=entries,
        headline=_headline(result, main),
        curves=training_curves(drawn.epochs),
        layer_rows=layer_rows(drawn.layers),
        layer_figure=layer_figure(drawn.layers) if drawn.layers else None,
        classes=show_classes(drawn.classes),
        sheet=drawn.sheet,
        sections=_sections(result),
        link=safe_link(result.link or ""),
        log=drawn.log,
        files=[(one.name, one.title, _bytes(one.size), one.here) for one in files],
        place=stored.place,
        faults=drawn.faults,
    )
    with open(f"{folder}/index.html", "xb") as file:
        file.write(page)


def _draw(stored: StoredResult, files: Iterable[EvidenceFile]) -> _Drawn:
    """Read the files that are drawn; they passed the store's check, so a fault means that a file changed since."""
    drawn, folder = _Drawn(), stored.folder
    readers: dict[str, tuple[str, Callable[[Path], object]]] = {
        "metrics.jsonl": ("epochs", read_epochs),
        "sparsity.json": ("layers", read_layers),
        "confusion.json": ("classes", read_class_scores),
        "sheet.png": ("sheet", read_sides),
        "log.txt": ("log", read_log),
    }
    for file in files:
        if file.name in readers and (file.here or file.name != "sheet.png"):
            attribute, read = readers[file.name]
            try:
                setattr(drawn, attribute, read(folder))
            except Fault as fault:
                drawn.faults.append(f"{file.name} is not drawn: it {fault.message}.")
    return drawn


def show_classes(scores: Iterable[ClassScore]) -> list[tuple[str, str, Markup]]:
    """Rows of a table of classes, each with a bar."""
    return [(one.name, write_value(one.iou, kind="percent") or _UNKNOWN, bar(one.iou)) for one in scores]


def _seed(result: Result) -> str:
    return "" if result.seed is None else f", seed {result.seed}"


def _lead(result: Result) -> str:
    data = {True: "official data", False: "not the official data", None: ""}[result.official_data]
    trained = f"trained on {result.trained_on}" if result.trained_on else ""
    chosen = f"selected on {result.selected_on}" if result.selected_on else ""
    return ", ".join(filter(None, [result.benchmark, f"split {result.split}", data, trained, chosen]))


def _headline(result: Result, main: Metric) -> Pairs:
    """The few numbers that readers look for first."""
    pairs = []
    if main.name in result.metrics:
        pairs.append((_words(main.name), _metric(main.name, result.metrics[main.name])))
    if result.counts is not None:
        pairs.append(("judged rightly", f"{result.counts.correct:,} of {result.counts.n:,}"))
    if "zeros" in result.metrics:
        pairs.append(("of the weights switched off", _metric("zeros", result.metrics["zeros"])))
    if result.bits:
        pairs.append(("stored for the task", _bytes(sum(result.bits.values()) / 8)))
    if result.parameter_ratio is not None:
        pairs.append(("parameters for all tasks over those of one network", f"{result.parameter_ratio:.3g}"))
    return pairs


def _sections(result: Result) -> list[tuple[str, Pairs]]:
    """The record's facts under titles; empty sections are left out."""
    prints, code = result.fingerprints, result.code
    sections: list[tuple[str, Pairs]] = [
        ("Measured", [(_words(name), _metric(name, value)) for name, value in result.metrics.items()]),
        ("Stored", [(name, f"{bits:,} bits") for name, bits in result.bits.items()]),
        ("Recipe", [(name, _plain(value)) for name, value in (result.recipe or {}).items()]),
        (
            "Where and with what",
            [
                ("task version", str(result.task_version)),
                ("device", result.device or ""),
                ("time", "" if result.wall_s is None else f"{result.wall_s:,.1f} s"),
                ("code", "" if code is None else write_code(result)),
                *(result.versions or {}).items(),
                ("citation", result.citation or ""),
                ("table", result.table or ""),
                ("note", result.note or ""),
            ],
        ),
        (
            "Fingerprints",
            [(name, getattr(prints, name) or "") for name in ("data", "backbone", "predictions")] if prints else [],
        ),
    ]
    filled = [(title, [pair for pair in pairs if pair[1]]) for title, pairs in sections]
    return [(title, pairs) for title, pairs in filled if pairs]


def write_code(result: Result, *, short: bool = False) -> str:
    """The commit, and whether files were modified since."""
    if result.code is None or result.code.commit is None:
        return "no git checkout"
    commit = result.code.commit[:10] if short else result.code.commit
    return f"{commit}{' with changes' if result.code.dirty else ''}"


def write_entry_page(entry: Entry, *, name: str, links: Links, site: Path) -> None:
    """Write the page of an entry: for each of its numbers the results behind it.

    Args:
        entry: with more than one result.
        name: of its page.
        links: addresses of the pages.
        site: folder of the site.
    """
    main = entry.board.main
    kind, kinds = KINDS[main.unit], {metric.name: KINDS[metric.unit] for metric in entry.board.metrics}
    rows, seen = [], set[str]()
    for one in sorted(entry.stored, key=lambda one: (one.result.task, one.result.seed or 0, one.place)):
        if one.place in links.runs:
            rows.append(_run_row(one, main=main, links=links, first=one.result.task not in seen))
            seen.add(one.result.task)
    page = render(
        "entry.html",
        title=f"{entry.label} \N{MIDDLE DOT} piggyback-bench",
        root="../",
        label=entry.label,
        benchmark=entry.benchmark,
        protocol=entry.protocol.label,
        summary=[(what, text) for what, text in _entry_facts(entry) if text],
        numbers=[(_words(name), write_summary(one, kind=kinds.get(name, kind))) for name, one in entry.values.items()],
        metric=_words(main.name),
        unit=", %" if kind == "percent" else "",
        style=style_of(kind),
        runs=rows,
    )
    (site / "entries" / f"{name}.html").write_bytes(page)


def _run_row(stored: StoredResult, *, main: Metric, links: Links, first: bool) -> dict[str, object]:
    """A row of an entry's page; the first row of a task has an anchor."""
    result = stored.result
    value = result.metrics.get(main.name)
    return {
        "task": result.task,
        "anchor": anchor(result.task) if first else "",
        "name": stored.place.rsplit("/", 1)[-1],
        "link": links.runs[stored.place],
        "seed": _UNKNOWN if result.seed is None else result.seed,
        "value": _UNKNOWN if value is None else write_value(value, kind=KINDS[main.unit]),
        "split": result.split,
        "code": write_code(result, short=True),
        "device": result.device or _UNKNOWN,
    }


def _entry_facts(entry: Entry) -> Pairs:
    main = entry.board.main
    if entry.board.total is not None:
        totals = [("score", write_summary(entry.total, kind="points"))]
    else:
        totals = [(_words(main.name), write_summary(entry.total, kind=KINDS[main.unit]))] if entry.task else []
    return [
        ("method", entry.method),
        *totals,
        (f"mean {_words(main.name)}", write_summary(entry.mean, kind=KINDS[main.unit])),
        ("parameters over one network's", "" if entry.parameter_ratio is None else f"{entry.parameter_ratio:.3g}"),
        ("missing", ", ".join(entry.missing)),
        ("rank", "" if entry.rank is None else f"{entry.rank}{' (shared)' if entry.tied else ''}"),
        ("note", entry.note),
    ]


def write_summary(value: Value | None, *, kind: Kind = "percent") -> str:
    """A number over seeds, in words; empty for none."""
    if value is None:
        return ""
    text = write_value(value.mean, kind=kind)
    if value.spread is not None:
        text += f" \N{PLUS-MINUS SIGN} {write_value(value.spread, kind=kind)}"
    return f"{text}{' %' if kind == 'percent' else ''} over {'one seed' if value.n == 1 else f'{value.n} seeds'}"


def _words(name: str) -> str:
    return name.replace("_", " ").replace("iou", "IoU")


def _metric(name: str, value: float) -> str:
    return f"{100 * value:.2f} %" if name.endswith(_FRACTIONS) and 0 <= value <= 1 else f"{value:.6g}"


def _plain(value: object) -> str:
    """A recipe's value as text: texts unchanged, the rest as JSON; long ones are cut."""
    text = value if isinstance(value, str) else repr(value) if type(value) is int else _ENCODER.encode(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}..."


def _bytes(count: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:,.0f} {unit}" if unit == "bytes" else f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"
