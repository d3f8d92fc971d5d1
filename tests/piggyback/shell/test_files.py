import errno
import hashlib
import os
import threading
from pathlib import Path

import pytest

from piggyback.shell.errors import BadInput
from piggyback.shell.files import atomic_file, parse_json, read_json, sha256_of, write_bytes, write_json


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


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"{", "line 1, column 2"),
        (b'{"a": 1, "a": 2}', "'a' twice"),
        (b'{"a": {"b": 1, "b": 1}}', "'b' twice"),
        (b"[NaN]", "NaN"),
        (b"[-Infinity]", "-Infinity"),
        (b'"\xff"', "UTF-8"),
        (b"[" * 200_000, "nested too deeply"),
        (b"1" * 5000, "thousands of digits"),
    ],
)
def test_faults_of_json_are_named(data: bytes, fault: str) -> None:
    with pytest.raises(BadInput) as caught:
        parse_json(data, name="settings.json")
    message = str(caught.value)
    assert fault in message
    assert "settings.json" in message
    assert "\n" not in message


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"cannot read .*nothing\.json: No such file"):
        read_json(tmp_path / "nothing.json")


def test_digests_of_long_files(tmp_path: Path) -> None:
    data = bytes(range(256)) * 9000
    write_bytes(tmp_path / "long", data)
    seen: list[int] = []
    assert sha256_of(tmp_path / "long", progress=seen.append) == hashlib.sha256(data).hexdigest()
    assert sum(seen) == len(data)
    assert len(seen) > 1
