"""What every loss promises."""

import copy
import io
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from tuition import losses

LEFT, RIGHT = torch.tensor([[0, 1], [2, 3]]), torch.tensor([[4], [5]])

# name -> (loss of student and teacher, shape of the student's tensor, shape of the teacher's)
MATRICES = (6, 5), (6, 5)
MAPS = (6, 3, 4, 4), (6, 5, 4, 4)
LOSSES: dict[str, tuple[Callable[..., Tensor], tuple[int, ...], tuple[int, ...]]] = {
    "kd": (losses.kd, *MATRICES),
    "dkd": (partial(losses.dkd, labels=torch.arange(6) % 5), *MATRICES),
    "standardised_kd": (losses.standardised_kd, *MATRICES),
    "ckd": (losses.ckd, *MATRICES),
    "ckd_anchored": (partial(losses.ckd, anchor=0.1), *MATRICES),
    "consistency": (losses.consistency, *MATRICES),
    "ckd_groups": (partial(losses.ckd_groups, left=LEFT, right=RIGHT), *MATRICES),
    "rkd": (losses.rkd, *MATRICES),
    "rkd_projected": (partial(losses.rkd_projected, projection=losses.orthonormal_projection(5, 2, seed=0)), *MATRICES),
    "dist": (losses.dist, *MATRICES),
    "cc": (losses.cc, *MATRICES),
    "mse": (losses.mse, *MATRICES),
    "cross_entropy": (losses.cross_entropy, *MATRICES),
    "hint": (losses.hint, (6, 3, 4, 4), (6, 3, 4, 4)),
    "VID": (losses.VID(3, 5), *MAPS),
    "VID_compare": (losses.VID(3, 5, compare=True), *MAPS),
    "CRD": (partial(losses.CRD(5, 4, 12, dim=8), ids=torch.arange(6)), (6, 5), (6, 4)),
    "CRD_drawn": (
        partial(losses.CRD(5, 4, 12, dim=8), ids=torch.arange(6), contrast_idx=torch.arange(18).view(6, 3) % 12),
        (6, 5),
        (6, 4),
    ),
    "tf_fd": (lambda student, _: losses.tf_fd([student, student[..., ::2]]), *MAPS),
}


@pytest.fixture(params=LOSSES)
def case(request: pytest.FixtureRequest) -> tuple[Callable[..., Tensor], Tensor, Tensor]:
    loss, student, teacher = LOSSES[request.param]
    return copy.deepcopy(loss), torch.randn(student), torch.randn(teacher)


def run(
    loss: Callable[..., Tensor], student: Tensor, teacher: Tensor, *, autocast: bool = False
) -> tuple[Tensor, Tensor]:
    """Value and gradient, from the same state each time."""
    student = student.detach().clone().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        value = copy.deepcopy(loss)(student, teacher)
    assert value.shape == ()
    return value.detach(), torch.autograd.grad(value, student)[0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(case, dtype: torch.dtype) -> None:
    loss, student, teacher = case
    student, teacher = student.to(dtype), teacher.to(dtype)
    value, gradient = run(loss, student, teacher)
    expected, expected_gradient = run(loss, student.float(), teacher.float())
    assert value.dtype == torch.float32
    assert gradient.dtype == dtype
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient, expected_gradient.to(dtype), rtol=1e-2, atol=1e-6)


def test_autocast_changes_no_loss(case) -> None:
    """The convolutions of VID may run in bfloat16; what is compared may not."""
    loss, student, teacher = case
    tolerance = 1e-2 if "VID" in str(loss) else 1e-6
    value, gradient = run(loss, student, teacher, autocast=True)
    expected, expected_gradient = run(loss, student, teacher)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, expected, rtol=tolerance, atol=0)
    torch.testing.assert_close(gradient, expected_gradient, rtol=10 * tolerance, atol=tolerance)


def test_float64_stays(case) -> None:
    loss, student, teacher = case
    module = loss.func if isinstance(loss, partial) else loss
    if isinstance(module, nn.Module):
        module.double()
    value, gradient = run(loss, student.double(), teacher.double())
    assert value.dtype == gradient.dtype == torch.float64


def test_the_teacher_is_a_constant(case) -> None:
    loss, student, teacher = case
    loss(student.requires_grad_(), teacher.requires_grad_()).backward()
    assert teacher.grad is None


def test_compiles_without_graph_breaks(case) -> None:
    loss, student, teacher = case
    torch.compiler.reset()
    compiled = torch.compile(copy.deepcopy(loss), fullgraph=True, backend="aot_eager")
    student.requires_grad_()
    for _ in range(2):  # twice, as memories move
        value, expected = compiled(student, teacher), loss(student, teacher)
        torch.testing.assert_close(value, expected)
        torch.testing.assert_close(torch.autograd.grad(value, student), torch.autograd.grad(expected, student))


def test_without_gradient(case) -> None:
    loss, student, teacher = case
    value, _ = run(loss, student, teacher)
    with torch.no_grad():
        torch.testing.assert_close(copy.deepcopy(loss)(student, teacher), value)


def test_the_global_random_state_is_left_alone(case) -> None:
    loss, student, teacher = case
    state = torch.get_rng_state()
    run(loss, student, teacher)
    losses.VID(3, 5), losses.CRD(5, 4, 12), losses.Regressor((3, 4, 4), (5, 4, 4)), losses.Projector(3, 5)
    losses.orthonormal_projection(5, 2, seed=0)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    "name",
    [
        *("kd", "dkd", "standardised_kd", "ckd", "ckd_groups", "rkd_projected"),
        *("dist", "cc", "mse", "cross_entropy", "hint"),
    ],
)
def test_unequal_shapes_are_refused(name: str) -> None:
    loss, shape, _ = LOSSES[name]
    with pytest.raises(ValueError, match="equal shapes"):
        loss(torch.zeros(shape), torch.zeros(*shape[:-1], shape[-1] + 1))


@pytest.mark.parametrize(
    "module",
    [losses.VID(3, 5), losses.CRD(5, 4, 12, dim=8), losses.Regressor((3, 4, 4), (5, 4, 4)), losses.Projector(5, 4)],
    ids=lambda module: type(module).__name__,
)
def test_modules_are_copied_pickled_and_saved(module: nn.Module) -> None:
    def use(module: nn.Module) -> Tensor:
        if isinstance(module, losses.CRD):
            return module(torch.ones(2, 5), torch.ones(2, 4), torch.arange(2))
        if isinstance(module, losses.Projector):
            return module(torch.ones(2, 5)).sum()
        x = torch.linspace(-1, 1, 96).view(2, 3, 4, 4)
        return module(x, torch.ones(2, 5, 4, 4)) if isinstance(module, losses.VID) else module(x).sum()

    use(module).backward()
    copied = copy.deepcopy(module)
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    pickled = torch.load(file, weights_only=False)
    loaded = copy.deepcopy(module)
    for tensor in loaded.state_dict().values():
        tensor.zero_()
    loaded.load_state_dict(module.state_dict())
    values = [use(m).item() for m in (module, copied, pickled, loaded)]
    assert len(set(values)) == 1
