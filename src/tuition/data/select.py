"""Choosing which inputs of a pool to ask about."""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from tuition.data.pool import Pool, row_index
from tuition.errors import UserError

Method = Literal["random", "stratified", "k-centre", "medoids", "margin", "entropy", "diverse-margin", "coverage"]

BY_OUTPUTS = ("margin", "entropy", "diverse-margin")  # they need the outputs of a student
CANDIDATES = 1024  # of k-centre
CENTRES = 256  # that are compared with all rows at a time
SHARPENED = 2.0  # factor of outputs before softmax: students matched to the mean of logits and labels are that flat
SHORTLIST = 10  # rows of the smallest margin for each that diverse-margin chooses


def select(
    pool: Pool,
    count: int,
    *,
    method: Method = "random",
    features: Any = None,
    logits: Any = None,
    exclude: Any = None,
    seed: int,
) -> Tensor:
    """Rows (count,) of a pool to ask about, all different; `pool[rows]` is the pool of them.

    Args:
        pool: n inputs.
        count: how many rows, 1 to the number that is not excluded.
        method: without a student, "random" draws uniformly, as `pool.sample` does; "stratified" keeps the classes'
            shares (needs labels); "k-centre" covers the features: each row is the one farthest from those before it
            (Gonzalez 1985; core-sets of Sener and Savarese, ICLR 2018), so that fewer rows are a prefix of more;
            "medoids" are the rows nearest to the centres of `count` k-means clusters.
            With the `logits` of a student, "margin" takes the rows whose two most probable classes are closest in
            probability (Scheffer et al. 2001), "entropy" those of the highest entropy; "diverse-margin" takes of the
            10 x `count` rows of the smallest margin the medoids of k-means on the logits, each row weighted by 1 - its
            margin (Zhdanov, arXiv 1901.05954). "coverage" is k-centre in the space of class probabilities (PCoreSet,
            arXiv 2506.00910), or in that of `features`, where these are given.
        features: (n, d) of any encoder, for k-centre, medoids and coverage; the first two take the inputs themselves
            by default, images in [0, 1].
        logits: (n, k) outputs of a student. Their probabilities are the softmax of twice the logits: a student that
            matches the mean of logits and labels answers with half the teacher's scale.
        exclude: rows that were asked before; they are not chosen again, and k-centre and coverage count them as chosen.
            With one seed, random rows drawn after excluded ones are those that one larger draw would have.
        seed: of the draw, of the first centre, of k-means.

    Raises:
        UserError: a count, method, features or logits that do not fit the pool.
    """
    if method not in get_args(Method):
        raise UserError(f"{method!r} is not a way to select; choose {', '.join(get_args(Method))}.")
    before = torch.empty(0, dtype=torch.long) if exclude is None else row_index(len(pool), exclude).unique()
    free = torch.ones(len(pool), dtype=torch.bool)
    free[before] = False
    left = free.nonzero()[:, 0]
    if not 0 < count <= len(left):
        of = f"{len(pool)}" if len(left) == len(pool) else f"{len(left)} not asked"
        raise UserError(f"cannot select {count} of the {of} inputs of {pool.name}; choose 1 to {len(left)}.")
    generator = torch.Generator().manual_seed(seed)
    match method:
        case "random":
            order = torch.randperm(len(pool), generator=generator)
            return order[free[order]][:count]
        case "stratified":
            return left[(pool if exclude is None else pool[left])._stratified(count, generator)]
        case "medoids":
            return left[medoids(_features(pool, features)[left], count, seed)]
        case "margin":
            return left[margins(_logits(pool, logits)[left]).argsort(stable=True)[:count]]
        case "entropy":
            return left[entropies(_logits(pool, logits)[left]).argsort(stable=True, descending=True)[:count]]
        case "diverse-margin":
            return left[diverse_margin(_logits(pool, logits)[left], count, seed)]
    if method == "coverage" and features is None:
        features = probabilities(_logits(pool, logits))
    first = before if len(before) else torch.randint(len(pool), (1,), generator=generator)
    return k_centre(_features(pool, features), len(before) + count, first)[len(before) :]


def probabilities(logits: Tensor) -> Tensor:
    """Class probabilities (n, k) of a student's outputs (n, k): the softmax of twice the logits."""
    return (SHARPENED * logits.double()).softmax(dim=1)


def margins(logits: Tensor) -> Tensor:
    """Margins (n,) in [0, 1]: how much more probable the first class of each row is than the second."""
    best = probabilities(logits).topk(2, dim=1).values
    return best[:, 0] - best[:, 1]


def entropies(logits: Tensor) -> Tensor:
    """Entropies (n,) of the class probabilities, in nats."""
    return torch.special.entr(probabilities(logits)).sum(dim=1)


def diverse_margin(logits: Tensor, count: int, seed: int) -> Tensor:
    """Rows (count,) of logits (n, k): medoids of those of the smallest margin, weighted by 1 - margin."""
    margin = margins(logits)
    short = margin.argsort(stable=True)[: SHORTLIST * count]
    weights = (1 - margin[short]).clamp(min=1e-6)  # k-means needs some weight
    return short[medoids(logits[short], count, seed, weights)]


def k_centre(features: Tensor, count: int, first: Tensor) -> Tensor:
    """Greedy k-centre: rows (count,) of features (n, d), each the one farthest from its nearest predecessor.

    The rows `first` (m,), at least one, come first.

    Distances only shrink as rows are chosen, so old ones are bounds. They are brought up to date at once for the few
    farthest candidates alone, and for all n by one matrix product when a bound elsewhere exceeds the candidates.
    """
    features = features - features.mean(0)  # smaller norms, smaller rounding in the expanded square below
    norms = features.square().sum(1)
    nearest = torch.full_like(norms, torch.inf)
    rows, done = first.tolist(), 0
    while len(rows) < count:
        for new in torch.tensor(rows[done:]).split(CENTRES):
            distances = torch.addmm(norms[new], features, features[new].T, alpha=-2).amin(1).add_(norms)
            nearest = torch.minimum(nearest, distances)
        nearest[rows] = -torch.inf  # never again, even among duplicates
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


def medoids(features: Tensor, count: int, seed: int, weights: Tensor | None = None) -> Tensor:
    """Rows (count,) of features (n, d) nearest to the centres of k-means clusters, all different.

    `weights` (n,) pull the centres towards rows; by default they are alike.
    """
    from sklearn.cluster import MiniBatchKMeans

    array = features.numpy()
    batch = min(len(array), max(1024, 4 * count))
    pull = None if weights is None else weights.numpy()
    means = MiniBatchKMeans(count, random_state=seed, n_init=1, batch_size=batch).fit(array, sample_weight=pull)
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


def _logits(pool: Pool, logits: Any) -> Tensor:
    if logits is None:
        raise UserError("this way to select goes by a student's outputs; give them as logits, or select at random.")
    logits = torch.as_tensor(logits).detach().cpu().float()
    if logits.ndim != 2 or len(logits) != len(pool) or logits.shape[1] < 2 or not bool(logits.isfinite().all()):
        raise UserError(
            f"logits are finite, one row an input and a column a class, {len(pool)} rows; these are "
            f"{tuple(logits.shape)}."
        )
    return logits
