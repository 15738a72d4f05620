import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tuition.losses import rkd, rkd_angle, rkd_distance


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def loop_distance(s: Tensor, t: Tensor) -> Tensor:
    n = len(s)

    def distances(x: Tensor) -> list[Tensor]:
        d = [(x[i] - x[j]).norm() for i, j in itertools.product(range(n), repeat=2)]
        mean = sum(d) / sum(e > 0 for e in d)
        return [e / mean for e in d]

    return sum(F.smooth_l1_loss(a, b) for a, b in zip(distances(s), distances(t), strict=True)) / n**2


def loop_angle(s: Tensor, t: Tensor) -> Tensor:
    n = len(s)

    def cosine(x: Tensor, i: int, j: int, k: int) -> Tensor:
        return x.new_zeros(()) if i in (j, k) else F.cosine_similarity(x[j] - x[i], x[k] - x[i], dim=0)

    triplets = itertools.product(range(n), repeat=3)
    return sum(F.smooth_l1_loss(cosine(s, *ijk), cosine(t, *ijk)) for ijk in triplets) / n**3


def gradient(loss, s: Tensor, t: Tensor) -> Tensor:
    s = s.detach().clone().requires_grad_()
    return torch.autograd.grad(loss(s, t), s)[0]


def relative(x: Tensor, reference: Tensor) -> float:
    return ((x - reference).norm() / reference.norm()).item()


@pytest.mark.parametrize(("key", "loss"), [("rkd", rkd), ("rkd_distance", rkd_distance), ("rkd_angle", rkd_angle)])
def test_golden(golden, key: str, loss) -> None:
    golden.check(key, lambda s: loss(s, golden["teacher_logits"]))


@given(n=st.integers(2, 5), d=st.integers(1, 4), teacher_d=st.integers(1, 4), seed=st.integers(0, 2**31))
def test_equals_the_loops(n: int, d: int, teacher_d: int, seed: int) -> None:
    s, t = draw(n, d, seed=seed), draw(n, teacher_d, seed=seed + 1)
    assert rkd_distance(s, t).item() == pytest.approx(loop_distance(s, t).item(), rel=1e-9)
    assert rkd_angle(s, t).item() == pytest.approx(loop_angle(s, t).item(), rel=1e-9, abs=1e-12)


def test_weights() -> None:
    s, t = draw(6, 4), draw(6, 4, seed=1)
    expected = 3 * rkd_distance(s, t) + 7 * rkd_angle(s, t)
    assert rkd(s, t, distance_weight=3, angle_weight=7).item() == pytest.approx(expected.item(), rel=1e-12)
    assert rkd(s, t).item() == pytest.approx((25 * rkd_distance(s, t) + 50 * rkd_angle(s, t)).item(), rel=1e-12)


@pytest.mark.parametrize("n", [3, 7])
def test_gradients(n: int) -> None:
    s, t = draw(n, 4).requires_grad_(), draw(n, 5, seed=1)
    assert torch.autograd.gradcheck(lambda s: rkd_distance(s, t), s)
    assert torch.autograd.gradcheck(lambda s: rkd_angle(s, t), s)


def test_blocks_agree_with_the_loop_over_corners() -> None:
    """Rows that need several blocks, the last of them not full."""
    s, t = draw(75, 5).requires_grad_(), draw(75, 5, seed=1)

    def directions(x: Tensor) -> Tensor:
        return F.normalize(x[None] - x[:, None], dim=2)

    a, b = directions(s), directions(t)
    expected = F.smooth_l1_loss(a @ a.mT, b @ b.mT)
    assert rkd_angle(s, t).item() == pytest.approx(expected.item(), rel=1e-12)
    assert relative(gradient(rkd_angle, s, t), torch.autograd.grad(expected, s)[0]) < 1e-12


@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_tight_clusters(offset: float) -> None:
    """8 clusters, spread 1e-3 of that between them: a float32 Gram matrix loses a fifth of the gradient."""
    centre = draw(2, 8, 100)
    s, t = (centre.repeat_interleave(8, dim=1) + 1e-3 * draw(2, 64, 100, seed=1) + offset).float()
    for loss in (rkd_angle, rkd_distance, rkd):
        assert relative(gradient(loss, s, t), gradient(loss, s.double(), t.double())) < 1e-4
        assert loss(s, t).item() == pytest.approx(loss(s.double(), t.double()).item(), rel=1e-5)


def test_small_features_on_a_large_constant() -> None:
    s, t = (1 + 1e-4 * draw(2, 32, 16)).float()
    assert rkd_distance(s, t).item() == pytest.approx(rkd_distance(s.double(), t.double()).item(), rel=1e-5)
    assert rkd(s, t).item() == pytest.approx(rkd(s.double(), t.double()).item(), rel=1e-5)


def test_small_features_in_float16_are_what_float16_holds() -> None:
    s, t = (1 + 1e-4 * draw(2, 32, 16)).half()
    assert rkd_distance(s, t).item() == pytest.approx(rkd_distance(s.double(), t.double()).item(), rel=1e-5)
    for loss in (rkd_distance, rkd_angle):
        assert gradient(loss, s, t).isfinite().all()


@pytest.mark.parametrize("noise", [0.0, 1e-8, 1e-7])
def test_equal_student_rows(noise: float) -> None:
    """Equal, or equal up to rounding; the reference's gradient has norm 4e9 on two equal rows."""
    s, t = draw(16, 10).float(), draw(16, 10, seed=1).float()
    s[5] = s[2] * (1 + noise)
    apart = s.clone()
    apart[5] += 0.1
    for loss in (rkd_angle, rkd_distance):
        assert gradient(loss, s, t).norm() < 2 * gradient(loss, apart, t).norm()


@pytest.mark.parametrize("loss", [rkd_angle, rkd_distance])
def test_all_rows_equal(loss) -> None:
    same = torch.ones(8, 4)
    assert gradient(loss, same, torch.randn(8, 4)).norm() == 0
    assert gradient(loss, torch.randn(8, 4), same).isfinite().all()
    assert loss(same, same).item() == 0


@pytest.mark.parametrize("loss", [rkd, rkd_distance, rkd_angle])
def test_properties(loss) -> None:
    s, t = draw(9, 6), draw(9, 6, seed=1)
    value = loss(s, t).item()
    order = torch.randperm(9)
    rotation = torch.linalg.qr(draw(6, 6, seed=2))[0]
    assert loss(s[order], t[order]).item() == pytest.approx(value, rel=1e-9)
    assert loss(3 * s @ rotation + 5, t).item() == pytest.approx(value, rel=1e-9)
    assert loss(s, s).item() == 0


@pytest.mark.parametrize("rows", [(4, 5), (1, 1), (0, 0)])
def test_rows_must_match(rows: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="at least 2"):
        rkd(torch.zeros(rows[0], 3), torch.zeros(rows[1], 3))


def test_a_second_derivative_is_refused() -> None:
    s = draw(4, 3).requires_grad_()
    with pytest.raises(NotImplementedError, match="second derivative"):
        torch.autograd.grad(rkd_angle(s, draw(4, 3, seed=1)), s, create_graph=True)
