"""Rules about the code itself that no other tool holds; import-linter holds the direction of imports."""

import ast
import re
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("piggyback", "decathlon", "segmentation", "slurm", "leaderboard")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
MAX_LINES = 400
MAX_FUNCTION = 60
MAX_FILES = 15
WIDER_ROOMS = {"piggyback/methods": "a file for each method"}
LONGER_FILES = {"piggyback/overlay.py": "one class, all of which works on one state"}
LONGER_FUNCTIONS: dict[str, str] = {}
NAMELESS = ("utils", "common", "helpers", "base", "misc")


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def parsed() -> Iterator[tuple[str, ast.Module]]:
    for path in SOURCES:
        yield name_of(path), ast.parse(path.read_text())


def functions() -> Iterator[tuple[str, int]]:
    """Name and lines of every function, without decorators."""
    for name, tree in parsed():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{name}:{node.name}", (node.end_lineno or 0) - node.lineno + 1


def test_files_can_be_read_in_one_go() -> None:
    lengths = {name_of(path): len(path.read_text().splitlines()) for path in SOURCES}
    assert {name for name, lines in lengths.items() if lines > MAX_LINES} <= LONGER_FILES.keys()


def test_functions_fit_on_a_screen() -> None:
    assert {name for name, lines in functions() if lines > MAX_FUNCTION} <= LONGER_FUNCTIONS.keys()


def test_files_are_named_for_what_they_hold() -> None:
    parts = {part for path in SOURCES for part in path.relative_to(ROOT).with_suffix("").parts}
    assert not parts & set(NAMELESS)


def test_contracts_name_every_room_of_the_core_but_the_shell() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (light,) = (one for one in contracts if one["name"].startswith("slurm and the leaderboard know the shell alone"))
    there = {
        f"piggyback.{path.stem}"
        for path in (ROOT / "piggyback").iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert set(light["forbidden_modules"]) == there - {"piggyback.__init__", "piggyback.shell"}
    assert not any("ignore_imports" in one for one in contracts)


def test_no_benchmark_is_known_by_name_where_none_should_be() -> None:
    rooms = [ROOT / "piggyback" / "suite", ROOT / "piggyback" / "data", ROOT / "slurm", ROOT / "leaderboard"]
    names = re.compile("decathlon|segmentation|classify", re.IGNORECASE)
    found = [
        f"{name_of(path)}:{node.lineno}"
        for room in rooms
        for path in sorted(room.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and names.fullmatch(node.value)
    ]
    assert found == []


def test_the_picture_of_the_rooms_is_that_of_the_code() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "docs" / "img" / "architecture.py", "--check"],
        check=False,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_imports_stand_at_the_top_unless_start_up_time_forbids() -> None:
    late = [
        (f"{name}:{node.lineno}", (ROOT / name).read_text().splitlines()[node.lineno - 1])
        for name, tree in parsed()
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    assert late  # or this test looks for the wrong nodes
    assert [place for place, line in late if "#" not in line] == []


def test_rooms_can_be_taken_in_at_a_glance() -> None:
    rooms = Counter(path.parent for path in SOURCES if path.name != "__init__.py")
    assert {name_of(room) for room, count in rooms.items() if count > MAX_FILES} <= WIDER_ROOMS.keys()


def test_the_wheel_has_exactly_five_packages() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    tool = project["tool"]
    assert sorted(tool["hatch"]["build"]["targets"]["wheel"]["packages"]) == sorted(PACKAGES)
    assert sorted(tool["importlinter"]["root_packages"]) == sorted(PACKAGES)
    assert sorted(tool["mypy"]["packages"]) == sorted(PACKAGES)
    assert list(project["project"]["scripts"]) == ["piggyback"]
    found = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert found == set(PACKAGES)


def calls() -> Iterator[tuple[str, str, ast.Call]]:
    """Place, dotted name and node of every call."""
    for name, tree in parsed():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                yield f"{name}:{node.lineno}", ast.unparse(node.func), node


def test_only_the_console_prints() -> None:
    assert [place for place, called, _ in calls() if called == "print"] == []


def test_nothing_untrusted_is_unpickled() -> None:
    loads = [
        (place, {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords})
        for place, called, node in calls()
        if called == "torch.load"
    ]
    assert loads  # or this test looks for the wrong words
    assert [place for place, keywords in loads if keywords.get("weights_only") != "True"] == []
    pickles = {"pickle.load", "pickle.loads", "pickle.Unpickler", "torch.jit.load", "joblib.load", "marshal.loads"}
    assert [place for place, called, _ in calls() if called in pickles] == []
    arrays = [(place, node) for place, called, node in calls() if called == "np.load"]
    allowed = [place for place, node in arrays if "allow_pickle=True" in ast.unparse(node)]
    assert allowed == []


def test_errors_are_never_swallowed_whole() -> None:
    """A handler for everything must raise again, or say in a comment why it may not."""
    for path in SOURCES:
        lines = path.read_text().splitlines()
        for node in ast.walk(ast.parse("\n".join(lines))):
            if not isinstance(node, ast.ExceptHandler):
                continue
            caught = ast.unparse(node.type) if node.type is not None else "BaseException"
            if caught in ("Exception", "BaseException"):
                raises = any(isinstance(inner, ast.Raise) for inner in ast.walk(node))
                assert raises or "#" in lines[node.lineno - 1], f"{name_of(path)}:{node.lineno}"


def test_no_definition_is_dead_from_the_start() -> None:
    """Of two definitions of one name in a module the first can never be used."""
    for name, tree in parsed():
        defined = [node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
        twice = {a for a, b in pairwise(sorted(defined)) if a == b}
        assert not twice, f"{name}: {twice}"


@pytest.fixture(scope="module")
def tracked() -> list[Path]:
    listed = subprocess.run(["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_no_path_of_one_machine_is_in_the_repository(tracked: list[Path]) -> None:
    places = re.compile(rb"(?<![\w.~])/(work|tmp|home|root|Users)/[\w.]")
    assert tracked
    found = [
        f"{name_of(path)}: {match.group().decode()}"
        for path in tracked
        if path != Path(__file__).resolve() and b"\0" not in (data := path.read_bytes())[:8192]
        for match in places.finditer(data)
    ]
    assert found == []


def test_no_large_file_is_in_the_repository(tracked: list[Path]) -> None:
    assert [name_of(path) for path in tracked if path.stat().st_size > 1 << 20] == []
