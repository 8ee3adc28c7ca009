"""A real browser for tests of pages: headless Chromium, driven over a pipe by the DevTools protocol."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
TIMEOUT_S = 60.0


def find_browser() -> str:
    """Return the program of a Chromium: $IMUVID_BROWSER, or the first of NAMES; without one the test is skipped."""
    found = os.environ.get("IMUVID_BROWSER") or next(filter(None, map(shutil.which, NAMES)), None)
    if not found:
        pytest.skip(f"no browser is at hand: none of {', '.join(NAMES)}, and IMUVID_BROWSER is not set")
    return found


@dataclass
class Browser:
    """One tab. What it complained of and what it asked for over any network is gathered while it works."""

    process: subprocess.Popen[bytes]
    commands: int
    answers: int
    session: str = ""
    errors: list[str] = field(default_factory=list)
    """Uncaught exceptions, console errors and warnings, refusals of the page's security policy."""
    requests: list[str] = field(default_factory=list)
    """Addresses that were asked for, data: left out."""
    _number: int = 0
    _unread: bytes = b""
    _loaded: bool = False

    def open(self, path: Path, width: int, height: int = 1600, dark: bool = False) -> None:
        """Show a local file in a window of that size (CSS pixels) and wait until all of it is loaded."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self._loaded = False
        self.call("Page.navigate", url=path.resolve().as_uri())
        until = time.monotonic() + TIMEOUT_S
        while not self._loaded:
            self._receive(until)

    def run(self, script: str) -> Any:
        """Return what an expression of JavaScript gives (a promise is awaited)."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def screenshot(self, path: Path, whole: bool = True) -> None:
        """Write a PNG of the page."""
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command of the protocol and return its answer."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.commands, json.dumps(message).encode() + b"\0")
        until = time.monotonic() + TIMEOUT_S
        while True:
            answer = self._receive(until)
            if answer.get("id") == self._number:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]

    def _receive(self, until: float) -> dict[str, Any]:
        while b"\0" not in self._unread:
            left = until - time.monotonic()
            assert left > 0, "the browser does not answer"
            if select.select([self.answers], [], [], left)[0]:
                read = os.read(self.answers, 1 << 20)
                assert read, "the browser ended"
                self._unread += read
        raw, _, self._unread = self._unread.partition(b"\0")
        message: dict[str, Any] = json.loads(raw)
        self._note(message.get("method", ""), message.get("params", {}))
        return message

    def _note(self, method: str, params: dict[str, Any]) -> None:
        if method == "Page.loadEventFired":
            self._loaded = True
        elif method == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(params["exceptionDetails"])[:500])
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.errors.append(json.dumps(params["args"])[:500])
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.errors.append(params["entry"]["text"])
        elif method == "Network.requestWillBeSent" and not params["request"]["url"].startswith("data:"):
            self.requests.append(params["request"]["url"])


@contextlib.contextmanager
def open_browser(profile: Path) -> Iterator[Browser]:
    """Start a browser with its profile in an empty folder, and end it."""
    program = find_browser()
    commands_read, commands = os.pipe()
    answers, answers_write = os.pipe()
    words = [
        program,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--disable-extensions",
        "--disable-background-networking",
        "--disable-component-update",
        "--remote-debugging-pipe",
        f"--user-data-dir={profile}",
        "about:blank",
    ]
    # The protocol's pipes are descriptors 3 (to the browser) and 4 (from it). exec in a shell puts them there.
    process = subprocess.Popen(
        ["/bin/bash", "-c", f'exec "$0" "$@" 3<&{commands_read} 4>&{answers_write}', *words],
        pass_fds=(commands_read, answers_write),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"HOME": str(profile)},
    )
    os.close(commands_read)
    os.close(answers_write)
    try:
        browser = Browser(process, commands, answers)
        targets = browser.call("Target.getTargets")["targetInfos"]
        page = next(target["targetId"] for target in targets if target["type"] == "page")
        browser.session = browser.call("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            browser.call(f"{domain}.enable")
        yield browser
    finally:
        with contextlib.suppress(AssertionError, OSError):
            browser.session = ""
            browser.call("Browser.close")
        with contextlib.suppress(OSError):
            os.close(commands)
            os.close(answers)
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def weak_texts(browser: Browser) -> list:
    """Return class and beginning of what is shown with a contrast below 4.5 (WCAG 2.2, 1.4.3)."""
    return browser.run(
        """(() => {
          const rgb = c => c.match(/[\\d.]+/g).map(Number);
          const luminance = c => rgb(c).slice(0, 3).map(v => v / 255)
            .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
            .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
          const ground = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor;
            const a = rgb(c)[3]; if (a === undefined || a === 1) return c; } return 'rgb(255, 255, 255)'; };
          const weak = [];
          for (const e of document.querySelectorAll('body *')) {
            if (!e.offsetParent || ![...e.childNodes].some(n => n.nodeType === 3 && n.data.trim())) continue;
            const [a, b] = [luminance(getComputedStyle(e).color), luminance(ground(e))].sort((p, q) => q - p);
            if ((a + 0.05) / (b + 0.05) < 4.5) weak.push([e.className, e.textContent.slice(0, 40)]);
          }
          return weak;
        })()"""
    )
