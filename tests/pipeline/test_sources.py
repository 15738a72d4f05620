"""The pools that settings name: several data sets, other data to measure on, names of classes."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tuition import data
from tuition.cli.signatures import takes
from tuition.errors import UserError
from tuition.pipeline import job
from tuition.pipeline.checks import check_distill
from tuition.pipeline.question import question_of
from tuition.pipeline.settings import DistillSettings, TeachSettings, default_folder
from tuition.pipeline.sources import Sources
from tuition.pipeline.teach import teach

OWN = """
from tuition import teachers
def make():
    answer = lambda texts: ["arts" if "paint" in text else "war" for text in texts]
    return teachers.from_callable(answer, fingerprint="1", class_names=["arts", "war"], hard_labels=True)
"""


def table(path, labels, header="text,label", count=20):
    rows = [header] + [
        f"{'paint' if label == 'arts' else 'gun'} {path.stem.replace(',', ' ')} {i},{label}"
        for i in range(count)
        for label in labels
    ]
    path.write_text("\n".join(rows))


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table(tmp_path / "a.csv", ["arts", "war"])
    table(tmp_path / "b.csv", ["war", "arts"])
    table(tmp_path / "heldout.csv", ["war", "arts"], count=5)
    table(tmp_path / "peace.csv", ["peace", "arts"], count=5)
    (tmp_path / "bare.txt").write_text("\n".join(f"{'paint' if i % 2 else 'gun'} {i}" for i in range(60)))
    (tmp_path / f"own_{tmp_path.name}.py").write_text(OWN)
    return tmp_path


def settings(**values):
    basis = {"data": "a.csv", "teacher": f"own_{Path.cwd().name}:make", "calls": 16, "student": "bag_8", "epochs": 2}
    return DistillSettings.of(basis | {"test": None} | values)


def test_several_data_sets_are_one_pool(here):
    pool = Sources().train_pool(settings(data="a.csv,b.csv"))
    assert (len(pool), pool.class_names) == (80, ("arts", "war"))
    assert torch.equal(pool.labels[:4], torch.tensor([0, 1, 0, 1]))
    assert torch.equal(pool.labels[40:44], torch.tensor([1, 0, 1, 0]))
    assert default_folder(settings(data="x/a.csv, y/b.csv")).name.startswith("a.csv+b.csv-")
    with pytest.raises(UserError, match=r"the data 'none\.csv' were not found"):
        Sources().train_pool(settings(data="a.csv,none.csv"))


def test_a_comma_in_a_name(here):
    table(here / "c,d.csv", ["arts", "war"])
    assert len(Sources().train_pool(settings(data="c,d.csv"))) == 40


def test_other_data_to_validate_and_test_on(here):
    chosen = settings(validation="heldout.csv", test="b.csv")
    sources = Sources()
    question = question_of(chosen, sources)
    assert (len(question.inputs), len(question.validation)) == (16, 10)
    run = job.run(chosen, here / "run", sources)
    assert run.measured == {
        "agreement": "the 16 inputs of the transfer set",
        "validation": "accuracy on 10 labelled inputs",
        "accuracy": "the 40 inputs of b.csv",
    }
    assert run.accounts.paid == 16
    assert len(question_of(settings(validation="heldout.csv", calls=40), sources).inputs) == 40  # nothing is held out


def test_unlabelled_train_and_labelled_test(here):
    chosen = settings(data="bare.txt", validation="heldout.csv", test="./b.csv")
    run = job.run(chosen, here / "run")
    assert (run.accounts.paid, run.student.class_names) == (16, ("arts", "war"))
    assert run.measured["accuracy"] == "the 40 inputs of b.csv"


@pytest.mark.parametrize("part", ["validation", "test"])
def test_other_data_that_do_not_fit(here, part):
    for name, says in (
        ("peace.csv", "has the class peace, which the model does not know"),
        ("bare.txt", "bare.txt has no labels to evaluate by"),
        ("none", r"none is neither a split of a\.csv \(train\) nor data here"),
        ("none/there", "none/there"),
    ):
        with pytest.raises(UserError, match=says):
            check_distill(settings(**{part: name}), None, Sources())
    (here / "testing").mkdir()
    with pytest.raises(UserError, match=r"for the data testing here write \./testing"):
        check_distill(settings(**{part: "testing"}), None, Sources())
    assert not (here / "responses.db").exists()


def test_a_split_of_other_data(here):
    (here / "news").mkdir()
    table(here / "news" / "train.csv", ["arts", "war"], count=7)
    table(here / "news" / "test.csv", ["arts", "war"], count=3)
    assert len(Sources().test_pool(settings(test="./news").data)) == 6
    with pytest.raises(UserError, match="has no split 'validation'; choose one of: test, train"):
        Sources().validation_pool(settings(validation="./news").data)


def test_names_of_classes(here):
    (here / "numbered.csv").write_text("text,label\n" + "\n".join(f"word {i},{i % 2}" for i in range(10)))
    (here / "names.txt").write_text("arts\nwar\n")
    for names in ("names.txt", "arts,war", "arts, war"):
        assert Sources().train_pool(settings(data="numbered.csv", class_names=names)).class_names == ("arts", "war")
    with pytest.raises(UserError, match="the file of class names arts was not found"):
        Sources().train_pool(settings(data="numbered.csv", class_names="arts"))


def test_a_teacher_is_validated_on_other_data(here):
    values = {"data": "a.csv", "validation": "heldout.csv", "test": "b.csv", "model": "bag_8", "epochs": 1}
    run = teach(TeachSettings.of(values), here / "teacher")
    assert run.measured["validation"] == "accuracy on 10 labelled inputs"


def test_unlabelled_pictures_beside_a_labelled_folder(here):
    for folder, count in (("pile", 12), ("labelled/cat", 4), ("labelled/dog", 4)):
        (here / folder).mkdir(parents=True)
        for i in range(count):
            pixels = np.random.default_rng(i).integers(0, 255, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(here / folder / f"{i}.png")
    data_settings = settings(data="pile", test="labelled").data
    assert data.load("pile").labels is None
    assert Sources().test_pool(data_settings).class_names == ("cat", "dog")


@pytest.mark.parametrize(
    ("label", "says"), [([0, 1], "holds lists .* not one class a row; "), (0.37, "holds real numbers .* not classes; ")]
)
def test_targets_that_are_not_classes(here, label, says):
    (here / "odd.jsonl").write_text("\n".join(json.dumps({"text": f"a {i}", "label": label}) for i in range(30)))
    with pytest.raises(UserError, match=says):
        check_distill(settings(data="odd.jsonl"), None, Sources())


def test_null_is_nothing_at_the_command_line():
    chosen = takes(DistillSettings, "test label_column data")(lambda settings: settings)
    read = chosen(test="null", label_column="null", data=None, sets=["test=train", "seed=3"])
    assert (read.data.test, read.data.label_column, read.data.data, read.data.seed) == (None, None, "digits", 3)
    assert chosen(test="train", label_column=None, data=None, sets=["test=null"]).data.test == "train"
