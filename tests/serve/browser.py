"""Headless Chromium, driven over its debugging pipe: no driver, no library, no port."""

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
from pathlib import Path
from typing import Any

SECONDS = 60  # for an answer
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)


def executable() -> str | None:
    """Return Chromium's path, or None where there is none."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Page:
    """One tab. Everything that it asked the network for, and every complaint of its console, is kept."""

    def __init__(self, writing: int, reading: int) -> None:
        self._writing = writing
        self._reading = reading
        self._left = b""
        self._number = 0
        self._session: str | None = None
        self.requests: list[str] = []  # URLs
        self.complaints: list[str] = []
        self.renew()

    def renew(self) -> None:
        """Go on in a new tab, as it was at first."""
        self._session = None
        self.requests.clear()
        self.complaints.clear()
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the DevTools protocol.

        :return: its result.
        """
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._writing, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result
            self._note(answer)

    def _receive(self) -> dict[str, Any]:
        end = time.monotonic() + SECONDS
        while b"\0" not in self._left:
            ready, _, _ = select.select([self._reading], [], [], max(0.0, end - time.monotonic()))
            piece = os.read(self._reading, 1 << 20) if ready else b""
            assert piece, "Chromium does not answer"
            self._left += piece
        whole, _, self._left = self._left.partition(b"\0")
        message: dict[str, Any] = json.loads(whole)
        return message

    def _note(self, event: dict[str, Any]) -> None:
        if event.get("sessionId") != self._session:  # of a tab before this one
            return
        parameters = event.get("params", {})
        match event.get("method"):
            case "Network.requestWillBeSent":
                self.requests.append(parameters["request"]["url"])
            case "Log.entryAdded":
                self.complaints.append(parameters["entry"]["text"])
            case "Runtime.exceptionThrown":
                self.complaints.append(str(parameters["exceptionDetails"]))

    def open(self, url: str) -> None:
        """Load a page."""
        self.send("Page.navigate", url=url)
        self.wait("document.readyState === 'complete' && location.href !== 'about:blank'")

    def value(self, expression: str) -> Any:
        """Return what a JavaScript expression gives, a promise resolved."""
        answer = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait(self, expression: str) -> None:
        """Until an expression is true."""
        end = time.monotonic() + SECONDS
        while not self.value(expression):
            assert time.monotonic() < end, f"{expression} stays false"
            time.sleep(0.05)

    def write(self, selector: str, text: str) -> None:
        """Type a text into a field instead of what is in it."""
        self.value(f"document.querySelector({json.dumps(selector)}).focus()")
        self.value("document.activeElement.select()")
        self.send("Input.insertText", text=text)

    def press(self, key: str, *, code: int, modifiers: int = 0) -> None:
        """Press a key, where the focus is."""
        for kind in ("rawKeyDown", "keyUp"):
            self.send(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                code=key,
                windowsVirtualKeyCode=code,
                modifiers=modifiers,
            )

    def theme(self, name: str) -> None:
        """Set the page's colour scheme.

        :param name: "light" or "dark".
        """
        self.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])

    def picture(self, width: int, height: int, scale: float = 1.0) -> bytes:
        """Return PNG of the page in a window of this size, times scale."""
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": scale}
        return base64.b64decode(self.send("Page.captureScreenshot", format="png", clip=clip)["data"])


@contextlib.contextmanager
def browser(folder: Path) -> Iterator[Page]:
    """Start Chromium with a profile of its own, and end it afterwards.

    :param folder: for the profile.
    :return: a blank tab.
    """
    chromium = executable()
    assert chromium is not None, "no Chromium"
    to_child, writing = os.pipe()
    reading, from_child = os.pipe()

    def as_three_and_four() -> None:
        # Copies first, out of the way of 3 and 4, which may be one of the two.
        high_in, high_out = os.dup(to_child), os.dup(from_child)
        os.dup2(high_in, 3)
        os.dup2(high_out, 4)

    process = subprocess.Popen(
        [chromium, *FLAGS, f"--user-data-dir={folder}"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        close_fds=False,
        preexec_fn=as_three_and_four,
        start_new_session=True,
    )
    os.close(to_child)
    os.close(from_child)
    try:
        yield Page(writing, reading)
    finally:
        os.close(writing)
        try:
            process.wait(5)  # it ends with its pipe
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.wait()
        os.close(reading)
