"""Chromium, driven by playwright, which brings no browser of its own here: Debian's is used.

A module that imports this is skipped where the extra `browser` is not installed.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import pytest

try:
    from axe_playwright_python.sync_playwright import Axe
    from playwright.sync_api import Browser, Page, Request, ViewportSize, expect, sync_playwright
except ModuleNotFoundError:
    pytest.skip("the extra 'browser' is not installed", allow_module_level=True)

__all__ = ["Axe", "Browser", "Page", "Request", "Scheme", "expect", "launched", "tab"]

_PATIENCE = 15_000  # ms: other tests may keep the machine busy
expect.set_options(timeout=_PATIENCE)

Scheme = Literal["light", "dark"]

_FLAGS = [
    "--no-sandbox",  # root has no other way
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

# What the browser and htmx note when a server answers with an error, or not at all.
_OF_THE_NETWORK = (
    "error: Failed to load resource",
    "error: Response Status Error Code 503 ",
    "error: htmx:afterRequest, ",
    "error: htmx:sendError, ",
)


@contextmanager
def launched() -> Iterator[Browser | None]:
    """Start Chromium, with a user data folder of its own; None if there is none."""
    path = shutil.which("chromium")
    if path is None:
        yield None
        return
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=_FLAGS)
        yield browser
        browser.close()


@contextmanager
def tab(
    browser: Browser,
    address: str,
    *,
    scripts: bool = True,
    width: int = 1440,
    scheme: Scheme = "light",
) -> Iterator[tuple[Page, list[str]]]:
    """Open a tab that shares nothing with others, and note what it logs, but for what the network did."""
    size = ViewportSize(width=width, height=900)
    context = browser.new_context(
        base_url=address, java_script_enabled=scripts, viewport=size, color_scheme=scheme
    )
    with context:
        context.set_default_timeout(_PATIENCE)
        page, said = context.new_page(), list[str]()

        def note(text: str) -> None:
            if not text.startswith(_OF_THE_NETWORK):
                said.append(text)

        page.on("console", lambda message: note(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: note(str(error)))
        page.on("dialog", lambda dialog: note(f"dialog: {dialog.message}"))
        yield page, said
