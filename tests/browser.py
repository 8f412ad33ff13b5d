"""A headless Chromium controlled through WebDriver, using only the standard library."""

import json
import os
import shutil
import socket
import subprocess
import time
from contextlib import contextmanager
from urllib.error import URLError
from urllib.request import Request, urlopen

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
IS_HERE = bool(shutil.which("chromium") and shutil.which("chromedriver"))


class Browser:
    """A browser window."""

    def __init__(self, address):
        self.address = address

    def command(self, path, content=None):
        """Send a WebDriver command and return its value."""
        data = None if content is None else json.dumps(content).encode()
        request = Request(self.address + path, data, {"Content-Type": "application/json"})
        with urlopen(request, timeout=60) as answer:
            return json.load(answer)["value"]

    def open(self, path):
        """Load a local file and discard earlier log entries."""
        self.command("/url", {"url": "about:blank"})
        self.console()
        self.requested()
        self.command("/url", {"url": path.as_uri()})

    def run(self, script, *args):
        """Run a script, which finds its arguments in `arguments`, and return its result."""
        return self.command("/execute/sync", {"script": script, "args": list(args)})

    def resize(self, width, height):
        """Resize the window."""
        self.command("/window/rect", {"width": width, "height": height})

    def press(self, keys):
        """Press keys; "\ue004" is the tab key, "\ue007" the enter key."""
        downs = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        self.command("/actions", {"actions": [{"type": "key", "id": "keys", "actions": downs}]})

    def console(self):
        """Return the console messages since the page was opened or since the last call."""
        return [entry["message"] for entry in self.command("/se/log", {"type": "browser"})]

    def requested(self):
        """Return the URLs requested since the page was opened or since the last call."""
        entries = self.command("/se/log", {"type": "performance"})
        events = [json.loads(entry["message"])["message"] for entry in entries]
        sent = [e["params"] for e in events if e["method"] == "Network.requestWillBeSent"]
        return [each["request"]["url"] for each in sent]


@contextmanager
def browser(folder):
    """Start a browser with its profile in a folder."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "HOME": str(folder)}
    driver = subprocess.Popen(
        ["chromedriver", f"--port={port}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        _wait(address)
        options = {"args": [*FLAGS, f"--user-data-dir={folder / 'profile'}"]}
        wanted = {
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }
        session = Browser(address).command("/session", {"capabilities": {"alwaysMatch": wanted}})[
            "sessionId"
        ]
        window = Browser(f"{address}/session/{session}")
        yield window
        with urlopen(Request(window.address, method="DELETE"), timeout=60):
            pass
    finally:
        driver.kill()
        driver.wait()


def _wait(address):
    deadline = time.monotonic() + 60
    while True:
        try:
            with urlopen(f"{address}/status", timeout=5) as answer:
                if json.load(answer)["value"]["ready"]:
                    return
        except URLError:
            assert time.monotonic() < deadline, "chromedriver does not answer"
        time.sleep(0.1)
