from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

GOLDEN = Path(__file__).parents[1] / "golden"


class Golden:
    """One file of golden values; see tests/golden/README.md."""

    def __init__(self, path: Path) -> None:
        self.arrays = dict(np.load(path))

    def __getitem__(self, key: str) -> Tensor:
        return torch.from_numpy(self.arrays[key])

    @property
    def one_hot(self) -> Tensor:
        return torch.nn.functional.one_hot(self["labels"], self["teacher_logits"].shape[1]).float()

    def check(self, key: str, loss: Callable[[Tensor], Tensor], student: str = "student_logits") -> None:
        """`loss` of the student's tensor has the stored value and gradient."""
        x = self[student].requires_grad_()
        value = loss(x)
        (gradient,) = torch.autograd.grad(value, x)
        assert value.item() == pytest.approx(self[f"{key}/loss"].item(), rel=1e-5)
        assert relative_error(gradient, self[f"{key}/grad"]) < 1e-4


def relative_error(x: Tensor, reference: Tensor) -> float:
    return ((x - reference).norm() / reference.norm()).item()


@pytest.fixture(params=["losses_a", "losses_b"])
def golden(request: pytest.FixtureRequest) -> Golden:
    return Golden(GOLDEN / f"{request.param}.npz")
