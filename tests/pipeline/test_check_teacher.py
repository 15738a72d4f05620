"""`tuition check`: a teacher tried for a small price that is not lost."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from tuition import ResponseStore
from tuition.cli.main import app

USER = """
import torch
from tuition import data, teachers

def pixels(x): return {"logits": x.float().flatten(1)[:, 10:20] / 20}
def one(x): return {"logits": torch.eye(10)[3] + x.float().flatten(1)[:, 10:20] / 20 / 16}
def soft(x): return {"logits": pixels(x)["logits"].softmax(1)}
def same(x): return {"logits": torch.ones(len(x), 10)}
def lengths(texts): return {"embedding": torch.tensor([[float(len(t)), float(t.count("a"))] for t in texts])}
def teacher(): return teachers.from_callable(pixels, fingerprint="1", name="pixels")
def stuck(): return teachers.from_callable(one, fingerprint="5")
def chances(): return teachers.from_callable(soft, fingerprint="6")
def constant(): return teachers.from_callable(same, fingerprint="2", name="same")
def encoder(): return teachers.from_callable(lengths, fingerprint="3", name="lengths")
def right():
    known = data.load("digits")
    def look(x):
        nearest = torch.cdist(x.float().flatten(1), known.asked_tensor().float().flatten(1)).argmin(1)
        return {"logits": 10.0 * torch.nn.functional.one_hot(known.labels[nearest], 10)}
    return teachers.from_callable(look, fingerprint="7")
def named(): return teachers.from_callable(same, fingerprint="4", class_names=[f"c{i}" for i in range(10)])
"""


@pytest.fixture
def user(tmp_path, monkeypatch):
    """The name of a module in the current folder, another one for each test, as it is imported once a process."""
    monkeypatch.chdir(tmp_path)
    name = f"user_{tmp_path.name}"
    Path(f"{name}.py").write_text(USER)
    return name


def run(*words):
    return CliRunner().invoke(app, ["check", *words])


def test_it_says_what_a_teacher_takes_gives_and_costs(user):
    found = run(f"{user}:teacher", "--data", "digits", "--cost-per-call", "0.25")
    assert found.exit_code == 0, found.output
    for part in ("uint8 (1, 8, 8), 0 to 255", "(10)", "not known", "seconds a call", "beside chance", "16 paid"):
        assert part in found.output
    assert "cost 4.00" in found.output
    again = run(f"{user}:teacher", "--data", "digits")
    assert "all answers are from the store" in again.output
    assert ResponseStore("responses.db").accounts().paid == 16


def test_constant_answers_and_embeddings_of_texts(user):
    found = run(f"{user}:constant", "--data", "digits", "--calls", "8")
    assert "the answers to different inputs are all the same" in found.output
    Path("d").mkdir()
    Path("d/train.txt").write_text("\n".join(f"thing number {i}" * (1 + i % 3) for i in range(40)))
    found = run(f"{user}:encoder", "--data", "d")
    assert found.exit_code == 0, found.output
    assert "texts of 14 to " in found.output
    assert "gives embedding" in found.output
    assert "reads it as" in found.output
    assert "without labels" in found.output


def test_few_inputs_and_one_class_are_not_better_than_chance(user):
    found = run(f"{user}:teacher", "--data", "digits", "--calls", "8")
    assert "8 inputs are too few to tell whether it is better than chance; try --calls 40." in found.output
    found = run(f"{user}:stuck", "--data", "digits", "--calls", "8")
    assert "all 8 answers are of class 3. Check the scale" in found.output
    assert "better than chance" not in found.output


def test_a_teacher_that_is_right_is_better_than_chance(user):
    found = run(f"{user}:right", "--data", "digits")
    assert "It answers, and better than chance." in found.output


def test_probabilities_are_told(user):
    found = run(f"{user}:chances", "--data", "digits")
    assert "Note: the answers look like probabilities; return logits, or their logarithms." in found.output
    assert "probabilities" not in run(f"{user}:teacher", "--data", "digits").output


def test_budgets_and_classes_hold(user):
    found = run(f"{user}:teacher", "--data", "digits", "--budget", "3")
    assert "16 new calls do not fit in the budget of 3" in str(found.exception)
    found = run(f"{user}:named", "--data", "digits")
    assert found.exit_code == 0, found.output
    assert "c0, c1, c2, c3, c4 and 5 more" in found.output
