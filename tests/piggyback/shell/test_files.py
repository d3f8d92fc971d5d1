import errno
import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from piggyback.shell.errors import Fault
from piggyback.shell.files import atomic_file, read_file, sha256_of, write_bytes, write_json
from piggyback.shell.strict_json import read_json


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "a.bin"
    with atomic_file(path) as file:
        file.write(b"first")
        assert not path.exists()
    assert path.read_bytes() == b"first"

    def fail() -> None:
        with atomic_file(path) as file:
            file.write(b"half of the sec")
            file.flush()
            raise RuntimeError("the disk is full")

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_bytes() == b"first"
    assert [entry.name for entry in path.parent.iterdir()] == ["a.bin"]


def test_a_fault_of_the_disk_names_the_file_and_not_the_temporary_one(tmp_path: Path) -> None:
    def fill(path: Path) -> None:
        with atomic_file(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # as of a write: without a name

    for path, work in ((tmp_path / "a", fill), (tmp_path, lambda path: write_bytes(path, b"in the way"))):
        with pytest.raises(OSError, match=r".") as caught:
            work(path)
        assert caught.value.filename == str(path)
        assert str(caught.value) == f"[Errno {caught.value.errno}] {caught.value.strerror}: {str(path)!r}"
    assert not list(tmp_path.iterdir())


def test_two_writers_at_once_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "shared"
    both_open = threading.Barrier(2, timeout=20)

    def write(text: bytes) -> None:
        with atomic_file(path) as file:
            file.write(text)
            both_open.wait()
            file.write(text)

    threads = [threading.Thread(target=write, args=(text,)) for text in (b"aaaa", b"b" * 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_bytes() in (b"a" * 8, b"b" * 18)
    assert [entry.name for entry in tmp_path.iterdir()] == ["shared"]


@pytest.mark.parametrize("name", ["with space", "quo'te\"s", "new\nline", "[/bracket]", "größe"])
def test_names_are_only_names(tmp_path: Path, name: str) -> None:
    write_json(tmp_path / name / name, {"a": [1, None, 2.5]})
    assert read_json(tmp_path / name / name) == {"a": [1, None, 2.5]}


def test_numbers_that_are_none_are_never_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "a.json", {"loss": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_a_link_is_replaced_and_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "a").symlink_to("precious")
    write_bytes(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"new"
    assert (tmp_path / "precious").read_text() == "precious"


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("make", "follow", "kind", "said"),
    [
        (lambda path: None, True, "unreadable", "cannot be read: No such file"),
        (lambda path: path.mkdir(), True, "not-a-file", "is a folder, where a file must be"),
        (make_pipe, True, "not-a-file", "is a pipe or a device"),
        (lambda path: path.symlink_to("/dev/zero"), True, "not-a-file", "is a pipe or a device"),
        (lambda path: path.symlink_to(path), True, "unreadable", "cannot be read: Too many levels"),
        (lambda path: path.symlink_to("/dev/null"), False, "link", "is a link, where the file itself must be"),
        (lambda path: path.write_bytes(b"123456"), True, "too-large", "has 6 bytes; at most 5 are read"),
    ],
)
def test_only_regular_files_within_bounds_are_read(
    tmp_path: Path, make: Callable[[Path], object], follow: bool, kind: str, said: str
) -> None:
    path = tmp_path / "a file"
    make(path)
    with pytest.raises(Fault) as caught:
        read_file(path, limit=5, follow=follow)
    assert caught.value.kind == kind
    assert str(caught.value).startswith(f"{path} {said}")


def test_a_file_is_read_through_a_link_where_that_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "there").write_bytes(b"12345")
    (tmp_path / "link").symlink_to("there")
    assert read_file(tmp_path / "link", limit=5) == b"12345"
    assert read_file(str(tmp_path / "there"), limit=5, follow=False) == b"12345"


def test_a_file_that_grows_while_it_is_read_is_still_bounded(tmp_path: Path) -> None:
    """Files of /proc have no bytes until they are read."""
    with pytest.raises(Fault, match="has more than 10 bytes"):
        read_file("/proc/self/status", limit=10)
    assert read_file("/proc/self/comm", limit=1000).endswith(b"\n")


def test_a_file_that_is_replaced_while_it_is_opened_is_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As NFS does."""
    (tmp_path / "a").write_bytes(b"new")
    real, faults = os.open, [errno.ESTALE]

    def stale(*arguments: Any) -> int:
        if faults:
            raise OSError(faults.pop(), "Stale file handle")
        return real(*arguments)

    monkeypatch.setattr(os, "open", stale)
    assert read_file(tmp_path / "a", limit=10) == b"new"
    faults += [errno.ESTALE, errno.ESTALE]
    with pytest.raises(Fault, match="cannot be read: Stale file handle"):
        read_file(tmp_path / "a", limit=10)


def test_digests_of_long_files(tmp_path: Path) -> None:
    data = bytes(range(256)) * 9000
    write_bytes(tmp_path / "long", data)
    seen: list[int] = []
    assert sha256_of(tmp_path / "long", progress=seen.append) == hashlib.sha256(data).hexdigest()
    assert sum(seen) == len(data)
    assert len(seen) > 1


def test_no_digest_of_what_never_ends() -> None:
    with pytest.raises(Fault, match="/dev/zero is a pipe or a device"):
        sha256_of(Path("/dev/zero"))


def test_who_writes_a_file_loads_nothing_heavy() -> None:
    code = "import sys, piggyback.shell.files, piggyback.shell.lock; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"numpy", "rich", "pydantic", "pydantic_core", "torch"} & set(done.stdout.split())
