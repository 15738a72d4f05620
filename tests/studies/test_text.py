"""Texts from the command line: a folder of them asked about, a student trained, its classes of other texts."""

import csv
import io
import json

import pytest
import torch
from typer.testing import CliRunner

from tuition import UserError, load, teachers
from tuition.cli.main import app
from tuition.pipeline.checks import check_ask, check_distill
from tuition.pipeline.settings import DistillSettings, TransferSettings
from tuition.pipeline.sources import Sources
from tuition.pipeline.teacher import find_teacher

WORDS = (["cat", "dog", "fern", "moss", "ape", "oak"], [0, 0, 1, 1, 0, 1])


def of_words(texts):
    """Logits: whether there is more of animals or of plants."""
    counts = torch.zeros(len(texts), 2)
    for row, text in enumerate(texts):
        for word, kind in zip(*WORDS, strict=True):
            counts[row, kind] += 4 * text.split().count(word)
    return counts


def teacher():
    return teachers.from_callable(of_words, fingerprint="words 1", name="words")


def encoder():
    return teachers.from_callable(lambda texts: {"embedding": of_words(texts) + 1}, fingerprint="embedded words 1")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    generator = torch.Generator().manual_seed(0)
    for split, count in (("train", 160), ("test", 40)):
        lines = []
        for pick in torch.randint(0, 6, (count, 3), generator=generator).tolist():
            kind = sum(WORDS[1][i] for i in pick) > 1
            lines.append({"text": " ".join(WORDS[0][i] for i in pick), "label": ["animal", "plant"][kind]})
        (tmp_path / "texts").mkdir(exist_ok=True)
        (tmp_path / "texts" / f"{split}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return tmp_path


def tuition(*arguments):
    done = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    return done.output


TRAINED = ("--epochs", 40)


def test_a_folder_of_texts_is_distilled_and_predicted(folder):
    asked = ("--data", "texts", "--teacher", f"{__name__}:teacher", "--calls", 80, "--student", "bag_32")
    shown = tuition("distill", *asked, "--method", "kd", *TRAINED, "--out", "run")
    assert "teacher calls paid" in shown
    assert load("run").class_names == ("animal", "plant")
    record = json.loads((folder / "run" / "run.json").read_text())
    assert record["results"]["accuracy"] >= 90
    (folder / "new.txt").write_text("cat dog\n\nmoss, fern\n")
    rows = list(csv.DictReader(io.StringIO(tuition("predict", "run", "new.txt"))))
    assert [(row["input"], row["class"]) for row in rows] == [("cat dog", "animal"), ("moss, fern", "plant")]
    assert len(tuition("predict", "run", "texts").splitlines()) == 41
    assert f"{record['results']['accuracy']:.2f} %" in tuition("evaluate", "run", "--data", "texts")
    assert "token" not in tuition("export", "run", "student.onnx")


def test_embeddings_are_distilled_without_labels(folder):
    asked = ("--data", "texts", "--teacher", f"{__name__}:encoder", "--calls", 80, "--student", "bag_32")
    unlabelled = ("--set", "labels=false", "--set", "test=null")
    shown = tuition("distill", *asked, *unlabelled, *TRAINED, "--out", "run")
    record = json.loads((folder / "run" / "run.json").read_text())
    assert f"{record['results']['agreement']:.2f} %" in shown
    assert record["accounts"]["paid"] + record["accounts"]["served"] == 100, "a fourth more, to validate on"
    assert record["results"]["validation"] > 70
    assert record["results"]["accuracy"] is None
    assert load("run").embed(["cat dog"]).shape == (1, 2)


def test_with_labels_embeddings_teach_a_classifier(folder):
    asked = ("--data", "texts", "--teacher", f"{__name__}:encoder", "--calls", 80, "--student", "bag_32")
    shown = tuition("distill", *asked, *TRAINED, "--out", "run")
    assert load("run").predict(["cat dog ape"]).tolist() == [0]
    assert "teacher calls paid" in shown
    assert "agreement" not in shown, "classes and embeddings cannot agree"


def test_what_texts_cannot_be_used_for_is_said_before_a_call(folder):
    asked = {"data": "texts", "teacher": f"{__name__}:teacher", "calls": 80, "student": "bag_32"}
    for change, says in (
        ({"student": "cnn_8"}, "this student reads images or vectors, and the inputs are text"),
        ({"data": "digits"}, "this student reads text, and the inputs are images or vectors"),
        ({"method": "cutmix"}, "mixes images or vectors, and the inputs are text"),
        ({"select": "medoids"}, "text"),
    ):
        with pytest.raises(UserError, match=says):
            check_distill(DistillSettings.of(asked | change), None, Sources())
    assert not (folder / "responses.db").exists()


def test_the_folder_of_a_taught_model_of_text_is_a_teacher(folder):
    tuition("teach", "--data", "texts", "--model", "bag_16", *TRAINED, "--out", "taught")
    taught, teacher_again = load("taught"), find_teacher("taught")
    texts = ["cat dog ape", "moss fern", "oak"]
    assert teacher_again.class_names == taught.class_names == ("animal", "plant")
    torch.testing.assert_close(teacher_again(texts)["logits"], taught.logits(texts), rtol=0, atol=0)
    shown = tuition("ask", "--data", "texts", "--teacher", "taught", "--calls", 80)
    assert "80 answers of taught" in shown
    shown = tuition("distill", "--data", "texts", "--teacher", "taught", "--calls", 80, "--student", "bag_8", *TRAINED)
    assert "teacher calls from cache" in shown
    assert find_teacher("taught").fingerprint == teacher_again.fingerprint


def test_a_taught_model_of_text_refuses_images_before_a_call(folder):
    tuition("teach", "--data", "texts", "--model", "bag_8", "--epochs", 1, "--out", "other")
    settings = {"data": "digits", "teacher": "other", "calls": 20, "labels": False}
    with pytest.raises(UserError, match="this teacher reads text, not images or vectors"):
        check_ask(TransferSettings.of(settings), Sources())
    assert not (folder / "responses.db").exists()


def test_the_hashing_is_part_of_a_taught_model_s_fingerprint(folder):
    tuition("teach", "--data", "texts", "--model", "bag_8", "--epochs", 1, "--out", "one")
    before = find_teacher("one").fingerprint
    record = json.loads((folder / "one" / "run.json").read_text())
    record["student"]["hashing"]["ngrams"] = [4]
    (folder / "one" / "run.json").write_text(json.dumps(record))
    assert find_teacher("one").fingerprint != before
