import hashlib
import http.server
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import decathlon.fetch
from decathlon.archives import ARCHIVES, Archive, find_archive
from decathlon.fetch import download, fetch, fetch_archive
from piggyback.errors import BadInput, UnknownName

DATA = np.random.default_rng(0).bytes(300_000)


class Server:
    """Serves `data`; breaks off after `break_after` bytes of an answer, `breaks` times."""

    def __init__(self) -> None:
        self.data, self.ranges, self.breaks, self.break_after = DATA, True, 0, 100_000
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
        request.send_response(206 if start else 200)
        if start:
            request.send_header("Content-Range", f"bytes {start}-{len(self.data) - 1}/{len(self.data)}")
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        if self.breaks:
            self.breaks -= 1
            body = body[: self.break_after]
        request.wfile.write(body)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(decathlon.fetch, "PAUSE", 0.0)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    made = Server()
    thread = threading.Thread(target=made.http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.http.shutdown()
    made.http.server_close()
    thread.join()


def get(server: Server, folder: Path, **changes: Any) -> Path:
    path = folder / "x.tar"
    wanted = {"size": len(DATA), "sha256": hashlib.sha256(DATA).hexdigest(), **changes}
    download(server.url, path, progress=lambda _: None, **wanted)
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


def test_a_wrong_digest_deletes_the_download(server: Server, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="the download was deleted"):
        get(server, tmp_path, sha256="0" * 64)
    assert list(tmp_path.iterdir()) == []


def test_a_part_of_another_file_is_found_by_its_digest(server: Server, tmp_path: Path) -> None:
    (tmp_path / "x.tar.part").write_bytes(b"x" * 1000)
    with pytest.raises(BadInput, match="the download was deleted"):
        get(server, tmp_path)
    assert get(server, tmp_path).read_bytes() == DATA


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


def test_a_redirect_to_a_local_file_is_not_followed(server: Server, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(DATA)
    server.status, server.location = 302, f"file://{tmp_path}/secret"
    with pytest.raises(BadInput, match="302"):
        get(server, tmp_path)
    assert not (tmp_path / "x.tar").exists()


def test_a_server_that_is_gone_is_said_with_what_to_do_by_hand(server: Server, tmp_path: Path) -> None:
    archive = find_archive("devkit")
    server.http.server_close()
    found = fetch_archive(archive, tmp_path, url=server.url.rsplit("/", 1)[0])
    assert found.state == "failed"
    assert "refused" in found.message
    assert f"put it at {tmp_path / archive.name}" in found.message


def test_fetching_twice_only_checks_and_a_strange_file_is_left_alone(server: Server, tmp_path: Path) -> None:
    facts = {"size": len(DATA), "sha256": hashlib.sha256(DATA).hexdigest(), "holds": "x", "short": "x"}
    archive = Archive(name="x.tar", folder=server.url.removesuffix("x.tar"), **facts)  # type: ignore[arg-type]
    assert fetch_archive(archive, tmp_path).state == "fetched"
    assert fetch_archive(archive, tmp_path).state == "was there"
    assert len(server.asked) == 1
    (tmp_path / "x.tar").write_bytes(b"mine" + DATA[4:])
    found = fetch_archive(archive, tmp_path)
    assert found.state == "failed"
    assert "another sha256" in found.message
    assert (tmp_path / "x.tar").read_bytes().startswith(b"mine")


def test_what_needs_a_login_is_explained_and_not_tried(tmp_path: Path) -> None:
    (found,) = fetch(tmp_path, archives=["imagenet"])
    assert found.state == "by hand"
    assert "logging in at https://image-net.org" in found.message
    assert str(tmp_path / "decathlon-1.0-data-imagenet.tar") in found.message


def test_names_and_addresses_are_checked(tmp_path: Path) -> None:
    assert find_archive("decathlon-1.0-data.tar.gz") is ARCHIVES["data"]
    with pytest.raises(UnknownName, match="devkit"):
        fetch(tmp_path, archives=["devkt"])
    with pytest.raises(BadInput, match="no address of http"):
        fetch(tmp_path, url="file:///etc")
