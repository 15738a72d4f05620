"""Class names of teachers: by argument, or from where the source has them, and always as many as there are classes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from tuition import models
from tuition.errors import UserError
from tuition.teachers import NotCharged, from_callable, from_onnx, from_sklearn, from_torch, from_transformers
from tuition.training import Student

NAMES = ["ant", "bee", "cat"]


def test_names_by_argument() -> None:
    assert from_callable(lambda x: x, fingerprint="v1").class_names is None
    assert from_callable(lambda x: x, fingerprint="v1", class_names=NAMES).class_names == ("ant", "bee", "cat")
    teacher = from_torch(nn.Linear(4, 3), class_names=NAMES)
    assert teacher.class_names == ("ant", "bee", "cat")
    assert teacher(torch.zeros(2, 4))["logits"].shape == (2, 3)
    assert teacher.fingerprint == from_torch(teacher.model).fingerprint, "names do not change the answers"


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        ("abc", "not the text 'abc'"),
        ([], "an empty name, or none"),
        (["ant", " "], "an empty name, or none"),
        (["ant", "bee", "ant"], "holds 'ant' more than once"),
    ],
)
def test_names_that_are_refused(names: list[str], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        from_callable(lambda x: x, fingerprint="v1", class_names=names)
    with pytest.raises(UserError, match=sentence):
        from_torch(nn.Linear(4, 3), class_names=names)


def test_another_number_of_names_than_of_classes() -> None:
    with pytest.raises(NotCharged, match="answers with 3 classes, and class_names holds 2 names"):
        from_torch(nn.Linear(4, 3), class_names=NAMES[:2])(torch.zeros(2, 4))
    model = LogisticRegression().fit(np.eye(3), NAMES)
    with pytest.raises(UserError, match="holds 2 names, but the teacher answers with 3 classes"):
        from_sklearn(model, class_names=NAMES[:2])


def test_names_that_scikit_learn_knows() -> None:
    model = LogisticRegression().fit(np.eye(3), ["cat", "ant", "bee"])
    assert from_sklearn(model).class_names == ("ant", "bee", "cat"), "in the order of the columns"
    assert from_sklearn(model, class_names=["a", "b", "c"]).class_names == ("a", "b", "c")
    numbers = from_sklearn(LogisticRegression().fit(np.eye(3), np.array([10, 2, 0])))
    assert numbers.class_names == ("0", "2", "10")


def test_names_that_an_exported_student_carries(tmp_path: Path) -> None:
    preprocess = models.Preprocess([0.5], [0.5])
    student = Student(models.create("cnn_4", num_classes=3, in_channels=1), preprocess, input_shape=(1, 8, 8))
    assert from_onnx(student.export(tmp_path / "none.onnx")).class_names is None
    student.class_names = ("ant", "bee", "cat")
    path = student.export(tmp_path / "named.onnx")
    assert from_onnx(path).class_names == ("ant", "bee", "cat")
    assert from_onnx(path, class_names=["x", "y", "z"]).class_names == ("x", "y", "z")
    with pytest.raises(UserError, match="holds 2 names, but the teacher answers with 3"):
        from_onnx(path, class_names=["x", "y"])


def test_names_that_a_configuration_of_transformers_holds(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}

    def saved(folder: str, **labels: object) -> Path:
        config = transformers.ViTConfig(**sizes, image_size=16, patch_size=8, **labels)
        transformers.ViTForImageClassification(config).save_pretrained(tmp_path / folder)
        transformers.ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(tmp_path / folder)
        return tmp_path / folder

    named = saved("named", id2label=dict(enumerate(["bee", "ant", "cat"])))
    assert from_transformers(named).class_names == ("bee", "ant", "cat")
    assert from_transformers(named, class_names=NAMES).class_names == ("ant", "bee", "cat")
    assert from_transformers(saved("counted", num_labels=3)).class_names is None
    with pytest.raises(UserError, match="holds 3 names, but the teacher answers with 2"):
        from_transformers(saved("two", num_labels=2), class_names=NAMES)
