"""Functions as teachers."""

import numpy as np
import pytest
import torch

from tuition.errors import UserError
from tuition.teachers import from_callable


def test_logits_alone_are_named() -> None:
    def double(inputs: torch.Tensor) -> np.ndarray:
        return inputs.numpy() * 2

    teacher = from_callable(double, fingerprint="v1")
    answer = teacher(torch.tensor([[1.0, 2.0]]))
    assert torch.equal(answer["logits"], torch.tensor([[2.0, 4.0]]))
    assert teacher.fingerprint == "v1"


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
