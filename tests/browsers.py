"""Browsers for the pages of runs: Playwright with the Chromium and the Firefox of this machine."""

from functools import partial
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, BrowserContext, Page, Playwright

from tests.support import find_browser

# Milliseconds for what is waited for: a browser that starts beside many others takes half a minute.
PATIENCE = 180_000
OLD_FIREFOX = Path(__file__).with_name("old_firefox.cjs")
# What Firefox takes for the scheme of the desktop.
SCHEME, SCHEMES = "layout.css.prefers-color-scheme.content-override", {"dark": 0, "light": 1}


class Browsers:
    """One browser, started when it is first needed; Firefox has a process for each colour scheme."""

    def __init__(self, playwright: Playwright, name: str) -> None:
        self.playwright, self.name = playwright, name
        self.path = find_browser(name)
        self._started: dict[str, Browser] = {}

    def of(self, scheme: str) -> Browser:
        """The browser, which shows pages in a scheme, `light` or `dark`."""
        key = scheme if self.name == "Firefox" else ""
        if key not in self._started:
            start = {"Chromium": self._chromium, "Firefox": partial(self._firefox, scheme)}[self.name]
            self._started[key] = start()
        return self._started[key]

    def _chromium(self) -> Browser:
        arguments = ["--no-sandbox", "--disable-dev-shm-usage"]
        return self.playwright.chromium.launch(executable_path=self.path, args=arguments, timeout=PATIENCE)

    def _firefox(self, scheme: str) -> Browser:
        # The channel for releases of Mozilla: without it Playwright needs its own build.
        preferences = {SCHEME: SCHEMES[scheme]}
        return self.playwright.firefox.launch(
            channel="moz-firefox",
            executable_path=self.path,
            firefox_user_prefs=preferences,
            timeout=PATIENCE,
        )

    def close(self) -> None:
        """End what was started."""
        for browser in self._started.values():
            browser.close()


class Visitor:
    """Opens pages, each in a context of its own, and notes what they ask for and what goes wrong."""

    def __init__(self, browsers: Browsers) -> None:
        self.browsers = browsers
        self.contexts: list[BrowserContext] = []
        self.requests: list[str] = []
        self.complaints: list[str] = []

    @property
    def name(self) -> str:
        return self.browsers.name

    def __call__(
        self,
        folder: Path,
        width: int = 1440,
        height: int = 900,
        scheme: str = "light",
        state: str = "",
        name: str = "index.html",
        **options: Any,
    ) -> Page:
        """Open the folder's page of this name in a window of this size.

        state: what its address says. options: of Playwright's `new_context`.
        """
        if self.name == "Chromium":
            options["color_scheme"] = scheme
        size = {"width": width, "height": height}
        context = self.browsers.of(scheme).new_context(viewport=size, **options)
        context.set_default_timeout(PATIENCE)
        self.contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("requestfailed", lambda request: self.complaints.append(f"{request.url}: {request.failure}"))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", lambda said: said.type == "error" and self.complaints.append(said.text))
        page.goto((folder / name).resolve().as_uri() + (f"#{state}" if state else ""))
        return page

    def close(self) -> None:
        """Close what was opened."""
        for context in self.contexts:
            context.close()
