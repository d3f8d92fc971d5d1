"""The page in a real Chromium: what a reader does, what a stranger tries, and what axe-core finds."""

from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from drawn_board import HOSTILE
from playwright.sync_api import Page, expect
from visits import Visits

pytestmark = pytest.mark.browser

SEGMENTATION = "runs/segmentation/pascal-voc/piggyback/seed1-0123456789ab-01234567/index.html"
NONE = "\N{EN DASH}"
AXE_OPTIONS = {"resultTypes": ["violations"], "preload": False}


def kinds(site: Path) -> dict[str, Path]:
    """One page of each kind."""
    entry = min((site / "entries").iterdir())
    return {"index": site / "index.html", "run": site / SEGMENTATION, "entry": entry}


def column(page: Page, table: str, title: str) -> list[str]:
    """Texts of a column's cells, in the order shown, hidden rows left out."""
    script = """([table, title]) => {
      const found = document.querySelector(`table.${table}`);
      const place = [...found.tHead.rows[0].cells].findIndex((one) => one.textContent.trim() === title);
      const rows = [...found.tBodies[0].rows].filter((row) => !row.hidden);
      return rows.map((row) => (row.cells[place].querySelector('a') ?? row.cells[place]).textContent.trim());
    }"""
    found: list[str] = page.evaluate(script, [table, title])
    return found


def sort_state(page: Page, table: str) -> list[str]:
    script = "(table) => [...document.querySelectorAll(`table.${table} th[aria-sort]`)].map((one) => one.ariaSort)"
    found: list[str] = page.evaluate(script, table)
    return found


def in_columns(page: Page, table: str, title: str) -> Any:
    return page.locator(f"table.{table} thead").get_by_role("button", name=title, exact=True)


def test_a_header_sorts_down_then_up_and_leaves_the_unknown_last(visits: Visits, site: Path) -> None:
    page = visits.open(site / "index.html")
    before = column(page, "decathlon", "method")
    in_columns(page, "decathlon", "score").click()
    assert sort_state(page, "decathlon") == ["descending"]
    down = [text for text in column(page, "decathlon", "score") if text != NONE]
    numbers = [float(text.replace(",", "")) for text in down]
    assert numbers == sorted(numbers, reverse=True)
    assert column(page, "decathlon", "score")[len(down) :] == [NONE] * (len(before) - len(down))
    assert len(down) < len(before)
    in_columns(page, "decathlon", "score").click()
    assert sort_state(page, "decathlon") == ["ascending"]
    assert column(page, "decathlon", "score") == [*down[::-1], *[NONE] * (len(before) - len(down))]
    in_columns(page, "decathlon", "method").click()
    assert sort_state(page, "decathlon") == ["ascending"]
    names = [name.casefold() for name in column(page, "decathlon", "method")]
    assert names == sorted(name.casefold() for name in before)
    expect(page.get_by_role("status").filter(has_text="sorted by method, ascending")).to_have_count(1)


def test_rows_are_filtered_by_text_method_protocol_and_evidence(visits: Visits, site: Path) -> None:
    page = visits.open(site / "index.html")
    every = column(page, "decathlon", "method")
    page.get_by_label("Search").fill("RESNET-26 parallel")
    assert set(column(page, "decathlon", "method")) == {"URL + parallel RA", "Parallel RA", "Parallel RA, SVD"}
    page.get_by_label("Search").fill("nothing is called so")
    assert column(page, "decathlon", "method") == []
    expect(page.get_by_text("No row matches the filters.").first).to_be_visible()
    expect(page.locator("#filter-status")).to_contain_text("0 of ")
    page.get_by_role("button", name="Reset").click()
    assert column(page, "decathlon", "method") == every
    expect(page.get_by_label("Search")).to_be_focused()
    page.get_by_label("Evidence").select_option("measured")
    assert column(page, "decathlon", "method") == ["piggyback", "feature"]
    page.get_by_label("Method").select_option("feature")
    assert column(page, "decathlon", "method") == ["feature"]
    page.get_by_label("Protocol").select_option("other")
    assert column(page, "decathlon", "method") == []
    page.get_by_role("button", name="Reset").click()
    label = "official data, test, WRN-28-4, 64 px"
    page.get_by_label("Protocol").select_option(label)
    assert column(page, "decathlon", "method") == ["Piggyback"]


def background(page: Page) -> str:
    found: str = page.evaluate("getComputedStyle(document.body).backgroundColor")
    return found


def shown_pictures(page: Page) -> set[str]:
    script = (
        "[...document.querySelectorAll('.wide-figure img')].filter((i) => i.checkVisibility()).map((i) => i.className)"
    )
    return set(page.evaluate(script))


@pytest.mark.parametrize("storage", [True, False])
def test_the_theme_follows_the_system_and_then_the_reader(visits: Visits, site: Path, storage: bool) -> None:
    page = visits.open(site / "index.html", dark=True, storage=storage)
    dark = background(page)
    assert shown_pictures(page) == {"for-dark"}
    page.get_by_role("button", name="Light theme").click()
    light = background(page)
    assert light != dark
    assert shown_pictures(page) == {"for-light"}
    expect(page.get_by_role("button", name="Dark theme")).to_be_visible()
    page.goto((site / SEGMENTATION).as_uri())
    assert background(page) == (light if storage else dark)


def test_everything_can_be_done_with_the_keyboard_alone(visits: Visits, site: Path) -> None:
    page = visits.open(site / "index.html")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    box = page.get_by_role("link", name="Skip to content").bounding_box()
    assert box is not None
    assert box["y"] >= 0
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "content"
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent") == "mean":
            break
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    assert sort_state(page, "decathlon") == ["descending"]
    page.keyboard.press("Space")
    assert sort_state(page, "decathlon") == ["ascending"]
    assert page.evaluate("document.activeElement.textContent") == "mean"  # sorting takes the focus from nobody
    page.get_by_label("Evidence").focus()
    page.keyboard.type("meas")
    assert column(page, "decathlon", "method") == ["feature", "piggyback"]
    page.get_by_role("button", name="Dark theme").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Light theme")).to_be_focused()


def test_a_number_leads_to_its_runs_and_on_to_their_files(visits: Visits, site: Path) -> None:
    page = visits.open(site / "index.html")
    page.locator("table.decathlon tr.measured", has_text="piggyback").get_by_role("link").nth(5).click()
    expect(page.get_by_role("heading", level=1)).to_have_text("piggyback")
    assert "#task-" in page.url
    expect(page.locator("tr:target")).to_have_count(1)
    page.locator("tr:target").get_by_role("link").first.click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("seed 0")
    expect(page.get_by_role("img", name="Training loss")).to_be_visible()
    page.get_by_text("The layers as a table").click()
    expect(page.get_by_role("rowheader", name="block19.conv1.weight")).to_be_visible()
    page.get_by_role("link", name="metrics.jsonl").click()
    assert page.evaluate("document.contentType") == "text/plain"


def test_a_row_note_opens_where_it_stands(visits: Visits, site: Path) -> None:
    page = visits.open(site / "index.html")
    page.locator("table.decathlon").get_by_role("link", name="note 1").first.click()
    expect(page.locator("#decathlon-note-1")).to_be_visible()


@pytest.mark.parametrize("name", ["index", "run", "entry"])
def test_only_files_are_asked_for(visits: Visits, site: Path, name: str) -> None:
    page = visits.open(kinds(site)[name])
    page.evaluate("document.querySelectorAll('img').forEach((one) => { one.loading = 'eager'; })")
    page.wait_for_load_state("networkidle")
    broken = page.evaluate(
        "[...document.images].filter((one) => one.complete && !one.naturalWidth).map((one) => one.src)"
    )
    assert broken == []
    assert len(visits.watch.addresses) >= 3
    assert [address for address in visits.watch.addresses if not address.startswith(site.as_uri())] == []


@pytest.mark.parametrize("name", ["index", "run", "entry"])
def test_a_server_with_a_strict_policy_changes_nothing(visits: Visits, site: Path, served: str, name: str) -> None:
    page = visits.open(f"{served}/{kinds(site)[name].relative_to(site)}")
    page.evaluate("document.querySelectorAll('img').forEach((one) => { one.loading = 'eager'; })")
    page.wait_for_load_state("networkidle")
    assert [address for address in visits.watch.addresses if not address.startswith(served)] == []
    page.get_by_role("button", name="Dark theme").click()
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    assert page.evaluate("[...document.images].every((one) => !one.complete || one.naturalWidth > 0)")


@pytest.mark.parametrize("name", ["index", "run", "entry"])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_phone_scrolls_only_tables_sideways(visits: Visits, site: Path, name: str, dark: bool) -> None:
    page = visits.open(kinds(site)[name], phone=True, dark=dark)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    if name == "index":
        table = page.locator("table.decathlon")
        table.scroll_into_view_if_needed()
        page.evaluate("document.querySelector('.decathlon').closest('.scroll').scrollLeft = 300")
        box = table.get_by_role("rowheader").first.bounding_box()
        assert box is not None
        assert 0 <= box["x"] <= 30


def test_without_scripts_there_are_tables_and_no_dead_controls(visits: Visits, site: Path) -> None:
    page = visits.open(site / "index.html", scripts=False)
    expect(page.get_by_role("table", name="Visual Decathlon: top-1 accuracy (%)")).to_be_visible()
    expect(page.get_by_role("rowheader", name="NetTailor").first).to_be_visible()
    expect(page.get_by_role("button")).to_have_count(0)
    expect(page.get_by_label("Search")).to_be_hidden()


@pytest.mark.parametrize("kind", ["site", "hostile_site"])
@pytest.mark.parametrize("name", ["index", "run", "entry"])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_axe_finds_nothing_serious(
    visits: Visits, request: pytest.FixtureRequest, kind: str, name: str, dark: bool
) -> None:
    page = visits.open(kinds(request.getfixturevalue(kind))[name], dark=dark)
    found = Axe().run(page, options=AXE_OPTIONS).response["violations"]
    told = [(one["id"], one["impact"], [node["html"][:200] for node in one["nodes"][:3]]) for one in found]
    assert [one for one in told if one[1] in ("serious", "critical")] == []


def test_strange_texts_do_nothing(visits: Visits, hostile_site: Path) -> None:
    """No dialog, no console message, no request: `visits` fails the test otherwise; and the texts can be read."""
    page = visits.open(hostile_site / "index.html")
    for text in HOSTILE[:4]:
        expect(page.get_by_text(text).first).to_be_attached()
    expect(page.locator("a[href^='javascript' i]")).to_have_count(0)
    for title in ("method", "score", "#par"):
        in_columns(page, "decathlon", title).click()
    page.get_by_label("Search").fill("<img src=x onerror=alert(1)>")
    assert len(column(page, "decathlon", "method")) >= 1
    page.get_by_label("Method").select_option("'><plaintext>")
    page.get_by_role("button", name="Reset").click()
    runs = sorted(hostile_site.glob("runs/*/*/*/*/index.html"))
    for path in (runs[0], runs[-1], *(one for one in runs if "strange" in str(one))):
        page.goto(path.as_uri())
        expect(page.locator("pre.log")).to_contain_text("<script>alert(1)</script>")
        expect(page.locator("footer")).to_be_visible()
    page.goto((runs[0].parent / "log.txt").as_uri())
    assert page.evaluate("document.contentType") == "text/plain"
    assert [one for one in visits.watch.addresses if not one.startswith(hostile_site.as_uri())] == []


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("phone", [False, True], ids=["desktop", "phone"])
def test_screenshots_can_be_taken(visits: Visits, site: Path, tmp_path: Path, phone: bool, dark: bool) -> None:
    """For eyes: pytest keeps the folder; a page of one colour would be a few kilobytes."""
    page = visits.open(site / "index.html", phone=phone, dark=dark)
    page.screenshot(path=tmp_path / "index.png", timeout=120_000)
    assert (tmp_path / "index.png").stat().st_size > 20_000


# -- a benchmark of another package ---------------------------------------------------------------------


def test_a_benchmark_of_another_package_stands_on_the_page(visits: Visits, digits_site: Path) -> None:
    page = visits.open(digits_site / "index.html")
    expect(page.get_by_role("heading", name="Handwritten digits")).to_be_visible()
    assert set(column(page, "digits", "method")) == {"piggyback", "feature"}
    assert sorted(column(page, "digits", "rank")) == ["1", "2"]
    columns = ("5 to 9", "odd or even", "mirrored", "mean")
    assert all(20 < float(text) < 100 for title in columns for text in column(page, "digits", title))
    assert page.locator("table.digits tbody").inner_text().count("±") == 2 * len(columns)
    in_columns(page, "digits", "mirrored").click()
    assert sort_state(page, "digits") == ["descending"]
    page.get_by_label("Method").select_option("feature")
    assert column(page, "digits", "method") == ["feature"]


def test_its_entries_and_runs_have_pages_without_violations(visits: Visits, digits_site: Path) -> None:
    runs = sorted((digits_site / "runs" / "digits" / "parity" / "piggyback").glob("*/index.html"))
    assert len(runs) == 2
    entries = [path for path in (digits_site / "entries").iterdir() if "digits" in path.read_text()]
    for path in (digits_site / "index.html", runs[0], entries[0]):
        page = visits.open(path)
        assert "digits" in page.inner_text("body").lower()
        assert Axe().run(page, options=AXE_OPTIONS).response["violations"] == []
