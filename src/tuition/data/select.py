"""Choosing which inputs of a pool to ask about."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from tuition.data.pool import Pool
from tuition.errors import UserError

Method = Literal["random", "stratified", "k-centre", "medoids"]


CANDIDATES = 1024  # of k-centre


def select(pool: Pool, count: int, *, method: Method = "random", features: Any = None, seed: int) -> Tensor:
    """Rows (count,) of a pool to ask about, all different; `pool[rows]` is the pool of them.

    Args:
        pool: n inputs.
        count: how many rows, 1 to n.
        method: "random" draws uniformly, as `pool.sample` does; "stratified" keeps the classes' shares (needs labels);
            "k-centre" covers the features: each row is the one farthest from those before it (Gonzalez 1985; core-sets
            of Sener and Savarese, ICLR 2018), so that fewer rows are a prefix of more; "medoids" are the rows nearest
            to the centres of `count` k-means clusters.
        features: (n, d) of any encoder, for the last two; by default the inputs themselves, images in [0, 1].
        seed: of the draw, of the first centre, of k-means.

    Raises:
        UserError: a count, method or features that do not fit the pool.
    """
    if not 0 < count <= len(pool):
        raise UserError(f"cannot select {count} of the {len(pool)} inputs of {pool.name}; choose 1 to {len(pool)}.")
    generator = torch.Generator().manual_seed(seed)
    match method:
        case "random":
            return torch.randperm(len(pool), generator=generator)[:count]
        case "stratified":
            return pool._stratified(count, generator)
        case "k-centre":
            first = int(torch.randint(len(pool), (), generator=generator))
            return k_centre(_features(pool, features), count, first)
        case "medoids":
            return medoids(_features(pool, features), count, seed)
    raise UserError(f"{method!r} is not a way to select; choose random, stratified, k-centre or medoids.")


def k_centre(features: Tensor, count: int, first: int) -> Tensor:
    """Greedy k-centre: rows (count,) of features (n, d), each the one farthest from its nearest predecessor.

    Distances only shrink as rows are chosen, so old ones are bounds. They are brought up to date at once for the few
    farthest candidates alone, and for all n by one matrix product when a bound elsewhere exceeds the candidates.
    """
    features = features - features.mean(0)  # smaller norms, smaller rounding in the expanded square below
    norms = features.square().sum(1)
    nearest = torch.full_like(norms, torch.inf)
    rows, done = [first], 0
    while len(rows) < count:
        new = torch.tensor(rows[done:])
        distances = torch.addmm(norms[new], features, features[new].T, alpha=-2).amin(1).add_(norms)
        nearest = torch.minimum(nearest, distances)
        nearest[new] = -torch.inf  # never again, even among duplicates
        done = len(rows)
        near, candidates = nearest.topk(min(CANDIDATES, len(norms)))
        bound, block = near[-1].clone(), features[candidates]
        while len(rows) < count and len(rows) < done + CANDIDATES // 4:
            best = int(near.argmax())
            if near[best] < bound:
                break
            rows.append(int(candidates[best]))
            from_best = torch.addmv(norms[candidates], block, block[best], alpha=-2).add_(norms[rows[-1]])
            near = torch.minimum(near, from_best)
            near[best] = -torch.inf
    return torch.tensor(rows)


def medoids(features: Tensor, count: int, seed: int) -> Tensor:
    """Rows (count,) of features (n, d) nearest to the centres of k-means clusters, all different."""
    from sklearn.cluster import MiniBatchKMeans

    array = features.numpy()
    batch = min(len(array), max(1024, 4 * count))
    means = MiniBatchKMeans(count, random_state=seed, n_init=1, batch_size=batch).fit(array)
    distances = np.linalg.norm(array - means.cluster_centers_[means.labels_], axis=1)
    order = np.lexsort((distances, means.labels_))  # by cluster, then by distance to its centre
    _, starts = np.unique(means.labels_[order], return_index=True)
    rows = torch.from_numpy(order[starts])
    if len(rows) < count:  # empty clusters, as duplicates leave them: the rows that fit their cluster worst
        distances[rows.numpy()] = -1
        rows = torch.cat([rows, torch.from_numpy(np.argsort(-distances, kind="stable")[: count - len(rows)])])
    return rows


def _features(pool: Pool, features: Any) -> Tensor:
    if features is None:
        if not pool.in_memory:
            raise UserError(f"the pixels of {len(pool)} inputs do not fit in memory; give features of an encoder.")
        if pool.kind == "texts":
            raise UserError("texts have no features of their own; give those of an encoder, or select at random.")
        inputs = pool.asked_tensor()
        features = inputs.float() / 255 if inputs.dtype == torch.uint8 else inputs
    features = torch.as_tensor(features).detach().cpu().float().flatten(1)
    if len(features) != len(pool) or not bool(torch.isfinite(features).all()):
        raise UserError(
            f"features are finite and one row an input, {len(pool)} rows; these are {tuple(features.shape)}."
        )
    return features
