"""How near unasked inputs are to those that were asked about, over a graph of neighbours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from tuition.errors import UserError

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

RESTART = 0.2  # chance that a walk ends at a step
STEPS = 30  # 0.8 ** 30 of the walks are longer: one in eight hundred
POWER = 4  # of the cosine; near neighbours count for more
MOST = 2**29  # values of the result, 2 GiB


def nearness(unasked: Any, asked: Any, *, neighbours: int = 20) -> Tensor:
    """Shares (m, n), by which each of m unasked inputs may take the answers of n asked ones; each row sums to 1.

    All inputs are linked with their nearest neighbours by cosine, and links are weighted by its fourth power. Walks
    along the links end at each step with chance 0.2; a share is the part of those from that asked input. So
    `nearness @ answers` is label spreading for answers of any kind, scaled back to the size of an answer. An input that
    no asked one reaches takes all alike.

    Args:
        unasked: (m, d) features, of any encoder.
        asked: (n, d) features.
        neighbours: of each input.

    Raises:
        UserError: features that are not finite, of other widths, or too many for memory.

    Source: Zhou et al., Learning with local and global consistency, NIPS 2003, with its symmetric normalisation.
    """
    rows = [torch.as_tensor(each).detach().cpu().float().flatten(1) for each in (asked, unasked)]
    if rows[0].shape[1] != rows[1].shape[1] or not all(bool(each.isfinite().all()) for each in rows):
        raise UserError("features of asked and unasked inputs are finite and of one width; give those of one encoder.")
    (n, m), features = map(len, rows), torch.cat(rows)
    if n * m > MOST:
        raise UserError(f"nearness of {m:,} unasked to {n:,} asked inputs does not fit in memory; take fewer unasked.")
    links = _graph(features, min(neighbours, len(features) - 1))
    reached = np.eye(len(features), n, dtype=np.float32)
    for _ in range(STEPS):
        reached = (1 - RESTART) * (links @ reached)
        reached[range(n), range(n)] += RESTART
    shares = torch.from_numpy(reached[n:])
    total = shares.sum(1, keepdim=True)
    return torch.where(total > 0, shares / total, 1 / n)


def _graph(features: Tensor, neighbours: int) -> csr_matrix:
    """Links of all inputs, symmetric, each divided by the roots of the weights of both ends."""
    from scipy.sparse import csr_matrix, diags
    from sklearn.neighbors import NearestNeighbors

    unit = torch.nn.functional.normalize(features, dim=1).numpy()
    distances, near = NearestNeighbors(n_neighbors=neighbours, algorithm="brute").fit(unit).kneighbors()
    cosines = (1 - distances**2 / 2).clip(min=0) ** POWER
    pointers = np.arange(0, near.size + 1, neighbours)
    links = csr_matrix((cosines.ravel().astype(np.float32), near.ravel(), pointers), shape=(len(unit), len(unit)))
    links = links + links.T
    scale = diags(1 / np.sqrt(np.maximum(np.asarray(links.sum(1)).ravel(), 1e-12)))
    return (scale @ links @ scale).tocsr().astype(np.float32)
