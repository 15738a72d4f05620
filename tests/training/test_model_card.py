"""The card of a run: read back by huggingface_hub, true to run.json, and without what strangers may not read."""

import json
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from tuition import distill, escape, load, train_teacher
from tuition.data import TransferSet
from tuition.training import files, model_card


@pytest.fixture(scope="module")
def folder(transfer, pool, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    distill("cnn_4", transfer, "kd", validation=pool[64:104], test=pool[104:], epochs=1, out=out)
    return out


@pytest.fixture
def record(folder):
    return files.read_run(folder)


def changed(record, **settings):
    """The record with other settings."""
    return json.loads(json.dumps(record | {"settings": record["settings"] | settings}))


def test_the_hub_reads_the_figures_of_run_json(folder, record):
    card = ModelCard.load(folder / "README.md")
    assert (folder / "README.md").read_text().startswith("---\nlibrary_name: tuition\n")
    assert card.data.pipeline_tag == "image-classification"
    assert card.data.datasets is None, "digits are not of the hub"
    (result,) = card.data.eval_results
    assert (result.metric_type, result.metric_value) == ("accuracy", record["results"]["accuracy"])
    assert f"| test accuracy, weights of the best validation | {record['results']['accuracy']:.2f} |" in card.text
    assert f"| {record['results']['validation']:.2f} | accuracy on 40 labelled inputs |" in card.text
    assert "digits train, 64 inputs to train on" in card.text


def test_data_and_models_of_the_hub_are_named(record):
    recipe = {"name": "transformers:google/vit-base", "num_classes": 10, "in_channels": 3}
    student = record["student"] | {"model": recipe}
    described = {"data": "owner/cats,owner/dogs,digits", "teacher_name": "big", "pretrained": None}
    data = ModelCard(model_card.render(changed(record, **described) | {"student": student})).data
    assert data.datasets == ["owner/cats", "owner/dogs"]
    assert data.base_model == "google/vit-base"
    untrained = changed(record, **described | {"pretrained": False}) | {"student": student}
    assert ModelCard(model_card.render(untrained)).data.base_model is None


SECRET = "hunter2"
PLACES = {
    "data": "/home/ada/private/cats,owner/dogs",
    "test": "/home/ada/private/test set",
    "validation": "~/private/more",
    "teacher": f"v2:https://ada:{SECRET}@teacher.example:8000/v2?key={SECRET}",
    "teacher_name": f"https://ada:{SECRET}@teacher.example/v2",
    "teacher_options": {"api_key": SECRET, "nested": {"headers": ["/home/ada/key.txt"]}},
    "features": "C:\\Users\\ada\\runs\\first",
    "options": {"place": "see /home/ada/notes.txt first", "token": SECRET},
}


def test_no_path_and_no_secret_of_this_machine_is_in_it(record):
    kept = changed(record, **PLACES)
    kept["student"]["model"]["name"] = "transformers:/home/ada/models/small"
    kept["measured"]["accuracy"] = "the 96 inputs of /home/ada/private/test"
    text = model_card.render(kept)
    public = json.dumps(escape.public(kept))
    for private in ("ada", SECRET, "/home", "Users", "private"):
        assert private not in text
        assert private not in public
    assert "cats,owner/dogs" in text
    assert "teacher.example/v2" in text
    assert escape.public(kept)["settings"]["teacher"] == "v2:https://teacher.example:8000/v2"


UNCHANGED = "digits|owner/name|runs/first|a and/or b|{title}: {body}|package.module:factory|timm:resnet18||/|1/2/3"
UNCHANGED += "|transformers:owner/name|https://host:80/v2|hf://datasets/owner/name|Is it 1/2 or 3/4?|~"


@pytest.mark.parametrize("text", UNCHANGED.split("|"))
def test_other_texts_stay_as_they_are(text):
    assert escape.public({"a": [text]}) == {"a": [text]}


@pytest.mark.parametrize(
    ("text", "public"),
    [
        ("/home/ada/My Pictures", "My Pictures"),
        ("onnx:/home/ada/m.onnx", "onnx:m.onnx"),
        ("sqlite:////home/ada/r.db", "sqlite:///r.db"),
        ("file:///home/ada/x", "file://x"),
        ("postgresql://ada:pa/ss@w@host/db", "postgresql://host/db"),
        ("first line\nsee /home/ada/x, and /home/ada/y.", "first line\nsee x, and y."),
    ],
)
def test_paths_and_addresses_are_reduced(text, public):
    assert escape.public(text) == public


def test_names_are_text_and_not_markup(record):
    kept = changed(record, teacher_name="a|b <img src=x onerror=y> `c` [d](e)")
    text = model_card.render(kept)
    assert "<img" not in text
    assert "a\\|b" in text
    assert "[d](e)" not in text


def test_what_people_add_stays_and_other_cards_follow_the_figures(transfer, tmp_path):
    given = {"student": "cnn_4", "transfer": transfer, "objective": "kd"}
    card = tmp_path / "README.md"
    distill(**given, epochs=1, out=tmp_path)
    assert "| training | 1 epochs" in card.read_text()
    distill(**given, epochs=2, out=tmp_path)
    assert "| training | 2 epochs" in card.read_text()
    card.write_text(card.read_text() + "\nMind the gap.\n")
    distill(**given, epochs=3, out=tmp_path)
    assert card.read_text().endswith("\nMind the gap.\n")
    card.unlink()
    distill(**given, epochs=3, out=tmp_path)
    assert "| training | 3 epochs" in card.read_text(), "a kill before the card was written"


def test_a_teacher_and_a_model_of_own_code_have_cards_too(transfer, pool, tmp_path):
    from torch import nn

    train_teacher("cnn_4", pool[:64], validation=pool[64:104], epochs=1, out=tmp_path / "teacher")
    text = (tmp_path / "teacher/README.md").read_text()
    assert "trained on labels" in text
    assert "teacher calls" not in text
    assert load(tmp_path / "teacher") is not None
    own = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    distill(own, TransferSet(transfer.pool, transfer.responses), "kd", epochs=1, out=tmp_path / "own")
    assert 'load("OWNER/NAME", model=my_model)' in Path(tmp_path / "own/README.md").read_text()
    assert "It was not measured on test data." in Path(tmp_path / "own/README.md").read_text()
