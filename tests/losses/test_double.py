"""float64 where a device lacks it: it is made on the CPU, by one function."""

import re
from pathlib import Path

import pytest
import torch

from tuition import losses
from tuition.losses import _check
from tuition.training import evaluation

SOURCE = Path(losses.__file__).parents[1]


def test_losses_and_figures_take_float64_from_one_function() -> None:
    for path in [
        *(SOURCE / "losses").glob("*.py"),
        SOURCE / "training" / "loop.py",
        SOURCE / "training" / "objective.py",
    ]:
        code = "\n".join(line.partition("#")[0] for line in path.read_text().splitlines())
        if path.name not in ("_check.py", "crd.py", "rkd_projected.py"):  # the last two draw on the CPU
            assert not re.search(r"\.double\(\)|dtype=torch\.float64", code), path


def test_a_device_without_it_gives_the_same_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(9, 5, generator=draw, requires_grad=True), torch.randn(9, 7, generator=draw)
    labels = torch.randint(0, 5, (9,), generator=draw)

    def figures() -> tuple[torch.Tensor, torch.Tensor, float]:
        loss = losses.rkd(student, teacher)
        (gradient,) = torch.autograd.grad(loss, student)
        return loss.detach(), gradient, evaluation.calibration_error(student.detach(), labels)

    asked = []
    loss, gradient, error = figures()
    monkeypatch.setattr(_check, "WITHOUT_DOUBLE", {"cpu"})
    original = torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda x: asked.append(x.dtype) or original(x))
    found = figures()
    assert torch.equal(found[0], loss)
    assert torch.equal(found[1], gradient)
    assert found[2] == error
    assert len(asked) >= 4, "float64 is made from what was brought to the CPU"
    assert torch.float64 not in asked
