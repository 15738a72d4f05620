"""Terminals that are gone, full, narrow or poor, and texts of others on a terminal: real processes, a real pty."""

import contextlib
import io
import json
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tuition import ResponseStore, crash, data, teachers
from tuition.cli import main as cli
from tuition.cli import output
from tuition.cli.printer import Printer
from tuition.training import distill

ESCAPE = "\x1b]0;OWNED\x07\x1b[2J\x1b[31mred\x1b[8m\u202ehidden"
METHODS = [sys.executable, "-m", "tuition", "methods"]


def shell(command, **environment):
    program = shutil.which("bash")
    assert program
    tuition = f"{sys.executable} -m tuition"
    return subprocess.run(
        [program, "-c", command.replace("tuition", tuition, 1)],
        capture_output=True,
        text=True,
        env=os.environ | environment,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("tuition methods >&-", 0),
        ("tuition methods >&- 2>&- <&-", 0),
        ("tuition methods --json >&- 2>/dev/full", 0),
        ("tuition methods nonsense 2>/dev/full", 2),
        ("tuition methods nonsense 2>&-", 2),
        ("tuition methods > /dev/full", 2),
        ("tuition methods --json > /dev/full", 2),
        ("set -o pipefail; tuition methods --json | head -1", 0),
        ("set -o pipefail; tuition methods | true", 0),
    ],
)
def test_a_terminal_that_is_gone_or_full(command, code):
    done = shell(command)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


@pytest.mark.slow
def test_a_terminal_of_few_characters_and_one_column():
    poor = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
    done = shell("tuition methods", COLUMNS="1", **poor)
    assert (done.returncode, done.stdout.isascii()) == (0, True)


def run(*words):
    """Exit code, standard output and standard error of a command, run in this process."""
    out, err, before = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["tuition", *map(str, words)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            return cli.main(), out.getvalue(), err.getvalue()
    finally:
        sys.argv = before


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A run and a store whose every name is hostile to a terminal."""
    folder = tmp_path_factory.mktemp("hostile")
    pool = data.load("digits")
    teacher = teachers.from_callable(
        lambda x: {"logits": x.float().flatten(1)[:, 10:20]}, fingerprint="1", name=f"t{ESCAPE}"
    )
    transfer = ResponseStore(str(folder / "r.db")).ask(teacher, pool[:20], budget=20)
    distill("cnn_4", transfer, "kd", epochs=1, out=folder / "run")
    record = json.loads((folder / "run" / "run.json").read_text())
    record["student"]["class_names"] = [*(f"{ESCAPE}{i}" for i in range(9)), '=HYPERLINK("http://x")']
    (folder / "run" / "run.json").write_text(json.dumps(record))
    (folder / "c.yaml").write_text(json.dumps({"data": ESCAPE, "teacher": ESCAPE}))
    shutil.copytree(folder / "run", folder / os.fsdecode(b"run\xf1"))
    return folder


@pytest.mark.parametrize(
    "words",
    [
        ("predict", "run", "digits"),
        ("evaluate", "run", "--data", "digits", "--per-class"),
        ("store", "usage", "r.db"),
        ("store", "prune", "r.db", "--teacher", f"t{ESCAPE}"),
        ("ask", "--config", "c.yaml"),
        ("data", ESCAPE),
        ("methods", ESCAPE),
        ("models", ESCAPE),
        (ESCAPE,),
        ("data", "--", ESCAPE),
        ("ask", "--set", f"{ESCAPE}=1"),
        ("ask", "--set", f"size={ESCAPE}"),
        ("study", ESCAPE, "--out", "s"),
        ("predict", os.fsdecode(b"run\xf1"), "digits"),
    ],
    ids=lambda words: "-".join(word for word in words if word.isascii() and word.isprintable()),
)
def test_no_name_reaches_a_terminal_as_it_is(words, hostile, monkeypatch):
    monkeypatch.chdir(hostile)
    _, out, err = run(*words)
    assert out + err
    for character in "\x1b\x07\u202e":
        assert character not in out + err
    (out + err).encode()
    assert ",=HYPERLINK" not in out


def test_predictions_are_no_formulas(hostile, monkeypatch):
    monkeypatch.chdir(hostile)
    assert run("predict", "run", "digits", "--out", "p.csv")[0] == 0
    assert ",=HYPERLINK" not in Path("p.csv").read_text()
    assert ',"=HYPERLINK' not in Path("p.csv").read_text()
    assert run("evaluate", "run", "--data", "digits", "--confusion", "c.csv")[0] == 0
    assert "\"'=HYPERLINK(" in Path("c.csv").read_text()


def test_a_progress_bar_on_a_terminal_that_hangs_up_fails_nothing(monkeypatch):
    ours, theirs = pty.openpty()
    with open(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        with Printer().counting("calls") as advance:
            advance(1, 3)
            os.close(ours)
            advance(2, 3)
        output.say("done")
        monkeypatch.undo()


class OddError(Exception):
    pass


def test_an_error_that_nobody_expected(monkeypatch, tmp_path):
    def broken(*_, **__):
        raise OddError("postgresql://u:geheim@h/db \x1b[2J k3y-of-the-service " + "x" * 5000)

    monkeypatch.setenv("OPENAI_API_KEY", "k3y-of-the-service")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("tuition.models.available", broken)
    code, out, err = run("models")
    assert (code, out, err.count("\n")) == (crash.EXIT_CODE, "", 1)
    (kept,) = tmp_path.iterdir()
    assert "OddError: postgresql://u:***@h/db" in err
    assert f"its traceback is in {kept}, and `tuition models --traceback` shows it." in err
    assert "x" * 300 not in err
    written = kept.read_text()
    assert "Traceback (most recent call last)" in written
    assert "in broken" in written
    assert kept.stat().st_mode & 0o077 == 0, "only this user reads it"
    code, _, err = run("models", "--traceback")
    assert code == crash.EXIT_CODE
    assert "in broken" in err
    for text in (written, err):
        assert "geheim" not in text
        assert "k3y-of-the-service" not in text
        assert "\x1b" not in text


def test_a_traceback_that_cannot_be_kept_is_still_a_sentence(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    monkeypatch.setattr("tuition.models.available", lambda: 1 / 0)
    code, _, err = run("models")
    assert code == crash.EXIT_CODE
    assert "unexpected ZeroDivisionError" in err
    assert "its traceback could not be written" in err


@pytest.mark.parametrize("words", [["--help"], ["ask", "--help"]])
def test_a_reader_that_has_gone_before_the_help_is_printed(words):
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, "-m", "tuition", *words], stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
