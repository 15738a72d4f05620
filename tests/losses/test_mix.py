import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tuition.losses import cutmix, cutmix_pick, mixup


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch(n: int = 8, size: int = 12) -> tuple[Tensor, Tensor, Tensor]:
    """Image i is i all over, label i, and a teacher's distribution."""
    images = torch.arange(n).float()[:, None, None, None].expand(n, 3, size, size)
    return images, F.one_hot(torch.arange(n)), torch.randn(n, 5, generator=seeded()).softmax(1)


@pytest.mark.parametrize("seed", range(5))
def test_mixup_mixes_all_alike(seed: int) -> None:
    images, labels, teacher = batch()
    mixed, mixed_labels, mixed_teacher = mixup(images, labels, teacher, generator=seeded(seed))
    # The mixed labels are the mixing matrix itself.
    torch.testing.assert_close(mixed[:, 0, 0, 0], mixed_labels @ torch.arange(8.0))
    torch.testing.assert_close(mixed_teacher, mixed_labels @ teacher)
    torch.testing.assert_close(mixed_labels.sum(dim=0), torch.ones(8))
    weights = mixed_labels[mixed_labels > 0].unique()
    assert len(torch.unique(weights.round(decimals=5))) <= 3  # lambda, 1 - lambda, and 1 where a sample met itself


@pytest.mark.parametrize("alpha", [0.2, 1.0, 3.0])
def test_lambda_is_beta(alpha: float) -> None:
    generator, x = seeded(), torch.tensor([[0.0], [1.0]])
    mixes = [mixup(x, alpha=alpha, generator=generator)[0] for _ in range(600)]
    lambdas = np.array([m[1, 0].item() for m in mixes if m[1, 0] < 1])  # not mixed with itself
    # Beta(a, a) has mean 1/2 and variance 1 / (4 (2 a + 1)).
    assert lambdas.mean() == pytest.approx(0.5, abs=0.07)
    assert lambdas.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.2)


@pytest.mark.parametrize("mix", [mixup, cutmix, cutmix_pick])
def test_seeds(mix) -> None:
    images, labels, teacher = batch()
    images = torch.rand(images.shape, generator=seeded())
    state = torch.get_rng_state()
    one, again, other = (mix(images, labels, teacher, generator=seeded(s)) for s in (3, 3, 4))
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    assert not torch.equal(one[0], other[0])
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(0)
    first = mix(images, teacher)
    torch.manual_seed(0)
    assert torch.equal(first[0], mix(images, teacher)[0])


@pytest.mark.parametrize("seed", range(8))
def test_cutmix_targets_follow_the_area(seed: int) -> None:
    images, labels, teacher = batch()
    mixed, mixed_labels, mixed_teacher = cutmix(images, labels, teacher, generator=seeded(seed))
    torch.testing.assert_close(mixed.mean(dim=(1, 2, 3)), mixed_labels @ torch.arange(8.0))
    torch.testing.assert_close(mixed_teacher, mixed_labels @ teacher)
    pasted = (mixed[:, 0] != images[:, 0]).any(dim=0)
    rows, columns = pasted.any(dim=1), pasted.any(dim=0)
    assert torch.equal(pasted, rows[:, None] & columns)  # one box, the same for all
    assert torch.equal(images, batch()[0])  # the inputs stay


def test_cutmix_keeps_uint8() -> None:
    images = torch.randint(256, (4, 3, 8, 8), dtype=torch.uint8)
    mixed, targets = cutmix(images, torch.eye(4), generator=seeded())
    assert mixed.dtype == torch.uint8
    assert targets.dtype == torch.float32
    assert mixup(images, generator=seeded())[0].dtype == torch.float32


def test_cutmix_share_pasted() -> None:
    """lambda is uniform, the box loses what lies outside: on average less than half is pasted, but not much less."""
    generator, (images, labels, _) = seeded(), batch(2, 32)
    areas = []
    for _ in range(300):
        _, mixed = cutmix(images, labels, generator=generator)
        if mixed[0, 1] > 0:
            areas.append(mixed[0, 1].item())
    assert 0.25 < np.mean(areas) < 0.5


def test_pick_takes_the_most_uncertain() -> None:
    images, labels, teacher = batch()
    generator = seeded()
    candidates = [cutmix(images, labels, teacher, generator=generator) for _ in range(3)]
    entropies = torch.cat([torch.distributions.Categorical(probs=c[2]).entropy() for c in candidates])
    picked, picked_labels, picked_teacher = cutmix_pick(images, labels, teacher, candidates=3, generator=seeded())
    chosen = torch.distributions.Categorical(probs=picked_teacher).entropy()
    torch.testing.assert_close(chosen.sort().values, entropies.sort().values[-8:])
    torch.testing.assert_close(picked.mean(dim=(1, 2, 3)), picked_labels @ torch.arange(8.0))
    torch.testing.assert_close(picked_teacher, picked_labels @ teacher)


def test_a_teacher_without_doubt_can_be_picked() -> None:
    images, labels, _ = batch()
    assert all(x.isfinite().all() for x in cutmix_pick(images, labels, generator=seeded()))


@pytest.mark.parametrize("mix", [mixup, cutmix])
def test_class_indices_are_refused(mix) -> None:
    with pytest.raises(ValueError, match="one-hot"):
        mix(torch.zeros(4, 3, 8, 8), torch.arange(4))
    with pytest.raises(ValueError, match="one-hot"):
        mix(torch.zeros(4, 3, 8, 8), torch.zeros(3, 2))


def test_refusals() -> None:
    with pytest.raises(ValueError, match="uint8"):
        mixup(torch.zeros(4, 7, dtype=torch.long))
    with pytest.raises(ValueError, match="no target"):
        cutmix_pick(torch.zeros(4, 3, 8, 8))
