"""A method of the user's own: a function of a task, or a loss of logits and labels; in Python, by name, in studies."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import yaml

from tuition import UserError, distill, losses
from tuition.studies import grid, records
from tuition.training import Objective, Task, Term, methods
from tuition.training.task import distilled

MINE = """
import torch.nn.functional as F
from tuition import losses
from tuition.training import Objective, Term

FACTOR = 1.0

def loss(student, teacher, labels, *, temperature: float = 4.0):
    \"\"\"Soft targets and labels.\"\"\"
    return FACTOR * losses.kd(student, teacher, temperature=temperature) + F.cross_entropy(student, labels)

def objective(task, weight: float = 2.0):
    task.response("logits")
    return Objective([Term("mse", lambda student, batch: losses.mse(student, batch.responses["logits"]), weight)])
"""


def loss(student, teacher, labels, temperature=4.0):
    return losses.kd(student, teacher, temperature=temperature) + F.cross_entropy(student, labels)


def objective(task: Task, *, temperature: float = 4.0) -> Objective:
    return Objective(distilled(task, 1.0, 1.0, temperature))


def weights(run):
    return torch.cat([value.flatten().double() for value in run.student.state_dict().values()])


@pytest.mark.parametrize("function", [loss, objective])
def test_either_form_is_the_method_it_spells_out(transfer, function):
    for options in ({}, {"temperature": 2.0}):
        own = distill("cnn_4", transfer, function, options=options, epochs=2)
        torch.testing.assert_close(weights(own), weights(distill("cnn_4", transfer, "kd", options=options, epochs=2)))
    assert own.method == f"{__name__}:{function.__name__}"


def test_labels_are_none_without_labels(transfer):
    seen = set()

    def own(student, teacher, labels):
        seen.add(labels if labels is None else labels.dtype)
        return (student - teacher).square().mean()

    distill("cnn_4", transfer, own, epochs=1)
    distill("cnn_4", replace(transfer, pool=transfer.pool.without_labels), own, epochs=1)
    assert seen == {torch.int64, None}


def two(student, teacher):
    return 0


def starred(*args):
    return 0


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (two, r":two is not a method; write it as loss\(student, teacher, labels\), which returns a number, or as a"),
        (starred, "is not a method"),
        (Term, ":Term is not a method"),
        (
            lambda student, teacher, labels: student - teacher,
            r"returned a tensor \(2, 10\), not one number as a tensor",
        ),
        (lambda student, teacher, labels: 1.0, "returned float, not one number as a tensor"),
        (lambda student, teacher, labels: student.nothing, "the student cannot be trained by .*has no attribute"),
        (lambda student, teacher, labels: student.sum() * float("nan"), "the loss term .* is nan before the student"),
        (lambda task: None, r"returned nothing \(None\), not an Objective"),
        (lambda task: task.nothing, "failed with AttributeError"),
    ],
)
def test_what_is_not_a_method_is_refused_before_training(transfer, tmp_path, function, says):
    with pytest.raises(UserError, match=says):
        distill("cnn_4", transfer, function, epochs=1, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_options_are_checked(transfer):
    for options, says in (
        ({"temprature": 2}, "did you mean temperature"),
        ({"temperature": "hot"}, "the setting options.temperature cannot be 'hot'"),
    ):
        with pytest.raises(UserError, match=says):
            distill("cnn_4", transfer, objective, options=options, epochs=1)


def test_functions_that_hold_other_values_are_other_runs(transfer, tmp_path):
    def made(factor):
        return lambda student, teacher, labels: factor * (student - teacher).square().mean()

    first = distill("cnn_4", transfer, made(1.0), epochs=1, out=tmp_path / "run")
    assert distill("cnn_4", transfer, made(1.0), epochs=1, out=tmp_path / "run").seconds == first.seconds
    with pytest.raises(UserError, match="own_code"):
        distill("cnn_4", transfer, made(2.0), epochs=1, out=tmp_path / "run")


# -- by name -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def tuition(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tuition", *words],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )


def test_a_command_names_one_and_an_edit_makes_another_run(folder):
    taught = tuition(folder, "teach", "--model", "cnn_4", "--epochs", "1", "--set", "examples=100", "--out", "teacher")
    assert taught.returncode == 0, taught.stderr
    words = ["distill", "--teacher", "teacher", "--calls", "20", "--epochs", "1", "--out", "run", "--student", "cnn_4"]
    own = ["--method", "mine:loss", "--set", "options.temperature=2"]
    done = tuition(folder, *words, *own)
    assert done.returncode == 0, done.stderr
    record = json.loads((folder / "run/run.json").read_text())
    assert record["settings"]["method"] == "mine:loss"
    assert record["settings"]["options"] == {"temperature": 2}
    assert (folder / "run/metrics.csv").read_text().splitlines()[0].split(",")[3] == "mine:loss"
    assert tuition(folder, *words, *own).returncode == 0, "it is the run that was made"
    (folder / "mine.py").write_text(MINE.replace("FACTOR = 1.0", "FACTOR = 2.0"))
    edited = tuition(folder, *words, *own)
    assert edited.returncode == 2
    assert "own_code" in edited.stderr
    shown = tuition(folder, "methods", "mine:loss")
    assert "Soft targets and labels." in shown.stdout
    assert "temperature" in shown.stdout

    (folder / "c.yaml").write_text("method: mine:loss\n")
    refused = tuition(folder, *words, "--config", "c.yaml")
    assert refused.returncode == 2
    assert "names code, mine:loss" in refused.stderr
    assert "--trust-code" in refused.stderr


def test_what_a_name_stands_for_is_refused_in_a_sentence(folder):
    (folder / "own_named.py").write_text(MINE)  # this process has one module of a name
    for name, says in (
        ("own_named:lost", r"own_named has no function or class 'lost' \(nearest: loss"),
        ("nowhere:loss", "nowhere:loss cannot be imported"),
        ("own_named:FACTOR", "own_named has no function or class 'FACTOR'"),
    ):
        with pytest.raises(UserError, match=says):
            methods.find(name)


STUDY = {
    "settings": {"data": "digits", "epochs": 1, "device": "cpu"},
    "teaching": {"epochs": 1, "examples": 100},
    "pairs": [{"teacher": "cnn_4", "student": "cnn_4"}],
    "methods": ["mine:loss", {"name": "mine, twice", "method": "mine:objective", "options": {"weight": 4.0}}],
    "axes": {"calls": [20]},
}


@pytest.mark.long
def test_a_study_names_them_in_parallel_workers(folder):
    (folder / "study.yaml").write_text(yaml.safe_dump(STUDY))
    refused = tuition(folder, "study", "study.yaml", "--out", "out")
    assert refused.returncode == 2
    assert "names code, mine:loss" in refused.stderr
    done = tuition(folder, "study", "study.yaml", "--out", "out", "--workers", "2", "--trust-code")
    assert done.returncode == 0, done.stderr
    rows = {record.method for record in records.read(folder / "out")}
    assert rows == {"mine:loss", "mine, twice"}
    assert "mine:loss" in (folder / "out/report.html").read_text()


def test_a_study_whose_own_method_may_compare_groups_has_both_accountings(folder):
    (folder / "own_counted.py").write_text(MINE)
    rows = {"own_counted:loss": 1, "own_counted:objective": 2}
    study = grid.Study.of(STUDY | {"methods": list(rows), "axes": {"accounting": ["published", "matched"]}})
    plan = grid.plan(study, lambda trial: None, lambda settings: {})
    assert {row: len({trial.key for trial in plan.ready if trial.row == row}) for row in rows} == rows
