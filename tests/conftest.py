"""What every test relies on: a data cache of its own, and one thread, so that results repeat and cores are shared.

The fixture `browser` is a page in headless Chromium.
"""

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import hypothesis
import pytest
import torch

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
         "--disable-background-networking", "--disable-component-update", "--remote-debugging-pipe"]  # fmt: skip

torch.set_num_threads(1)
for number in (signal.SIGINT, signal.SIGHUP):  # ignored where the suite runs in the background of a script
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
hypothesis.settings.register_profile("no deadline", deadline=None)  # a slow example is not a wrong one
hypothesis.settings.load_profile("no deadline")


@pytest.fixture(autouse=True, scope="session")
def _cache_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["TUITION_CACHE"] = str(tmp_path_factory.mktemp("cache"))


class Browser:
    """A page in headless Chromium, driven by the DevTools protocol over pipes."""

    def __init__(self, profile: Path) -> None:
        their_in, self.to = os.pipe()
        self.of, their_out = os.pipe()
        assert CHROMIUM
        script = f'exec "$0" "$@" 3<&{their_in} 4>&{their_out}'  # Chromium reads from 3 and writes to 4
        self.process = subprocess.Popen(
            ["bash", "-c", script, CHROMIUM, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            pass_fds=(their_in, their_out),
            stderr=subprocess.DEVNULL,
        )
        os.close(their_in)
        os.close(their_out)
        self.sent, self.unread, self.events, self.session = 0, b"", [], {}
        (target, *_) = (t for t in self.send("Target.getTargets")["targetInfos"] if t["type"] == "page")
        attached = self.send("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self.session = {"sessionId": attached["sessionId"]}
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")

    def receive(self):
        while b"\0" not in self.unread:
            part = os.read(self.of, 1 << 16)
            assert part, "Chromium has gone"
            self.unread += part
        message, self.unread = self.unread.split(b"\0", 1)
        return json.loads(message)

    def send(self, method, **params):
        self.sent += 1
        message = {"id": self.sent, "method": method, "params": params} | self.session
        os.write(self.to, json.dumps(message).encode() + b"\0")
        while (answer := self.receive()).get("id") != self.sent:
            self.events.append(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def open(self, page: Path | str, width: int) -> None:
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600
        )
        self.events.clear()
        self.send("Page.navigate", url=page if isinstance(page, str) else page.as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.events.append(self.receive())

    def __call__(self, expression):
        result = self.send("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def seen(self, *methods):
        return [event["params"] for event in self.events if event["method"] in methods]


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed (Debian: apt-get install chromium)")
    chromium = Browser(tmp_path_factory.mktemp("profile"))
    yield chromium
    chromium.process.kill()
    chromium.process.wait()
