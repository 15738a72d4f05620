import pytest
import torch
import torch.nn.functional as F

from tuition.losses import cross_entropy, mse


def test_labels_and_their_one_hot_form_agree() -> None:
    logits, labels = torch.randn(6, 4).double(), torch.tensor([0, 1, 2, 3, 3, 1])
    expected = -sum(logits[i].log_softmax(0)[labels[i]] for i in range(6)) / 6
    assert cross_entropy(logits, labels).item() == pytest.approx(expected.item(), rel=1e-12)
    assert cross_entropy(logits, labels.to(torch.uint8)).item() == pytest.approx(expected.item(), rel=1e-12)
    assert cross_entropy(logits, F.one_hot(labels)).item() == pytest.approx(expected.item(), rel=1e-12)


def test_probabilities() -> None:
    logits, p = torch.randn(6, 4).double(), torch.rand(6, 4).double().softmax(1)
    expected = -(p * logits.log_softmax(1)).sum() / 6
    assert cross_entropy(logits, p).item() == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize("shape", [(5,), (6, 5), (6, 4, 1), ()])
def test_a_target_that_fits_neither_form_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="shape"):
        cross_entropy(torch.randn(6, 4), torch.zeros(shape))


def test_mse_is_the_mean_over_all_elements() -> None:
    s, t = torch.randn(3, 4).double(), torch.randn(3, 4).double()
    expected = sum((s[i, k] - t[i, k]) ** 2 for i in range(3) for k in range(4)) / 12
    assert mse(s, t).item() == pytest.approx(expected.item(), rel=1e-12)
