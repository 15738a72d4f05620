"""Statistics of a study: seeds, paired comparisons, calls for a target accuracy, learning curves, effective rank.

Accuracies are in percent. What the seeds cannot tell is nan, never a guess.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from tuition.learning_curve import TAIL, IntervalEstimate, LearningCurve, MeanCurve, crossing, fit, weights_at

Curve = Mapping[int, Mapping[int, float]]  # one method: calls -> seed -> accuracy
ALPHA = 0.05  # the largest corrected p at which a difference is claimed


@dataclass(frozen=True)
class SeedSummary:
    """Mean over n seeds, sample standard deviation, and the t interval of the mean (nan below two seeds)."""

    n: int
    mean: float
    std: float
    low: float
    high: float


def summarise(values: Sequence[float]) -> SeedSummary:
    """SeedSummary of one accuracy a seed."""
    from scipy.stats import t

    x = np.asarray(values, dtype=float)
    if x.size < 2:
        return SeedSummary(x.size, x.mean() if x.size else math.nan, math.nan, math.nan, math.nan)
    mean, std = float(x.mean()), float(x.std(ddof=1))
    half = float(t.isf(TAIL, x.size - 1)) * std / math.sqrt(x.size)
    return SeedSummary(x.size, mean, std, mean - half, mean + half)


@dataclass(frozen=True)
class Paired:
    """Mean of a - b over the n seeds both have, its t interval, and the two-sided p of a paired t test."""

    n: int
    difference: float
    low: float
    high: float
    p: float


def paired(a: Mapping[int, float], b: Mapping[int, float]) -> Paired:
    """Compare two methods on equal seeds. p is nan below two seeds, and where every difference is the same number."""
    from scipy.stats import t

    differences = summarise([a[seed] - b[seed] for seed in sorted(a.keys() & b.keys())])
    error = differences.std / math.sqrt(differences.n) if differences.n else math.nan
    p = 2 * float(t.sf(abs(differences.mean) / error, differences.n - 1)) if error > 0 else math.nan
    return Paired(differences.n, differences.mean, differences.low, differences.high, p)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's (1979) adjusted p values: claims at p <= alpha are all true with probability 1 - alpha. nan stays nan."""
    adjusted, largest = [math.nan] * len(p_values), 0.0
    tested = sorted((i for i, p in enumerate(p_values) if not math.isnan(p)), key=lambda i: p_values[i])
    for rank, i in enumerate(tested):
        largest = max(largest, min(1.0, (len(tested) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted


@dataclass(frozen=True)
class Lead:
    """The best method at a number of calls, and what separates it from each other one there.

    Attributes:
        others: method -> (the best minus that method, p corrected over all pairs of methods at all numbers of calls).
        undecided: pairs, at all numbers of calls, that the corrected p does not tell apart.
    """

    calls: int
    method: str
    others: Mapping[str, tuple[Paired, float]]
    undecided: int

    @property
    def is_clear(self) -> bool:
        """Whether the best is better than every other method after the correction."""
        return bool(self.others) and all(p <= ALPHA for _, p in self.others.values())


def leads(curves: Mapping[str, Curve]) -> dict[int, Lead]:
    """The best method at each number of calls. The correction covers the choice of the best after the fact."""
    ranked: dict[int, list[str]] = {}
    for calls in sorted({calls for curve in curves.values() for calls in curve}):
        means = {method: np.mean(list(curve[calls].values())) for method, curve in curves.items() if calls in curve}
        ranked[calls] = sorted(means, key=lambda method: -means[method])
    pairs = {
        (calls, a, b): paired(curves[a][calls], curves[b][calls])
        for calls, methods in ranked.items()
        for a, b in combinations(methods, 2)
    }
    corrected = dict(zip(pairs, holm([pair.p for pair in pairs.values()]), strict=True))
    undecided = sum(p > ALPHA for p in corrected.values())
    return {
        calls: Lead(calls, best, {b: (pairs[calls, best, b], corrected[calls, best, b]) for b in others}, undecided)
        for calls, (best, *others) in ranked.items()
    }


def mean_curve(curve: Curve) -> MeanCurve:
    """Average the seeds of one method."""
    counts = sorted(curve)
    names = sorted({seed for values in curve.values() for seed in values})
    means = np.array([np.mean(list(curve[count].values())) for count in counts])
    residuals = np.zeros((len(counts), len(names)))
    for row, count in enumerate(counts):
        for seed, accuracy in curve[count].items():
            residuals[row, names.index(seed)] = (accuracy - means[row]) / len(curve[count])
    seeds = np.array([len(curve[count]) for count in counts])
    return MeanCurve(np.array(counts, dtype=float), means, residuals, seeds, names)


def calls_to_reach(curve: Curve, target: float) -> IntervalEstimate:
    """Calls that one method needs for a target accuracy (table 1), and their interval over seeds.

    The interval inverts t tests (Fieller's method): it ends where the mean curve is significantly below the target on
    the left, and significantly above it on the right. An end that is not reached is infinite. The interval also exists
    where the mean curve does not cross the target in the measured range.
    """
    value, low, high = crossing(mean_curve(curve), target)
    return IntervalEstimate(value if math.isfinite(value) else math.nan, low, high)


def saving(curve: Curve, baselines: Sequence[Curve], target: float, tail: float = TAIL) -> IntervalEstimate:
    """Percent of calls saved against the baseline that needs fewest (table 1's delta).

    The interval joins those of the two numbers of calls on the scale of their logarithms (method of variance estimates
    recovery, Zou and Donner, 2008), with the correlation over the seeds that both methods share. Against several
    baselines it holds the least of the savings; its upper end is corrected for the number of baselines (Bonferroni),
    because the best of several is partly the luckiest. Where a method does not cross the target in the measured range
    the value is nan, and the two intervals are joined at their worst.

    Args:
        tail: the probability that the true value lies beyond one end; smaller where several savings are claimed.
    """
    ratios = [_log_ratio(curve, baseline, target, tail) for baseline in baselines]
    wider = [_log_ratio(curve, baseline, target, tail / len(baselines)) for baseline in baselines]
    ends = min(each.value for each in ratios), min(each.low for each in ratios), min(each.high for each in wider)
    percent = [-100 * math.expm1(-end) for end in ends]
    return IntervalEstimate(percent[0] if math.isfinite(ends[0]) else math.nan, *percent[1:])


def _log_ratio(curve: Curve, baseline: Curve, target: float, tail: float) -> IntervalEstimate:
    """log(calls of the baseline / calls of the method) for a target; infinite where only one of them has a crossing."""
    ours, theirs = mean_curve(curve), mean_curve(baseline)
    a, a_low, a_high = _logs(ours, target, tail)
    b, b_low, b_high = _logs(theirs, target, tail)
    if not math.isfinite(a) or not math.isfinite(b):
        return IntervalEstimate(b - a if math.isfinite(a) else -math.inf, b_low - a_high, b_high - a_low)
    r = _correlation(ours, math.exp(a), theirs, math.exp(b))
    low, high = (_joined(*sides, r) for sides in ((b - b_low, a_high - a), (b_high - b, a - a_low)))
    return IntervalEstimate(b - a, b - a - low, b - a + high)


def _logs(mean: MeanCurve, target: float, tail: float) -> tuple[float, float, float]:
    """Logarithms of the calls for a target and of their interval; infinite outside the measured range."""
    with np.errstate(divide="ignore"):
        value, low, high = np.log(np.maximum(crossing(mean, target, tail), 0)).tolist()
    return value, low, high


def _joined(a: float, b: float, r: float) -> float:
    """Half width of a difference of two estimates of half widths a and b and correlation r."""
    return math.sqrt(max(0.0, a * a + b * b - 2 * r * a * b)) if math.isfinite(a * b) else a + b


def _correlation(a: MeanCurve, calls_a: float, b: MeanCurve, calls_b: float) -> float:
    """Correlation over seeds of two interpolated accuracies; 0 where no seed is shared."""
    x, y = (
        dict(zip(mean.names, weights_at(mean.calls, np.array([calls]))[0] @ mean.residuals, strict=True))
        for mean, calls in ((a, calls_a), (b, calls_b))
    )
    product = sum(x[seed] * y[seed] for seed in x.keys() & y.keys())
    scale = math.sqrt(sum(v * v for v in x.values()) * sum(v * v for v in y.values()))
    return product / scale if scale > 0 else 0.0


def fit_learning_curve(curve: Curve) -> LearningCurve:
    """Fit a power law to the mean curve of one method.

    Raises:
        ValueError: fewer than two counts.
    """
    return fit(mean_curve(curve))


def effective_rank(singular_values: np.ndarray) -> float:
    """exp of the entropy of the singular values over their sum (Roy and Vetterli, 2007): between 1 and their number."""
    p = np.asarray(singular_values, dtype=float)
    p = p[p > 0] / p.sum()
    return float(np.exp(-(p * np.log(p)).sum()))
