"""A finished run is returned for the loss and the student it was trained with, and refused for edited ones."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tuition import UserError, losses
from tuition.data import TransferSet, from_tensors
from tuition.training import Objective, Term, distill
from tuition.training.task import on_label


@pytest.fixture
def transfer() -> TransferSet:
    draw = torch.Generator().manual_seed(0)
    pool = from_tensors(torch.rand(16, 4, generator=draw), torch.randint(0, 3, (16,), generator=draw))
    return TransferSet(pool, {"logits": torch.randn(16, 3, generator=draw)})


def net() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Linear(4, 3)


def own(loss: Callable[..., torch.Tensor]) -> Objective:
    return Objective([Term("own", lambda student, batch: loss(student, batch.responses["logits"]))])


LOSSES = {
    "l1": lambda: own(F.l1_loss),
    "mse": lambda: own(F.mse_loss),
    "anchor 0.1": lambda: own(partial(losses.ckd, anchor=0.1)),
    "anchor 0.2": lambda: own(partial(losses.ckd, anchor=0.2)),
    "a lambda": lambda: own(lambda s, t: (s - t).abs().mean()),
    "another lambda": lambda: own(lambda s, t: (s - t).square().mean()),
    "a library's": lambda: Objective([Term("own", on_label(partial(losses.ckd, anchor=0.3)))]),
}


@pytest.mark.parametrize("kind", [kind for kind in LOSSES if kind != "a library's"])
def test_a_run_of_another_loss_is_never_returned(tmp_path: Path, transfer: TransferSet, kind: str) -> None:
    first = distill(net(), transfer, LOSSES[kind](), epochs=1, out=tmp_path / "run")
    again = distill(net(), transfer, LOSSES[kind](), epochs=1, out=tmp_path / "run")
    assert again.seconds == first.seconds, "it is the run that was made"
    for other in LOSSES:
        if other != kind:
            with pytest.raises(UserError, match=r"holds a run with other settings .*own_code"):
                distill(net(), transfer, LOSSES[other](), epochs=1, out=tmp_path / "run")


def test_trained_modules_of_an_objective_are_not_its_code(tmp_path: Path, transfer: TransferSet) -> None:
    def made(seed: int) -> Objective:
        projector = losses.Projector(3, 3, seed=seed)
        term = Term("own", lambda student, batch: F.mse_loss(projector(student), batch.responses["logits"]))
        return Objective([term], modules=[projector])

    first = distill(net(), transfer, made(0), epochs=1, out=tmp_path / "run")
    assert distill(net(), transfer, made(1), epochs=1, out=tmp_path / "run").seconds == first.seconds


def test_a_run_of_an_edited_student_is_not_returned(tmp_path: Path, transfer: TransferSet) -> None:
    def student(factor: float) -> nn.Module:
        class Net(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.net = net()

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return self.net(x) * factor

        return Net()

    distill(student(1.0), transfer, "kd", epochs=1, out=tmp_path / "run")
    distill(student(1.0), transfer, "kd", epochs=1, out=tmp_path / "run")
    with pytest.raises(UserError, match="own_code"):
        distill(student(2.0), transfer, "kd", epochs=1, out=tmp_path / "run")
