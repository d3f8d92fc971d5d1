"""Archives and folders from strangers: what is read of them, and what they cannot do."""

import io
import os
import struct
import tarfile
import tracemalloc
import zlib
from pathlib import Path

import pytest

from piggyback.data.tars import (
    check_source,
    iterate_files,
    iterate_members,
    open_stream,
    read_plain_file,
    read_wanted,
    reading_archive,
)
from piggyback.shell.errors import BadInput, Fault

NAMING = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE)


def write(path: Path, *members: tuple[tarfile.TarInfo, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:
        for member, data in members:
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def entry(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


def read(path: Path, *, largest: int = 100) -> tuple[dict[str, bytes | None], list[str]]:
    refused: list[str] = []
    with reading_archive(path), path.open("rb") as file, open_stream(file) as tar:
        found = {
            member.name: read_wanted(tar, member, name="the archive", largest=largest, refuse=refused.append)
            for member in iterate_files(tar, name="the archive", refuse=refused.append)
        }
    return found, refused


def test_plain_files_are_read_and_all_else_refused(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.tar",
        (entry("a", tarfile.DIRTYPE), b""),
        (entry("a/one"), b"1"),
        (entry("a/two", tarfile.SYMTYPE, "/etc/passwd"), b""),
        (entry("a/three", tarfile.LNKTYPE, "a/one"), b""),
        (entry("a/four", tarfile.FIFOTYPE), b""),
        (entry("/etc/five"), b"5"),
        (entry("../six\n"), b"6"),
        (entry("a/" + "seven" * 40), b"7"),
        (entry("a/eight"), bytes(101)),
    )
    found, refused = read(path)
    assert found == {"a/one": b"1", "a/" + "seven" * 40: b"7", "a/eight": None}
    assert refused == [
        "the archive: a/two is a link",
        "the archive: a/three is a link",
        "the archive: a/four is not a plain file",
        "the archive: /etc/five leaves the archive",
        r"the archive: ../six\n leaves the archive",
        "the archive: a/eight has 101 bytes, more than such a file may have",
    ]


@pytest.mark.parametrize("kind", NAMING)
@pytest.mark.parametrize("first", [True, False])
def test_a_name_of_half_a_gigabyte_is_not_read(tmp_path: Path, kind: bytes, first: bool) -> None:
    """As gzip it is half a megabyte; tarfile reads it into memory whole."""
    name = entry("././@LongLink", kind)
    name.size = 512 << 20
    plain = io.BytesIO()
    if not first:
        with tarfile.open(fileobj=plain, mode="w") as tar:
            tar.addfile(entry("a/one"), io.BytesIO())
    squeezed = zlib.compressobj(wbits=31)
    data = squeezed.compress(plain.getvalue()[: 512 if not first else 0] + name.tobuf(tarfile.GNU_FORMAT))
    for _ in range(64):
        data += squeezed.compress(bytes(1 << 20))
    path = tmp_path / "a.tar.gz"
    path.write_bytes(data + squeezed.flush())
    tracemalloc.start()
    with pytest.raises(Fault, match=r"a\.tar\.gz is damaged or not a tar archive .*a name in it has 536,870,912 bytes"):
        read(path)
    assert tracemalloc.get_traced_memory()[1] < 50 << 20
    tracemalloc.stop()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no archive",
        b"\x1f\x8b\x08\x00" + bytes(6) + b"\x03",
        b"BZh9" + bytes(20),
        b"\xfd7zXZ\x00" + bytes(20),
        entry("x", tarfile.XHDTYPE).tobuf(),
        bytes(100) + b"\x80" + bytes(411),
    ],
)
def test_whatever_a_damaged_archive_raises_is_one_fault(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a\nb.tar"
    path.write_bytes(data)
    with pytest.raises(Fault, match=r"is damaged or not a tar archive .*; fetch it again") as caught:
        read(path)
    assert "\n" not in str(caught.value)


def test_every_cut_and_changed_byte_is_survived(tmp_path: Path) -> None:
    members = [(entry("a/" + "long" * 40), b"1" * 20), (entry("b"), b"2")]
    whole = write(tmp_path / "whole.tar", *members, mode="w").read_bytes()
    path = tmp_path / "other.tar"
    for place in range(0, 3 * 512, 7):
        for value in (0, 0x39, 0xFF):
            path.write_bytes(whole[:place] + struct.pack("B", value) + whole[place + 1 :])
            try:
                read(path)
            except Fault as fault:
                assert "damaged" in str(fault)  # noqa: PT017


def test_members_are_forgotten_after_use(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tar", *((entry(f"{number}"), b"") for number in range(50)))
    with path.open("rb") as file, open_stream(file) as tar:
        assert len([member.name for member in iterate_members(tar)]) == 50
        assert len(tar.members) <= 1  # type: ignore[attr-defined]


def test_a_folder_gives_plain_files_of_fitting_size(tmp_path: Path) -> None:
    refused: list[str] = []
    (tmp_path / "a").write_bytes(b"12345")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    os.mkfifo(tmp_path / "pipe")
    for name, expected in [("a", b"12345"), ("none", None), ("a/none", None), ("link", None), ("pipe", None)]:
        assert read_plain_file(tmp_path / name, largest=5, refuse=refused.append) == expected
    assert read_plain_file(tmp_path / "a", largest=4, refuse=refused.append) is None
    assert [line.removeprefix(f"{tmp_path}/") for line in refused] == [
        "link is a link, where the file itself must be",
        "pipe is a pipe or a device, where a file must be",
        "a has 5 bytes; at most 4 are read",
    ]


def test_a_source_is_a_folder(tmp_path: Path) -> None:
    check_source(tmp_path, expected="pictures")
    with pytest.raises(BadInput, match=r"there is no folder .*none: give the one with pictures"):
        check_source(tmp_path / "none", expected="pictures")
    (tmp_path / "a.tar").touch()
    with pytest.raises(BadInput, match=r"a\.tar is a file: give the folder it lies in, "):
        check_source(tmp_path / "a.tar", expected="pictures")
