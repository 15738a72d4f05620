import csv
import json
import os
import re
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tuition.errors import UserError
from tuition.studies import records, report

HOSTILE = 'RuntimeError: </script><img src="http://example.com/x.png"><script>window.hacked = 1</script> {{data}}'
MARKUP = "<img src=x onerror='window.hacked=1'>\"><script>window.hacked=1</script>"
RUN = records.Record(
    key="k",
    dataset="some/folder",
    teacher="t",
    student="s",
    method="kd",
    calls=10,
    seed=0,
    learning_rate=0.1,
    schedule="cosine",
    epochs=1,
    accounting="published",
    purpose="result",
)


@pytest.fixture(scope="module")
def study(tmp_path_factory, runs):
    """Two folders of runs, as from two machines, and the report over both."""
    first, second, out = (tmp_path_factory.mktemp(name) for name in ("first", "second", "out"))
    wrn = runs(methods=("ckd", "mse", "kd"), calls=(1600, 2400, 3200, 4000), seeds=3)
    digits = runs(methods=("kd", "ckd"), calls=(1800, 2600), seeds=2, dataset="digits", accounting="matched")
    failed = replace(wrn[0], key="failed", seed=7, status="failed", accuracy=float("nan"), error=HOSTILE)
    for run in (*wrn, failed):
        records.append(first, run)
    for run in (*digits, wrn[0]):
        records.append(second, run)
    for run, decay in zip(wrn[:3], (5, 10, 20), strict=True):
        spectra = {"features": np.exp(-np.arange(64) / decay), "logits": np.ones(7 + run.seed)[:7]}
        records.append_spectra(first, run.key, spectra)
    (first / "command.txt").write_text("tuition study figure2-wrn --fast --out first\n")
    page = report.build([first, second], out)
    return page, [*wrn, *digits, failed], [first, second]


def test_everything_is_rebuilt_from_the_records(study):
    page, runs, _ = study
    out = page.parent
    wrn, digits = "cifar100-wrn_40_2-wrn_16_2-cosine-published", "digits-wrn_40_2-wrn_16_2-cosine-matched"
    figures = {f"accuracy-{wrn}", f"accuracy-{digits}", f"points-{digits}", f"spectra-{wrn}-1600"}
    assert {path.name for path in (out / "figures").iterdir()} == {
        name + suffix for name in figures for suffix in (".png", ".svg", ".pdf")
    }
    assert f"calls-{wrn}.tex" in {path.name for path in (out / "tables").iterdir()}
    text = page.read_text()
    assert "tuition study figure2-wrn --fast --out first" in text
    assert f"--out {out}" in text
    data = json.loads(text.split('id="data">')[1].split("</script>")[0])
    assert len(data["runs"]) == len(runs)  # the run in both folders once
    assert data["shared"]["train.batch_size"] == 64
    assert {run["settings"]["train.seed"] for run in data["runs"]} == {0, 1, 2}
    assert data["runs"][0]["curve"][-1][0] == 119
    assert data["runs"] == sorted(
        data["runs"], key=lambda run: (run["dataset"], run["method"], run["calls"], run["seed"])
    )
    assert {run["key"]: run["accuracy"] for run in data["runs"]}[runs[0].key] == runs[0].accuracy
    assert text.index("<h2>Verdict</h2>") < text.index("<svg")
    assert {run["accounting"] for run in data["runs"]} == {"steps as published", "equal inputs seen"}
    assert [run["accuracy"] for run in data["runs"] if run["status"] == "failed"] == [None]


def test_the_same_stands_in_markdown(study):
    page, *_ = study
    text = (page.parent / "report.md").read_text()
    assert (
        text.index("## Verdict") < text.index("\nCKD is ahead") < text.index("\nNext: ") < text.index("![Teacher calls")
    )
    assert "\n**CKD wins: " in text  # bold is what survives the correction
    for name in re.findall(r"!\[[^]]*\]\(([^)]*)\)", text):
        assert (page.parent / name.replace("\\", "")).is_file()
    for table in (page.parent / "tables").glob("*.md"):
        assert table.read_text() in text
    assert "    tuition study figure2-wrn --fast --out first\n" in text


FORMULA = "=HYPERLINK(1)"
CONTROLS = {*map(chr, [*range(32), *range(127, 160)]), "\u202e"} - {"\n"}


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    """The page of a runs.csv whose every word is hostile to some medium."""
    folder, out = tmp_path_factory.mktemp("stranger"), tmp_path_factory.mktemp("page")
    words = {
        "dataset": MARKUP,
        "teacher": "$\\frac{ \x1b]0;title\x07",
        "student": FORMULA,
        "schedule": "a|b\n\u202egnp",
    }
    for seed, method in enumerate((MARKUP, FORMULA, "50% & {a_b}^~\\ $x_$ {{data}} \x1b[31m \x9b2J")):
        hostile = {"settings": {MARKUP: MARKUP}, "versions": {MARKUP: MARKUP}}
        curve = [[1, 2.0, 30.0], [2, 1.0, 40.0]]
        run = replace(RUN, key=f"k{seed}", method=method, accuracy=50.0 + seed, curve=curve, **words, **hostile)
        for calls in (10, 20):
            records.append(folder, replace(run, key=f"{run.key}-{calls}", calls=calls))
    records.append(folder, replace(RUN, key="f", status="failed", error=MARKUP, **words))
    rows = (folder / "runs.csv").read_text()
    (folder / "runs.csv").write_text(rows.replace("\\x1b", "\x1b").replace("\\x9b", "\x9b"))  # edited by hand
    (folder / "command.txt").write_bytes(MARKUP.encode() + b" postgresql://u:geheim@h/db \xff\n")
    return report.build([folder], out)


def test_a_stranger_s_words_do_nothing_on_the_page(stranger, browser):
    browser.open(stranger, 1280)
    browser("document.querySelectorAll('#runs tr.run').forEach(row => row.click())")
    assert browser("document.querySelectorAll('#runs .detail').length") == 7
    assert browser("document.querySelectorAll('#runs .detail .settings li b').length") > 0
    # Whatever might slip through the escaping is not run either.
    browser("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.hacked = 1\">')")
    browser(
        "{const s = document.createElement('script'); s.textContent = 'window.hacked = 2'; document.body.append(s)}"
    )
    browser("new Promise(done => setTimeout(done, 300))")
    assert browser("window.hacked") is None
    assert browser("document.querySelectorAll('img').length") == 1
    assert browser("document.title").startswith("Study ")
    assert "geheim" not in stranger.read_text()
    assert not set(stranger.read_text()) & CONTROLS


def test_a_stranger_s_words_do_nothing_in_a_table(stranger):
    for path in (*(stranger.parent / "tables").iterdir(), stranger.parent / "report.md"):
        text = path.read_text()
        assert not set(text) & CONTROLS, path
        if path.suffix == ".csv":
            cells = [cell for row in csv.reader(text.splitlines()) for cell in row]
            assert FORMULA not in cells
        if path.suffix == ".md":
            assert not [line for line in text.splitlines() if "<img" in line and not line.startswith("    ")]  # code
            rows = [line for line in text.splitlines() if line.startswith("|") and path.parent.name == "tables"]
            assert not rows or len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1, path
        if path.suffix == ".tex":
            assert re.search(r"50\\% \\& \\\{a\\_b\\\}\\\^\{\}\\textasciitilde", text) or "accuracy" not in path.name


def test_a_second_build_changes_nothing(study, tmp_path):
    page, _, folders = study
    again = report.build(folders, tmp_path / page.parent.name)
    one, two = (p.read_text().replace(str(p.parent), "OUT") for p in (page, again))
    assert one == two


def test_no_runs_is_a_sentence(tmp_path):
    with pytest.raises(UserError, match=r"runs\.csv was not found"):
        report.build([tmp_path], tmp_path)
    records.append(tmp_path, RUN)
    text = (tmp_path / "runs.csv").read_text()
    (tmp_path / "runs.csv").write_text(text.splitlines(keepends=True)[0])
    with pytest.raises(UserError, match="no runs were found in"):
        report.build([tmp_path], tmp_path)


def test_runs_that_all_failed_still_give_a_page(tmp_path):
    records.append(tmp_path, replace(RUN, status="failed", error="out of memory"))
    assert "out of memory" in report.build([tmp_path], tmp_path).read_text()


def test_one_run_without_measures_still_gives_a_page(tmp_path):
    records.append(tmp_path, replace(RUN, accuracy=50.0))
    assert "50.00" in report.build([tmp_path], tmp_path).read_text()


def test_inline_figures_are_well_formed_and_follow_the_theme(study):
    page, *_ = study
    pictures = [part.split("</svg>")[0] for part in page.read_text().split("<svg ")[1:] if "xmlns" in part[:300]]
    assert len(pictures) == 4
    for picture in pictures:
        root = ElementTree.fromstring(f"<svg {picture}</svg>")
        assert "width" not in root.attrib
        assert "viewBox" in root.attrib
        assert "var(--ink)" in picture
        assert "#ffffff" not in picture


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of memory is read from /proc")
def test_a_thousand_runs_take_less_than_1_gib(tmp_path, runs, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: None)  # which takes long
    many = [run for seed in (5,) for pair in ("a", "b", "c", "d") for run in runs(seeds=seed, student=f"net_{pair}")]
    many += [replace(run, key=run.key + "s", purpose="selection") for run in many[: 1000 - len(many)]]
    for run in many:
        records.append(tmp_path, run)
    assert len(records.read(tmp_path)) == 1000
    code = (
        "import re, sys; from pathlib import Path; from tuition.studies import report;"
        "report.build([Path(sys.argv[1])], Path(sys.argv[1]));"
        # Not ru_maxrss, which begins with the memory of the process that forked this one.
        "print(int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]) / 2**20)"
    )
    result = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    assert float(result.stdout) < 1
    assert (tmp_path / "report.html").stat().st_size < 10e6


@pytest.mark.parametrize("width", [1280, 400])
def test_the_page_opens_without_an_error_or_a_request(study, browser, width):
    page, *_ = study
    browser.open(page, width)
    browser("document.querySelectorAll('#runs tr.run').forEach(row => row.click())")  # also the hostile one
    browser("document.getElementById('theme').click()")
    time.sleep(0.2)
    browser("1")
    assert browser.seen("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded") == []
    assert [event["request"]["url"] for event in browser.seen("Network.requestWillBeSent")] == [page.as_uri()]
    assert browser("window.hacked") is None
    assert browser("document.images.length") == 0
    assert browser("document.documentElement.scrollWidth") <= width
    boxes = browser("[...document.querySelectorAll('figure svg')].map(s => s.getBoundingClientRect().toJSON())")
    assert len(boxes) == 4
    assert all(box["height"] > 100 and box["left"] >= 0 and box["right"] <= width for box in boxes)


def test_a_table_that_is_wider_than_the_page_says_so(study, browser):
    page, *_ = study
    hint = "[s.scrollWidth > s.clientWidth, !s.previousElementSibling.hidden]"
    hints = f"[...document.querySelectorAll('.scroll')].map(s => {hint})"
    browser.open(page, 400)
    browser("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    shown = browser(hints)
    assert any(wide for wide, _ in shown)
    assert all(wide == hinted for wide, hinted in shown)


def test_the_page_follows_the_system_and_its_button(study, browser):
    page, *_ = study
    ground = "getComputedStyle(document.body).backgroundColor"
    browser.open(page, 1280)
    browser.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    dark = browser(ground)
    browser.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "light"}])
    assert browser(ground) == "rgb(255, 255, 255)" != dark
    browser("document.getElementById('theme').click()")
    assert browser(ground) == dark


def test_tables_sort_by_number_and_by_name(study, browser):
    page, *_ = study
    browser.open(page, 1280)
    table = "document.querySelector('table.sortable')"
    column = f"[...{table}.tBodies[0].rows].map(r => r.cells[%d].textContent)"
    browser(f"{table}.tHead.rows[0].cells[2].querySelector('button').click()")
    numbers = [float(text.split()[0]) for text in browser(column % 2)]
    assert numbers == sorted(numbers, reverse=True)
    assert browser(f"{table}.tHead.rows[0].cells[2].ariaSort") == "descending"
    browser(f"{table}.tHead.rows[0].cells[2].querySelector('button').click()")
    assert [float(text.split()[0]) for text in browser(column % 2)] == numbers[::-1]
    browser(f"{table}.tHead.rows[0].cells[0].querySelector('button').click()")
    assert browser(column % 0) == ["CKD", "KD", "MSE"]


def test_every_run_can_be_found_sorted_and_opened(study, browser):
    page, runs, _ = study
    browser.open(page, 1280)
    rows = "[...document.querySelectorAll('#runs tr.run')]"
    assert browser(f"{rows}.length") == len(runs)
    browser("document.querySelectorAll('#runs th button')[8].click()")  # test accuracy
    shown = browser(f"{rows}.map(r => r.cells[8].textContent)")
    numbers = [float(text) for text in shown if text != "-"]
    assert numbers == sorted((round(run.accuracy, 2) for run in runs if run.status == "done"), reverse=True)
    assert shown[-1] == "-"
    search = "const f = document.getElementById('filter'); f.value = %r; f.dispatchEvent(new Event('input'))"
    browser("{" + search % "mse seed=2" + "}")
    assert browser(f"{rows}.length") == sum(run.method == "mse" and run.seed == 2 for run in runs)
    browser(f"{rows}[0].click()")
    opened = browser("document.querySelector('#runs .detail').innerText")
    assert "train.calls" in opened
    assert "2.13.0" in opened
    assert browser("document.querySelectorAll('#runs .detail svg').length") == 2
