"""Folders that one run holds, files that are not ours, and that a refusal leaves nothing behind."""

import csv
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from tuition import ResponseStore, UserError, data, disk, distill, models, teachers
from tuition.cli import main as cli
from tuition.data import TransferSet, cache
from tuition.store import export, files
from tuition.studies import demo, grid, report, study
from tuition.training import train_teacher
from tuition.training.logs import TensorBoard

HOLDER = """
import sys
from pathlib import Path
from tuition import disk
with disk.hold(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


SLOW = """
import os, time
import torch
from tuition import teachers

def answer(inputs):
    with open("asked", "a") as log:
        log.write("x" * len(inputs))
    while not os.path.exists("go"):
        time.sleep(0.01)
    return {"logits": inputs.float().flatten(1)[:, 10:20]}

def teacher():
    return teachers.from_callable(answer, fingerprint="1", name="slow")
"""


@pytest.fixture
def held(tmp_path):
    """A folder that another process holds, and the process."""
    folder = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield folder, process
    process.kill()
    process.wait()


@pytest.fixture(scope="module")
def transfer():
    pool = data.load("digits").sample(20, seed=0)
    return TransferSet(pool, {"logits": torch.nn.functional.one_hot(pool.labels, 10).float()})


def test_the_second_of_two_is_refused_until_the_first_is_dead(held, transfer):
    """Every command that writes to a folder. The holder dies by SIGKILL, and leaves no file behind."""
    folder, process = held
    smallest = grid.Study.of({"pairs": [{"teacher": "cnn_4", "student": "cnn_4"}], "methods": ["ce"]})
    second = {
        "distill": lambda: distill("cnn_4", transfer, "ce", epochs=1, out=folder),
        "teach": lambda: train_teacher("cnn_4", transfer.pool, validation=transfer.pool, epochs=1, out=folder),
        "study": lambda: study.run(smallest, folder),
        "demo": lambda: demo.run(folder),
        "export": lambda: export(ResponseStore(str(folder.parent / "r.db")), folder),
    }
    for name, act in second.items():
        with pytest.raises(UserError, match=r"another run is using .*run; wait for its end, or choose another"):
            act()
        assert list(folder.iterdir()) == [], name
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    with pytest.warns(UserWarning, match="20 of the 20 validation inputs are in the training set too"):
        train_teacher("cnn_4", transfer.pool, validation=transfer.pool, epochs=1, out=folder)
    with pytest.raises(UserError, match="exists and is not a study"):
        study.run(smallest, folder)


def test_two_commands_at_once_end_in_one_run(tmp_path):
    """The second is refused while the first asks and trains, and pays for nothing."""
    (tmp_path / "slow.py").write_text(SLOW)
    words = ["distill", "--teacher", "slow:teacher", "--student", "cnn_4", "--calls", "20", "--epochs", "1"]
    words += ["--set", "check_answers=false"]
    command = [sys.executable, "-m", "tuition", *words, "--out", "run"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    first = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL)
    while not (tmp_path / "asked").exists():
        assert first.poll() is None
        time.sleep(0.02)
    second = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    (tmp_path / "go").touch()
    assert first.wait() == 0
    assert second.returncode == 2
    assert "another run is using run; wait" in second.stderr
    assert (tmp_path / "asked").read_text() == 20 * "x"


def test_a_thread_may_hold_again_and_another_may_not(tmp_path):
    said = []

    def other():
        try:
            with disk.hold(tmp_path / "a"):
                said.append("held")
        except UserError as error:
            said.append(str(error))

    with disk.hold(tmp_path / "a"), disk.hold(tmp_path / "." / "a"):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert "another run is using" in said[0]
    other()
    assert said[1] == "held"
    assert list(tmp_path.iterdir()) == [], "a folder that stayed empty is removed"


def test_what_was_made_and_stayed_empty_is_removed_and_nothing_else(tmp_path):
    (tmp_path / "there").mkdir()
    with disk.made(tmp_path / "there" / "a" / "b"):
        assert (tmp_path / "there" / "a" / "b").is_dir()
    assert list((tmp_path / "there").iterdir()) == []
    with disk.made(tmp_path / "there" / "c" / "d"):
        (tmp_path / "there" / "c" / "file").touch()
    assert [p.name for p in (tmp_path / "there" / "c").iterdir()] == ["file"]
    disk.check_writable(tmp_path / "x" / "y")
    assert not (tmp_path / "x").exists()


def test_places_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").write_text("x")
    for place in (tmp_path / "file" / "run", tmp_path / ("long" * 100)):
        with pytest.raises(UserError, match=r"cannot write to .*; free space or choose another folder"):
            disk.check_writable(place)
    with pytest.raises(UserError, match="cannot write to"):
        TensorBoard.check(str(tmp_path / "file" / "logs"))
    with pytest.raises(UserError, match="cannot write to"):
        disk.check_writable(Path("/proc/none/run"))
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("log", "says"),
    [
        ("log_dir=thesis.txt", "cannot write to thesis.txt"),
        ("log_dir=thesis.txt/logs", "cannot write to thesis.txt"),
        ("wandb_project=digits", "writing to wandb_project needs an extra"),
    ],
)
def test_a_log_that_cannot_be_written_is_refused_before_paying(tmp_path, monkeypatch, capsys, log, says):
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "thesis.txt").write_text("years of work")
    (tmp_path / "mine_log.py").write_text(
        "from tuition import teachers\n"
        "def never(inputs): raise AssertionError('asked')\n"
        "def teacher(): return teachers.from_callable(never, fingerprint='1', name='never')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mine_log", raising=False)
    words = ["distill", "--teacher", "mine_log:teacher", "--calls", "20", "--set", log]
    monkeypatch.setattr("sys.argv", ["tuition", *words])
    assert cli.main() == 2
    assert says in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != "__pycache__") == ["mine_log.py", "thesis.txt"]


# -- what is not ours --------------------------------------------------------------------------------------------------


@pytest.fixture
def thesis(tmp_path):
    folder = tmp_path / "thesis"
    folder.mkdir()
    (folder / "report.html").write_text("<p>years of work</p>")
    (folder / "command.txt").write_text("years of work")
    (folder / "responses-00000.safetensors").write_text("years of work")
    (folder / "accuracy.png").write_text("years of work")
    return folder


def test_folders_of_other_things_are_left_alone(thesis, transfer, tmp_path):
    before = {path.name: path.read_bytes() for path in thesis.iterdir()}
    smallest = grid.Study.of({"pairs": [{"teacher": "cnn_4", "student": "cnn_4"}], "methods": ["ce"]})
    store = ResponseStore(str(tmp_path / "r.db"))
    teacher = teachers.from_callable(lambda x: {"logits": torch.zeros(len(x), 10)}, fingerprint="1")
    store.ask(teacher, transfer.pool, budget=20, check_answers=False)
    for act, what in (
        (lambda: distill("cnn_4", transfer, "ce", epochs=1, out=thesis), "a run"),
        (lambda: study.run(smallest, thesis), "a study"),
        (lambda: demo.run(thesis), "a demo"),
        (lambda: report.build([tmp_path], thesis), "a report"),
        (lambda: export(store, thesis), "an export"),
    ):
        with pytest.raises(UserError, match=f"exists and is not {what}; choose another folder"):
            act()
    assert {path.name: path.read_bytes() for path in thesis.iterdir()} == before


def test_files_of_others_are_not_replaced(transfer, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    distill("cnn_4", transfer, "kd", epochs=1, out="run")
    commands = {
        "student.onnx": ["export", "run"],
        "sheet.png": ["data", "digits", "--sheet"],
        "rows.csv": ["predict", "run", "digits", "--out"],
        "confusion.csv": ["evaluate", "run", "--data", "digits", "--confusion"],
    }
    for name, words in commands.items():
        monkeypatch.setattr("sys.argv", ["tuition", *words, name])
        (tmp_path / name).write_text("years of work")
        assert cli.main() == 2, name
        assert f"{name} exists and holds something else; name a new file" in capsys.readouterr().err
        assert (tmp_path / name).read_text() == "years of work"
        (tmp_path / name).unlink()
        assert cli.main() == 0, name
        written = (tmp_path / name).read_bytes()
        assert cli.main() == 0, f"{name} is ours, or the same"
        assert (tmp_path / name).read_bytes() == written
    assert len(list(csv.reader((tmp_path / "confusion.csv").open()))) == 11


def test_only_unfinished_files_of_runs_are_swept(transfer, tmp_path):
    foreign = [".notes.tmp", ".thesis.docx.01234567.tmp", ".run.json.tmp", ".run.json.0123456.tmp"]
    for name in (*foreign, ".run.json.01234567.tmp", ".student.safetensors.89abcdef.tmp"):
        (tmp_path / name).write_text("x")
    distill("cnn_4", transfer, "kd", epochs=1, out=tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir() if p.suffix == ".tmp") == sorted(foreign)


def test_a_card_that_people_have_added_to_stays(transfer, tmp_path):
    def again():
        return train_teacher("cnn_4", transfer.pool[:16], validation=transfer.pool[16:], epochs=1, out=tmp_path)

    again()
    (tmp_path / "README.md").write_text("mine")
    again()
    assert (tmp_path / "README.md").read_text() == "mine"


# -- devices, pipes and links: none of this machine ------------------------------------------------------------------


@pytest.fixture(params=["pipe", "socket", "device"])
def special(request, tmp_path):
    """A path that is not a regular file, and how to tell that it still is not."""
    path = tmp_path / request.param
    if request.param == "pipe":
        os.mkfifo(path)
    elif request.param == "socket":
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
    else:
        try:
            os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        except PermissionError:
            pytest.skip("only root makes devices")
    return path, stat.S_IFMT(path.lstat().st_mode)


def test_what_is_not_a_regular_file_is_never_replaced(special, tmp_path):
    path, kind = special
    link = tmp_path / "link"
    link.symlink_to(path)
    for name in (path, link):
        for act in (disk.write, disk.write_new, files.write_durably):
            with pytest.raises(UserError, match=r"is a device or a pipe, not a regular file; name a file to write"):
                act(name, b"")
        with pytest.raises(UserError, match="is a device or a pipe"):
            ResponseStore(str(name))
        with pytest.raises(UserError, match="is a device or a pipe"):
            models.save_weights(models.create("mlp_4", num_classes=2, in_channels=2), name)
    assert stat.S_IFMT(path.lstat().st_mode) == kind
    assert link.is_symlink()
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([path.name, "link"])


def test_commands_refuse_what_is_not_a_regular_file(special, transfer, tmp_path, monkeypatch, capsys):
    path, kind = special
    monkeypatch.chdir(tmp_path)
    distill("cnn_4", transfer, "kd", epochs=1, out="run")
    for words in (
        ["export", "run", path.name],
        ["data", "digits", "--sheet", path.name],
        ["predict", "run", "digits", "--out", path.name],
        ["evaluate", "run", "--data", "digits", "--confusion", path.name],
        ["ask", "--teacher", "run", "--calls", "8", "--store", path.name],
        ["distill", "--teacher", "run", "--calls", "8", "--epochs", "1", "--store", path.name],
        ["ask", "--teacher", "run", "--calls", "8", "--store", path.name, "--dry-run"],
        ["store", "usage", path.name],
    ):
        monkeypatch.setattr("sys.argv", ["tuition", *words])
        assert cli.main() == 2, words
        said = capsys.readouterr().err
        assert "is a device or a pipe" in said, said
        assert "Traceback" not in said
    assert stat.S_IFMT(path.lstat().st_mode) == kind
    assert not list(tmp_path.glob(f"{path.name}?*")), "nothing beside it"


def test_nothing_is_written_through_a_link(tmp_path):
    """In a run of a stranger `metrics.csv` may be a link to a file of the user's."""
    (tmp_path / "real").mkdir()
    target, link, new = tmp_path / "real" / "file", tmp_path / "link", tmp_path / "new"
    target.write_bytes(b"old")
    for write in (disk.write, files.write_durably):
        for path, leads_to in ((link, target), (new, tmp_path / "real" / "later")):
            path.unlink(missing_ok=True)
            path.symlink_to(leads_to)
            write(path, b"1")
            assert path.read_bytes() == b"1"
            assert not path.is_symlink()
    assert target.read_bytes() == b"old"
    assert [p.name for p in (tmp_path / "real").iterdir()] == ["file"]
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    with pytest.raises(UserError, match="loop cannot be written"):
        disk.write(loop, b"")


def test_a_pipe_in_the_place_of_a_cached_pool_is_left_alone(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("TUITION_CACHE", str(tmp_path))
    pool = data.from_tensors(torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1]))
    cache.cached("some", {}, 1, lambda: pool)
    (path,) = tmp_path.iterdir()
    path.unlink()
    os.mkfifo(path)
    assert cache.cached("some", {}, 1, lambda: pool) is pool
    assert stat.S_ISFIFO(path.lstat().st_mode)
    assert "is a device or a pipe" in caplog.text


@pytest.mark.parametrize("words", ["evaluate run --data digits --confusion", "predict run digits --out"])
def test_where_results_go_is_looked_at_before_they_are_printed(words, transfer, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    distill("cnn_4", transfer, "kd", epochs=1, out="run")
    (tmp_path / "folder").mkdir()
    (tmp_path / "thesis").write_text("years of work")
    for place, why in (("folder", "is a folder"), ("thesis", "exists and holds something else")):
        monkeypatch.setattr("sys.argv", ["tuition", *words.split(), place])
        assert cli.main() == 2
        printed = capsys.readouterr()
        assert why in printed.err
        assert printed.out == ""
