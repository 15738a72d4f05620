import pytest
import torch

from tuition.losses import Projector, Regressor, hint


def test_golden(golden) -> None:
    golden.check("hint", lambda s: hint(s, golden["hint/teacher"]), student="hint/student")


@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        ((16, 8, 8), (32, 8, 8)),  # equal
        ((16, 16, 16), (32, 8, 8)),  # halved
        ((16, 4, 4), (32, 8, 8)),  # doubled
        ((16, 11, 9), (32, 8, 8)),  # a little larger
    ],
)
def test_regressors_reach_the_teachers_shape(student: tuple[int, ...], teacher: tuple[int, ...]) -> None:
    probe = torch.randn(2, *student)
    out = Regressor(probe.shape, teacher)(probe)
    assert out.shape == (2, *teacher)
    assert out.min() == 0
    assert Regressor(student, (2, *teacher), relu=False)(probe).min() < 0


@pytest.mark.parametrize("student", [(16, 5, 5), (16, 8, 7), (16, 8), (1, 2, 16, 8, 8)])
def test_shapes_without_a_way(student: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"no regressor leads|maps are"):
        Regressor(student, (32, 8, 8))


def test_a_regressor_learns_the_teachers_map() -> None:
    s = torch.randn(16, 4, 6, 6)
    t = torch.einsum("oc,nchw->nohw", torch.randn(8, 4), s).relu()
    regressor = Regressor(s.shape, t.shape)
    optimizer = torch.optim.Adam(regressor.parameters(), lr=0.05)
    losses = []
    for _ in range(100):
        optimizer.zero_grad()
        loss = hint(regressor(s), t)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.05 * losses[0]


def test_projector() -> None:
    projector = Projector(10, 4)
    assert projector(torch.randn(3, 10, dtype=torch.bfloat16)).shape == (3, 4)
    assert torch.equal(projector.weight, Projector(10, 4).weight)
    assert not torch.equal(projector.weight, Projector(10, 4, seed=1).weight)
