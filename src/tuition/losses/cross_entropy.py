"""Cross-entropy against labels."""

import torch.nn.functional as F
from torch import Tensor

from tuition.losses._check import logits_pair, widen


def cross_entropy(logits: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """-sum_k w_k p_k log softmax(logits)_k, averaged over the batch; p one-hot where the target is class indices.

    No label smoothing, no temperature, natural logarithm. Mixed labels (`mixup`) are probabilities.

    Args:
        logits: (n, k).
        target: (n,) class indices, or (n, k) probabilities, a constant.
        weights: w (k,) of the classes; by default 1. The sum is divided by n, not by the weights in the batch.

    Returns:
        Scalar, float32 or float64.

    Raises:
        ValueError: the shapes fit neither form.
    """
    if target.ndim == 1 and logits.ndim == 2 and len(target) == len(logits):
        if weights is not None:
            return F.cross_entropy(widen(logits), target.long(), weight=weights, reduction="none").mean()
        return F.cross_entropy(widen(logits), target.long())
    if target.ndim != 2:
        raise ValueError(
            f"the target must be (n,) class indices or (n, k) probabilities for logits (n, k), but the shapes are "
            f"{tuple(target.shape)} and {tuple(logits.shape)}"
        )
    return F.cross_entropy(*logits_pair(logits, target), weight=weights)
