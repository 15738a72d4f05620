"""The inputs that are left of train, from settings to a run."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from tuition import data, models, teachers
from tuition.cli.main import app
from tuition.data import nearness
from tuition.errors import UserError
from tuition.pipeline import job
from tuition.pipeline.question import question_of
from tuition.pipeline.settings import DistillSettings
from tuition.pipeline.sources import Sources
from tuition.pipeline.unasked import unasked_of
from tuition.store import ResponseStore


class Made(Sources):
    def __init__(self, train, test):
        super().__init__()
        self.pools = {"train": train, "test": test}

    def teacher(self, settings):
        return teachers.from_callable(answer, fingerprint="pixels", name="pixels", class_names=list("0123456789"))

    def pool(self, settings, split, **options):
        return self.pools[split]


def answer(inputs):
    return {"logits": inputs.float().flatten(1)[:, 10:20] / 20}


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", split="train").sample(120, seed=0), data.load("digits", split="test")[:40]


def settings(tmp_path, **values):
    fixed = {
        "teacher": "user:teacher",
        "calls": 20,
        "student": "cnn_4",
        "epochs": 2,
        "store": str(tmp_path / "r.db"),
        "check_answers": False,
    }
    return DistillSettings.of(fixed | values)


def contents(pool):
    return {bytes(image.flatten().tolist()) for image in pool.inputs}


def test_what_was_asked_validated_or_tested_is_not_among_them(digits, tmp_path):
    """By content: train holds some inputs twice, and one of the test's."""
    train, test = digits
    doubled = replace(train, inputs=torch.cat([train.inputs, train.inputs[:60], test.inputs[:1]]))
    doubled = replace(doubled, labels=torch.cat([train.labels, train.labels[:60], test.labels[:1]]))
    sources = Made(doubled, test)
    every = settings(tmp_path, unasked="all")
    question = question_of(every, sources)
    taken = (question.inputs, question.validation, test)
    left = unasked_of(every, sources, *taken)
    known = set().union(*map(contents, taken))
    assert not contents(left) & known
    assert contents(left) == contents(doubled) - known
    assert len(left) == sum(bytes(image.flatten().tolist()) not in known for image in doubled.inputs)
    assert left.labels is None
    few = unasked_of(settings(tmp_path, unasked=30), sources, *taken)
    assert torch.equal(few.inputs, left.inputs[:30])
    more = unasked_of(every, sources, *taken, left[[0, 2]])
    kept = [row for row in range(len(left)) if bytes(left.inputs[row].flatten().tolist()) not in contents(left[[0, 2]])]
    assert torch.equal(more.inputs, left.inputs[kept])
    assert unasked_of(settings(tmp_path), sources, *taken) is None


@pytest.mark.parametrize("neighbours", [0, 5])
def test_other_labels_of_unasked_inputs_change_no_bit(digits, tmp_path, neighbours):
    train, test = digits
    asked = settings(tmp_path, unasked="all", neighbours=neighbours)
    question = question_of(asked, Made(train, test))
    known = contents(question.inputs) | contents(question.validation)
    measured = torch.tensor([bytes(image.flatten().tolist()) in known for image in train.inputs])
    others = replace(train, labels=train.labels.where(measured, 9 - train.labels))
    assert not torch.equal(others.labels, train.labels)
    runs = [job.run(asked, tmp_path / str(i), Made(pool, test)) for i, pool in enumerate((train, others))]
    assert all(torch.equal(a, b) for a, b in zip(*(run.student.state_dict().values() for run in runs), strict=True))
    files = [(tmp_path / str(i) / "student.safetensors").read_bytes() for i in range(2)]
    assert files[0] == files[1]
    assert ResponseStore(tmp_path / "r.db").accounts("pixels").paid == 20
    record = json.loads((tmp_path / "0/run.json").read_text())["settings"]
    assert (record["unasked"], record["average"]) == ("all", 0.99)
    assert runs[0].images_seen == 2 * (20 + 64)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"unasked": 96}, r"96 unasked inputs are more than the 95 left of digits train"),
        ({"unasked": "all", "calls": 96}, r"no input of digits train is left unasked"),
        ({"unasked": "all", "average": 0}, r"average: 0 turns off"),
        ({"neighbours": 5}, r"neighbours are of unasked inputs; set unasked: all too"),
        ({"unasked": "most"}, r"unasked is a number of inputs, or all, not 'most'"),
    ],
)
def test_what_cannot_be_is_said_before_a_call_is_paid(digits, tmp_path, values, message):
    with pytest.raises(UserError, match=message):
        job.run(settings(tmp_path, **values), tmp_path / "run", Made(*digits))
    assert not (tmp_path / "r.db").exists()


def pixels(num_classes):
    """An encoder of one's own, whose features are a fixed turn of the pixels."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Linear(16, num_classes))


def test_answers_spread_in_the_features_of_an_encoder(digits, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent)
    asked = settings(tmp_path, unasked="all", neighbours=5, features="test_unasked:pixels", epochs=1)
    seen = []
    monkeypatch.setattr(job, "distill", lambda *_, **given: seen.append(given) or SimpleNamespace())
    monkeypatch.setattr(job, "refusals", None)
    run = job.run(asked, None, Made(*digits))
    assert run is not None
    (given,) = seen
    question = question_of(asked, Made(*digits))
    turned = [load_features(pool) for pool in (given["unasked"], question.inputs)]
    torch.testing.assert_close(given["nearness"], nearness(*turned, neighbours=5))


def load_features(pool):
    scaled = models.Preprocess.fit(pool.inputs)
    return pixels(10)[:2](scaled(pool.inputs)).detach()


def test_texts_need_an_encoder(tmp_path):
    texts = data.from_tensors([f"word {i}" for i in range(60)], labels=torch.arange(60) % 10)
    with pytest.raises(UserError, match="no features of their own to find neighbours by; name an encoder"):
        job.run(settings(tmp_path, student="bag_8", unasked="all", neighbours=3), None, Made(texts, texts[:10]))
    assert not (tmp_path / "r.db").exists()


def test_from_the_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "user.py").write_text(
        "from tuition import teachers\n"
        "def answer(x):\n    return {'logits': x.float().flatten(1)[:, 10:20] / 20}\n"
        "def teacher():\n    return teachers.from_callable(answer, fingerprint='pixels', name='pixels')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    command = ["distill", "--data", "digits", "--teacher", "user:teacher", "--calls", "40", "--epochs", "1"]
    command += [
        "--student",
        "cnn_4",
        "--unasked",
        "200",
        "--set",
        "neighbours=3",
        "--set",
        "check_answers=false",
        "--out",
        "run",
    ]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert record["settings"]["unasked"] == 200
    assert record["accounts"]["paid"] == 40
    assert record["results"]["images_seen"] == 40 + 64
    assert "unasked" in (tmp_path / "run/metrics.csv").read_text().splitlines()[0].split(",")
