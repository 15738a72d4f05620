"""Teachers by name, and what is found out about local ones before a call is paid."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression, Ridge
from typer.testing import CliRunner

from tuition import ResponseStore, data, models, teachers
from tuition.cli.main import app
from tuition.errors import UserError
from tuition.pipeline.question import question_of
from tuition.pipeline.settings import DistillSettings, TransferSettings
from tuition.pipeline.sources import Sources
from tuition.pipeline.teacher import find_teacher
from tuition.store import BudgetError, TeacherError
from tuition.teachers import Refused
from tuition.training import Student

Ask = Callable[..., Any]


@pytest.fixture
def onnx_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A graph for the digits, in the folder where we stand."""
    monkeypatch.chdir(tmp_path)
    plain = models.Preprocess([0.0], [1.0])
    model = models.create("cnn_4", num_classes=10, in_channels=1, seed=0)
    return Student(model, plain, input_shape=(1, 8, 8)).export(tmp_path / "teacher.onnx")


def test_a_kind_and_a_name_are_a_teacher(onnx_file: Path) -> None:
    assert find_teacher("onnx:teacher.onnx").fingerprint == teachers.from_onnx(onnx_file).fingerprint
    named = TransferSettings.of({"teacher": "onnx:teacher.onnx"})
    sources = Sources()
    assert sources.teacher(named) is sources.teacher(named), "made once"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("onnx:none.onnx", r"none\.onnx was not found"),
        ("transformers:none", "none is not a folder, and the hub does not have it"),
        ("keras:resnet", "cannot be imported"),
    ],
)
def test_names_of_nothing(name: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match=message):
        find_teacher(name)


def test_an_extra_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("timm", "transformers"):
        monkeypatch.setitem(sys.modules, kind, None)
        with pytest.raises(UserError, match=rf"pip install 'tuition\[{kind}\]'"):
            find_teacher(f"{kind}:some-model")


def test_the_command_line_asks_a_teacher_by_kind(onnx_file: Path) -> None:
    """And the plan, which measures its time."""
    options = ["ask", "--data", "digits", "--teacher", "onnx:teacher.onnx", "--calls", "24"]
    planned = CliRunner().invoke(app, [*options, "--dry-run"])
    assert planned.exit_code == 0, planned.output
    assert "give --set seconds_per_call" not in planned.output
    assert not Path("responses.db").exists()
    asked = CliRunner().invoke(app, options)
    assert asked.exit_code == 0, asked.output
    assert f"24 answers of {teachers.from_onnx(onnx_file).name}" in asked.output
    usage = ResponseStore("responses.db").accounts(teachers.from_onnx(onnx_file).name)
    assert usage.paid == 24


def settings(**changes: object) -> TransferSettings:
    return TransferSettings.of({"calls": 24, "store": "responses.db"} | changes)


def test_a_local_teacher_that_does_not_fit_is_paid_nothing(
    ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    inputs, labels = load_digits(return_X_y=True)
    narrow = teachers.from_sklearn(LogisticRegression(max_iter=20).fit(inputs[:300, :5], labels[:300]))
    few = teachers.from_sklearn(LogisticRegression(max_iter=20).fit(inputs[labels < 3] / 16, labels[labels < 3]))
    for teacher, message in [
        (narrow, r"cannot answer inputs of digits train \(the estimator failed with ValueError"),
        (few, "answers with 3 classes, but digits train has 10"),
    ]:
        with pytest.raises(UserError, match=message):
            ask(settings(), teacher)
    assert not Path("responses.db").exists()


def test_texts_and_embeddings_are_tried_too(ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pool = data.from_tensors([f"text {i}" for i in range(40)], np.arange(40) % 4)

    class Encoder(torch.nn.Module):
        def __init__(self, value: float) -> None:
            super().__init__()
            self.value = value

        def forward(self, lengths: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"embedding": lengths * self.value}

    class Lengths:
        def __call__(self, texts: list[str]) -> torch.Tensor:
            return torch.tensor([[float(len(text)), 1.0] for text in texts])

    def teacher(value: float) -> teachers.Teacher:
        return teachers.pytorch.TorchTeacher(Encoder(value), f"lengths {value}", Lengths())

    answered, _ = ask(settings(), teacher(2.0), pool)
    assert answered.responses["embedding"][:, 1].tolist() == [2.0] * 24
    with pytest.raises(UserError, match="NaN or infinity"):
        ask(settings(), teacher(float("nan")), pool)
    with pytest.raises(UserError, match=r"cannot answer inputs of tensors \(this teacher reads images"):
        ask(settings(), teachers.from_torch(torch.nn.Linear(2, 4)), pool)


def test_refused_inputs_are_left_out_of_training_and_of_validation(ask, tmp_path):
    """Without labels the answers to validate on follow those to train on; one is refused among each of them."""
    wanted = TransferSettings.of(
        {
            "data": "digits",
            "calls": 40,
            "labels": False,
            "store": str(tmp_path / "r.db"),
            "ask_batch": 16,
        }
    )
    asked = question_of(wanted, Sources()).inputs
    assert len(asked) == 50
    bad = [asked.inputs[7], asked.inputs[44]]

    def answer(inputs):
        if any(torch.equal(one, other) for one in inputs for other in bad):
            raise Refused("stopped by a filter")
        return inputs.flatten(1)[:, :10].float()

    teacher = teachers.from_callable(answer, fingerprint="filter", name="filter")
    transfer, validation = ask(wanted, teacher)
    assert [one.row for one in transfer.refused] == [7, 44]
    rows = [row for row in range(50) if row not in (7, 44)]
    assert (len(transfer), len(validation)) == (39, 9)
    expected = asked.inputs[rows].flatten(1)[:, :10].float()
    assert torch.equal(torch.cat([transfer.responses["logits"], validation.responses["logits"]]), expected)
    assert torch.equal(transfer.inputs, asked.inputs[rows[:39]])


def test_too_many_refused_inputs_to_validate(ask, tmp_path):
    wanted = TransferSettings.of(
        {
            "data": "digits",
            "calls": 8,
            "labels": False,
            "store": str(tmp_path / "r.db"),
            "ask_batch": 2,
        }
    )
    asked = question_of(wanted, Sources()).inputs

    def answer(inputs):
        if any(torch.equal(one, other) for one in inputs for other in asked.inputs[8:]):
            raise Refused("stopped by a filter")
        return inputs.flatten(1)[:, :10].float()

    teacher = teachers.from_callable(answer, fingerprint="filter", name="filter")
    with pytest.raises(UserError, match=r"refused too many inputs .*: 8 are left to train on and 0 to validate on"):
        ask(wanted, teacher)


def test_a_command_says_what_was_refused_and_where_it_is_written(tmp_path, monkeypatch):
    store = tmp_path / "what?.db"
    wanted = TransferSettings.of({"data": "digits", "calls": 40, "store": str(store)})
    bad = question_of(wanted, Sources()).inputs.inputs[5]

    def answer(inputs):
        if any(torch.equal(one, bad) for one in inputs):
            raise Refused("stopped by a filter.")
        return inputs.flatten(1)[:, :10].float()

    teacher = teachers.from_callable(answer, fingerprint="filter", name="filter")
    monkeypatch.setattr(Sources, "teacher", lambda self, settings: teacher)
    for _ in range(2):
        done = CliRunner().invoke(app, ["ask", "--data", "digits", "--calls", "40", "--store", str(store)])
        assert done.exit_code == 0, done.output
        said = " ".join(done.output.split())
        assert "39 answers of filter are in" in said
        assert "1 of 40 inputs was refused by the teacher (row 5, digest " in said
        assert "): stopped by a filter; it is left out; see" in said
        assert sorted(file.name for file in tmp_path.iterdir()) == ["what?.db", "what?.db.refused.jsonl"]


# -- what is known before a call is paid -------------------------------------------------------------------------------


def counting(answer):
    """A teacher of the digits, and what it was asked about."""
    asked: list[int] = []

    def call(inputs: torch.Tensor) -> object:
        asked.append(len(inputs))
        return answer(inputs)

    return teachers.from_callable(call, fingerprint="1", name="counting"), asked


def ten(inputs: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"logits": inputs.float().flatten(1)[:, 10:20]}


def test_a_budget_that_is_too_small_makes_no_store(ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    teacher, asked = counting(ten)
    with pytest.raises(BudgetError, match=r"24 new calls do not fit in the budget of 23; nothing was asked"):
        ask(settings(budget=23, check_answers=False), teacher)
    assert (asked, list(tmp_path.iterdir())) == ([], [])
    assert len(ask(settings(budget=24, check_answers=False), teacher)[0]) == 24
    with pytest.raises(BudgetError, match="26"):  # of a store that is there, which knows what was paid
        ask(settings(budget=25, calls=26, check_answers=False), teacher)
    assert len(ask(settings(budget=24, check_answers=False), teacher)[0]) == 24
    assert sum(asked) == 24


class OneColumn(torch.nn.Module):
    """A regression head, or a sigmoid's."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.head, self.form = torch.nn.Linear(64, 1), form

    def forward(self, inputs: torch.Tensor) -> object:
        column = self.head(inputs.flatten(1))
        return {
            "(n, 1)": column,
            "(n,)": column[:, 0],
            "sigmoid": column.sigmoid(),
            "mapping (n, 1)": {"logits": column},
            "mapping (n,)": {"logits": column[:, 0]},
            "number": column.sum(),
            "embedding (n,)": {"embedding": column[:, 0]},
        }[self.form]


FORMS = ["(n, 1)", "(n,)", "sigmoid", "mapping (n, 1)", "mapping (n,)", "number", "embedding (n,)"]


@pytest.mark.parametrize("form", FORMS)
def test_a_teacher_of_one_column_is_refused(
    ask: Ask, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A local one before a call is paid; of another one, whose answers are not known before, nothing is stored."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"one column, which cannot tell|logits of shape|with logits \(n, classes\)"):
        ask(settings(), teachers.from_torch(OneColumn(form)))
    assert list(tmp_path.iterdir()) == []

    model = OneColumn(form)

    def remote(inputs: torch.Tensor) -> object:
        with torch.no_grad():
            return model(inputs.float())

    teacher, asked = counting(remote)
    with pytest.raises(TeacherError, match="that answer is paid, not stored"):
        ask(settings(), teacher)
    accounts = ResponseStore("responses.db").accounts()
    assert accounts.paid == sum(asked) == 24


def test_a_regression_of_scikit_learn_is_refused(ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    inputs, labels = load_digits(return_X_y=True)
    with pytest.raises(UserError):
        ask(settings(), teachers.from_sklearn(Ridge().fit(inputs, labels)))
    assert list(tmp_path.iterdir()) == []


def test_one_column_without_labels_is_refused_at_the_first_input(ask, tmp_path, monkeypatch):
    """Where nothing says how many classes there are."""
    monkeypatch.chdir(tmp_path)
    pool = data.from_tensors([f"text {i}" for i in range(40)])
    teacher, asked = counting(lambda texts: {"logits": torch.tensor([[float(len(text))] for text in texts])})
    wanted = DistillSettings.of({"calls": 24, "store": "r.db", "student": "bag_8", "method": "kd", "test": None})
    with pytest.raises((UserError, TeacherError), match="one column"):
        ask(wanted, teacher, pool)
    assert sum(asked) == ResponseStore("r.db").accounts().paid == 1


@pytest.mark.parametrize("name", ["a\0b", "a\0b/c", "owner/a\0", "a\0:b", "\0"])
def test_a_zero_byte_in_a_name_is_a_sentence(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="zero byte"):
        data.load(name)
    with pytest.raises(UserError, match="zero byte"):
        find_teacher(name)
    monkeypatch.chdir(tmp_path)
    for setting in ("data", "teacher", "store", "features"):
        (tmp_path / "s.yaml").write_text(f"{setting}: {json.dumps(name)}\n")
        done = CliRunner().invoke(app, ["ask", "--config", "s.yaml", "--calls", "20"])
        assert isinstance(done.exception, UserError)
        assert "zero byte" in str(done.exception)
