import dataclasses
import functools
import hashlib
import http.server
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import piggyback.data.download
import segmentation.release.fetch
from piggyback.data.download import Archive
from piggyback.shell.errors import UnknownName
from piggyback.suite.options import FetchOptions
from segmentation.release.archives import ARCHIVES, DEFAULT
from segmentation.release.fetch import run


class Mirror:
    """Serves files of one folder, keeps the paths asked for, and what stood on the screen when asked first."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.archives, self.asked = folder, dict[str, Archive](), list[str]()
        self.out_before = self.err_before = ""
        outer = self

        class Handler(http.server.SimpleHTTPRequestHandler):
            def do_GET(self) -> None:
                if not outer.asked:
                    outer.out_before, outer.err_before = capsys.readouterr()
                outer.asked.append(self.path)
                super().do_GET()

            def log_message(self, *_: Any) -> None:
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=folder))
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Mirror]:
    """Has a few bytes under each archive's name, with sizes and digests to match."""
    monkeypatch.setattr(piggyback.data.download, "PAUSE", 0.0)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "mirror"
    folder.mkdir()
    made = Mirror(folder, capsys)
    for short, archive in ARCHIVES.items():
        data = f"the bytes of {short}".encode()
        (folder / archive.name).write_bytes(data)
        size = None if archive.size is None else len(data)
        made.archives[short] = dataclasses.replace(archive, size=size, digest=hashlib.md5(data).hexdigest())
    monkeypatch.setattr(segmentation.release.fetch, "ARCHIVES", made.archives)
    thread = threading.Thread(target=made.http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.http.shutdown()
    made.http.server_close()
    thread.join()


def test_what_to_do_by_hand_is_said_before_anything_is_asked_for(mirror: Mirror, tmp_path: Path) -> None:
    folder = tmp_path / "[archives] of mine"
    assert run(FetchOptions(out=folder, url=mirror.url)) == 0
    assert mirror.asked == ["/VOCtrainval_11-May-2012.tar", "/benchmark.tgz"]
    for short in DEFAULT:
        archive = mirror.archives[short]
        assert str(folder / archive.name) in mirror.out_before
        assert f"{archive.size:,} bytes, md5 {archive.digest}" in mirror.out_before
        assert archive.folder + archive.name in mirror.out_before
    assert "VOCdevkit/ or benchmark_RELEASE/" in mirror.out_before
    assert "VOC2011" not in mirror.out_before
    assert (folder / "benchmark.tgz").read_bytes() == b"the bytes of sbd"


def test_with_json_the_words_go_to_standard_error(
    mirror: Mirror, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "benchmark.tgz").write_bytes(b"the bytes of sbd")
    (mirror.folder / "VOCtrainval_25-May-2011.tar").write_bytes(b"the bytes of something else")
    names = ("sbd", "voc2011", "sbd-train-noval")
    assert run(FetchOptions(out=tmp_path, archives=names, url=mirror.url, json=True)) == 1
    said = capsys.readouterr()
    assert mirror.out_before == ""
    assert "VOCtrainval_25-May-2011.tar\n" in mirror.err_before
    assert "unknown bytes, md5" in mirror.err_before
    states = {name: one["state"] for name, one in json.loads(said.out)["archives"].items()}
    assert states == {
        "benchmark.tgz": "was there",
        "VOCtrainval_25-May-2011.tar": "failed",
        "train_noval.txt": "fetched",
    }


def test_a_name_that_is_not_known_is_said_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UnknownName, match="Did you mean 'voc2012'"):
        run(FetchOptions(out=tmp_path, archives=("voc2021",)))
    assert capsys.readouterr().out == ""


def test_the_published_list_is_the_one_described(shared_data: Path) -> None:
    data = (shared_data / "lists" / "sbd_train_noval.txt").read_bytes()
    archive = ARCHIVES["sbd-train-noval"]
    assert (archive.size, archive.digest) == (len(data), hashlib.md5(data).hexdigest())


def test_the_table_is_light_and_every_digest_is_one() -> None:
    assert {(archive.algorithm, len(bytes.fromhex(archive.digest))) for archive in ARCHIVES.values()} == {("md5", 16)}
    heavy = "{'torch', 'numpy', 'scipy', 'PIL', 'pydantic'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", f"import sys, segmentation.release.fetch; assert not {heavy}"], check=True)
