"""`kill -9` at any moment of `tuition distill`, then the same command: it ends in the same weights, to the bit.

The command runs in real processes that get real SIGKILLs. They are forks of one process that has imported everything,
for importing takes longer than the run.
"""

import contextlib
import csv
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from safetensors.torch import load_file

CALLS, BATCH, EPOCHS = 40, 4, 4

# The user's own code: a teacher that takes its time and counts its calls, a student that does when it is evaluated.
USER = """
import os, time
import torch
from torch import nn
from tuition import teachers

def log(line):
    handle = os.open("log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(handle, line.encode())
    os.close(handle)

def answer(inputs):
    for image in inputs:
        log(image.numpy().tobytes().hex() + "\\n")
    time.sleep(0.01)
    return {"logits": inputs.float().flatten(1)[:, 10:20] / 20}

def teacher():
    return teachers.from_callable(answer, fingerprint="pixels, version 1", name="pixels")

class Slow(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))

    def forward(self, inputs):
        if len(inputs) > 100:  # the test split; validation is small
            open("evaluating", "w").close()
            time.sleep(0.05)
        elif self.training:
            time.sleep(0.005)
        return self.layers(inputs)
"""

# Imports everything once; then forks a child for every line of arguments, and says how it ended.
ZYGOTE = """
import json, os, sys
sys.path.insert(0, "")
import torch, torch._dynamo  # which the first optimizer imports
torch.set_num_threads(1)
import matplotlib.backends.backend_agg, matplotlib.figure, sqlalchemy.dialects.sqlite
import sklearn.cluster, sklearn.datasets
import tuition.pipeline.job, tuition.store.asking, tuition.training.curves, tuition.studies.demo, user
from tuition import data
from tuition.cli import main as cli
data.load("digits", split="train"), data.load("digits", split="test")
print("ready", flush=True)
for line in sys.stdin:
    folder, *arguments = json.loads(line)
    if (child := os.fork()) == 0:
        os.setpgid(0, 0)
        os.chdir(folder)
        sys.argv = ["tuition", *arguments]
        for stream, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
        code = 70
        try:
            code = cli.main()
        finally:
            sys.stdout.flush(), sys.stderr.flush()
            os._exit(code)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@dataclass
class Zygote:
    """Runs `tuition` in forks, one at a time."""

    process: subprocess.Popen

    def run(self, folder, *arguments, until=None, how=signal.SIGKILL):
        """The exit code; killed as soon as `until()` is true."""
        self.process.stdin.write(json.dumps([str(folder), *map(str, arguments)]) + "\n")
        self.process.stdin.flush()
        child = int(self.process.stdout.readline())
        while until is not None and _alive(child):
            if until():
                os.kill(child, how)
                break
            time.sleep(0.001)
        return int(self.process.stdout.readline())


def _alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.fixture(scope="module")
def zygote(tmp_path_factory):
    home = tmp_path_factory.mktemp("zygote")
    (home / "user.py").write_text(USER)
    process = subprocess.Popen(
        [sys.executable, "-c", ZYGOTE], cwd=home, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    yield Zygote(process)
    process.stdin.close()
    assert process.wait(120) == 0


COMMAND = (
    "distill --teacher user:teacher --student user:Slow --method ckd --out run --store r.db --epochs"
    f" {EPOCHS} --calls {CALLS} --set ask_batch={BATCH} --set checkpoint_seconds=0 --set batch_size=16"
).split()


def undisturbed(zygote, folder, command):
    (folder / "began").write_text(str(time.time()))
    assert zygote.run(folder, *command) == 0, (folder / "stderr").read_text()
    return folder


@pytest.fixture(scope="module")
def whole(zygote, tmp_path_factory):
    """The folder of a run that nobody disturbed."""
    return undisturbed(zygote, tmp_path_factory.mktemp("whole"), COMMAND)


def record(folder):
    return json.loads((folder / "run/run.json").read_text())


def status(folder):
    return record(folder)["status"] if (folder / "run/run.json").exists() else None


def books(folder):
    """paid, unknown and the number of answers stored, as the database says."""
    # Closed at once: a connection to a file that was replaced would remove the log of the new one when it is closed.
    with contextlib.closing(sqlite3.connect(folder / "r.db")) as database:
        paid, unknown = database.execute("SELECT sum(paid), sum(unknown) FROM tuition_teachers").fetchone()
        return paid, unknown, database.execute("SELECT count(*) FROM tuition_responses").fetchone()[0]


def asked(folder):
    return (folder / "log").read_text().splitlines() if (folder / "log").exists() else []


def without_notes(folder):
    """What a command wrote to stderr, without what it notes about the answers."""
    lines = (folder / "stderr").read_text().splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith("Note: "))


def check_same(folder, whole):
    """The run is the undisturbed one; only how long it took may differ."""
    found, expected = (load_file(path / "run/student.safetensors") for path in (folder, whole))
    assert found.keys() == expected.keys()
    assert all(found[name].equal(expected[name]) for name in expected)
    found, expected = record(folder), record(whole)
    found["results"].pop("seconds"), expected["results"].pop("seconds")
    assert found["results"] == expected["results"]
    assert found["settings"] == expected["settings"]
    assert sorted(os.listdir(folder / "run")) == sorted(os.listdir(whole / "run"))
    columns = [
        [line.rsplit(",", 1)[0] for line in (path / "run/metrics.csv").read_text().splitlines()]
        for path in (folder, whole)
    ]
    assert columns[0] == columns[1]


def check_books(folder, kills):
    """Every input is stored once; what a kill caught in flight is paid and unknown, and asked again."""
    paid, unknown, stored = books(folder)
    assert stored == CALLS
    assert paid == CALLS + unknown
    assert unknown <= kills * BATCH
    assert len(set(asked(folder))) == CALLS
    assert CALLS <= len(asked(folder)) <= paid


FILES = ["README.md", "checkpoint.bin", "config.yaml", "curves.png", "metrics.csv", "run.json", "student.safetensors"]


def test_undisturbed(whole):
    assert books(whole) == (CALLS, 0, CALLS)
    assert record(whole)["accounts"] == {"paid": CALLS, "served": 0, "failed": 0, "unknown": 0}
    assert sorted(os.listdir(whole / "run")) == FILES


def test_killed_in_every_phase(zygote, whole, tmp_path):
    """One run, killed in one phase after the other, each time proved by what lies in the folder."""
    folder = tmp_path / "here"
    folder.mkdir()

    def exists(name):
        return (folder / name).exists()

    def kill(until, within):
        """Kill as soon as `until()`; again from the same state where that came too late to be `within()` the phase."""
        shutil.copytree(folder, tmp_path / "before")
        for _ in range(30):
            if zygote.run(folder, *COMMAND, until=until) == -signal.SIGKILL and within():
                break
            shutil.rmtree(folder)
            shutil.copytree(tmp_path / "before", folder)
        else:
            pytest.fail((folder / "stderr").read_text())
        shutil.rmtree(tmp_path / "before")

    def running_without(name):
        return status(folder) == "running" and not exists(name)

    kill(lambda: len(asked(folder)) > CALLS // 2, lambda: status(folder) is None and 0 < books(folder)[2] < CALLS)
    kill(lambda: exists("run/checkpoint.bin"), lambda: running_without("evaluating"))
    asked_then = asked(folder)
    kill(lambda: exists("evaluating"), lambda: running_without("run/student.safetensors"))
    kill(lambda: exists("run/student.safetensors"), lambda: status(folder) == "running")

    assert zygote.run(folder, *COMMAND) == 0
    assert asked(folder) == asked_then, "nothing was asked after the answers were complete"
    check_same(folder, whole)
    check_books(folder, kills=1)
    # The run's own accounts are those of the ask that completed its answers, not of the last look into the store.
    accounts = record(folder)["accounts"]
    assert accounts["paid"] + accounts["served"] == CALLS
    assert accounts["paid"] > 0
    assert f"teacher calls paid {accounts['paid']} " in " ".join((folder / "stdout").read_text().split())


def test_killed_while_it_learns_from_unasked_inputs(zygote, tmp_path):
    """The average of the student and the draws of unasked inputs go on where they were."""
    command = [*COMMAND, "--unasked", "all", "--set", "batch_size=4"]
    folders = [tmp_path / name for name in ("killed", "whole")]
    for folder in folders:
        folder.mkdir()
    killed, whole = folders
    seen = killed / "run/metrics.csv"
    until = lambda: seen.exists() and len(seen.read_text().splitlines()) > 2  # noqa: E731
    assert zygote.run(killed, *command, until=until) == -signal.SIGKILL, (killed / "stderr").read_text()
    assert status(killed) == "running"
    for folder in folders:
        assert zygote.run(folder, *command) == 0, (folder / "stderr").read_text()
    assert books(killed) == books(whole) == (CALLS, 0, CALLS)
    assert "unasked" in (whole / "run/metrics.csv").read_text()
    check_same(killed, whole)


@pytest.mark.parametrize("seed", range(3))
def test_killed_at_random_moments(zygote, whole, tmp_path, seed):
    dice, kills = random.Random(seed), 0
    took = (whole / "run/run.json").stat().st_mtime - float((whole / "began").read_text())
    for i in range(6):  # the first early, for on a quieter machine than before the whole run takes less time
        moment = time.monotonic() + dice.uniform(0, took * (i + 1) / 6)
        code = zygote.run(tmp_path, *COMMAND, until=lambda moment=moment: time.monotonic() > moment)
        assert code in (0, -signal.SIGKILL), (tmp_path / "stderr").read_text()
        kills += code != 0
    assert zygote.run(tmp_path, *COMMAND) == 0
    assert kills > 0
    check_same(tmp_path, whole)
    check_books(tmp_path, kills)


@pytest.mark.parametrize("phase", ["asking", "training"])
def test_interrupted_by_the_user(zygote, whole, tmp_path, phase):
    """Ctrl-C: one sentence, exit code 130, and the same command goes on."""
    done = {
        "asking": lambda: len(asked(tmp_path)) > CALLS // 2,
        "training": lambda: (tmp_path / "run/checkpoint.bin").exists(),
    }[phase]
    assert zygote.run(tmp_path, *COMMAND, until=done, how=signal.SIGINT) == 130
    assert without_notes(tmp_path) == "Stopped. Give the same command again to resume.\n"
    assert (status(tmp_path) is None) == (phase == "asking")
    assert zygote.run(tmp_path, *COMMAND) == 0
    check_same(tmp_path, whole)
    check_books(tmp_path, kills=1)


def test_a_disk_that_fills_up(zygote, whole, tmp_path):
    """The checkpoint does not fit: one sentence. With more room the same command goes on, and nothing is paid again."""
    run = tmp_path / "run"
    run.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=12k", "tmpfs", run]
    made = subprocess.run(mount, capture_output=True, text=True)
    if made.returncode != 0:
        pytest.skip(f"mounting a small disk is not allowed here: {made.stderr}")
    try:
        assert zygote.run(tmp_path, *COMMAND) == 2
        said = without_notes(tmp_path)
        assert said.count("\n") == 1
        assert "Error: run/checkpoint.bin cannot be written: No space left on device; free space" in said
        assert sorted(os.listdir(run)) == ["config.yaml", "metrics.csv", "run.json"], "nothing half written is left"
        subprocess.run(["mount", "-o", "remount,size=4m", run], check=True)
        assert zygote.run(tmp_path, *COMMAND) == 0
        check_same(tmp_path, whole)
        assert books(tmp_path) == (CALLS, 0, CALLS)
    finally:
        subprocess.run(["umount", run], check=True)


DEMO = """
import sys
from pathlib import Path
from tuition.studies import demo
if __name__ == "__main__":
    demo.CALLS, demo.METHODS = (20, 40), {name: {"method": name} for name in ("kd", "ckd")}
    demo.run(Path(sys.argv[1]), workers=1)
"""


@pytest.mark.long
def test_a_killed_demo_goes_on(tmp_path):
    """Killed while it trains the teacher, after it asked, and while it trains students; nothing is paid twice."""
    (tmp_path / "script.py").write_text(DEMO)

    def start(out):
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.Popen([sys.executable, "script.py", out], cwd=tmp_path, env=environment)

    for sign, patience in (("teacher/run.json", 0.5), ("responses.db", 0.5), ("responses.db", 8)):
        process = start("killed")
        while not (tmp_path / "killed" / sign).exists():
            time.sleep(0.05)
        time.sleep(patience)
        process.kill()
        assert process.wait() == -signal.SIGKILL
        assert not (tmp_path / "killed/summary.json").exists()
    assert start("killed").wait() == 0
    assert start("whole").wait() == 0
    killed, whole = (json.loads((tmp_path / out / "summary.json").read_text()) for out in ("killed", "whole"))
    assert killed["results"] == whole["results"]
    assert killed["teacher_accuracy"] == whole["teacher_accuracy"]
    assert whole["accounts"]["paid"] == 3 * 40
    assert killed["accounts"]["paid"] == 3 * 40 + killed["accounts"]["unknown"]


# -- in rounds ---------------------------------------------------------------------------------------------------------

IN_ROUNDS = [*COMMAND, "--rounds", "2", "--epochs", "3"]
ROUND_SIZES = (CALLS // 2, CALLS)


@pytest.fixture(scope="module")
def whole_rounds(zygote, tmp_path_factory):
    """The folder of a run in rounds that nobody disturbed."""
    return undisturbed(zygote, tmp_path_factory.mktemp("whole_rounds"), IN_ROUNDS)


def lines_of(path):
    """A CSV file of a round, without what a kill may change: how long it took, and which ask paid for an answer."""
    with path.open(newline="") as file:
        return [{name: value for name, value in row.items() if name not in FREE} for row in csv.DictReader(file)]


FREE = ("seconds", "paid")


def check_same_rounds(folder, whole):
    """Also what was chosen for each round, and what came of it."""
    tables = [
        [{name: value for name, value in row.items() if name not in FREE} for row in record(path)["rounds"]]
        for path in (folder, whole)
    ]
    assert tables[0] == tables[1]
    assert sorted(os.listdir(folder / "run/rounds")) == sorted(os.listdir(whole / "run/rounds"))
    for name in ("rounds.csv", "rounds/asked-1.csv", "rounds/asked-2.csv"):
        assert lines_of(folder / "run" / name) == lines_of(whole / "run" / name)
    check_same(folder, whole)


def test_rounds_undisturbed(whole_rounds):
    assert books(whole_rounds) == (CALLS, 0, CALLS)
    assert record(whole_rounds)["accounts"] == {"paid": CALLS, "served": 0, "failed": 0, "unknown": 0}
    assert sorted(os.listdir(whole_rounds / "run")) == sorted([*FILES, "rounds", "rounds.csv", "rounds.png"])
    assert sorted(os.listdir(whole_rounds / "run/rounds")) == ["1", "asked-1.csv", "asked-2.csv", "settings.json"]
    table = lines_of(whole_rounds / "run/rounds.csv")
    assert [int(row["calls"]) for row in table] == list(ROUND_SIZES)
    assert record(whole_rounds)["rounds"][1]["paid"] == CALLS
    rows = [line["row"] for number in (1, 2) for line in lines_of(whole_rounds / f"run/rounds/asked-{number}.csv")]
    assert len(set(rows)) == CALLS


def test_killed_in_every_phase_of_every_round(zygote, whole_rounds, tmp_path):
    """Chosen and not asked, asking, training, trained and not noted; and while the last run is published."""
    folder, run = tmp_path / "here", tmp_path / "here/run"
    folder.mkdir()
    kills = 0

    def kill(until, within):
        """Kill as soon as `until()`; again from the same state where that came too late to be `within()` the phase."""
        nonlocal kills
        shutil.copytree(folder, tmp_path / "before")
        for _ in range(30):
            if zygote.run(folder, *IN_ROUNDS, until=until) == -signal.SIGKILL and within():
                break
            shutil.rmtree(folder)
            shutil.copytree(tmp_path / "before", folder)
        else:
            pytest.fail((folder / "stderr").read_text())
        shutil.rmtree(tmp_path / "before")
        kills += 1

    for number, size in enumerate(ROUND_SIZES, 1):
        before, home = ROUND_SIZES[number - 2] if number > 1 else 0, run / f"rounds/{number}"
        chosen, following = run / f"rounds/asked-{number}.csv", run / f"rounds/asked-{number + 1}.csv"

        def is_running(home=home):
            return (home / "run.json").exists() and json.loads((home / "run.json").read_text())["status"] == "running"

        def is_done(home=home):
            return (home / "run.json").exists() and not is_running(home)

        kill(chosen.exists, lambda before=before: len(set(asked(folder))) == before)
        kill(
            lambda before=before: len(set(asked(folder))) > before + 5,
            lambda before=before, size=size: before < books(folder)[2] < size,
        )
        kill((home / "checkpoint.bin").exists, is_running)
        asked_then = asked(folder)
        kill((home / "student.safetensors").exists, is_running)
        kill(
            is_done,
            lambda home=home, following=following: (
                is_done(home) and not following.exists() and not (run / "student.safetensors").exists()
            ),
        )
        assert asked(folder) == asked_then, "nothing was asked after the answers of the round were complete"
    kill((run / "student.safetensors").exists, lambda: not (run / "run.json").exists())

    assert zygote.run(folder, *IN_ROUNDS) == 0, (folder / "stderr").read_text()
    assert asked(folder) == asked_then
    check_books(folder, kills=2)
    assert kills == 11
    # What a kill interrupted was paid before the ask that completed a round, which the run's accounts tell of.
    assert record(folder)["rounds"][-1]["paid"] <= books(folder)[0]
    check_same_rounds(folder, whole_rounds)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(6))
def test_rounds_killed_at_random_moments(zygote, whole_rounds, tmp_path, seed):
    dice, kills = random.Random(seed), 0
    took = (whole_rounds / "run/run.json").stat().st_mtime - float((whole_rounds / "began").read_text())
    for i in range(12):
        moment = time.monotonic() + dice.uniform(0, took * (i + 1) / 12)
        code = zygote.run(tmp_path, *IN_ROUNDS, until=lambda moment=moment: time.monotonic() > moment)
        assert code in (0, -signal.SIGKILL), (tmp_path / "stderr").read_text()
        kills += code != 0
    assert zygote.run(tmp_path, *IN_ROUNDS) == 0
    assert kills > 0
    check_same_rounds(tmp_path, whole_rounds)
    check_books(tmp_path, kills)
