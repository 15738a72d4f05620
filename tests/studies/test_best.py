"""The student that a study keeps: chosen by validation, complete or not at all, ready to be used."""

import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from tests.studies.test_grid import SMALL as GRID
from tests.studies.test_grid import plan, record
from tests.studies.test_study import in_this_process, teacher  # noqa: F401

from tuition import data, load
from tuition.errors import Notice, UserError
from tuition.studies import best, records, study
from tuition.studies.grid import Study

SMALL = {
    "settings": {"epochs": 2, "device": "cpu"},
    "pairs": [{"teacher": "cnn_16", "student": "cnn_8"}],
    "methods": ["ckd"],
    "axes": {"calls": [20, 40], "seed": [0, 1]},
}


def results(figures, **fields):
    """Results of a grid with the validation that `figures` gives for (row, calls, seed)."""
    runs = plan(Study.of(GRID | {"axes": {"calls": [40, 80], "seed": [0, 1]}})).ready
    return [
        (run, replace(record(run, figures(run.row, run.settings.ask.calls, run.settings.data.seed)), **fields))
        for run in runs
    ]


def test_the_winner_has_the_best_mean_over_seeds_at_the_most_calls():
    by_place = {("kd", 80): (70, 90), ("ckd_published", 80): (95, 50)}  # the luckiest seed is of the worse row
    run, _ = best.winner(results(lambda row, calls, seed: by_place.get((row, calls), (100, 100))[seed]))
    assert (run.row, run.settings.ask.calls, run.settings.data.seed) == ("kd", 80, 1)


def test_the_winner_does_not_depend_on_the_test_set():
    def figures(row, calls, seed):
        return 50 + calls / 10 + seed + (row == "kd")

    choices = [best.winner(results(figures, accuracy=test))[0].key for test in (0.0, 99.0)]
    reordered = best.winner(list(reversed(results(figures))))[0].key
    assert choices == [reordered, reordered]
    assert best.winner(results(lambda *_: float("nan"))) is None


@pytest.fixture
def here(monkeypatch):
    monkeypatch.setattr(study, "run_parallel", in_this_process)


def weights(folder):
    return load(folder).state_dict()


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_the_best_student_is_a_run_that_loads_and_is_made_once(teacher, tmp_path, here):  # noqa: F811
    summary = study.run(Study.of(SMALL), tmp_path, teachers=[teacher])
    rows = [row for row in records.read(tmp_path) if row.calls == 40]
    assert summary.best.validation == max(row.validation for row in rows)
    place = tmp_path / "best"
    student = load(place)
    test = data.load("digits", split="test")
    assert student.evaluate(test).accuracy == summary.best.accuracy
    assert not (tmp_path / "unfinished").exists()
    before = (place / "run.json").stat().st_mtime_ns
    assert study.run(Study.of(SMALL), tmp_path, teachers=[teacher]).best.key == summary.best.key
    assert (place / "run.json").stat().st_mtime_ns == before

    # A kill between the two moves of a replacement leaves no folder, and the next call makes it again.
    place.rename(tmp_path / "moved")
    study.run(Study.of(SMALL), tmp_path, teachers=[teacher])
    assert equal(weights(place), weights(tmp_path / "moved"))


def test_another_winner_takes_the_place_and_all_students_can_be_kept(teacher, tmp_path, here):  # noqa: F811
    first = Study.of(SMALL | {"axes": {"calls": [20], "seed": [0]}})
    study.run(first, tmp_path, teachers=[teacher])
    before = weights(tmp_path / "best")
    grown = Study.of(SMALL | {"axes": {"calls": [20, 40], "seed": [0]}})
    summary = study.run(grown, tmp_path, teachers=[teacher], keep="all")
    assert summary.best.calls == 40
    (kept,) = (tmp_path / "students").iterdir()  # the other run was made before
    assert kept.name.startswith("ckd-40-seed0-")
    assert equal(weights(kept), weights(tmp_path / "best"))
    assert not equal(before, weights(kept))

    other = tmp_path / "other"
    study.run(grown, other, teachers=[teacher], continue_from=[tmp_path])
    assert equal(weights(other / "best"), weights(kept))
    (tmp_path / "best" / "chosen.json").unlink()
    with pytest.warns(Notice, match="of another study, which did not keep it"):
        study.run(grown, tmp_path / "third", teachers=[teacher], continue_from=[tmp_path])
    with pytest.raises(UserError, match="is not the best student of a study"):
        study.run(grown, tmp_path, teachers=[teacher])


def test_none_is_kept_on_request(teacher, tmp_path, here):  # noqa: F811
    one = Study.of(SMALL | {"axes": {"calls": [20], "seed": [0]}})
    assert study.run(one, tmp_path, teachers=[teacher], keep="none").best is None
    assert not (tmp_path / "best").exists()


KILLED = """
import os, signal, sys
from tests.studies.test_best import SMALL, in_this_process
from tuition.studies import study
from tuition.studies.grid import Study
study.run_parallel = in_this_process
moves, move = [], os.replace
def killed(a, b):
    if str(b).endswith(("/best", "/replaced")):
        moves.append(b)
        if len(moves) == int(sys.argv[3]):
            os.kill(os.getpid(), signal.SIGKILL)
    move(a, b)
os.replace = killed
from pathlib import Path
study.run(Study.of(SMALL | {"axes": {"calls": [40], "seed": [0]}}), Path(sys.argv[1]), teachers=[Path(sys.argv[2])])
"""


@pytest.mark.long
@pytest.mark.parametrize("move", [1, 2])
def test_a_kill_in_the_middle_of_a_replacement_loses_no_student(teacher, tmp_path, here, move):  # noqa: F811
    study.run(Study.of(SMALL | {"axes": {"calls": [20], "seed": [0]}}), tmp_path, teachers=[teacher])
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), str(teacher), str(move)], env=os.environ)
    assert done.returncode == -signal.SIGKILL
    grown = Study.of(SMALL | {"axes": {"calls": [40], "seed": [0]}})
    summary = study.run(grown, tmp_path, teachers=[teacher])
    assert summary.best.calls == 40
    assert load(tmp_path / "best").evaluate(data.load("digits", split="test")).accuracy == summary.best.accuracy
    assert not (tmp_path / "unfinished").exists()
