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
        x = self[student].clone().requires_grad_()
        value = loss(x)
        (gradient,) = torch.autograd.grad(value, x)
        reference = self[f"{key}/grad"]
        assert value.item() == pytest.approx(self[f"{key}/loss"].item(), rel=1e-5)
        assert (gradient - reference).norm() < 1e-4 * reference.norm()


@pytest.fixture(params=["losses_a", "losses_b"])
def golden(request: pytest.FixtureRequest) -> Golden:
    return Golden(GOLDEN / f"{request.param}.npz")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
