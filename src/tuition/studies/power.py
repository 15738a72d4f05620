"""How many seeds would show a difference: the power of the paired t test."""

from __future__ import annotations

import math

import numpy as np

from tuition.studies.statistics import ALPHA, TAIL, Paired

POWER = 0.8  # the probability that a difference of the size seen so far is shown
MOST = 100  # seeds; a difference that needs more of them is not worth telling
QUANTILES = 500


def power(effect: float, seeds: np.ndarray, alpha: float) -> np.ndarray:
    """Probability that a two-sided paired t test shows a true mean difference, in its direction.

    The t statistic is (z + shift) / sqrt(chi2 / df). Its tail is the mean of the normal tail over the quantiles of
    chi2, which, unlike libraries' noncentral t, is a number everywhere.

    Args:
        effect: the difference in standard deviations of the differences over seeds.
        seeds: (n,) numbers of seeds, two or more.
        alpha: the largest p at which a difference is claimed.

    Returns:
        (n,)
    """
    from scipy.special import chdtri, ndtr, stdtrit

    freedom = seeds[:, None] - 1
    tails = (np.arange(QUANTILES) + 0.5) / QUANTILES
    limits = -stdtrit(freedom, alpha / 2) * np.sqrt(chdtri(freedom, tails) / freedom)
    return ndtr(abs(effect) * np.sqrt(seeds)[:, None] - limits).mean(axis=1)


def seeds_to_show(pair: Paired, tests: int) -> int | None:
    """The fewest seeds, more than were run, that show the difference measured with probability `POWER`.

    It is what the difference would take if it and its spread are as measured, which few seeds know only roughly.

    Args:
        pair: a comparison over two or more seeds that was not claimed.
        tests: comparisons that are not claimed yet. Holm's correction tests the next one at ALPHA / tests.

    Returns:
        None where more than `MOST` are needed, or nothing was measured that seeds could show.
    """
    from scipy.stats import t

    half = (pair.high - pair.low) / 2
    if math.isnan(half) or pair.difference == 0:
        return None
    std = half * math.sqrt(pair.n) / float(t.isf(TAIL, pair.n - 1))
    seeds = np.arange(pair.n + 1, MOST + 1, dtype=float)
    if std == 0:
        return pair.n + 1
    enough = np.flatnonzero(power(pair.difference / std, seeds, ALPHA / max(tests, 1)) >= POWER)
    return int(seeds[enough[0]]) if enough.size else None
