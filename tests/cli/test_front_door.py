"""What every command has: help with an example, settings that are explained, JSON, a question before paying."""

import contextlib
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tuition import ResponseStore, data, load
from tuition.cli import main as cli
from tuition.training import methods

COMMANDS = ["demo", "teach", "ask", "check", "distill", "study", "report", "predict", "evaluate", "export"]
COMMANDS += ["import-teacher", "settings", "methods", "models", "data"]
STORES = [("store", name) for name in ("usage", "verify", "export", "import", "prune")]
TEACHER = """
import torch
from tuition import teachers

def make():
    return teachers.from_callable(
        lambda x: {"logits": x.float().flatten(1)[:, 10:20]}, fingerprint="1", name="remote"
    )
"""


class Terminal(io.StringIO):
    """A stream with a person in front of it."""

    def isatty(self):
        return True


def tuition(*words, stdin=None, terminal=False):
    """Exit code, standard output and standard error of a command, run in this process."""
    out, err = io.StringIO(), Terminal() if terminal else io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["tuition", *map(str, words)])
        patch.setattr(sys, "stdin", io.StringIO() if stdin is None else stdin)
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            return cli.main(), out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a taught teacher, a run, and a teacher that is called elsewhere."""
    folder = tmp_path_factory.mktemp("front")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert tuition("teach", "--out", "teacher", "--model", "cnn_4", "--epochs", "2", "--examples", "200")[0] == 0
        words = ["--teacher", "teacher", "--calls", "20", "--epochs", "2", "--student", "cnn_4", "--out", "run"]
        assert tuition("distill", *words)[0] == 0
    (folder / "remote_teacher.py").write_text(TEACHER)
    return folder


@pytest.fixture(autouse=True)
def here(place, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.syspath_prepend(str(place))
    monkeypatch.delitem(sys.modules, "remote_teacher", raising=False)  # of another folder


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("words", [(name,) for name in COMMANDS] + STORES, ids=" ".join)
def test_help_fits_and_has_an_example(words, columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    code, out, err = tuition(*words, "--help")
    assert (code, err) == (0, "")
    assert f"Example: tuition {' '.join(words)}" in out
    assert max(map(len, out.splitlines())) <= columns
    assert "--json" in out
    assert "--quiet" in out


def test_help_of_distill_is_grouped():
    titles = re.findall(r"^╭─ (.*?) ─", tuition("distill", "--help")[1], flags=re.MULTILINE)
    assert titles == ["Data and model", "Student", "Teacher and budget", "Training", "Output"]


def test_exit_codes_are_documented():
    out = " ".join(tuition("--help")[1].split())
    assert "0 done, 1 failed, 2 refused, 3 out of time, 70 unexpected error, 130 interrupted" in out


@pytest.mark.parametrize("command", ["teach", "ask", "check", "distill", "study", None])
def test_every_setting_is_explained(command):
    code, out, _ = tuition("settings", *([] if command is None else [command]), "--json")
    assert code == 0
    settings = {row["name"]: row for row in json.loads(out)["settings"]}
    assert all(row["description"] and row["type"] for row in settings.values())
    assert ("learning_rate" in settings) == (command not in ("ask", "check"))
    assert ("budget" in settings) == (command != "teach")
    assert settings["size"]["unit"] == "pixels"
    assert "data" in settings


def test_settings_of_an_unknown_command():
    code, _, err = tuition("settings", "predict")
    assert code == 2
    assert "name one of teach, ask, check, distill, study" in err


def test_a_setting_s_option_has_its_default_and_its_meaning():
    words = " ".join(tuition("ask", "--help")[1].replace("│", " ").split())
    assert re.search(r"--calls N .*Default: 320\.", words)
    assert "diverse-margin, coverage. Default: random." in words


def test_a_bad_value_of_an_option_is_refused_by_the_setting():
    code, _, err = tuition("distill", "--teacher", "teacher", "--learning-rate", "0")
    assert (code, err) == (2, "Error: the setting learning_rate cannot be 0: input should be greater than 0.\n")


@pytest.mark.parametrize("name", ["ckd", "fitnets"])
def test_options_of_a_method_are_explained(name):
    shown = json.loads(tuition("methods", name, "--json")[1])
    assert [row["name"] for row in shown["options"]] == list(methods.defaults(name))
    assert all(row["sentence"] and row["type"] for row in shown["options"])
    table = tuition("methods", name)[1]
    assert all(row["name"] in table for row in shown["options"])


def test_json_is_all_of_standard_output():
    words = ["--teacher", "teacher", "--calls", "20", "--epochs", "2", "--student", "cnn_4", "--out", "jsonrun"]
    code, out, err = tuition("distill", *words, "--json", "--quiet")
    assert (code, err) == (0, "")
    printed, record = json.loads(out), json.loads(Path("jsonrun/run.json").read_text())
    assert printed["accuracy"] == record["results"]["accuracy"]
    assert printed["accounts"] == record["accounts"]
    assert printed["directory"] == "jsonrun"


@pytest.mark.parametrize(
    ("words", "keys"),
    [
        (("ask", "--teacher", "teacher", "--calls", "20"), {"answers", "accounts", "teacher_accuracy"}),
        (("check", "teacher", "--calls", "8"), {"verdict", "accounts", "accuracy", "chance"}),
        (("evaluate", "run", "--data", "digits", "--per-class"), {"accuracy", "top5", "inputs", "classes"}),
        (("predict", "run", "digits"), {"predictions", "skipped"}),
        (("store", "usage", "responses.db"), {"teachers"}),
        (("store", "verify", "responses.db"), {"intact", "answers", "problems"}),
        (("data", "digits"), {"inputs", "different", "shape", "classes"}),
        (("models",), {"models"}),
        (("models", "cnn_4"), {"name", "parameters", "modules"}),
        (("methods",), {"methods"}),
        (("ask", "--teacher", "teacher", "--dry-run"), {"plan"}),
        (
            ("study", "figure2-wrn", "--smoke", "--data", "digits", "--out", "s", "--dry-run"),
            {"runs", "new", "seconds"},
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else "",
)
def test_json_of_every_command(words, keys):
    code, out, err = tuition(*words, "--json")
    assert code == 0, err
    assert keys <= json.loads(out).keys()


def test_quiet_leaves_tables_and_errors():
    code, out, err = tuition("evaluate", "run", "--data", "digits", "--quiet")
    assert (code, err) == (0, "")
    assert "accuracy" in out
    code, out, err = tuition("evaluate", "nowhere", "--data", "digits", "--quiet")
    assert (code, out, err.count("Error:")) == (2, "", 1)


def test_a_dry_run_of_distill_prints_the_plan():
    before = ResponseStore("responses.db").accounts().paid
    words = ["--teacher", "teacher", "--calls", "30", "--epochs", "5", "--cost-per-call", "0.5", "--out", "planned"]
    code, out, err = tuition("distill", *words, "--dry-run")
    assert (code, err) == (0, "")
    for row in ("new calls +10", r"cost of the new calls +5\.00", "student +cnn_8", "epochs, at most +5"):
        assert re.search(row, out), out
    assert not Path("planned").exists()
    assert ResponseStore("responses.db").accounts().paid == before
    plan = json.loads(tuition("distill", *words, "--dry-run", "--json")[1])
    assert (plan["plan"]["new"], plan["plan"]["cost"], plan["training"]["epochs"]) == (10, 5.0, 5)


@pytest.mark.parametrize(
    ("words", "code", "row"),
    [
        (["ask", "--calls", "30", "--budget", "30"], 0, "30, left 10"),  # 20 are stored and paid
        (["ask", "--calls", "30", "--budget", "28"], 2, "28, left 8: 2 short"),
        (["distill", "--calls", "30", "--budget", "28"], 2, "28, left 8: 2 short"),
        (["distill", "--calls", "32", "--rounds", "3", "--budget", "32"], 0, "32, left 12: up to 20 short"),
        (["distill", "--calls", "32", "--rounds", "3", "--budget", "31"], 2, "31, left 11: up to 21 short"),
        (["distill", "--calls", "32", "--until", "80", "--budget", "52"], 0, "52, left 32"),
        (["distill", "--calls", "32", "--until", "80", "--budget", "32"], 2, "32, left 12: 8 short"),
    ],
)
def test_a_dry_run_compares_the_calls_with_the_budget(words, code, row):
    ended, out, err = tuition(*words, "--teacher", "teacher", "--dry-run")
    assert ended == code, err
    assert re.search(rf"budget +{row}\s", out), out
    assert ("nothing was asked, raise the budget to" in err) == (code == 2)


def ask_remote(store, *words, answer=None):
    command = ["ask", "--teacher", "remote_teacher:make", "--calls", "12", "--store", store, *words]
    if answer is None:
        return tuition(*command)
    return tuition(*command, stdin=Terminal(answer), terminal=True)


def paid(store):
    return ResponseStore(store).accounts().paid if Path(store).exists() else 0


@pytest.mark.parametrize("answer", ["n\n", "\n", ""])
def test_a_first_paid_ask_that_is_declined_pays_nothing(answer, tmp_path):
    store = str(tmp_path / "r.db")
    code, out, err = ask_remote(store, "--cost-per-call", "0.25", answer=answer)
    assert code == 2
    assert "cost of the new calls" in out
    assert "3.00" in out
    assert "Pay for 12 calls of remote? [y/N]" in err
    assert "nothing was asked and nothing was paid" in err
    assert paid(store) == 0


def test_a_first_paid_ask_that_is_accepted_and_later_ones(tmp_path):
    store = str(tmp_path / "r.db")
    code, _, err = ask_remote(store, answer="y\n")
    assert (code, paid(store)) == (0, 12)
    assert "[y/N]" in err
    code, _, err = ask_remote(store, "--calls", "14", answer="n\n")
    assert (code, paid(store)) == (0, 14)
    assert "[y/N]" not in err, "it was paid before"


@pytest.mark.parametrize(("words", "answer", "expected"), [((), "n\n", (2, 0)), (("--yes",), "n\n", (0, 4))])
def test_a_first_check_of_a_paid_teacher_asks_too(words, answer, expected, tmp_path):
    store = str(tmp_path / "r.db")
    command = ["check", "remote_teacher:make", "--calls", "4", "--store", store, *words]
    code, _, err = tuition(*command, stdin=Terminal(answer), terminal=True)
    assert (code, paid(store)) == expected
    assert ("[y/N]" in err) == (not words)


@pytest.mark.parametrize("words", [("--yes",), ("--budget", "12"), None])
def test_nobody_is_asked(words, tmp_path):
    store = str(tmp_path / "r.db")
    code, _, err = ask_remote(store) if words is None else ask_remote(store, *words, answer="n\n")
    assert (code, paid(store)) == (0, 12)
    assert "[y/N]" not in err


def test_nobody_is_asked_about_a_local_teacher_without_a_price(tmp_path):
    store = str(tmp_path / "r.db")
    words = ["ask", "--teacher", "teacher", "--calls", "12", "--store", store]
    code, _, err = tuition(*words, stdin=Terminal("n\n"), terminal=True)
    assert (code, paid(store)) == (0, 12)
    assert "[y/N]" not in err


def test_predict_takes_several_files_and_skips_what_it_cannot_read():
    pool, student = data.load("digits", split="test"), load("run")
    for i in range(3):
        Image.fromarray(pool.inputs[i, 0].numpy()).save(f"{i}.png")
    Path("broken.png").write_bytes(b"no picture")
    code, out, err = tuition("predict", "run", "0.png", "broken.png", "1.png", "missing.png", "2.png")
    assert code == 1
    classes = student.predict(pool[:3]).tolist()
    assert [line.split(",")[:2] for line in out.splitlines()[1:]] == [[f"{i}.png", str(classes[i])] for i in range(3)]
    skipped = err.splitlines()
    assert len(skipped) == 2
    assert all(line.startswith("Skipped: ") for line in skipped)
    assert "broken.png" in skipped[0]
    assert "missing.png" in skipped[1]


def test_predict_knows_the_size_of_the_run():
    pool = data.load("digits", split="test")
    large = Image.fromarray(pool.inputs[0, 0].numpy()).resize((31, 24))
    large.save("large.png")
    known, given = (tuition("predict", "run", "large.png", *size)[1] for size in ((), ("--size", "8")))
    assert known == given
    assert len(known.splitlines()) == 2


@pytest.mark.parametrize("words", [(), ("--json",), ("--out", "predictions.csv")])
def test_predict_of_nothing_that_can_be_read_exits_with_1(words):
    Path("text.yaml").write_text("a: 1\n")
    code, out, err = tuition("predict", "run", "text.yaml", "missing.png", *words)
    assert code == 1
    assert [line.split()[0] for line in err.splitlines()] == ["Skipped:", "Skipped:"]
    assert (json.loads(out)["predictions"] if "--json" in words else out) in ([], "")


def test_predict_refuses_an_empty_name():
    code, out, err = tuition("predict", "run", "")
    assert (code, out) == (2, "")
    assert "the name of an input is empty" in err


def test_predict_takes_pictures_in_colour_for_a_student_of_grey_ones():
    grey = data.load("digits", split="test").inputs[0, 0].numpy()
    Image.fromarray(grey).save("grey.png")
    Image.fromarray(grey).convert("RGB").save("colour.png")
    code, out, _ = tuition("predict", "run", "grey.png", "colour.png", "--json")
    grey_row, colour_row = json.loads(out)["predictions"]
    assert (code, grey_row) == (0, colour_row | {"input": "grey.png"})
    assert isinstance(grey_row["confidence"], float)


@pytest.mark.parametrize("words", ["ask --sel", "ask --select ", "study figure2-"])
def test_the_shell_completes(words):
    environment = {"_TUITION_COMPLETE": "complete_bash", "COMP_WORDS": f"tuition {words}"}
    environment["COMP_CWORD"] = str(len(words.split()) + words.endswith(" "))
    done = subprocess.run(
        [sys.executable, "-m", "tuition"], capture_output=True, text=True, env=os.environ | environment
    )
    shown = {"ask --sel": "--select", "ask --select ": "stratified", "study figure2-": "figure2-wrn"}[words]
    assert shown in done.stdout.split(), done.stderr
