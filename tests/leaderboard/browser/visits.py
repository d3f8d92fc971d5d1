"""Opens pages in the browser and watches what they do."""

from dataclasses import dataclass, field
from pathlib import Path

from playwright.sync_api import Browser, BrowserContext, Page, ViewportSize

DESKTOP: ViewportSize = {"width": 1280, "height": 900}
PHONE: ViewportSize = {"width": 360, "height": 740}
NO_STORAGE = """
Object.defineProperty(window, "localStorage", { get() { throw new DOMException("forbidden", "SecurityError"); } })
"""


@dataclass
class Watch:
    """What a page did that it must not do, and what it asked for."""

    complaints: list[str] = field(default_factory=list)
    addresses: list[str] = field(default_factory=list)


class Visits:
    """Opens pages and watches them."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self.watch = Watch()
        self._contexts: list[BrowserContext] = []

    def open(
        self,
        address: str | Path,
        *,
        phone: bool = False,
        dark: bool = False,
        scripts: bool = True,
        storage: bool = True,
    ) -> Page:
        """Open a file or an address.

        Args:
            address: of the page.
            phone: whether the window is 360 pixels wide.
            dark: what the system prefers.
            scripts: whether they run.
            storage: whether the page may store anything.
        """
        context = self._browser.new_context(
            viewport=PHONE if phone else DESKTOP,
            color_scheme="dark" if dark else "light",
            java_script_enabled=scripts,
            reduced_motion="reduce",
        )
        self._contexts.append(context)
        if not storage:
            context.add_init_script(NO_STORAGE)
        page = context.new_page()
        page.set_default_timeout(60_000)  # the machine may be busy
        watch = self.watch
        page.on("console", lambda message: watch.complaints.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: watch.complaints.append(f"error: {error}"))
        page.on("dialog", lambda dialog: (watch.complaints.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda request: watch.addresses.append(request.url))
        page.on("requestfailed", lambda request: watch.complaints.append(f"failed: {request.url}"))
        page.goto(address.as_uri() if isinstance(address, Path) else address)
        return page

    def close(self) -> None:
        for context in self._contexts:
            context.close()
