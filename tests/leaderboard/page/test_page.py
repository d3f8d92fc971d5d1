"""The page, without a browser: what stands in its files.  In a browser: tests/leaderboard/browser."""

import errno
import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from drawn_board import HOSTILE, DrawnStore, make_board
from third_results import make_digits

from leaderboard.page import evidence, page
from leaderboard.page.evidence import TITLES
from leaderboard.page.links import safe_link
from leaderboard.page.page import Built, build_page
from leaderboard.page.templating import POLICY, visible
from leaderboard.store.staging import SITE_MARKER
from leaderboard.verbs.building import run_build
from leaderboard.verbs.options import BuildOptions
from piggyback.shell.errors import ResultError

VOID = {"meta", "link", "img", "input", "br"}


class Page(HTMLParser):
    """What a browser would find: elements with their attributes, texts, and cells of tables."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        assert self.open == [], f"{path} leaves {self.open} open"

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attributes}) == len(attributes)
        self.elements.append((tag, {name: value or "" for name, value in attributes}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attributes}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def all(self, *tags: str) -> list[dict[str, str]]:
        return [attributes for tag, attributes in self.elements if tag in tags]


def build(board: DrawnStore, out: Path) -> Built:
    return build_page(
        out,
        store=board.store,
        boards=board.boards,
        views=board.views,
        results=board.results,
        findings=board.findings,
        left_out=2,
    )


def read_pages(site: Path) -> list[Page]:
    return [Page(path) for path in sorted(site.rglob("*.html"))]


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> DrawnStore:
    return make_board(tmp_path_factory.mktemp("plain") / "store")


@pytest.fixture(scope="module")
def site(board: DrawnStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(board, tmp_path_factory.mktemp("plain") / "site").path.parent


@pytest.fixture(scope="module")
def hostile_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    return build(make_board(folder / "store", hostile=True), folder / "site").path.parent


@pytest.fixture(scope="module")
def unknown_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of benchmarks without a board, two of them with names that the page itself uses."""
    folder = tmp_path_factory.mktemp("unknown")
    for name in ("compare", "points", "tones"):
        make_digits(folder / "runs" / name, benchmark=name, official=False)
    options = BuildOptions(store=folder / "store", runs=(folder / "runs",), out=folder / "site")
    assert run_build(options) == 0
    return folder / "site"


@pytest.fixture
def no_charts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The large pictures take most of a small build's time."""
    monkeypatch.setattr(page, "_write_charts", lambda *_, **__: [])


def test_strange_texts_stay_texts(hostile_site: Path) -> None:
    """Elements and attributes of the hostile site are of the kinds that the plain templates write."""
    known = {"a", "article", "body", "br", "button", "caption", "circle", "cite", "code", "dd", "details", "div", "dl"}
    known |= {
        "dt",
        "figcaption",
        "figure",
        "footer",
        "h1",
        "h2",
        "h3",
        "head",
        "header",
        "html",
        "img",
        "input",
        "label",
    }
    known |= {
        "li",
        "line",
        "link",
        "main",
        "meta",
        "nav",
        "ol",
        "option",
        "p",
        "path",
        "polyline",
        "pre",
        "rect",
        "script",
    }
    known |= {"section", "select", "small", "span", "strong", "summary", "sup", "svg", "table", "tbody", "td", "text"}
    known |= {"th", "thead", "title", "tr", "ul"}
    for one in read_pages(hostile_site):
        assert {tag for tag, _ in one.elements} <= known
        for tag, attributes in one.elements:
            assert not [name for name in attributes if name.startswith("on") or name == "style"], (tag, attributes)
        assert [attributes.keys() for attributes in one.all("script")] == [{"src"}]
        assert one.all("title")[0] == {}


def test_strange_texts_are_shown(hostile_site: Path) -> None:
    index = " ".join(Page(hostile_site / "index.html").texts)
    for text in HOSTILE:
        assert visible(text) in index
    assert "\x00" not in index
    assert "\u202e" not in index
    logs = [path for path in hostile_site.rglob("runs/**/index.html") if "<plaintext>" in " ".join(Page(path).texts)]
    assert len(logs) == len(list(hostile_site.rglob("runs/**/index.html")))


@pytest.mark.parametrize("kind", ["site", "hostile_site", "unknown_site"])
def test_links_lead_somewhere_and_nothing_is_loaded_from_elsewhere(kind: str, request: pytest.FixtureRequest) -> None:
    """Pictures, scripts and styles lie in the site; other hosts are only cited; no link is dead."""
    where: Path = request.getfixturevalue(kind)
    pages = {one.path.resolve(): one for one in read_pages(where)}
    ids = {path: {attributes.get("id") for _, attributes in one.elements} for path, one in pages.items()}
    for one in pages.values():
        for tag, attributes in one.elements:
            address = attributes.get("src", attributes.get("href"))
            if address is None:
                continue
            if re.match(r"https?://", address):
                assert tag == "a"
                assert attributes["rel"] == "noopener noreferrer nofollow"
                continue
            name, _, place = address.partition("#")
            assert re.fullmatch(r"[A-Za-z0-9._/-]*", name), address
            target = (one.path.parent / name).resolve() if name else one.path.resolve()
            assert target.is_file(), (one.path, address)
            assert where.resolve() in target.parents
            if place:
                assert place in ids[target], address


def test_the_policy_comes_first_and_is_strict(site: Path) -> None:
    for one in read_pages(site):
        charset, policy, *_ = one.all("meta")
        assert charset == {"charset": "utf-8"}
        assert policy == {"http-equiv": "Content-Security-Policy", "content": POLICY}
    assert "default-src 'none'" in POLICY
    assert "unsafe" not in POLICY
    assert "http:" not in POLICY


@pytest.mark.parametrize("kind", ["site", "unknown_site"])
def test_pages_can_be_read_without_seeing(kind: str, request: pytest.FixtureRequest) -> None:
    """Language, landmarks, captions, scopes, texts for pictures, ids that stand once."""
    for one in read_pages(request.getfixturevalue(kind)):
        assert one.all("html") == [{"lang": "en"}]
        assert len(one.all("main")) == len(one.all("h1")) == len(one.all("header")) == 1
        assert one.all("a")[0] == {"class": "skip", "href": "#content"}
        assert len(one.all("caption")) == len(one.all("table"))
        assert all(attributes.get("scope") in ("row", "col") for attributes in one.all("th"))
        assert all(attributes.get("alt") for attributes in one.all("img"))
        ids = [attributes["id"] for _, attributes in one.elements if "id" in attributes]
        assert len(ids) == len(set(ids))


def test_every_number_leads_to_its_evidence(site: Path, board: DrawnStore) -> None:
    text = (site / "index.html").read_text(encoding="utf-8")
    cells = re.findall(r'<td class="(?:percent|points|ratio)[^"]*" data-value="[^"]+"[^>]*>(.*?)</td>', text)
    assert len(cells) > 300
    assert [cell for cell in cells if "<a href=" not in cell] == []
    theirs = re.findall(r'<table class="view reproduced".*?</table>', text, re.DOTALL)[0].count('<a href="#source-')
    assert theirs == len(board.views[3].rows) > 0
    several = re.findall(r'data-value="[^"]+"[^>]*><a href="(entries/[0-9a-f]{16}\.html)#task-svhn">', text)
    assert len(set(several)) == 1
    entry = Page(site / several[0])
    assert [a for a in entry.all("a") if a["href"].startswith("../runs/decathlon/svhn/piggyback/seed2-")]
    assert re.search(r'<a href="runs/decathlon/svhn/feature/seed0-0123456789ab-01234567/index.html">', text)


def test_what_was_left_out_is_counted(site: Path) -> None:
    index = " ".join(" ".join(Page(site / "index.html").texts).split())
    assert "Left out: 2" in index
    assert "2 results are not shown." in index
    assert re.search(r"not-json 2", index)


def test_a_run_has_its_evidence_beside_it(site: Path, board: DrawnStore) -> None:
    folder = site / "runs/segmentation/pascal-voc/piggyback/seed1-0123456789ab-01234567"
    names = {path.name for path in folder.iterdir()}
    assert names == {"index.html", *TITLES} - {"predictions.npz"}
    original = board.store / "segmentation/pascal-voc/piggyback/seed1-0123456789ab-01234567/sheet.png"
    assert os.path.samefile(folder / "sheet.png", original)
    text = " ".join(" ".join(Page(folder / "index.html").texts).split())
    for said in ("61.00 % mean IoU", "Training loss", "From 2.0 % in block1", "tvmonitor", "Overlay sheet", "epoch 2"):
        assert said in text


@pytest.mark.usefixtures("no_charts")
def test_only_known_ordinary_files_come_along(tmp_path: Path) -> None:
    board = make_board(tmp_path / "store")
    folder = board.results[0].folder
    (folder / "evil.html").write_text("<script>alert(1)</script>")
    (folder / "log.txt").unlink()
    (folder / "log.txt").symlink_to("/etc/hostname")
    (folder / "metrics.jsonl").write_text("<html>")
    built = build(board, tmp_path / "site")
    there = built.path.parent / "runs" / board.results[0].place
    assert {path.name for path in there.iterdir()} == {"index.html", "metrics.jsonl", "recipe.json", "result.json",
                                                       "sparsity.json"}  # fmt: skip
    assert "metrics.jsonl is not drawn" in (there / "index.html").read_text(encoding="utf-8")


@pytest.mark.usefixtures("no_charts")
def test_where_files_cannot_be_linked_small_ones_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EXDEV, "another disk")

    board = make_board(tmp_path / "store")
    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(evidence, "COPY_LIMIT", 1000)
    built = build(board, tmp_path / "site")
    there = built.path.parent / "runs" / board.results[0].place
    assert (there / "log.txt").read_bytes() == (board.results[0].folder / "log.txt").read_bytes()
    assert not (there / "sparsity.json").exists()
    assert "too large to come along" in (there / "index.html").read_text(encoding="utf-8")


def test_the_same_store_gives_the_same_bytes(board: DrawnStore, site: Path, tmp_path: Path) -> None:
    again = build(board, tmp_path / "again").path.parent
    files = sorted(path.relative_to(site) for path in site.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(again) for path in again.rglob("*") if path.is_file())
    assert [name for name in files if (site / name).read_bytes() != (again / name).read_bytes()] == []


@pytest.mark.usefixtures("no_charts")
def test_only_a_site_of_ours_is_replaced(board: DrawnStore, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("years of work")
    with pytest.raises(ResultError, match=f"no {SITE_MARKER}"):
        build(board, foreign)
    assert (foreign / "thesis.tex").read_text() == "years of work"
    link = tmp_path / "link"
    link.symlink_to(foreign)
    for out, said in (
        (link, "is a link"),
        (board.store / "site", "in each other"),
        (board.store.parent, "holds files"),
    ):
        with pytest.raises(ResultError, match=said):
            build(board, out)
    built = build(board, tmp_path / "site")
    (built.path.parent / "old.txt").write_text("of an older build")
    build(board, tmp_path / "site")
    assert not (built.path.parent / "old.txt").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["foreign", "link", "site"]


def test_a_build_that_fails_leaves_the_older_site(
    board: DrawnStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = build(board, tmp_path / "site").path
    before = site.read_bytes()

    def fail(*_: Any, **__: Any) -> None:
        assert site.read_bytes() == before  # nothing is taken away while the new one is made
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(page, "_write_charts", fail)
    with pytest.raises(OSError, match="no space"):
        build(board, tmp_path / "site")
    assert site.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["site"]


def test_the_verb_builds_a_page_of_an_empty_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "store").mkdir()
    assert run_build(BuildOptions(store=tmp_path / "store", out=tmp_path / "site", json=True)) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["results"] == 0
    assert told["left_out"] == {}
    assert told["rows"] > 20
    assert "Piggyback" in Path(told["index"]).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("link", "kept"),
    [
        ("https://arxiv.org/abs/1801.06519", True),
        ("http://example.org/a?b=c#d", True),
        ("javascript:alert(1)", False),
        ("JaVaScRiPt:alert(1)", False),
        ("java\tscript:alert(1)", False),
        (" https://example.org", False),
        ("https://example.org/\u2028x", False),
        ("data:text/html,x", False),
        ("file:///etc/passwd", False),
        ("//example.org", False),
        ("https:example.org", False),
        ("https://trusted.org@example.org/", False),
        ("https://example.org\\@trusted.org", False),
        ("https://[", False),
        ("", False),
    ],
)
def test_only_plain_links_to_the_web_are_links(link: str, kept: bool) -> None:
    assert safe_link(link) == (link if kept else "")
