import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tuition.errors import UserError
from tuition.models import Preprocess


def random_images(*shape, seed=0):
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.integers(1, 4), st.integers(1, 9), st.integers(1, 9), st.integers(0, 99))
def test_fit_and_forward_against_numpy(n, c, h, w, seed):
    images = random_images(n, c, h, w, seed=seed)
    values = images.numpy().astype(np.float64) / 255
    mean, std = values.mean((0, 2, 3)), values.std((0, 2, 3))
    std[std == 0] = 1
    preprocess = Preprocess.fit(images)
    np.testing.assert_allclose(preprocess.mean, mean, rtol=1e-6)
    np.testing.assert_allclose(preprocess.std, std, rtol=1e-6)
    expected = (values - mean[:, None, None]) / std[:, None, None]
    np.testing.assert_allclose(preprocess(images), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(preprocess(images.float() / 255), preprocess(images))


def test_fit_over_many_chunks():
    images = random_images(300, 3, 128, 128)  # 15 million values: four chunks
    images[:, 1] //= 3
    values = images.numpy()
    preprocess = Preprocess.fit(images)
    for channel in range(3):
        assert preprocess.mean[channel].item() == pytest.approx(values[:, channel].mean() / 255, rel=1e-6)
        assert preprocess.std[channel].item() == pytest.approx(values[:, channel].std() / 255, rel=1e-6)


def test_fit_vectors_with_a_large_offset():
    offset = torch.tensor([0.0, 1e4, -3.0])
    vectors = torch.randn(1000, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 0.1, 1e-6]) + offset
    preprocess = Preprocess.fit(vectors)
    np.testing.assert_allclose(preprocess.mean, vectors.numpy().astype(np.float64).mean(0), rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(preprocess.std, vectors.numpy().astype(np.float64).std(0), rtol=1e-5)
    assert preprocess(vectors).dtype == torch.float32


@pytest.mark.parametrize(
    "inputs", [torch.full((1001, 2), 0.1), torch.full((7, 1, 8, 8), 77, dtype=torch.uint8), torch.zeros(1, 4)]
)
def test_constant_channels_become_zero(inputs):
    preprocess = Preprocess.fit(inputs)
    assert (preprocess.std == 1).all()
    assert preprocess(inputs).abs().max() < 1e-7


def test_travels_with_the_weights():
    fitted = Preprocess.fit(random_images(4, 3, 8, 8))
    blank = Preprocess([0.0] * 3, [1.0] * 3)
    blank.load_state_dict(fitted.state_dict())
    assert torch.equal(blank.mean, fitted.mean)
    assert torch.equal(blank.std, fitted.std)
    assert not list(blank.parameters())


def test_does_not_share_memory_with_its_arguments():
    mean = torch.zeros(3)
    preprocess = Preprocess(mean, torch.ones(3))
    mean.fill_(9)
    assert (preprocess.mean == 0).all()


@pytest.mark.parametrize("std", [[1.0, 0.0], [1.0], [1.0, float("nan")], [1.0, -1.0]])
def test_bad_statistics(std):
    with pytest.raises(UserError, match="one positive std"):
        Preprocess([0.0, 0.0], std)


def test_bad_inputs():
    preprocess = Preprocess([0.0] * 3, [1.0] * 3)
    for inputs in (torch.zeros(2, 1, 8, 8), torch.zeros(3), torch.zeros(2, 4)):
        with pytest.raises(UserError, match="3 channels"):
            preprocess(inputs)
    with pytest.raises(UserError, match="int64"):
        preprocess(torch.zeros(2, 3, 8, 8, dtype=torch.int64))
    with pytest.raises(UserError, match="NaN or infinity"):
        Preprocess.fit(torch.tensor([[1.0, 2.0], [float("nan"), 2.0]]))
    with pytest.raises(UserError, match="NaN or infinity"):
        Preprocess.fit(torch.tensor([[1.0, 2.0], [1.0, float("inf")]]))
    with pytest.raises(UserError, match="nothing to normalise"):
        Preprocess.fit(torch.zeros(0, 3, 8, 8, dtype=torch.uint8))
