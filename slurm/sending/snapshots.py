"""Copies of this code for jobs that start later, so that edits made meanwhile do not change what they run.

A job imports modules by name when it starts, perhaps days after it was sent, and again after each requeue (reference:
cluster notes, S19).  submitit's own RsyncSnapshot copies what git tracks of a checkout, and works by the folder that a
job starts in, which an editable installation of packages elsewhere would pass by; here the packages themselves are
copied from wherever they are imported, and come first on the job's path.
"""

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from piggyback.shell.errors import SweepError
from slurm.folder.state_files import read_state

GROUPS: Final = tuple(f"piggyback.{name}" for name in ("benchmarks", "boards", "commands", "doctor", "methods"))
"""Entry points through which packages, ours and those of others, become a part of what jobs run."""
RECORD: Final = "code.json"
"""File beside the packages of a snapshot; `piggyback.suite.training.run_folder.code_version` reads it."""


def import_variables(code: Path | None) -> dict[str, str]:
    """Environment variables with which Python imports the packages from a snapshot; none without one.

    Python's start folder is left off the path (PYTHONSAFEPATH), as it would come before.
    """
    if code is None:
        return {}
    others = [one for one in os.environ.get("PYTHONPATH", "").split(os.pathsep) if one and one != str(code)]
    return {"PYTHONPATH": os.pathsep.join([str(code), *others]), "PYTHONSAFEPATH": "1"}


def find_packages() -> dict[str, Path]:
    """Folder of each package that jobs run, as imported now, or the file of a single module."""
    points = (point for group in GROUPS for point in entry_points(group=group))
    names = {"piggyback", "slurm", *(point.module.partition(".")[0] for point in points)}
    origins = {name: Path(spec.origin) for name in sorted(names) if (spec := find_spec(name)) and spec.origin}
    return {name: path.parent if path.name == "__init__.py" else path for name, path in origins.items()}


def list_files(package: Path) -> list[Path]:
    """Files of a package, in a fixed order."""
    if package.is_file():
        return [package]
    return sorted(path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts)


def hash_code(packages: dict[str, Path]) -> str:
    """First ten hexadecimal digits of a digest of all files' names and bytes."""
    digest = hashlib.sha256()
    for name, folder in sorted(packages.items()):
        for path in list_files(folder):
            digest.update(f"{name}/{path.relative_to(folder)}\0".encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:10]


def describe_code(packages: dict[str, Path]) -> dict[str, Any]:
    """Commit of the checkout that the packages are in, and whether it was modified; Nones outside of one."""
    here, said = packages["slurm"].parent, []
    if (here / RECORD).exists():  # sent from a job that runs from a snapshot itself
        return read_state(here / RECORD)
    if not (here / ".git").exists():
        return {"commit": None, "dirty": None}
    for words in (["rev-parse", "HEAD"], ["status", "--porcelain"]):
        try:
            told = subprocess.run(["git", "-C", str(here), *words], capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return {"commit": None, "dirty": None}
        said.append(told.stdout.strip())
    return {"commit": said[0], "dirty": bool(said[1])}


def copy_package(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_file():
        shutil.copy2(source, target)
    else:
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))


def take_snapshot(root: Path) -> Path:
    """Copy the packages into ``<root>/code-<hash>`` atomically.

    Beside them lies ``code.json`` with the commit, which results made from the copy record.

    Args:
        root: folder for snapshots, visible to all nodes.

    Returns:
        The copy; an existing one of the same code is used again.

    Raises:
        SweepError: it cannot be written.
    """
    packages = find_packages()
    place = root / f"code-{hash_code(packages)}"
    if place.is_dir():
        return place
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root, prefix=".code-") as held:
            staged = Path(held) / "code"
            for name, package in packages.items():
                copy_package(package, staged / f"{name}{package.suffix}")
            (staged / RECORD).write_text(json.dumps(describe_code(packages)))
            copies = {name: staged / f"{name}{package.suffix}" for name, package in packages.items()}
            if hash_code(copies) != place.name.removeprefix("code-"):
                raise SweepError("the code changed while it was copied: submit again when nobody edits it")
            if not place.is_dir():  # another process may have made the same one meanwhile
                staged.rename(place)
    except OSError as fault:
        raise SweepError(f"cannot copy the code to {root}: {fault.strerror}") from None
    return place
