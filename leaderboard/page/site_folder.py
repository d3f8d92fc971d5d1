"""The site's folder, made beside its place and renamed into it, so that nobody sees half of one."""

import errno
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from leaderboard.store.staging import SITE_MARKER
from piggyback.shell.errors import ResultError
from piggyback.shell.files import sync_folder, write_bytes

MARK: Final = "piggyback-bench leaderboard, format 1\nMade by a program; built anew as a whole.\n"
LEFT_OVER_S: Final = 3600.0
"""A build takes seconds to minutes: what is older beside a site was left by one that was killed."""

_TRIES: Final = 5


def check_target(out: Path, *, store: Path) -> None:
    """Refuse to overwrite a folder that is not ours.

    Args:
        out: the site's folder.
        store: the folder of its results.

    Raises:
        ResultError: `out` is a link, a file, a folder that no build has made, or is in the store or around it.
    """
    if out.is_symlink():
        raise ResultError(f"{out} is a link; give --out the folder itself")
    if out.exists():
        if not out.is_dir():
            raise ResultError(f"{out} is not a folder; choose another --out")
        if any(out.iterdir()) and not _is_ours(out):
            raise ResultError(f"{out} holds files and is not a site of ours (no {SITE_MARKER}); choose another --out")
    inner, outer = out.resolve(), store.resolve()
    if inner == outer or outer in inner.parents or inner in outer.parents:
        raise ResultError(f"{out} and the store {store} lie in each other; choose another --out")


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Yield a new folder that replaces `out` if the block succeeds, and is removed otherwise.

    Raises:
        ResultError: it cannot be made, or another build keeps taking its place.
    """
    out = Path(os.path.abspath(out))
    made = out.with_name(f".{out.name}.{uuid.uuid4().hex}.tmp")
    _remove_left_over(out)
    try:
        try:
            made.mkdir(parents=True)
        except OSError as fault:
            raise ResultError(f"cannot make a folder beside {out}: {fault.strerror}") from None
        write_bytes(made / SITE_MARKER, MARK.encode())
        yield made
        if not _is_ours(made):  # some of it may be there again, from files written since
            raise ResultError(f"{made} was taken away while the site was made in it; build it again")
        _put(made, out)
        sync_folder(out.parent)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _remove_left_over(out: Path) -> None:
    """Remove what killed builds of the same site left beside it; newer folders may belong to a build in progress."""
    endings = "tmp|old" if out.exists() else "tmp"  # without a site, the one that was moved aside is the last there is
    ours = re.compile(rf"\.{re.escape(out.name)}\.[0-9a-f]{{32}}\.({endings})")
    with suppress(OSError), os.scandir(out.parent) as beside:
        for entry in beside:
            if not ours.fullmatch(entry.name) or not entry.is_dir(follow_symlinks=False):
                continue
            if time.time() - entry.stat(follow_symlinks=False).st_mtime > LEFT_OVER_S:
                shutil.rmtree(entry.path, ignore_errors=True)


def _put(made: Path, out: Path) -> None:
    """Rename the new site into place; an older one is moved aside first, and back if that fails."""
    aside = out.with_name(f".{out.name}.{uuid.uuid4().hex}.old")
    for _ in range(_TRIES):
        try:
            with suppress(FileNotFoundError):
                out.rename(aside)
            made.rename(out)
        except OSError as fault:
            if fault.errno in (errno.ENOTEMPTY, errno.EEXIST):  # another build was faster: its site steps aside now
                shutil.rmtree(aside, ignore_errors=True)
                continue
            if aside.exists():
                aside.rename(out)
            raise ResultError(f"cannot put the site at {out}: {fault.strerror}") from None
        shutil.rmtree(aside, ignore_errors=True)
        return
    raise ResultError(f"other builds keep writing {out}; wait for them, or choose another --out")


def _is_ours(folder: Path) -> bool:
    marker = folder / SITE_MARKER
    try:
        return marker.is_file() and not marker.is_symlink() and marker.read_bytes().startswith(b"piggyback-bench")
    except OSError:
        return False
