import errno
import hashlib
import http.client
import http.server
import json
import re
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import piggyback.data.download
from piggyback.data.download import (
    Algorithm,
    Archive,
    download,
    fetch,
    fetch_and_report,
    fetch_archive,
    find_archive,
)
from piggyback.shell.errors import BadInput, UnknownName

DATA = np.random.default_rng(0).bytes(300_000)


class Server:
    """Serves `data`; breaks off after `break_after` bytes of an answer, `breaks` times."""

    def __init__(self) -> None:
        self.data, self.ranges, self.breaks, self.break_after = DATA, True, 0, 100_000
        self.lengths = True
        self.status: int | None = None
        self.location = ""
        self.asked: list[str | None] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.answer(self)

            def log_message(self, *_: Any) -> None:
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/x.tar"

    def answer(self, request: http.server.BaseHTTPRequestHandler) -> None:
        wanted = request.headers.get("Range")
        self.asked.append(wanted)
        if self.status is not None:
            request.send_response(self.status)
            if self.location:
                request.send_header("Location", self.location)
            request.end_headers()
            return
        start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and self.ranges else 0  # type: ignore[index]
        body = self.data[start:]
        if wanted and self.ranges and not body:
            request.send_error(416)
            return
        request.send_response(206 if start else 200)
        if start:
            request.send_header("Content-Range", f"bytes {start}-{len(self.data) - 1}/{len(self.data)}")
        if self.lengths:
            request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        if self.breaks:
            self.breaks -= 1
            body = body[: self.break_after]
        request.wfile.write(body)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(piggyback.data.download, "PAUSE", 0.0)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    made = Server()
    thread = threading.Thread(target=made.http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.http.shutdown()
    made.http.server_close()
    thread.join()


def archive_of(server: Server, *, algorithm: Algorithm = "sha256", **changes: Any) -> Archive:
    digest = hashlib.new(algorithm, DATA).hexdigest()
    facts: dict[str, Any] = {"name": "x.tar", "short": "x", "size": len(DATA), "digest": digest, "holds": "noise"}
    return Archive(folder=server.url.removesuffix("x.tar"), algorithm=algorithm, **{**facts, **changes})


def get(server: Server, folder: Path, **changes: Any) -> Path:
    path = folder / "x.tar"
    download(archive_of(server, **changes), path=path, address=server.url, progress=lambda *_: None)
    return path


def test_a_broken_transfer_is_continued_where_it_broke(server: Server, tmp_path: Path) -> None:
    server.breaks = 2
    assert get(server, tmp_path).read_bytes() == DATA
    assert server.asked == [None, "bytes=100000-", "bytes=200000-"]
    assert not (tmp_path / "x.tar.part").exists()


def test_a_later_call_continues_what_an_earlier_one_left(server: Server, tmp_path: Path) -> None:
    server.breaks, server.break_after = 99, 0
    (tmp_path / "x.tar.part").write_bytes(DATA[:1234])
    with pytest.raises(BadInput, match=r"closed after 1,234 of 300,000 .* the same command continues"):
        get(server, tmp_path)
    assert len(server.asked) == 4
    server.breaks = 0
    assert get(server, tmp_path).read_bytes() == DATA
    assert server.asked[-1] == "bytes=1234-"


def test_a_server_without_ranges_sends_all_again(server: Server, tmp_path: Path) -> None:
    server.breaks, server.ranges = 1, False
    assert get(server, tmp_path).read_bytes() == DATA
    assert server.asked == [None, "bytes=100000-"]


@pytest.mark.parametrize("algorithm", ["sha256", "md5"])
def test_a_wrong_digest_deletes_the_download(server: Server, tmp_path: Path, algorithm: Algorithm) -> None:
    with pytest.raises(BadInput, match=f"{algorithm} .* the download was deleted"):
        get(server, tmp_path, algorithm=algorithm, digest="0" * 32)
    assert list(tmp_path.iterdir()) == []
    assert get(server, tmp_path, algorithm=algorithm).read_bytes() == DATA


def test_a_part_of_another_file_is_found_by_its_digest(server: Server, tmp_path: Path) -> None:
    (tmp_path / "x.tar.part").write_bytes(b"x" * 1000)
    with pytest.raises(BadInput, match="the download was deleted"):
        get(server, tmp_path)
    assert get(server, tmp_path).read_bytes() == DATA


def test_nothing_is_written_through_a_link(server: Server, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_bytes(b"precious")
    (tmp_path / "x.tar.part").symlink_to(precious)
    assert get(server, tmp_path).read_bytes() == DATA
    assert precious.read_bytes() == b"precious"


@pytest.mark.parametrize("size", [len(DATA), None])
def test_a_part_that_is_whole_needs_no_server_and_one_too_long_starts_over(
    server: Server, tmp_path: Path, size: int | None
) -> None:
    part = tmp_path / "x.tar.part"
    part.write_bytes(DATA)
    assert get(server, tmp_path, size=size).read_bytes() == DATA
    assert server.asked == []
    part.write_bytes(DATA + b"more")
    assert get(server, tmp_path, size=size).read_bytes() == DATA
    assert server.asked == ([None] if size else ["bytes=300004-", None])


def test_without_a_size_the_server_says_how_much_and_the_digest_decides(server: Server, tmp_path: Path) -> None:
    server.breaks = 1
    assert get(server, tmp_path, size=None, algorithm="md5").read_bytes() == DATA
    assert server.asked == [None, "bytes=100000-"]
    server.lengths, server.data = False, DATA[:-1]
    with pytest.raises(BadInput, match="the download was deleted"):
        get(server, tmp_path, size=None)
    server.data = DATA
    assert get(server, tmp_path, size=None).read_bytes() == DATA


def test_another_size_and_answers_of_refusal_are_said(server: Server, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="300,000 bytes, expected 299,999"):
        get(server, tmp_path, size=299_999)
    server.status = 404
    with pytest.raises(BadInput, match="404"):
        get(server, tmp_path)
    assert len(server.asked) == 2  # nothing that lasts is tried again
    server.status = 503
    with pytest.raises(BadInput, match="503"):
        get(server, tmp_path)
    assert len(server.asked) == 6


def test_a_fault_of_the_network_is_tried_again_and_one_of_the_disk_is_not(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in ("begin", "read1"):
        faults = [OSError(errno.EHOSTUNREACH, "No route to host")] if step == "read1" else []
        faults.append(ssl.SSLError("record layer failure"))
        whole = getattr(http.client.HTTPResponse, step)

        def step_or_fail(*given: Any, faults: list[OSError] = faults, whole: Any = whole) -> Any:
            if faults:
                raise faults.pop()
            return whole(*given)

        monkeypatch.setattr(http.client.HTTPResponse, step, step_or_fail)
    assert get(server, tmp_path).read_bytes() == DATA
    assert len(server.asked) == 4
    (tmp_path / "x.tar").unlink()
    (tmp_path / "x.tar.part").mkdir()
    found = fetch_archive(archive_of(server), folder=tmp_path)
    assert found.state == "failed"
    assert f"cannot read or write {tmp_path / 'x.tar.part'}" in found.message


def test_a_redirect_to_a_local_file_is_not_followed(server: Server, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(DATA)
    server.status, server.location = 302, f"file://{tmp_path}/secret"
    with pytest.raises(BadInput, match="302"):
        get(server, tmp_path)
    assert not (tmp_path / "x.tar").exists()


@pytest.mark.parametrize(("size", "said"), [(len(DATA), "300,000 bytes, md5"), (None, "unknown bytes, md5")])
def test_a_server_that_is_gone_is_said_with_what_to_do_by_hand(
    server: Server, tmp_path: Path, size: int | None, said: str
) -> None:
    server.http.server_close()
    found = fetch_archive(archive_of(server, algorithm="md5", size=size), folder=tmp_path)
    assert found.state == "failed"
    assert "refused" in found.message
    assert f"download {server.url}, put it at {tmp_path / 'x.tar'} ({said} " in found.message


@pytest.mark.parametrize("size", [len(DATA), None])
def test_fetching_twice_only_checks_and_a_strange_file_is_left_alone(
    server: Server, tmp_path: Path, size: int | None
) -> None:
    archive = archive_of(server, size=size)
    assert fetch_archive(archive, folder=tmp_path).state == "fetched"
    assert fetch_archive(archive, folder=tmp_path).state == "was there"
    assert len(server.asked) == 1
    (tmp_path / "x.tar").write_bytes(b"mine" + DATA[4:])
    found = fetch_archive(archive, folder=tmp_path)
    assert found.state == "failed"
    assert "another sha256" in found.message
    assert (tmp_path / "x.tar").read_bytes().startswith(b"mine")
    (tmp_path / "x.tar").write_bytes(b"mine")
    assert ("has 4 bytes, not 300,000" if size else "another sha256") in fetch_archive(archive, folder=tmp_path).message
    (tmp_path / "x.tar").unlink()
    (tmp_path / "x.tar").mkdir()
    assert "is not a file" in fetch_archive(archive, folder=tmp_path).message


def test_names_and_addresses_are_checked(tmp_path: Path) -> None:
    archive = Archive(name="data-1.tar", short="data", folder="http://127.0.0.1/", digest="", holds="")
    archives = {"data": archive}
    assert find_archive("data", archives=archives) is find_archive("data-1.tar", archives=archives) is archive
    with pytest.raises(UnknownName, match="Did you mean 'data'"):
        fetch(tmp_path, archives=archives, names=["dta"])
    for url in ("file:///etc", "http://", "http://a b/", "http://spiegel/Übung", "ftp://a/", "http://a/\n"):
        with pytest.raises(BadInput, match="not an http or https address"):
            fetch(tmp_path, archives=archives, url=url)
    assert len(fetch(tmp_path, archives=archives, names=["data", "data-1.tar"], url="http://[")) == 1
    for url in ("http://[", "http://a:b", f"http://{'a' * 70}.example"):
        (found,) = fetch(tmp_path, archives=archives, url=url)
        assert f"cannot download {url}/data-1.tar: " in found.message
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match="cannot make"):
        fetch(tmp_path / "file" / "folder", archives=archives)


def test_the_report_goes_to_standard_output_and_the_exit_code_says_what_is_missing(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archives = {
        "x": archive_of(server),
        "login": archive_of(server, name="login.tar", short="login", page="https://example.org/login"),
    }
    assert fetch_and_report(tmp_path, archives=archives, json=False) == 0  # what needs a login was not asked for
    said = capsys.readouterr().out
    assert "fetched" in said
    assert "logging in at https://example.org/login" in said
    assert len(server.asked) == 1
    assert fetch_and_report(tmp_path, archives=archives, names=["login", "x", "x.tar"], json=True) == 1
    found = json.loads(capsys.readouterr().out)["archives"]
    assert [(name, one["state"]) for name, one in found.items()] == [("login.tar", "by hand"), ("x.tar", "was there")]
    assert found["x.tar"]["path"] == str(tmp_path / "x.tar")
    assert fetch_and_report(tmp_path, archives=archives, names=["login"], url=server.url[:-5], json=True) == 0
    server.status = 404
    (tmp_path / "x.tar").unlink()
    assert fetch_and_report(tmp_path, archives=archives, json=False) == 1
