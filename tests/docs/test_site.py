"""The built site: every link leads somewhere, nothing is asked of another host, and pages open in a real browser."""

import functools
import http.server
import os
import subprocess
import sys
import threading
from html.parser import HTMLParser
from pathlib import Path

import pytest

import tuition

ROOT = Path(__file__).parents[2]
SOME = ("index", "concepts", "guides/pytorch-teacher", "reference/commands")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder]
    built = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


@pytest.fixture(scope="module")
def address(site):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=site))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


class Loaded(HTMLParser):
    """What a browser loads for a page without being asked, and the anchors of the page."""

    def __init__(self, text):
        super().__init__()
        self.addresses, self.anchors = [], set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.anchors.add(values.get("id"))
        if tag == "link" and values.get("rel") not in ("canonical", "next", "prev"):
            self.addresses.append(values["href"])
        elif tag != "a" and values.get("src"):
            self.addresses.append(values["src"])


def test_no_page_loads_anything_of_another_host(site):
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 30
    for page in pages:
        foreign = [it for it in Loaded(page.read_text()).addresses if it.startswith(("http:", "https:", "//"))]
        assert foreign == [], page.name


def test_the_reference_has_every_public_name(site):
    anchors = {anchor for anchor in Loaded((site / "reference/python.html").read_text()).anchors if anchor}
    documented = {anchor.rpartition(".")[2] for anchor in anchors}
    names = {*tuition.losses.__all__, *tuition.data.__all__, *tuition.teachers.__all__, *tuition.__all__}
    parts = {"data", "losses", "models", "teachers"}
    assert names - documented - parts - {"KINDS"} == set()


def opened(browser, address, page, width, scheme):
    browser.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    browser.open(f"{address}/{page}.html", width)
    browser("localStorage.clear()")  # where the site remembers a choice of light or dark
    browser.open(f"{address}/{page}.html", width)
    browser.send(
        "Runtime.evaluate", expression="new Promise(done => requestIdleCallback(() => done()))", awaitPromise=True
    )
    assert browser.seen("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded") == []
    requests = [event["request"]["url"] for event in browser.seen("Network.requestWillBeSent")]
    assert [url for url in requests if not url.startswith((address, "data:", f"blob:{address}"))] == []
    assert len(requests) > 3
    assert browser("document.documentElement.scrollWidth") <= width
    expected = {"light": "default", "dark": "slate"}[scheme]
    assert browser("document.body.getAttribute('data-md-color-scheme')") == expected


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_pages_open_without_an_error_or_a_request_to_others(browser, address, width, scheme):
    for page in SOME:
        opened(browser, address, page, width, scheme)
    opened(browser, address, "concepts", width, scheme)
    box = browser("document.querySelector('figure.drawing svg').getBoundingClientRect().toJSON()")
    assert box["width"] > 300
    assert box["left"] >= 0
    assert box["right"] <= width


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("width", "scheme"), [(1280, "dark"), (400, "light"), (1280, "light"), (400, "dark")])
def test_every_page_opens(browser, address, site, width, scheme):
    for path in sorted(site.rglob("*.html")):
        if path.name != "404.html":  # its links begin at the root of a host
            opened(browser, address, path.relative_to(site).with_suffix("").as_posix(), width, scheme)
