"""A real Chromium without a window, and pages to look at; `make browser-test` runs what uses them."""

import functools
import http.server
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from digits_package import write_package
from drawn_board import make_board
from playwright.sync_api import Browser, sync_playwright

from leaderboard.page.page import build_page
from leaderboard.page.templating import POLICY

sys.path.insert(0, str(Path(__file__).parent))

from visits import Visits

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="session")
def chromium() -> str:
    """The system's Chromium; where ``REQUIRE_BROWSER`` is set, as in CI, a missing one is a failure and no skip."""
    found = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if found is None:
        reason = f"needs a browser: none of {', '.join(PROGRAMS)} is there; on Debian, apt-get install chromium"
        if os.environ.get("REQUIRE_BROWSER"):
            pytest.fail(reason)
        pytest.skip(reason)
    return found


@pytest.fixture(scope="session")
def browser(chromium: str) -> Iterator[Browser]:
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=arguments)
        yield browser
        browser.close()


def build_site(folder: Path, *, hostile: bool) -> Path:
    board = make_board(folder / "store", hostile=hostile)
    return build_page(
        folder / "site",
        store=board.store,
        boards=board.boards,
        views=board.views,
        results=board.results,
        findings=board.findings,
    ).path.parent


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_site(tmp_path_factory.mktemp("plain"), hostile=False)


@pytest.fixture(scope="session")
def hostile_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_site(tmp_path_factory.mktemp("hostile"), hostile=True)


@pytest.fixture(scope="session")
def digits_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with real results of the benchmark that docs/adding-a-benchmark.md builds."""
    folder = write_package(tmp_path_factory.mktemp("digits"), board=True)
    common = "--data data --backbone backbone/backbone.safetensors --out runs"
    for command in (
        "digits prepare --out data",
        "digits backbone --data data --out backbone",
        f"digits run {common} --methods piggyback,feature --seeds 0,1 --epochs 1",
        "leaderboard build store --runs runs --out site",
    ):
        subprocess.run(
            [sys.executable, "-m", "piggyback", *command.split()],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            check=True,
        )
    return folder / "site"


@pytest.fixture
def visits(browser: Browser) -> Iterator[Visits]:
    """Fails the test where a page wrote to the console, failed to load something, or opened a dialog."""
    visits = Visits(browser)
    yield visits
    visits.close()
    assert visits.watch.complaints == []


class StrictHandler(http.server.SimpleHTTPRequestHandler):
    """Serves files under the same policy as a header, which holds for all of them, and keeps quiet."""

    def end_headers(self) -> None:
        self.send_header("Content-Security-Policy", f"{POLICY}; frame-ancestors 'none'")
        self.send_header("X-Content-Type-Options", "nosniff")
        super().end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def served(site: Path) -> Iterator[str]:
    """Address of the plain site on a server of this machine."""
    handler = functools.partial(StrictHandler, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()
