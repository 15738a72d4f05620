"""Functions as teachers."""

import numpy as np
import pytest
import torch

from tuition import ResponseStore
from tuition.data import from_tensors
from tuition.errors import UserError
from tuition.teachers import BadAnswer, from_callable


def test_logits_alone_are_named() -> None:
    def double(inputs: torch.Tensor) -> np.ndarray:
        return inputs.numpy() * 2

    teacher = from_callable(double, fingerprint="v1")
    answer = teacher(torch.tensor([[1.0, 2.0]]))
    assert torch.equal(answer["logits"], torch.tensor([[2.0, 4.0]]))
    assert teacher.fingerprint.startswith("v1; code ")


def test_named_outputs_of_texts() -> None:
    teacher = from_callable(lambda texts: {"embedding": [[float(len(t))] for t in texts]}, fingerprint="v1", name="len")
    assert torch.equal(teacher(["a", "bcd"])["embedding"], torch.tensor([[1.0], [3.0]]))
    assert teacher.name == "len"


def test_names_by_default_tell_teachers_apart() -> None:
    def answer(inputs: torch.Tensor) -> torch.Tensor:
        return inputs

    one, two = from_callable(answer, fingerprint="v1"), from_callable(answer, fingerprint="v2")
    assert one.name.startswith("answer-")
    assert one.name != two.name
    assert one.name == from_callable(answer, fingerprint="v1").name


def test_a_fingerprint_is_needed() -> None:
    with pytest.raises(UserError, match="needs a fingerprint"):
        from_callable(lambda inputs: inputs, fingerprint="")


NAMES = ["ant", "bee", "cat"]


@pytest.mark.parametrize(
    "answer",
    [
        [2, 0, 1, 1],
        (2, 0, 1, 1),
        ["cat", "ant", "bee", "bee"],
        np.array([2, 0, 1, 1]),
        np.array(["cat", "ant", "bee", "bee"]),
        torch.tensor([2, 0, 1, 1], dtype=torch.uint8),
        torch.tensor([[2], [0], [1], [1]]),
        np.array([[2], [0], [1], [1]]),
        ["2", "0", "1", "1"],
        ["Cat", "ANT", "bee ", "bee"],
        {"label": [2, 0, 1, 1]},
        {"label": ["cat", "ant", "bee", "bee"]},
        {"label": torch.tensor([2, 0, 1, 1])},
    ],
)
def test_hard_labels_are_answers(answer: object, tmp_path) -> None:
    teacher = from_callable(lambda inputs: answer, fingerprint="v1", name="hard", class_names=NAMES)
    pool = from_tensors(torch.rand(4, 2))
    found = ResponseStore(str(tmp_path / "r.db")).ask(teacher, pool, budget=4).responses
    assert list(found) == ["votes"]
    assert torch.equal(found["votes"], torch.eye(3)[[2, 0, 1, 1]])


@pytest.mark.parametrize(
    ("answer", "names", "sentence"),
    [
        ([3, 0], NAMES, "label '3', which is not one of the 3 classes"),
        ([-1, 0], NAMES, "label '-1'"),
        (["dog", "ant"], NAMES, "label 'dog'"),
        (["3", "ant"], NAMES, "label '3'"),
        (["bb", "bb"], ["a", "BB", "bB"], "label 'bb'"),
        ({"label": [0.5, 1]}, NAMES, "label '0.5'"),
        ([1, 0], None, "give class_names"),
    ],
)
def test_hard_labels_that_are_not_classes(answer: object, names: list[str] | None, sentence: str) -> None:
    teacher = from_callable(lambda inputs: answer, fingerprint="v1", class_names=names)
    with pytest.raises(BadAnswer, match=sentence):
        teacher(["a", "b"])
