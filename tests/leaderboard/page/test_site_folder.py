"""The site's folder: what killed builds left beside it goes, and nothing else does."""

import os
import shutil
import time
from pathlib import Path

import pytest

from leaderboard.page.site_folder import LEFT_OVER_S, new_folder
from leaderboard.store.staging import SITE_MARKER as MARKER
from piggyback.shell.errors import ResultError

KEY = "0123456789abcdef" * 2


def make_old(folder: Path) -> None:
    folder.mkdir()
    (folder / "index.html").write_text("half a page")
    long_ago = time.time() - LEFT_OVER_S - 60
    os.utime(folder, (long_ago, long_ago))


def build(out: Path) -> None:
    with new_folder(out) as made:
        (made / "index.html").write_text("a page")


def test_what_killed_builds_left_is_removed(tmp_path: Path) -> None:
    for ending in ("tmp", "old"):
        make_old(tmp_path / f".site.{KEY}.{ending}")
    build(tmp_path / "site")
    # its older site may be the only one there is, until there is another
    assert sorted(path.name for path in tmp_path.iterdir()) == [f".site.{KEY}.old", "site"]
    build(tmp_path / "site")
    assert [path.name for path in tmp_path.iterdir()] == ["site"]
    assert {path.name for path in (tmp_path / "site").iterdir()} == {"index.html", MARKER}


def test_nothing_else_is_removed(tmp_path: Path) -> None:
    """Not what is new, of another site, a file, a link, or only called nearly the same."""
    others = [f".site2.{KEY}.tmp", f".xsite.{KEY}.tmp", f".site.{KEY}0.tmp", f".site.{KEY[1:]}.tmp", f"site.{KEY}.tmp"]
    others += [f".site.{KEY.upper()}.tmp", f".site.{KEY}.tmp2", f".site.{KEY}.bak", f".s1te.{KEY}.tmp"]
    for name in others:
        make_old(tmp_path / name)
    (tmp_path / f".site.{KEY}.tmp").symlink_to(tmp_path / others[0])
    (tmp_path / f".site.{KEY[::-1]}.tmp").write_text("a file")
    (tmp_path / f".site.{'0' * 32}.tmp").mkdir()
    for path in tmp_path.iterdir():
        if not path.is_dir():
            os.utime(path, (0, 0), follow_symlinks=False)
    before = {path.name for path in tmp_path.iterdir()}
    build(tmp_path / "site")
    assert {path.name for path in tmp_path.iterdir()} == before | {"site"}
    assert (tmp_path / others[0] / "index.html").exists()


def test_a_name_is_no_pattern(tmp_path: Path) -> None:
    make_old(tmp_path / f".s1te.{KEY}.tmp")
    build(tmp_path / "s.te")
    assert (tmp_path / f".s1te.{KEY}.tmp").exists()


def test_half_a_site_is_not_put_into_place(tmp_path: Path) -> None:
    """The folder was removed under a build, say of a machine that slept, and the rest was written anew."""

    def build_half() -> None:
        with new_folder(tmp_path / "site") as made:
            shutil.rmtree(made)
            (made / "runs").mkdir(parents=True)

    with pytest.raises(ResultError, match="taken away"):
        build_half()
    assert list(tmp_path.iterdir()) == []
