"""Synthetic run records with a known truth: accuracy is a power law of the calls, one limit a method."""

import json
import math
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tuition.studies.records import Record

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
         "--disable-background-networking", "--disable-component-update", "--remote-debugging-pipe"]  # fmt: skip

LIMITS = {"ckd": 74.0, "crd": 71.0, "mixup": 70.0, "mse": 73.0, "dist": 68.0, "rkd": 67.0, "kd": 66.0}


def truth(method: str, calls: int) -> float:
    return LIMITS[method] - 900 * calls**-0.42


def synthetic_runs(
    *,
    methods: Sequence[str] = tuple(LIMITS),
    calls: Sequence[int] = (1600, 2000, 2400, 2800, 3200, 3600, 4000),
    seeds: int = 5,
    noise: float = 0.7,
    selection: bool = False,
    **fields: Any,
) -> Iterator[Record]:
    """Done runs of a grid; a seed shifts all methods alike, so that pairing matters."""
    generator = np.random.default_rng(len(methods) + seeds)
    shift = noise * generator.standard_normal(seeds)
    common = {"dataset": "cifar100", "teacher": "wrn_40_2", "student": "wrn_16_2", "accounting": "published"} | fields
    for method, n, seed in product(methods, calls, range(seeds)):
        for rate in (0.1, 0.05, 0.025) if selection and seed == 0 and n == calls[0] else (0.05,):
            best = truth(method, n) + shift[seed] + 0.5 * noise * generator.standard_normal() - 20 * abs(rate - 0.05)
            key = "/".join(map(str, (*common.values(), method, n, seed, rate)))
            curve = [
                [float(e), 4.2 * math.exp(-e / 40), best * (1 - math.exp(-e / 30)) + generator.standard_normal()]
                for e in range(1, 121, 2)
            ]
            settings = {
                "train": {"batch_size": 64, "weight_decay": 5e-4, "learning_rate": rate, "seed": seed, "calls": n}
            }
            for purpose in ("result", "selection") if selection else ("result",):
                if (purpose, rate) != ("result", 0.05) and purpose == "result":
                    continue
                yield Record(
                    key=key,
                    method=method,
                    calls=n,
                    seed=seed,
                    learning_rate=rate,
                    schedule="cosine",
                    epochs=120,
                    purpose=purpose,
                    accuracy=best,
                    accuracy_last=best - 0.3,
                    validation=best + generator.standard_normal(),
                    top5=min(99.0, best + 28),
                    calibration_error=4 + generator.random(),
                    agreement=best + 4,
                    images_seen=n * 120,
                    steps=math.ceil(n / 64) * 120,
                    seconds=n / 20,
                    paid=n,
                    versions={"python": "3.11.7", "torch": "2.13.0", "tuition": "0.1.0"},
                    settings={"method": {"name": method, "anchor": 0.1}, **settings},
                    curve=curve,
                    **common,
                )


@pytest.fixture(scope="session")
def runs() -> Callable[..., list[Record]]:
    return lambda **kwargs: list(synthetic_runs(**kwargs))


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

    def open(self, page: Path, width: int) -> None:
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600
        )
        self.events.clear()
        self.send("Page.navigate", url=page.as_uri())
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
