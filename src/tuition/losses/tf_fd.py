"""Tf-FD: teacher-free feature distillation (Li 2022), in a form of our own choosing."""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from tuition.losses._check import widen


def tf_fd(maps: Sequence[Tensor], *, within: float = 1.0, across: float = 1.0) -> Tensor:
    """The student's strong channels teach its weak ones, and its deeper maps the shallower ones.

    within: channels are ranked by mean |activation| over batch and positions; the upper half teaches the lower half,
    rank by rank (the first the first of the lower half; of an odd number the middle one stays out), by the mean
    squared error. Mean over maps.

    across: a map's attention is the mean over channels of its square, average-pooled to the deeper map's size and
    scaled to norm 1 per sample; mean squared error between neighbouring maps. Mean over neighbours.

    Both targets are detached. The author's published sketch differs: it ranks channels by the mean of activations
    normalised over positions, lets the gradient into both halves, compares deep and shallow maps channel by channel
    (the first ones of the wider), and every pair of maps, not neighbours alone. Weights do not carry over.

    Args:
        maps: the student's maps from shallow to deep, each (n, c, h, w) with c >= 2.

    Returns:
        Scalar, float32 or float64.

    Raises:
        ValueError: no maps, or one that is not (n, c, h, w) with c >= 2.

    Source: Self-Regulated Feature Learning via Teacher-free Feature Distillation, ECCV 2022.
    """
    if not maps or any(m.ndim != 4 or m.shape[1] < 2 for m in maps):
        shapes = [tuple(m.shape) for m in maps]
        raise ValueError(f"tf_fd needs maps (n, c, h, w) with at least 2 channels, but the shapes are {shapes}")
    maps = [widen(m) for m in maps]
    loss = within * torch.stack([_within(m) for m in maps]).mean()
    if len(maps) > 1:
        loss = loss + across * torch.stack([_across(*two) for two in pairwise(maps)]).mean()
    return loss


def _within(x: Tensor) -> Tensor:
    order = x.detach().abs().mean(dim=(0, 2, 3)).argsort(descending=True, stable=True)
    half = len(order) // 2
    return F.mse_loss(x[:, order[-half:]], x[:, order[:half]].detach())


def _across(shallow: Tensor, deep: Tensor) -> Tensor:
    def attention(x: Tensor) -> Tensor:
        pooled = F.adaptive_avg_pool2d(x.square().mean(dim=1, keepdim=True), (deep.shape[2], deep.shape[3]))
        return F.normalize(pooled.flatten(1))

    return F.mse_loss(attention(shallow), attention(deep).detach())
