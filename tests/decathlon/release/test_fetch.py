import json
import socket
from pathlib import Path

import pytest

import piggyback.data.download
from decathlon.release.archives import ARCHIVES
from decathlon.release.fetch import run
from piggyback.shell.errors import UnknownName
from piggyback.suite.options import FetchOptions


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of a server that is gone."""
    monkeypatch.setattr(piggyback.data.download, "PAUSE", 0.0)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return f"http://127.0.0.1:{taken.getsockname()[1]}"


def test_what_needs_a_login_is_explained_and_not_tried(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(FetchOptions(out=tmp_path, archives=("imagenet",), json=True)) == 1
    found = json.loads(capsys.readouterr().out)["archives"]["decathlon-1.0-data-imagenet.tar"]
    assert found["state"] == "by hand"
    assert "logging in at https://image-net.org" in found["message"]
    assert f"put it at {tmp_path / 'decathlon-1.0-data-imagenet.tar'} (6,535,075,840 bytes, sha256" in found["message"]


def test_all_three_are_tried_though_their_server_is_gone(
    tmp_path: Path, nowhere: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(FetchOptions(out=tmp_path, url=nowhere, json=True)) == 1
    found = json.loads(capsys.readouterr().out)["archives"]
    assert list(found) == [archive.name for archive in ARCHIVES.values()]
    assert len(found) == 3
    assert {one["state"] for one in found.values()} == {"failed"}


def test_a_name_that_is_not_known_is_said(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="devkit"):
        run(FetchOptions(out=tmp_path, archives=("devkt",)))


def test_every_digest_is_one() -> None:
    assert {(archive.algorithm, len(bytes.fromhex(archive.digest))) for archive in ARCHIVES.values()} == {
        ("sha256", 32)
    }
