"""Tf-FD: teacher-free feature distillation (Li 2022)."""

from collections.abc import Sequence
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor

from tuition.losses._check import widen


def tf_fd(maps: Sequence[Tensor], *, within: float = 0.0008, across: float = 0.0005) -> Tensor:
    """The student's strong channels teach its weak ones, and its deeper maps the shallower ones.

    within: each channel of each sample is scaled to L2 norm 1 over its positions; channels are ranked by the mean of
    that over batch and positions, highest first. Mean squared error between the upper and the lower half of the
    channels of the map itself, rank by rank (of an odd number the middle one stays out), with a gradient into both.
    Mean over maps.

    across: of every pair of maps, the larger is average-pooled to the size of the smaller; mean squared error of their
    first channels, as many as the narrower one has; the deeper is a constant. Mean over pairs.

    The weights are those of the author's ResNet-20; the defaults of his script are 0.0004 and 0.005.

    Args:
        maps: the student's maps from shallow to deep, each (n, c, h, w) with c >= 2.

    Returns:
        Scalar, float32 or float64.

    Raises:
        ValueError: no maps, or one that is not (n, c, h, w) with c >= 2.

    Source: Self-Regulated Feature Learning via Teacher-free Feature Distillation, ECCV 2022, and its author's page.
    """
    if not maps or any(m.ndim != 4 or m.shape[1] < 2 for m in maps):
        shapes = [tuple(m.shape) for m in maps]
        raise ValueError(f"tf_fd needs maps (n, c, h, w) with at least 2 channels, but the shapes are {shapes}")
    maps = [widen(m) for m in maps]
    loss = within * torch.stack([_within(m) for m in maps]).mean()
    if len(maps) > 1:
        loss = loss + across * torch.stack([_across(*two) for two in combinations(maps, 2)]).mean()
    return loss


def _within(x: Tensor) -> Tensor:
    strength = F.normalize(x.detach().flatten(2), dim=2).mean(dim=(0, 2))
    order = strength.argsort(descending=True, stable=True)
    half = len(order) // 2
    return F.mse_loss(x[:, order[:half]], x[:, order[-half:]])


def _across(shallow: Tensor, deep: Tensor) -> Tensor:
    height, width = (min(sides) for sides in zip(shallow.shape[2:], deep.shape[2:], strict=True))
    channels = min(shallow.shape[1], deep.shape[1])
    shallow, deep = (F.adaptive_avg_pool2d(x[:, :channels], (height, width)) for x in (shallow, deep.detach()))
    return F.mse_loss(shallow, deep)
