"""A real Chromium for tests: what a page is to those who look at it, and to axe."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.base import AXE_SCRIPT
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, sync_playwright

SCREENS: dict[str, dict[str, Any]] = {
    "desktop": {"viewport": {"width": 1280, "height": 800}},
    "phone": {
        "viewport": {"width": 390, "height": 844},
        "device_scale_factor": 2,
        "is_mobile": True,
        "has_touch": True,
    },
}
SCHEMES = ("light", "dark")
PICTURES = "RLRISK_SCREENSHOTS"
"""Names a folder that gets a picture of every page; for people who look."""
AXE_RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
AXE_LEAVES_OUT = {"exclude": [["tbody tr:nth-child(n+7):not(:nth-last-child(-n+2))"], ["svg > *"]]}
"""Most of axe's time: rows like those before them, and the inside of what is one picture to it."""
FAILED_LOAD = "Failed to load resource: the server responded with a status of"
"""Chromium's own remark on any answer that is a problem, this page's included."""


@contextmanager
def chromium() -> Iterator[Browser]:
    """Debian's Chromium, driven by Playwright, whose own builds are not needed."""
    path = shutil.which("chromium")
    if path is None:
        message = "the dashboard is tested in Chromium: apt-get install chromium"
        if "CI" in os.environ or (os.geteuid() == 0 and shutil.which("apt-get")):
            pytest.fail(f"{message} (make test does it)")
        pytest.skip(message)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path)
        try:
            yield browser
        finally:
            browser.close()


class Looked:
    """One page on one screen, and what the browser had to say about it."""

    def __init__(self, context: BrowserContext) -> None:
        self.page: Page = context.new_page()
        self.complaints: list[str] = []
        self.foreign: list[str] = []
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("requestfailed", lambda sent: self.complaints.append(f"failed: {sent.url}"))
        self.page.on("request", lambda sent: self.foreign.append(sent.url))

    def _hear(self, said: ConsoleMessage) -> None:
        self.complaints.append(f"{said.type}: {said.text}")

    def open(self, url: str, status: int = 200) -> Page:
        """Go there; every word on the console and every request elsewhere is a fault."""
        self.complaints.clear()
        self.foreign.clear()
        answer = self.page.goto(url, wait_until="load")
        assert answer is not None
        assert answer.status == status, url
        origin = url.split("/", 3)[:3]
        assert [each for each in self.foreign if each.split("/", 3)[:3] != origin] == [
            each for each in self.foreign if each == "data:,"
        ]
        expected = f"error: {FAILED_LOAD} {status} "
        assert [c for c in self.complaints if status < 400 or not c.startswith(expected)] == []
        return self.page


def violations(page: Page) -> list[str]:
    """What axe finds against WCAG 2.2 AA and good practice, each with its places."""
    options = {"resultTypes": ["violations"], "runOnly": {"type": "tag", "values": AXE_RULES}}
    if not page.evaluate("'axe' in window"):
        page.evaluate(AXE_SCRIPT)
    run = "([context, options]) => axe.run(context, options)"
    found = page.evaluate(run, [AXE_LEAVES_OUT, options])["violations"]
    return [
        f"{each['id']}: {node['target']} {node['html'][:200]} {node['failureSummary'][:300]}"
        for each in found
        for node in each["nodes"]
    ]


def sideways(page: Page) -> list[str]:
    """Elements that stick out of the page to the side, so that it must be scrolled there."""
    return list(
        page.evaluate(
            """() => {
  const room = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth <= room) return [];
  return [...document.querySelectorAll('body *')]
    .filter(e => e.getBoundingClientRect().right > room + 0.5)
    .map(e => e.tagName + '.' + e.className + ' ' + e.textContent.slice(0, 60)).slice(0, 5)
    .concat(['width ' + document.documentElement.scrollWidth]);
}"""
        )
    )


def brightness(page: Page) -> float:
    """Of the page's ground, from 0 (black) to 255."""
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    parts = [float(each) for each in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    return sum(parts) / 3


def picture(page: Page, name: str) -> None:
    """Keep a picture of the whole page where a folder was named."""
    if folder := os.environ.get(PICTURES):
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


FOCUSABLE = """() => {
  window.reach = [...document.querySelectorAll(
    'a[href], button, input, select, textarea, summary, [tabindex]:not([tabindex="-1"])')]
    .filter(e => e.checkVisibility({visibilityProperty: true}));
  return window.reach.map(e => e.tagName + ' ' + (e.textContent || e.name).trim().slice(0, 60));
}"""
FOCUSED = """() => {
  const e = document.activeElement;
  if (e === document.body || e === document.documentElement) return null;
  const style = getComputedStyle(e), at = e.getBoundingClientRect();
  return {
    place: window.reach.indexOf(e), scrolls: e.scrollWidth > e.clientWidth,
    what: e.outerHTML.slice(0, 120), named: e.className,
    ring: style.outlineStyle !== 'none' ? parseFloat(style.outlineWidth) : 0,
    seen: at.width > 0 && at.height > 0 && at.right > 0 && at.bottom > 0
      && at.left < innerWidth && at.top < innerHeight,
  };
}"""


def tabbed(page: Page) -> tuple[list[str], list[dict[str, Any]]]:
    """All that can be reached, in document order, and what Tab reaches, in that order."""
    wanted = list(page.evaluate(FOCUSABLE))
    reached: list[dict[str, Any]] = []
    for _ in range(len(wanted) + 30):  # regions that scroll are stops as well
        page.keyboard.press("Tab")
        found = page.evaluate(FOCUSED)
        if found is None or (reached and found["place"] == 0):  # at the end, or around it
            break
        reached.append(found)
    return wanted, reached
