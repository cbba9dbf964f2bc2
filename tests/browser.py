"""A headless Chromium, controlled over its DevTools protocol. The `websockets` package is installed by Prefect."""

import base64
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from websockets.sync.client import connect

PATIENCE = 90.0
"""Most seconds until an expected text or element appears on a page."""
ANSWER = 180.0
"""Most seconds for an answer of the browser. With ten other jobs, a picture of MLflow's charts took more than 60 s."""

# Finds a visible element that matches the selector and whose text, label or placeholder is `text`. Of several, it takes
# the last innermost one, because a dialog comes after the page that it covers.
_FIND = """
(text, selector) => {
  const said = e => [e.innerText, e.getAttribute('aria-label'), e.placeholder].map(s => (s || '').trim());
  const seen = e => e.getClientRects().length && getComputedStyle(e).visibility !== 'hidden';
  const found = [...document.querySelectorAll(selector)].filter(e => seen(e) && said(e).includes(text));
  return found.filter(e => !found.some(other => other !== e && e.contains(other))).pop();
}
"""


def find() -> str | None:
    """Returns the path of Chromium; None if it is not installed."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@contextmanager
def browser(path: str, profile: Path, size: tuple[int, int] = (1400, 2500)) -> Iterator["Page"]:
    """Yields a page of a new Chromium with the empty profile folder `profile`."""
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"]
    here = ["--no-first-run", "--no-proxy-server", "--disable-background-networking", "--remote-debugging-port=0"]
    shown = [f"--user-data-dir={profile}", "--window-size={},{}".format(*size), "about:blank"]
    with (profile.parent / "chromium.log").open("w") as log:
        process = subprocess.Popen([path, *options, *here, *shown], stdout=log, stderr=log)
    try:
        port = _port(profile, process)
        with connect(f"ws://127.0.0.1:{port[0]}{port[1]}", max_size=None, proxy=None) as socket:
            yield Page(socket)
    finally:
        process.terminate()
        process.wait(20)


def _port(profile: Path, process: "subprocess.Popen[bytes]") -> list[str]:
    said, until = profile / "DevToolsActivePort", time.monotonic() + 60
    while not (said.is_file() and len(said.read_text().split()) == 2):
        assert process.poll() is None, (profile.parent / "chromium.log").read_text()[-2000:]
        assert time.monotonic() < until
        time.sleep(0.1)
    return said.read_text().split()


class Page:
    """One tab of the browser."""

    def __init__(self, socket: Any) -> None:
        self._socket, self._number, self._session = socket, 0, ""
        made = self._ask("Target.createTarget", url="about:blank")
        attached = self._ask("Target.attachToTarget", targetId=made["targetId"], flatten=True)
        self._session = attached["sessionId"]
        self._ask("Page.enable")

    def _ask(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        self._socket.send(json.dumps(message))
        while True:
            answer = json.loads(self._socket.recv(timeout=ANSWER))
            if answer.get("id") == self._number:
                assert "error" not in answer, (method, answer["error"])
                return dict(answer["result"])

    def open(self, url: str) -> None:
        """Opens `url`; does not wait for the page."""
        self._ask("Page.navigate", url=url)

    def run(self, script: str) -> Any:
        """Returns the value of a JavaScript expression."""
        answer = self._ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def text(self) -> str:
        """Returns the visible text of the page."""
        return str(self.run("document.body ? document.body.innerText : ''"))

    def wait_for(self, *texts: str, seconds: float = PATIENCE) -> str:
        """Waits until all `texts` are in the visible text of the page. Returns the visible text."""
        until = time.monotonic() + seconds
        while missing := [text for text in texts if text not in (read := self.text())]:
            assert time.monotonic() < until, f"{missing} are not on the page:\n{read}"
            time.sleep(0.2)
        return read

    def click(self, text: str, selector: str = "button, a, [role], label, li, span", seconds: float = PATIENCE) -> None:
        """Clicks with the mouse on the element whose text, label or placeholder is `text`."""
        until = time.monotonic() + seconds
        script = f"""(() => {{
          const e = ({_FIND})({json.dumps(text)}, {json.dumps(selector)});
          if (!e) return null;
          e.scrollIntoView({{block: 'center', behavior: 'instant'}});
          const at = e.getBoundingClientRect();
          return [at.x + at.width / 2, at.y + at.height / 2];
        }})()"""
        at, before = self.run(script), None
        while at is None or at != before:  # until the element exists and has stopped moving
            assert time.monotonic() < until, f"nothing is called {text!r}:\n{self.text()}"
            time.sleep(0.3)
            at, before = self.run(script), at
        self.click_at(*at)

    def click_at(self, x: float, y: float) -> None:
        """Clicks with the mouse at (x, y), in pixels of the window."""
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self._ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def type(self, text: str) -> None:
        """Replaces the content of the focused field by `text`."""
        self._ask("Input.dispatchKeyEvent", type="keyDown", key="a", modifiers=2, commands=["selectAll"])
        self._ask("Input.dispatchKeyEvent", type="keyUp", key="a", modifiers=2)
        self._ask("Input.insertText", text=text)

    def resize(self, width: int, height: int, scale: float = 1) -> None:
        """Makes the window `width` by `height` CSS pixels, each of `scale` pixels of a picture."""
        self._ask(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=False
        )

    def screenshot(self, path: Path, whole: bool = True) -> None:
        """Writes a picture of the page: of all that scrolls in it if `whole`, else of the window."""
        if whole:
            self._make_room()
        answer = self._ask("Page.captureScreenshot", format="png")
        if whole:
            self._ask("Emulation.clearDeviceMetricsOverride")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(answer["data"]))

    def _make_room(self) -> None:
        """Makes the window as high as its scrolled content."""
        size = self.run(
            "[innerWidth, Math.max(innerHeight, ...[document.documentElement, ...document.querySelectorAll('*')]"
            ".filter(e => ['auto', 'scroll'].includes(getComputedStyle(e).overflowY) || !e.parentElement)"
            ".map(e => e.scrollHeight + 20))]"
        )
        self.resize(size[0], min(size[1], 16000))
        time.sleep(0.5)
