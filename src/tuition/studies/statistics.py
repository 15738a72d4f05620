"""Statistics of a study: seeds, paired comparisons, calls for a target accuracy, learning curves, effective rank.

Accuracies are in percent. Whatever the seeds cannot tell is nan, never a guess.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

Curve = Mapping[int, Mapping[int, float]]  # one method: calls -> seed -> accuracy
INTERVAL = 0.95
MIN_COUNTS, MAX_STRETCH, MIN_R2, MAX_RATIO = (
    4,
    3.0,
    0.95,
    2.0,
)  # when a learning curve may be trusted, see LearningCurve


@dataclass(frozen=True)
class Summary:
    """Mean over n seeds, sample standard deviation, and the t interval of the mean (nan below two seeds)."""

    n: int
    mean: float
    std: float
    low: float
    high: float


def summarise(values: Sequence[float]) -> Summary:
    """Summary of one accuracy a seed."""
    from scipy.stats import t

    x = np.asarray(values, dtype=float)
    if x.size < 2:
        return Summary(x.size, x.mean() if x.size else math.nan, math.nan, math.nan, math.nan)
    mean, std = float(x.mean()), float(x.std(ddof=1))
    half = float(t.ppf((1 + INTERVAL) / 2, x.size - 1)) * std / math.sqrt(x.size)
    return Summary(x.size, mean, std, mean - half, mean + half)


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
    """Holm's (1979) adjusted p values: below alpha, the chance of any false claim is. nan stays nan, uncounted."""
    adjusted, largest = [math.nan] * len(p_values), 0.0
    tested = sorted((i for i, p in enumerate(p_values) if not math.isnan(p)), key=lambda i: p_values[i])
    for rank, i in enumerate(tested):
        largest = max(largest, min(1.0, (len(tested) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted


@dataclass(frozen=True)
class Estimate:
    """A number of calls with its bootstrap interval. nan: not in the range; an infinite end lies outside the range."""

    value: float
    low: float = math.nan
    high: float = math.nan


def interpolate_calls(calls: np.ndarray, accuracy: np.ndarray, target: float) -> np.ndarray:
    """Calls at which accuracy first reaches the target, linear between measured counts as in table 1.

    Args:
        calls: (c,) ascending.
        accuracy: (..., c), one curve a row.

    Returns:
        (...,) calls; -inf where the curve starts above the target (fewer would do), inf where it never gets there.
    """
    reached = accuracy >= target
    right = reached.argmax(axis=-1)
    left = np.maximum(right - 1, 0)
    y0, y1 = (np.take_along_axis(accuracy, i[..., None], axis=-1)[..., 0] for i in (left, right))
    with np.errstate(invalid="ignore", divide="ignore"):
        crossing = calls[left] + (target - y0) / (y1 - y0) * (calls[right] - calls[left])
    exact = np.where(accuracy[..., 0] == target, calls[0], -math.inf)
    return np.where(~reached.any(axis=-1), math.inf, np.where(right == 0, exact, crossing))


def calls_to_reach(curve: Curve, target: float, resamples: int = 2000) -> Estimate:
    """Calls one method needs for a target accuracy, with a bootstrap interval over seeds (table 1)."""
    weights = seed_weights([curve], resamples)
    return bootstrap_estimate(_crossings(curve, target, weights), len(weights))


def saving(curve: Curve, baselines: Sequence[Curve], target: float, resamples: int = 2000) -> Estimate:
    """Calls saved against the baseline that needs fewest (table 1's delta); a resample draws the same seeds for all."""
    weights = seed_weights([curve, *baselines], resamples)
    best = np.min([_crossings(baseline, target, weights) for baseline in baselines], axis=0)
    with np.errstate(invalid="ignore"):
        return bootstrap_estimate(best - _crossings(curve, target, weights), len(weights))


def seed_weights(curves: Sequence[Curve], resamples: int) -> dict[int, np.ndarray]:
    """How often each seed is drawn: (resamples + 1,) for each seed; row 0 is the data as it is."""
    seeds = sorted({seed for curve in curves for values in curve.values() for seed in values})
    drawn = np.random.default_rng(0).multinomial(len(seeds), [1 / len(seeds)] * len(seeds), size=resamples)
    return dict(zip(seeds, np.vstack([np.ones(len(seeds)), drawn]).T, strict=True))


def mean_curves(curve: Curve, weights: Mapping[int, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """(c,) calls and (resamples + 1, c) mean accuracies; nan where a resample holds no seed of that count."""
    calls = np.array(sorted(curve), dtype=float)
    columns = []
    for count in sorted(curve):
        weight = np.array([weights[seed] for seed in curve[count]])
        with np.errstate(invalid="ignore"):
            columns.append(np.array(list(curve[count].values())) @ weight / weight.sum(axis=0))
    return calls, np.stack(columns, axis=1)


def _crossings(curve: Curve, target: float, weights: Mapping[int, np.ndarray]) -> np.ndarray:
    calls, means = mean_curves(curve, weights)
    return np.where(np.isnan(means).any(axis=1), math.nan, interpolate_calls(calls, means, target))


def bootstrap_estimate(samples: np.ndarray, seeds: int) -> Estimate:
    """Row 0 is the value; the others give the interval, in which infinite samples count as what they are.

    Resampling a handful of seeds gives too narrow an interval, so the percentiles are widened as the t interval is
    against the normal one (expanded percentile interval, Hesterberg 2015).
    """
    from scipy.stats import norm, t

    value, rest = samples[0], samples[1:]
    rest = rest[~np.isnan(rest)]
    if not np.isfinite(value) or rest.size < 2 or rest.min() == rest.max():
        return Estimate(float(value) if np.isfinite(value) else math.nan)
    tail = float(norm.cdf(-math.sqrt(seeds / (seeds - 1)) * t.ppf((1 + INTERVAL) / 2, seeds - 1)))
    low, high = np.quantile(rest, [tail, 1 - tail], method="inverted_cdf")
    return Estimate(float(value), float(low), float(high))


@dataclass(frozen=True)
class LearningCurve:
    """accuracy = a - b calls^-c. Row 0 of a, b and c (resamples + 1,) is the fit, the others refit resampled seeds.

    Predictions come with a plain word when they must not be trusted: fewer than MIN_COUNTS counts (three parameters),
    accuracy that does not rise, a fit that explains less than MIN_R2 of the variance, a target above the limit a, more
    than MAX_STRETCH times the largest count, one seed, or an interval whose ends differ by more than MAX_RATIO.
    """

    a: np.ndarray
    b: np.ndarray
    c: np.ndarray
    r2: float
    counts: int
    largest: float
    seeds: int

    def predict(self, target: float) -> tuple[Estimate, str]:
        """Calls for a target accuracy, and why not to believe them ("" if nothing speaks against it)."""
        with np.errstate(all="ignore"):
            calls = (self.b / (self.a - target)) ** (1 / self.c)
            estimate = bootstrap_estimate(np.where((self.a > target) & (self.b > 0), calls, math.inf), self.seeds)
        if self.counts < MIN_COUNTS:
            return estimate, f"too few counts: {self.counts} points for 3 parameters"
        if self.b[0] <= 0:
            return estimate, "accuracy does not rise with calls"
        if self.r2 < MIN_R2:
            return estimate, f"poor fit: R² {self.r2:.2f}"
        if target >= self.a[0]:
            return estimate, f"target above the fitted limit of {self.a[0]:.1f} %"
        if estimate.value > MAX_STRETCH * self.largest:
            return estimate, f"{estimate.value / self.largest:.1f} times the most calls measured"
        if self.seeds < 2:
            return estimate, "no interval: one seed"
        if not estimate.high <= MAX_RATIO * estimate.low:
            return estimate, "interval too wide"
        return estimate, ""


def fit_learning_curve(curve: Curve, resamples: int = 1000) -> LearningCurve:
    """Fit a power law to one method. For each exponent a and b are a straight line's; the exponent is searched.

    Raises:
        ValueError: fewer than two counts.
    """
    if len(curve) < 2:
        raise ValueError(f"a learning curve needs two numbers of calls, not {len(curve)}")
    weights = seed_weights([curve], resamples)
    calls, means = mean_curves(curve, weights)
    means = means[~np.isnan(means).any(axis=1)]
    y = means - means.mean(axis=1, keepdims=True)
    low, high = np.full(len(means), math.log(0.02)), np.full(len(means), math.log(4.0))
    for _ in range(8):  # a grid of 17 exponents a row, then again between the neighbours of the best
        c = np.exp(np.linspace(low, high, 17, axis=1))
        x = (calls / calls[0]) ** -c[..., None]  # (rows, 17, counts)
        x = x - x.mean(axis=2, keepdims=True)
        explained = (x * y[:, None]).sum(axis=2) ** 2 / (x**2).sum(axis=2)
        best = explained.argmax(axis=1)
        rows = np.arange(len(means))
        low, high = np.log(c[rows, np.maximum(best - 1, 0)]), np.log(c[rows, np.minimum(best + 1, 16)])
    exponent, x, total = c[rows, best], x[rows, best], (y**2).sum(axis=1)
    slope = (x * y).sum(axis=1) / (x**2).sum(axis=1)  # accuracy = a + slope (calls / first)^-c
    a = means.mean(axis=1) - slope * ((calls / calls[0]) ** -exponent[:, None]).mean(axis=1)
    r2 = float(explained[0, best[0]] / total[0]) if total[0] > 0 else math.nan
    return LearningCurve(a, -slope * calls[0] ** exponent, exponent, r2, len(calls), float(calls[-1]), len(weights))


def effective_rank(singular_values: np.ndarray) -> float:
    """exp of the entropy of the singular values over their sum (Roy and Vetterli, 2007): between 1 and their number."""
    p = np.asarray(singular_values, dtype=float)
    p = p[p > 0] / p.sum()
    return float(np.exp(-(p * np.log(p)).sum()))
