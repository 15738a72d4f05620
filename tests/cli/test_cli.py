"""Every command as a user gives it, and what it prints, against the same figures had in another way."""

import contextlib
import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from tuition import ResponseStore, data, load
from tuition.cli import main as cli
from tuition.pipeline.settings import DistillSettings, TeachSettings
from tuition.pipeline.teach import teach
from tuition.training import TrainSettings


def tuition(*arguments):
    """Exit code, standard output and standard error of the command, run in this process."""
    out, err = io.StringIO(), io.StringIO()
    before, path = sys.argv, list(sys.path)
    sys.argv = ["tuition", *map(str, arguments)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = cli.main()
    finally:
        sys.argv, sys.path[:] = before, path
    return code, out.getvalue(), err.getvalue()


def ok(*arguments):
    code, out, err = tuition(*arguments)
    assert code == 0, err
    assert "Traceback" not in err
    assert max(map(len, out.splitlines()), default=0) <= 80, "it fits on a terminal"
    return out, err


def facts(table):
    """Rows of a table of facts, as printed: name -> value."""
    rows = (re.split(r"\s{2,}", line.strip()) for line in table.splitlines())
    return {row[0]: row[1] for row in rows if len(row) == 2}


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory):
    """All tests stand in one folder, with a taught teacher and a distilled student, which none of them changes."""
    place = tmp_path_factory.mktemp("user")
    before = os.getcwd()
    os.chdir(place)
    os.environ["COLUMNS"] = "80"
    ok("teach", "--out", "teacher", "--model", "cnn_8", "--epochs", "6", "--examples", "300")
    ok("distill", "--teacher", "teacher", "--calls", "40", "--epochs", "30", "--student", "cnn_4", "--out", "run")
    yield place
    os.chdir(before)
    del os.environ["COLUMNS"]


def paid(store="responses.db"):
    return ResponseStore(store).accounts().paid


def test_teach_says_how_good_the_teacher_is():
    out, err = ok("teach", "--out", "teacher", "--model", "cnn_8", "--epochs", "6", "--examples", "300")
    printed = facts(out)
    found = load("teacher").evaluate(data.load("digits", split="test"))
    assert printed["test accuracy, best validation"] == f"{found.accuracy:.2f} %"
    assert printed["calibration error"] == f"{found.calibration_error:.2f} %"
    assert err.splitlines()[-1] == "Files are in teacher.", "after what there is to note"
    assert "teacher calls paid" not in out


def test_a_dry_run_asks_nothing():
    ok("ask", "--teacher", "teacher", "--calls", "40", "--store", "asked.db")
    command = ("ask", "--teacher", "teacher", "--calls", "50", "--cost-per-call", "0.25", "--store", "asked.db")
    printed = facts(ok(*command, "--dry-run")[0])
    assert printed["new calls"] == "10"
    assert printed["from cache"] == printed["paid so far"] == "40"
    assert printed["cost of the new calls"] == "2.50"
    assert printed["time"].endswith(" s")
    assert paid("asked.db") == 40
    printed = facts(ok(*command, "--dry-run", "--set", "seconds_per_call=3", "--set", "concurrency=2")[0])
    assert printed["time"] == "15.0 s"
    _, err = ok(*command)
    stored, right, calls = err.splitlines()
    assert stored == "50 answers of teacher are in asked.db."
    assert re.fullmatch(r"The teacher is right for \d+\.\d\d % of 50 labelled inputs\.", right)
    assert calls == "Teacher calls: 10 paid, 40 from cache, 0 failed, 0 in flight when interrupted, cost 2.50."
    assert paid("asked.db") == 50
    printed = facts(ok(*command, "--dry-run", "--store", "nowhere.db")[0])
    assert (printed["new calls"], printed["cost of the new calls"]) == ("50", "12.50")
    assert not Path("nowhere.db").exists()


def test_distill_says_what_it_gave_and_took():
    out, err = ok(
        "distill", "--teacher", "teacher", "--calls", "40", "--epochs", "30", "--student", "cnn_4", "--out", "run"
    )
    printed, record = facts(out), json.loads(Path("run/run.json").read_text())
    found = load("run").evaluate(data.load("digits", split="test"))
    assert printed["test accuracy, best validation"] == f"{found.accuracy:.2f} %"
    assert printed["test top-5"] == f"{found.top5:.2f} %"
    assert printed["inputs seen"] == "1,200"
    assert printed["teacher calls paid"] == "40"
    assert record["accounts"] == {"paid": 40, "served": 0, "failed": 0, "unknown": 0}
    assert "Student cnn_4 of digits by ckd" in out
    assert err.splitlines()[-1] == "Files are in run.", "after what there is to note"


def configured(out):
    """A run whose settings come from a file, from --set and from options."""
    settings = {
        "teacher": "teacher",
        "calls": 20,
        "epochs": 5,
        "method": "kd",
        "options": {"temperature": 2.0},
        "seed": 3,
    }
    Path("c.yaml").write_text(yaml.safe_dump(settings))
    sets = [word for pair in ("epochs=4", "batch_size=10", "options.ce_weight=0.5") for word in ("--set", pair)]
    ok("distill", "--config", "c.yaml", *sets, "--epochs", "2", "--out", out)


def test_settings_come_from_yaml_then_set_then_options():
    configured("cfg")
    found = json.loads(Path("cfg/run.json").read_text())["settings"]
    assert (found["epochs"], found["batch_size"], found["seed"], found["method"]) == (2, 10, 3, "kd")
    assert found["options"] == {"temperature": 2.0, "ce_weight": 0.5}
    every = {*DistillSettings.of({}).flat(free=False), *TrainSettings.model_fields, "teacher_name", "fingerprint"}
    assert every <= found.keys(), "the run writes back all that it was"


def test_a_run_is_repeated_by_the_file_in_its_folder():
    configured("first")
    ok("distill", "--config", "first/config.yaml", "--out", "repeated")
    first, second = (json.loads(Path(name, "run.json").read_text()) for name in ("first", "repeated"))
    assert second["settings"] == first["settings"]
    for figure in ("accuracy", "validation", "agreement"):
        assert second["results"][figure] == first["results"][figure]
    assert second["accounts"]["paid"] == 0
    assert first["settings"]["teacher"] == "teacher", "as it was given"
    ok("teach", "--config", "teacher/config.yaml", "--out", "teacher2")
    assert Path("teacher2/teacher.safetensors").read_bytes() == Path("teacher/teacher.safetensors").read_bytes()


def test_a_setting_of_training_is_not_one_of_asking():
    code, _, err = tuition("ask", "--teacher", "teacher", "--set", "momentum=.5")
    said = " ".join(err.split())
    assert code == 2
    assert "momentum is a setting of `tuition teach` and `tuition distill`, and not of `tuition ask`" in said


def test_a_run_without_a_folder_is_named_after_itself():
    _, err = ok("distill", "--teacher", "teacher", "--calls", "20", "--epochs", "1", "--method", "kd")
    assert err == "Files are in runs/digits-cnn_8-kd-20-seed0.\n"


def test_without_labels_the_further_calls_are_said():
    before = paid()
    out, err = ok(
        *("distill", "--teacher", "teacher", "--calls", "40", "--epochs", "2", "--out", "unlabelled"),
        *("--set", "labels=false"),
    )
    assert "There are no labels, so 10 further calls choose the best epoch" in err
    # 50 answers in all, of which 40 or more were there.
    printed = facts(out)
    assert int(printed["teacher calls paid"]) + int(printed["teacher calls from cache"]) == 50
    assert paid() == before + int(printed["teacher calls paid"])


def test_without_a_teacher_the_digits_have_their_own():
    out, err = ok("distill", "--calls", "8", "--epochs", "1", "--out", "own", "--store", "s.db")
    assert "a small one for the digits is used: resnet14, trained for 3 epochs and kept in teachers/digits-res" in err
    assert load("teachers/digits-resnet14").predict(data.load("digits")[:60]).shape == (60,)
    assert facts(out)["teacher calls paid"] == "8"
    assert json.loads(Path("own/run.json").read_text())["settings"]["teacher"] == "teachers/digits-resnet14"


def test_without_a_teacher_other_data_are_refused():
    code, _, err = tuition("distill", "--calls", "8", "--data", _arrays(), "--out", "none", "--store", "none.db")
    assert (code, Path("none").exists(), Path("none.db").exists()) == (2, False, False)
    assert err.startswith("Error: name a teacher with --teacher: a folder made by `tuition teach`, timm:NAME")


def test_evaluate_prints_classes_and_writes_confusions():
    out, _ = ok("evaluate", "run", "--data", "digits", "--per-class", "--confusion", "tables/c.csv")
    pool, student = data.load("digits", split="test"), load("run")
    predicted = student.predict(pool)
    first, second = out.split("By class")
    assert facts(first)["accuracy"] == f"{100 * (predicted == pool.labels).double().mean():.2f} %"
    assert facts(first)["inputs"] == "500"
    rows = [line.split() for line in second.splitlines() if re.match(r"\s+\d", line)]
    for c, row in enumerate(rows):
        of, hits = pool.labels == c, (pool.labels == c) & (predicted == c)
        precision = f"{100 * hits.sum() / (predicted == c).sum():.2f}" if (predicted == c).any() else "-"
        assert row == [str(c), str(int(of.sum())), f"{100 * hits.sum() / of.sum():.2f}", precision]
    with open("tables/c.csv", newline="") as file:
        counts = list(csv.DictReader(file))
    for label, row in enumerate(counts):
        assert row.pop("label") == str(label)
        assert [int(n) for n in row.values()] == [
            int(((pool.labels == label) & (predicted == c)).sum()) for c in range(10)
        ]


def test_predict_a_picture_a_folder_and_a_data_set():
    pool, student = data.load("digits", split="test"), load("run")
    shares, classes = student.probabilities(pool).max(1)
    for i in range(4):
        path = Path("pictures", "more" if i > 1 else "", f"{i}.png")
        path.parent.mkdir(exist_ok=True, parents=True)
        Image.fromarray(pool.inputs[i, 0].numpy()).save(path)
    expected = [f"pictures/{'more/' if i > 1 else ''}{i}.png,{classes[i]},{shares[i]:.4f}" for i in range(4)]
    out, err = ok("predict", "run", "pictures")
    assert out.splitlines() == ["input,class,confidence", *expected]
    assert err == ""
    assert ok("predict", "run", "pictures/more/3.png")[0].splitlines()[1:] == expected[3:]
    ok("predict", "run", "digits", "--out", "p/predictions.csv")
    lines = Path("p/predictions.csv").read_text().splitlines()
    assert len(lines) == 501
    assert lines[500] == f"digits test 499,{classes[499]},{shares[499]:.4f}"
    Image.fromarray(pool.inputs[0, 0].numpy()).resize((24, 24)).save("large.png")
    assert len(ok("predict", "run", "large.png", "--size", "8")[0].splitlines()) == 2


def test_grey_pictures_for_a_student_of_colours():
    ok("distill", "--teacher", _colour_teacher(), "--calls", "8", "--epochs", "1", "--data", "colours", "--out", "rgb")
    Image.new("L", (8, 8), 99).save("grey.png")
    Image.new("RGB", (8, 8), (99, 99, 99)).save("rgb.png")
    grey, colour = (ok("predict", "rgb", name)[0].splitlines()[1].split(",")[1:] for name in ("grey.png", "rgb.png"))
    assert grey == colour


def test_pictures_of_several_sizes_take_a_size():
    for split in ("train", "test"):
        for i in range(30):
            path = Path("zoo", split, "ab"[i % 2], f"{i}.png")
            path.parent.mkdir(exist_ok=True, parents=True)
            Image.new("L", (9 + i % 3, 10), 8 * i).save(path)
    assert "pass a size" in tuition("data", "zoo")[2]
    assert facts(ok("data", "zoo", "--size", "8")[0])["shape"] == "1 x 8 x 8"
    ok("teach", "--data", "zoo", "--set", "size=8", "--model", "cnn_4", "--epochs", "1", "--out", "zookeeper")
    ok(
        *("distill", "--data", "zoo", "--set", "size=8", "--teacher", "zookeeper", "--calls", "10", "--epochs", "1"),
        *("--out", "zoo-run", "--student", "cnn_4"),
    )
    assert json.loads(Path("zoo-run/run.json").read_text())["settings"]["size"] == 8
    assert facts(ok("evaluate", "zoo-run", "--data", "zoo", "--size", "8")[0])["inputs"] == "30"


def test_a_white_box_method_recomputes_maps():
    _, err = ok(
        *("distill", "--teacher", "teacher", "--calls", "20", "--epochs", "1", "--student", "cnn_4", "--out", "hints"),
        *("--method", "fitnets"),
    )
    assert re.search(r"The teacher's feature maps, recomputed without calls, take [\d.]+ MB\.", err)


def test_export():
    import onnxruntime

    _, err = ok("export", "run", "student.onnx")
    assert err == "Wrote student.onnx.\n"
    session = onnxruntime.InferenceSession("student.onnx", providers=["CPUExecutionProvider"])
    pool = data.load("digits", split="test")
    (found,) = session.run(None, {"inputs": pool.inputs[:9].numpy()})
    torch.testing.assert_close(torch.from_numpy(found), load("run").logits(pool[:9]), rtol=1e-4, atol=1e-4)


def test_models_and_methods_are_listed():
    out, _ = ok("models")
    assert "wrn_D_K" in out
    assert "'tuition[timm]'" in out, "brackets are not markup"
    out, _ = ok("models", "cnn_8", "--channels", "1", "--size", "8", "--classes", "10")
    assert "cnn_8: 6,274 parameters" in out
    assert re.search(r"stage2\.0 +Conv2d +1x16x4x4 +1,152", out)
    out, _ = ok("methods")
    assert {"ckd", "ckd_published", "kd", "vid_ckd"} <= {line.split()[0] for line in out.splitlines() if line.strip()}
    out, _ = ok("methods", "ckd_published")
    assert re.search(r"left +whole number.* 1 ", out)
    assert "inputs on one side" in re.sub(r"\s+", " ", out)
    assert ok("--version")[0].startswith("tuition ")


def test_data_is_counted_and_looked_at():
    out, err = ok("data", "digits", "--sheet", "sheet.png")
    printed = facts(out)
    assert (printed["inputs"], printed["shape"], printed["classes"]) == ("1,297", "1 x 8 x 8", "10")
    assert int(printed["different ones, each a teacher call"].replace(",", "")) == len(set(data.load("digits").digests))
    assert err == "Contact sheet: sheet.png.\n"
    assert Image.open("sheet.png").size[0] > 100


def test_a_store_is_looked_after():
    ok("teach", "--out", "other", "--model", "cnn_4", "--epochs", "1", "--examples", "100")
    ok("ask", "--teacher", "other", "--calls", "12")
    out, _ = ok("store", "usage", "responses.db")
    assert ok("store", "usage")[0] == out
    accounts = ResponseStore("responses.db").accounts("teacher")
    printed = facts(out.partition("\nteacher: ")[2].partition("\n\n")[0])
    assert (printed["calls paid"], printed.get("calls from cache", "0")) == (str(accounts.paid), str(accounts.served))
    count = int(printed["answers stored"])
    whole = ok("store", "verify", "responses.db")[1].split()
    assert ok("store", "verify")[1].split() == whole
    assert int(whole[0]) == int(whole[2]) > count, "those of other teachers too"
    exported = ok("store", "export", "responses.db", "exported", "--teacher", "teacher")[1]
    assert exported == f"{count} answers are in exported.\n"
    assert ok("store", "import", "copy.db", "exported")[1] == f"{count} answers are new in copy.db, 0 were there.\n"
    ok("distill", "--teacher", "teacher", "--calls", "40", "--epochs", "1", "--store", "copy.db", "--out", "copied")
    assert paid("copy.db") == 0, "imported answers serve as paid ones"

    code, _, err = tuition("store", "prune", "copy.db", "--teacher", "teacher")
    assert (code, err.count("--yes")) == (2, 1)
    assert ok("store", "prune", "copy.db", "--teacher", "teacher", "--yes")[1] == f"{count} answers were dropped.\n"
    assert ok("store", "verify", "copy.db")[1] == "0 of 0 answers are intact.\n"


def test_a_teacher_is_asked_again_within_the_budget():
    ok("ask", "--teacher", "teacher", "--calls", "12", "--store", "again.db")
    command = ("store", "verify", "again.db", "--reask", "5", "--teacher", "teacher", "--data", "digits")
    _, err = ok(*command, "--budget", "17")
    assert re.search(r"logits of 5 inputs asked again differ by at most \S+\.\nTeacher calls: 5 paid", err)
    assert paid("again.db") == 17
    for more in (["--budget", "21"], []):
        code, _, err = tuition(*command, *more)
        assert (code, err.count("Error:")) == (2, 1)
    assert paid("again.db") == 17


def test_a_damaged_store_is_told_by_the_exit_code():
    import sqlite3

    shutil.copy("responses.db", "damaged.db")
    with contextlib.closing(sqlite3.connect("damaged.db")) as database, database:
        database.execute(
            "UPDATE tuition_blobs SET checksum = zeroblob(16) WHERE id = (SELECT min(id) FROM tuition_blobs)"
        )
    code, _, err = tuition("store", "verify", "damaged.db")
    assert code == 1
    assert "its bytes do not match their checksum" in err
    dropped = int(ok("store", "prune", "damaged.db", "--damaged")[1].split()[0])
    assert dropped > 0
    code, _, err = tuition("store", "verify", "damaged.db")
    assert (code, err.split()[0]) == (0, err.split()[2])


def test_output_may_be_cut_off():
    """As by `head`: no traceback."""
    script = Path(sys.executable).with_name("tuition")
    done = subprocess.run(
        f"{script} predict run digits | head -1", shell=True, capture_output=True, text=True, executable="/bin/bash"
    )
    assert done.stdout == "input,class,confidence\n"
    assert done.stderr == ""


def _arrays():
    import numpy as np

    Path("arrays").mkdir()
    pool = data.load("digits")
    for split, part in (("train", pool[:60]), ("test", pool[60:80])):
        np.savez(f"arrays/{split}.npz", inputs=part.inputs.numpy(), labels=part.labels.numpy())
    return "arrays"


def _colour_teacher():
    import numpy as np

    Path("colours").mkdir()
    for split in ("train", "test"):
        np.savez(f"colours/{split}.npz", inputs=np.zeros((20, 3, 8, 8), np.uint8), labels=np.arange(20) % 10)
    Path("colour_teacher.py").write_text(
        "from tuition import models\ndef make():\n    return models.create('cnn_4', num_classes=10, seed=0)\n"
    )
    return "colour_teacher:make"


def test_a_store_s_password_is_written_nowhere(tmp_path, capsys):
    from tuition.studies.study import note_command

    url = "postgresql://tuition:pa%40ss@localhost:1/nothing"
    note_command(tmp_path, ["study", "figure2-wrn", "--set", f"store={url}"])
    assert "store=postgresql://tuition:***@localhost:1/nothing" in (tmp_path / "command.txt").read_text()
    cli.say(f"8 answers are in {url}.")
    assert capsys.readouterr().err == "8 answers are in postgresql://tuition:***@localhost:1/nothing.\n"


# -- evaluating on data that lacks classes of the student --------------------------------------------------------------


@pytest.fixture(scope="module")
def pets(tmp_path_factory):
    """Images whose colour is their class, a student of ant, bee and cat, and folders of some of these classes."""
    folder = tmp_path_factory.mktemp("pets")
    random = np.random.default_rng(0)

    def pictures(place, colour, count):
        place.mkdir(parents=True)
        for i in range(count):
            pixels = random.integers(0, 80, (16, 16, 3)).astype(np.uint8)
            pixels[..., colour] += 150
            Image.fromarray(pixels).save(place / f"{i}.png")

    for colour, name in enumerate(("ant", "bee", "cat")):
        pictures(folder / "pets" / "train" / name, colour, 30)
        pictures(folder / "pets" / "test" / name, colour, 6)
    for place, names in (("field", "bee cat"), ("barn", "Cat bee"), ("wild", "bee wasp")):
        for name in names.split():
            pictures(folder / place / name, {"bee": 1, "wasp": 0}.get(name, 2), 12)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        teach(TeachSettings.of({"data": "pets", "model": "cnn_8", "epochs": 6, "learning_rate": 0.02}), Path("run"))
    return folder


@pytest.mark.parametrize("place", ["field", "barn"])
def test_evaluate_matches_classes_by_name(pets, place, monkeypatch, capsys):
    monkeypatch.chdir(pets)
    words = ["evaluate", "run", "--data", place, "--split", "train", "--per-class", "--confusion", f"{place}.csv"]
    monkeypatch.setattr("sys.argv", ["tuition", *words])
    assert cli.main() == 0
    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["accuracy", "100.00", "%"] in shown
    assert ["inputs", "24"] in shown
    assert ["ant", "0", "-", "-"] in shown
    assert ["bee", "12", "100.00", "100.00"] in shown
    assert ["cat", "12", "100.00", "100.00"] in shown
    table = list(csv.reader((pets / f"{place}.csv").open()))
    assert table == [["label", "ant", "bee", "cat"], ["ant", *"000"], ["bee", "0", "12", "0"], ["cat", "0", "0", "12"]]


def test_evaluate_refuses_a_class_that_the_student_does_not_know(pets, monkeypatch, capsys):
    monkeypatch.chdir(pets)
    monkeypatch.setattr("sys.argv", ["tuition", "evaluate", "run", "--data", "wild", "--split", "train"])
    assert cli.main() == 2
    printed = capsys.readouterr()
    assert "has the class wasp, which the model does not know" in printed.err
    assert printed.out == ""
