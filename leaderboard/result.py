"""The result record: one measured or published number with its evidence, as a JSON file.

``docs/result.schema.json`` is `schema_text`; a test says how to write it again.
"""

import json
import re
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from piggyback.shell.errors import Fault, ResultError
from piggyback.shell.files import read_file, write_bytes
from piggyback.shell.strict_json import parse_json

SCHEMA_VERSION: Final = 2
MAX_BYTES: Final = 16 << 20

Word = Annotated[str, Field(min_length=1)]
Natural = Annotated[int, Field(ge=0)]

_CONFIG: Final = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
FRACTIONS: Final = ("accuracy", "error", "iou", "top1", "top5")
"""Endings of the names of metrics that are fractions."""

_EVIDENCE: Final = (
    *("recipe", "seed", "counts", "selected_on", "trained_on", "official_data"),
    *("code", "versions", "device", "wall_s", "fingerprints"),
)
_TRAINING: Final = ("seed", "selected_on", "trained_on", "wall_s")
BACKBONE_METHOD: Final = "backbone"
"""What the frozen network itself does on its own task; how it was trained is seldom known."""
_TOLERANCE: Final = 1e-6  # between a stored fraction and the same one from counts
_NEW_IN_2: Final = ("label", "link", "note", "coverage")
_LINK: Final = re.compile(r"""https?://[A-Za-z0-9][^\s<>"'`\\{}|^]{0,500}""")


class Counts(BaseModel):
    """How many pictures (or pixels) were judged, and how many of them rightly."""

    model_config = _CONFIG

    n: Annotated[int, Field(ge=1)]
    correct: Natural

    @model_validator(mode="after")
    def _not_more_than_all(self) -> Self:
        if self.correct > self.n:
            raise ValueError(f"{self.correct} of {self.n} cannot be correct")
        return self


class Code(BaseModel):
    """The state of the program; None where it did not run from a git checkout."""

    model_config = _CONFIG

    commit: Word | None
    dirty: bool | None


class Fingerprints(BaseModel):
    """What went in and came out: the data's, the backbone's, the prediction file's digest; None where there is none."""

    model_config = _CONFIG

    data: Word
    backbone: Word | None
    predictions: Word | None


class Coverage(BaseModel):
    """How much of a network a task changes.

    Attributes:
        masked_share: of the trunk's parameters, which are those outside the heads.
        left_out: by reason, the number of them that stay as they are, norm layers aside.
    """

    model_config = _CONFIG

    masked_share: Annotated[float, Field(ge=0, le=1)]
    left_out: dict[Word, Natural]


class Result(BaseModel):
    """One number with its evidence.

    Attributes:
        schema_version: of this format; files of version 1, without `label`, `link`, `note` and `coverage`, are read,
            too.
        benchmark, task, task_version, split: what was measured on.
        method: its name, the same everywhere.
        recipe: the whole recipe, as JSON; tuples become lists.
        metrics: finite numbers; a name that ends with accuracy, error, iou, top1 or top5 is a fraction in [0, 1].
        counts: behind ``accuracy``, with which they must agree.
        bits: stored for the task, by kind (masks, head, norm, header).
        parameter_ratio: bits for all tasks over those of one network, by the paper's convention.
        coverage: how much of the network the task changes; None where that was not written down.
        selected_on: what the model was chosen by; never the test part.
        trained_on: the parts trained on.
        origin: `measured` needs all evidence; `published` needs citation and table, and may lack the rest.
        label: the method's name for people, such as a published table's; the method's own where there is none.
        link: to the source, http or https.
        note: what a reader must know, such as a rounding.
        official_data: whether the task is the official release.
        device, wall_s: where it ran, and for how many seconds.
    """

    model_config = _CONFIG

    schema_version: Literal[2] = SCHEMA_VERSION
    benchmark: Word
    task: Word
    task_version: Annotated[int, Field(ge=1)]
    split: Word
    method: Word
    recipe: dict[str, JsonValue] | None = None
    seed: Natural | None = None
    metrics: Annotated[dict[Word, float], Field(min_length=1)]
    counts: Counts | None = None
    bits: dict[Word, Natural] = Field(default_factory=dict)
    parameter_ratio: Annotated[float, Field(gt=0)] | None = None
    coverage: Coverage | None = None
    selected_on: Literal["val", "last epoch"] | None = None
    trained_on: Literal["train", "train+val"] | None = None
    origin: Literal["measured", "published"]
    citation: Word | None = None
    table: Word | None = None
    label: Word | None = None
    link: Word | None = None
    note: Word | None = None
    official_data: bool | None = None
    code: Code | None = None
    versions: dict[Word, str] | None = None
    device: Word | None = None
    wall_s: Annotated[float, Field(ge=0)] | None = None
    fingerprints: Fingerprints | None = None

    @field_validator("recipe", mode="before")
    @classmethod
    def _plain_json(cls, value: object, info: ValidationInfo) -> object:
        # A recipe is a dataclass as a dict: its tuples become lists here, so that reading gives back an equal result.
        try:
            text = json.dumps(value, allow_nan=False)
            return value if info.mode == "json" else json.loads(text)
        except (TypeError, ValueError, RecursionError) as fault:
            raise ValueError(f"cannot be written as JSON ({fault})") from None

    @field_validator("metrics")
    @classmethod
    def _fractions(cls, metrics: dict[str, float]) -> dict[str, float]:
        for name, value in metrics.items():
            if name.endswith(FRACTIONS) and not 0.0 <= value <= 1.0:
                raise ValueError(f"{name} is {value}; it must be a fraction in [0, 1], not a percentage")
        return metrics

    @field_validator("link")
    @classmethod
    def _to_the_web(cls, link: str | None) -> str | None:
        if link is not None and not _LINK.fullmatch(link):
            raise ValueError("a link begins with http:// or https:// and has no spaces, quotes or brackets")
        return link

    @model_validator(mode="after")
    def _metrics_agree(self) -> Self:
        accuracy, error = self.metrics.get("accuracy"), self.metrics.get("error")
        if accuracy is not None and error is not None and abs(accuracy + error - 1.0) > _TOLERANCE:
            raise ValueError(f"accuracy {accuracy} and error {error} do not add up to 1")
        if self.counts is not None:
            counted = self.counts.correct / self.counts.n
            for stored in (accuracy, None if error is None else 1.0 - error):
                if stored is not None and abs(stored - counted) > _TOLERANCE:
                    raise ValueError(f"accuracy {stored} is not {self.counts.correct} of {self.counts.n}")
        return self

    @model_validator(mode="after")
    def _has_evidence(self) -> Self:
        needed: tuple[str, ...] = _EVIDENCE if self.origin == "measured" else ("citation", "table")
        if self.origin == "measured" and self.method == BACKBONE_METHOD:
            needed = tuple(name for name in needed if name not in _TRAINING)
        missing = [name for name in needed if getattr(self, name) is None]
        if missing:
            raise ValueError(f"a {self.origin} result needs {', '.join(missing)}")
        if self.origin == "measured" and (self.citation is not None or self.table is not None):
            raise ValueError("a measured result has no citation and no table")
        return self


def write_result(path: Path, result: Result) -> None:
    """Write a result, whole or not at all.

    Raises:
        ResultError: its dicts were changed into something that cannot be read back.
    """
    try:
        text = json.dumps(result.model_dump(mode="json"), indent=1, allow_nan=False) + "\n"
    except ValueError as fault:
        raise ResultError(f"cannot write {path}: {fault}") from None
    parse_result(text.encode(), name=str(path))
    write_bytes(path, text.encode())


def read_result(path: Path) -> Result:
    """Read a result strictly: no unknown, double or missing key, no text for a number, no NaN.

    Raises:
        ResultError: with one line that names the file, the field and the fault.
    """
    try:
        data = read_file(path, limit=MAX_BYTES)
    except Fault as fault:
        raise ResultError(str(fault)) from None
    return parse_result(data, name=str(path))


def parse_result(data: bytes, *, name: str) -> Result:
    """Read the result that some JSON text holds.

    Args:
        data: UTF-8 text.
        name: of the file, for messages.

    Raises:
        ResultError: as `read_result`; its `kind` says which kind of fault.
    """
    try:
        document = parse_json(data, name=name)
    except Fault as fault:
        raise ResultError(str(fault), kind=fault.kind) from None
    if not isinstance(document, dict):
        raise ResultError(f"{name} holds no JSON object, so it is no result")
    version = document.get("schema_version")
    if type(version) is not int or version not in (1, SCHEMA_VERSION):
        found = f"schema_version {version!r:.40}" if "schema_version" in document else "no schema_version"
        raise ResultError(f"{name} has {found}; this program reads 1 and {SCHEMA_VERSION}", kind="schema-version")
    if version == 1:
        data = _upgraded(document, name=name)
    try:
        return Result.model_validate_json(data)
    except ValidationError as fault:
        first, *more = fault.errors(include_url=False, include_input=False)
        place = ".".join(str(part)[:80] for part in first["loc"])
        others = f" ({len(more)} more)" if more else ""
        said = first["msg"].removeprefix("Value error, ")
        raise ResultError(f"{name}: {place + ': ' if place else ''}{said}{others}") from None


def _upgraded(document: dict[str, object], *, name: str) -> bytes:
    """Make a document of version 1 one of version 2, which has more entries, all of them optional."""
    early = [key for key in _NEW_IN_2 if key in document]
    if early:
        raise ResultError(f"{name} has {', '.join(early)}, which schema_version 1 does not know")
    return json.dumps(document | {"schema_version": SCHEMA_VERSION}).encode()


def schema_text() -> str:
    """The JSON schema of a result, as ``docs/result.schema.json`` holds it."""
    return json.dumps(Result.model_json_schema(), indent=1) + "\n"
