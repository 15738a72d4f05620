"""Strangers' files: code that a run, a teacher's folder, a study or a settings file names, and modules beside data."""

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from tuition import UserError, data, factories, load, models
from tuition.data import TransferSet
from tuition.teachers import KINDS
from tuition.training import distill

EVIL = """
import os
open(os.environ["RAN"], "a").write("ran ")
def net(num_classes, in_channels):
    from tuition import models
    return models.create("cnn_4", num_classes=num_classes, in_channels=in_channels)
def teacher():
    from tuition import teachers
    return teachers.from_torch(net(10, 1), name="own")
"""


def run_command(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tuition", *words],
        cwd=folder,
        env=os.environ | {"RAN": str(folder / "ran"), "OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the zoo's cnn_4."""
    folder = tmp_path_factory.mktemp("runs") / "good"
    pool = data.load("digits")[:40]
    distill("cnn_4", TransferSet(pool, {"logits": torch.zeros(40, 10)}), "kd", epochs=1, out=folder)
    return folder


@pytest.fixture
def stranger(good: Path, tmp_path: Path) -> Path:
    """A folder with a run whose run.json names code that lies beside it."""
    shutil.copytree(good, tmp_path / "downloaded")
    rename(tmp_path / "downloaded", "downloaded.evil:net")
    (tmp_path / "downloaded" / "evil.py").write_text(EVIL)
    return tmp_path


def rename(folder: Path, name: object, **more: object) -> None:
    record = json.loads((folder / "run.json").read_text())
    record["student"]["model"] = {**record["student"]["model"], "name": name, **more}
    (folder / "run.json").write_text(json.dumps(record))


@pytest.mark.parametrize(
    "words",
    [
        "predict downloaded digits",
        "evaluate downloaded --data digits",
        "export downloaded student.onnx",
        "ask --data digits --calls 4 --teacher downloaded --dry-run",
        "distill --data digits --calls 4 --teacher downloaded --epochs 1",
        "ask --data digits --calls 4 --teacher downloaded --set features=downloaded --set select=medoids --dry-run",
    ],
)
def test_a_run_that_names_code_is_not_opened(stranger: Path, words: str) -> None:
    done = run_command(stranger, *words.split())
    assert done.returncode == 2
    assert "downloaded.evil:net" in done.stderr
    assert "--trust-code" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (stranger / "ran").exists()


def test_code_of_a_run_is_run_where_it_is_trusted(stranger: Path) -> None:
    done = run_command(stranger, "predict", "downloaded", "digits", "--trust-code")
    assert done.returncode == 0, done.stderr
    assert (stranger / "ran").read_text() == "ran "
    assert done.stdout.count("\n") == 501


def test_load_takes_a_model_or_trust(stranger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAN", str(stranger / "ran"))
    monkeypatch.chdir(stranger)
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(UserError, match=r"names code, downloaded\.evil:net.*trust_code=True"):
        load("downloaded")
    given = models.create("cnn_4", num_classes=10, in_channels=1)
    assert load("downloaded", model=given).input_shape == (1, 8, 8)
    assert not (stranger / "ran").exists()
    assert load("downloaded", trust_code=True).input_shape == (1, 8, 8)
    assert (stranger / "ran").exists()


@pytest.mark.parametrize(
    ("name", "more", "sentence"),
    [
        ("http.server:test", {}, r"names code, http\.server:test"),
        ("timm:hf-hub:someone/net", {}, "not the name of one of timm's models"),
        ("timm:local-dir:/tmp/net", {}, "not the name of one of timm's models"),
        ("cnn_4", {"pretrained": True}, "damaged .*pretrained"),
        ("cnn_4", {"num_classes": 2**31}, "less than or equal to 1000000"),
        ("mlp_99999", {"in_channels": 2**20}, "less than or equal to 1000000"),
        (["cnn_4"], {}, "damaged .*name"),
    ],
)
def test_recipes_of_run_json_that_are_refused(
    good: Path, tmp_path: Path, name: object, more: dict[str, object], sentence: str
) -> None:
    shutil.copytree(good, tmp_path / "run")
    rename(tmp_path / "run", name, **more)
    with pytest.raises(UserError, match=sentence):
        load(tmp_path / "run")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("weights", "../student.safetensors"),
        ("weights", "/etc/passwd"),
        ("crop", {"padding": 0, "os": 1}),
        ("hashing", {"length": 3, "size": 4}),
        ("output", "code"),
        ("input_shape", ["a"]),
        ("input_shape", [2**40, 8, 8]),
    ],
)
def test_other_fields_of_run_json_that_are_refused(good: Path, tmp_path: Path, key: str, value: object) -> None:
    shutil.copytree(good, tmp_path / "run")
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    record["student"][key] = value
    (tmp_path / "run" / "run.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="is damaged"):
        load(tmp_path / "run")


STUDY = {
    "settings": {"data": "digits", "epochs": 1, "calls": 20},
    "pairs": [{"teacher": "good", "student": "cnn_4"}],
    "methods": ["kd"],
}


@pytest.mark.parametrize(
    "change",
    [
        {"pairs": [{"teacher": "evil:teacher", "student": "cnn_4"}]},
        {"pairs": [{"teacher": "good", "student": "evil:net"}]},
        {"axes": {"student": ["cnn_4", "evil:net"]}},
        {"choose": {"candidates": {"student": ["evil:net"]}}},
        {"teaching": {"model": "evil:net"}},
    ],
)
def test_a_study_that_names_code_is_not_run(good: Path, tmp_path: Path, change: dict[str, object]) -> None:
    shutil.copytree(good, tmp_path / "good")
    (tmp_path / "evil.py").write_text(EVIL)
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(STUDY | change))
    done = run_command(tmp_path, "study", "study.yaml", "--out", "out", "--dry-run")
    assert done.returncode == 2, done.stderr
    assert "evil:" in done.stderr
    assert "--trust-code" in done.stderr
    assert not (tmp_path / "ran").exists()
    trusted = {"settings": STUDY["settings"] | {"trust_code": True}}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(STUDY | change | trusted))
    assert run_command(tmp_path, "study", "study.yaml", "--out", "out").returncode == 2, "a file cannot trust itself"
    assert not (tmp_path / "ran").exists()


def test_a_study_trains_no_teacher_whose_folder_names_code(stranger: Path) -> None:
    record = json.loads((stranger / "downloaded" / "run.json").read_text())
    record["settings"]["student"] = {"name": "downloaded.evil:net", "num_classes": 10, "in_channels": 1}
    (stranger / "downloaded" / "run.json").write_text(json.dumps(record | {"status": "running"}))
    study = STUDY | {"pairs": [{"teacher": "downloaded", "student": "cnn_4"}]}
    (stranger / "study.yaml").write_text(yaml.safe_dump(study))
    done = run_command(stranger, "study", "study.yaml", "--out", "out")
    assert done.returncode == 2
    assert "names code, downloaded.evil:net" in done.stderr
    assert not (stranger / "ran").exists()


def test_a_settings_file_that_names_code(good: Path, tmp_path: Path) -> None:
    (tmp_path / "evil.py").write_text(EVIL)
    (tmp_path / "job.yaml").write_text("teacher: evil:teacher\ncalls: 4\n")
    words = ["ask", "--config", "job.yaml", "--dry-run"]
    done = run_command(tmp_path, *words)
    assert done.returncode == 2
    assert "job.yaml names code, evil:teacher" in done.stderr
    assert not (tmp_path / "ran").exists()
    assert run_command(tmp_path, *words, "--trust-code").returncode == 0
    (tmp_path / "ran").unlink()
    done = run_command(tmp_path, "ask", "--teacher", "evil:teacher", "--calls", "4", "--dry-run")
    assert done.returncode == 0, "what the user types is his own word"
    assert (tmp_path / "ran").exists()


# -- the import path -------------------------------------------------------------------------------------------------

MODULES = [
    *("yaml", "torch", "numpy", "sqlalchemy", "rich", "statistics", "secrets", "csv", "typing", "json", "re", "random"),
    *("typer", "pydantic", "safetensors", "datasets", "matplotlib", "tempfile", "socket", "pickle", "multiprocessing"),
    *("signal", "queue", "shutil", "textwrap", "dataclasses", "inspect", "hashlib", "sklearn", "PIL", "onnx", "timm"),
]


def test_no_module_of_the_current_folder_goes_before_others(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("good text\nbad text\n")
    for name in MODULES:
        (tmp_path / f"{name}.py").write_text(
            f"open({str(tmp_path / 'ran')!r}, 'a').write(__name__ + ' ')\nraise OSError"
        )
    done = run_command(tmp_path, "data", ".")
    ran = (tmp_path / "ran").read_text() if (tmp_path / "ran").exists() else ""
    assert (done.returncode, ran) == (0, ""), done.stderr


def test_nor_in_worker_processes_nor_of_an_empty_entry_of_the_path(tmp_path: Path) -> None:
    for name in MODULES:
        (tmp_path / f"{name}.py").write_text(
            f"open({str(tmp_path / 'ran')!r}, 'a').write(__name__ + ' ')\nraise OSError"
        )
    program = (
        "import sys; sys.path[:] = [p for p in sys.path if p not in ('', sys.argv[1])]\n"
        "from tuition.studies.executor import run_parallel\n"
        "import math\n"
        "if __name__ == '__main__':\n    print([o.result for o in run_parallel(math.sqrt, [4.0, 9.0], workers=2)])"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", program, str(tmp_path)], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert sorted(eval(done.stdout)) == [2.0, 3.0], done.stderr
    assert not (tmp_path / "ran").exists()
    here = f":{os.environ.get('PYTHONPATH', '')}"
    done = run_command(tmp_path, "methods", PYTHONPATH=here)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "ran").exists()


def test_a_named_module_is_found_here_with_its_helpers_and_hides_nothing(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("import helper\n" + EVIL)
    (tmp_path / "helper.py").write_text("import statistics\nassert statistics.fmean([1, 3]) == 2")
    (tmp_path / "statistics.py").write_text("raise OSError('the wrong one')")
    done = run_command(tmp_path, "ask", "--teacher", "mine:teacher", "--calls", "4", "--dry-run")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["statistics", "yaml", "datasets", "time"])
def test_a_named_module_that_another_hides(tmp_path: Path, name: str) -> None:
    (tmp_path / f"{name}.py").write_text(EVIL)
    done = run_command(tmp_path, "ask", "--teacher", f"{name}:teacher", "--calls", "4", "--dry-run")
    assert done.returncode == 2
    assert f"{name}.py in this folder has the name of another module" in done.stderr
    assert not (tmp_path / "ran").exists()


# -- factories -------------------------------------------------------------------------------------------------------

OWN = """
import sys
from torch import nn
def needs(argument): ...
def nothing(): ...
def a_class(): return nn.Linear
def text(): return "a teacher"
def fails(): raise KeyError("lost")
def exits(): sys.exit(3)
def asserts(): assert False
class Broken:
    def __init__(self): raise OSError("no such weights")
"""


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("own:needs", "own:needs failed with TypeError: .*argument"),
        ("own:nothing", r"own:nothing returned nothing \(None\), not a teacher"),
        ("own:a_class", "own:a_class returned the class Linear itself"),
        ("own:text", "own:text returned str"),
        ("own:fails", "own:fails failed with KeyError: 'lost'"),
        ("own:exits", "own:exits failed with SystemExit: 3"),
        ("own:asserts", "own:asserts failed with AssertionError; fix it"),
        ("own:Broken", "own:Broken failed with OSError: no such weights"),
        ("own:absent", "no function or class 'absent'"),
        ("sys:exit", "sys:exit is part of Python; name a function of your own"),
        ("os:_exit", "os:_exit is part of Python"),
        ("builtins:exit", "builtins:exit is part of Python"),
        ("os.path:join", "os.path:join is part of Python"),
        ("threading:Thread", "threading:Thread is part of Python"),
        ("http.server:test", "http.server:test is part of Python"),
        ("absent:make", "absent:make cannot be imported"),
        ("wrong:make", "wrong:make cannot be imported: SyntaxError"),
        ("exiting:make", "exiting:make cannot be imported: SystemExit"),
        ("own make", "own make"),
        ("own", "'own' is a module; name a function, as in own:FUNCTION"),
        ("own.py", "'own.py' is a module; name a function, as in own:FUNCTION"),
        ("own.py:make", "own.py is a file, not a module; write own:make"),
        ("own:make it", "'own:make it' is not a teacher; name a folder"),
    ],
)
def test_a_factory_that_is_wrong_is_one_sentence(tmp_path: Path, name: str, sentence: str) -> None:
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "wrong.py").write_text("def make(:")
    (tmp_path / "exiting.py").write_text("raise SystemExit(4)")
    done = run_command(tmp_path, "ask", "--teacher", name, "--calls", "4", "--store", "r.db")
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert re.search(sentence, done.stderr), done.stderr
    assert not (tmp_path / "r.db").exists(), "nothing is left behind"


def test_what_is_a_factory() -> None:
    named = ["a:b", "a.b.c:d", "_x:Y1", "http.server:test"]
    others = [
        "cuda:0",
        "timm:resnet18",
        "openai:gpt4",
        "onnx:file.onnx",
        "sqlite:///x",
        "a:",
        ":b",
        "a.:b",
        "a b:c",
        "12:30",
        None,
        3,
    ]
    assert all(map(factories.is_factory, named))
    assert set(KINDS) == factories.LIBRARIES
    assert not any(map(factories.is_factory, others))


@pytest.mark.parametrize("option", ["--student", "--method"])
def test_python_s_own_functions_are_no_students_or_methods(tmp_path: Path, option: str) -> None:
    words = ["--calls", "20", "--out", "run", option, "os:_exit"]
    done = run_command(tmp_path, "distill", "--teacher", "own:make", *words)
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_only_the_user_s_own_code_finds_modules_in_the_folder(tmp_path, monkeypatch):
    """Libraries look for optional ones that are not installed; a data folder may hold a file of that name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    (tmp_path / "own_teacher.py").write_text("import own_helper\n\ndef make():\n    return own_helper.SIZE\n")
    (tmp_path / "own_helper.py").write_text("SIZE = 3\n")
    (tmp_path / "not_installed.py").write_text("raise SystemExit('code of the folder ran')\n")
    assert factories.find("own_teacher:make")() == 3
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("not_installed")
