"""Statistics of a study: seeds, paired comparisons, calls for a target accuracy, learning curves, effective rank.

Accuracies are in percent. What the seeds cannot tell is nan, never a guess.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

Curve = Mapping[int, Mapping[int, float]]  # one method: calls -> seed -> accuracy
INTERVAL = 0.95
ALPHA = 0.05  # the largest corrected p at which a difference is claimed
TAIL = (1 - INTERVAL) / 2  # the probability that a true value lies beyond one end
MIN_COUNTS, MAX_STRETCH, MIN_R2 = 4, 3.0, 0.95  # when to trust a learning curve, see LearningCurve


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
    """

    calls: int
    method: str
    others: Mapping[str, tuple[Paired, float]]

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
    return {
        calls: Lead(calls, best, {b: (pairs[calls, best, b], corrected[calls, best, b]) for b in others})
        for calls, (best, *others) in ranked.items()
    }


@dataclass(frozen=True)
class IntervalEstimate:
    """A number with its 95 % interval. nan: unknown. An infinite end lies outside what was measured."""

    value: float
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True)
class MeanCurve:
    """The mean over seeds at each number of calls, and what each seed adds to its variance.

    Shapes: calls, accuracy and seeds (c,); residuals (c, s), (accuracy - mean) / seeds, zero where a seed was not run;
    names (s,), of the seeds.
    """

    calls: np.ndarray
    accuracy: np.ndarray
    residuals: np.ndarray
    seeds: np.ndarray
    names: Sequence[int]

    def combine(self, weights: np.ndarray, tail: float = TAIL) -> tuple[np.ndarray, np.ndarray]:
        """Weighted sums of the means, with the half width of their t intervals; nan where a count has one seed.

        A sum combines each seed's own accuracies, so counts that share seeds are not treated as independent.

        Args:
            weights: (..., c).
            tail: the probability that the true sum lies above the interval, and that it lies below.

        Returns:
            Both (...,).
        """
        from scipy.special import stdtrit

        fewest = np.where(weights != 0, self.seeds, np.inf).min(axis=-1)
        with np.errstate(invalid="ignore", divide="ignore"):
            squares = ((weights @ self.residuals) ** 2).sum(axis=-1) * fewest / (fewest - 1)
            return weights @ self.accuracy, -stdtrit(fewest - 1, tail) * np.sqrt(squares)


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


def calls_to_reach(curve: Curve, target: float) -> IntervalEstimate:
    """Calls that one method needs for a target accuracy (table 1), and their interval over seeds.

    The interval inverts t tests (Fieller's method): it ends where the mean curve is significantly below the target on
    the left, and significantly above it on the right. An end that is not reached is infinite. The interval also exists
    where the mean curve does not cross the target in the measured range.
    """
    value, low, high = _calls_to_reach(mean_curve(curve), target, TAIL)
    return IntervalEstimate(value if math.isfinite(value) else math.nan, low, high)


def _calls_to_reach(mean: MeanCurve, target: float, tail: float) -> tuple[float, float, float]:
    """The crossing, infinite where it lies outside the measured range, and its interval."""
    value = float(interpolate_calls(mean.calls, mean.accuracy, target))
    parts = np.linspace(mean.calls[:-1], mean.calls[1:], 50, endpoint=False, axis=1).flatten()
    grid = np.append(parts, mean.calls[-1])
    at, half = mean.combine(_weights(mean.calls, grid), tail)
    return value, *_open_range(grid, at - target, half, value)


def _weights(calls: np.ndarray, at: np.ndarray) -> np.ndarray:
    """(n, c) weights that interpolate a curve measured at (c,) calls, at (n,) others within their range."""
    return np.stack([np.interp(at, calls, unit) for unit in np.eye(len(calls))], axis=1)


def _open_range(grid: np.ndarray, gap: np.ndarray, half: np.ndarray, value: float) -> tuple[float, float]:
    """The stretch of `grid` around `value` in which a rising curve may cross its target; nan without an interval.

    Args:
        grid, gap, half: (g,) calls, the curve less the target, and the half width of the interval of that.
    """
    if np.isnan(half).any():
        return math.nan, math.nan
    above = np.flatnonzero((gap > half) & (grid > value))
    high = _crossing(grid, gap - half, above[0]) if above.size else math.inf
    below = np.flatnonzero((gap < -half) & (grid < min(value, high)))
    return _crossing(grid, -gap - half, below[-1]) if below.size else -math.inf, high


def _crossing(grid: np.ndarray, excess: np.ndarray, i: int) -> float:
    """Where `excess`, positive at i, falls to zero towards a neighbour of i; grid[i] if it does not."""
    for j in (i - 1, i + 1):
        if 0 <= j < len(grid) and excess[j] <= 0:
            return float(grid[i] + (grid[j] - grid[i]) * excess[i] / (excess[i] - excess[j]))
    return float(grid[i])


def saving(curve: Curve, baselines: Sequence[Curve], target: float) -> IntervalEstimate:
    """Percent of calls saved against the baseline that needs fewest (table 1's delta).

    The interval joins those of the two numbers of calls on the scale of their logarithms (method of variance estimates
    recovery, Zou and Donner, 2008), with the correlation over the seeds that both methods share. Against several
    baselines it holds the least of the savings; its upper end is corrected for the number of baselines (Bonferroni),
    because the best of several is partly the luckiest. Where a method does not cross the target in the measured range
    the value is nan, and the two intervals are joined at their worst.
    """
    ratios = [_log_ratio(curve, baseline, target, TAIL) for baseline in baselines]
    wider = [_log_ratio(curve, baseline, target, TAIL / len(baselines)) for baseline in baselines]
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
        value, low, high = np.log(np.maximum(_calls_to_reach(mean, target, tail), 0)).tolist()
    return value, low, high


def _joined(a: float, b: float, r: float) -> float:
    """Half width of a difference of two estimates of half widths a and b and correlation r."""
    return math.sqrt(max(0.0, a * a + b * b - 2 * r * a * b)) if math.isfinite(a * b) else a + b


def _correlation(a: MeanCurve, calls_a: float, b: MeanCurve, calls_b: float) -> float:
    """Correlation over seeds of two interpolated accuracies; 0 where no seed is shared."""
    x, y = (
        dict(zip(mean.names, _weights(mean.calls, np.array([calls]))[0] @ mean.residuals, strict=True))
        for mean, calls in ((a, calls_a), (b, calls_b))
    )
    product = sum(x[seed] * y[seed] for seed in x.keys() & y.keys())
    scale = math.sqrt(sum(v * v for v in x.values()) * sum(v * v for v in y.values()))
    return product / scale if scale > 0 else 0.0


@dataclass(frozen=True)
class LearningCurve:
    """accuracy = a - b calls^-c, fitted to the mean curve by least squares.

    Intervals are those of the fit made linear in the means at each count, with every seed's own part in them.

    Attributes:
        limit: the interval of a.
        distrust: why the fit must not be trusted ("" if nothing speaks against it): fewer than MIN_COUNTS counts
            (three parameters), accuracy that does not rise, or a fit that explains less than MIN_R2 of the variance.
    """

    a: float
    b: float
    c: float
    r2: float
    mean: MeanCurve

    @property
    def distrust(self) -> str:
        if len(self.mean.calls) < MIN_COUNTS:
            return f"too few counts: {len(self.mean.calls)} points for 3 parameters"
        if self.b <= 0:
            return "accuracy does not rise with calls"
        return f"poor fit: R² {self.r2:.2f}" if self.r2 < MIN_R2 else ""

    @property
    def limit(self) -> IntervalEstimate:
        _, half = self.mean.combine(self._weights(np.array([math.inf])))
        return IntervalEstimate(self.a, self.a - float(half[0]), self.a + float(half[0]))

    def _weights(self, calls: np.ndarray) -> np.ndarray:
        """(n, c) by how much the fitted accuracy at (n,) calls moves with each mean."""

        def gradient(x: np.ndarray) -> np.ndarray:
            power = x**-self.c
            return np.stack([np.ones_like(x), -power, power * np.log(np.where(np.isinf(x), 1.0, x))], axis=1)

        first = self.mean.calls[0]
        return gradient(calls / first) @ np.linalg.pinv(gradient(self.mean.calls / first))

    def predict(self, target: float) -> tuple[IntervalEstimate, str]:
        """Calls for a target accuracy, and why not to believe them ("" if nothing speaks against it).

        That is the fit's distrust, a target above the limit a, more than MAX_STRETCH times the largest count, or one
        seed. A wide interval is not a reason: keeping the narrow ones alone would keep those that miss.
        """
        largest = float(self.mean.calls[-1])
        value = (self.b / (self.a - target)) ** (1 / self.c) if self.a > target and self.b > 0 else math.inf
        grid = np.geomspace(self.mean.calls[0], 4 * MAX_STRETCH * largest, 2000)
        _, half = self.mean.combine(self._weights(grid))
        low, high = _open_range(grid, self.a - self.b * grid**-self.c - target, half, value)
        estimate = IntervalEstimate(value if math.isfinite(value) else math.nan, low, high)
        if self.distrust:
            return estimate, self.distrust
        if target >= self.a:
            return estimate, f"target above the fitted limit of {self.a:.1f} %"
        if value > MAX_STRETCH * largest:
            return estimate, f"{value / largest:.1f} times the most calls measured"
        if math.isnan(low):
            return estimate, "no interval: one seed"
        return estimate, ""


def fit_learning_curve(curve: Curve) -> LearningCurve:
    """Fit a power law to one method. For each exponent a and b are a straight line's; the exponent is searched.

    Raises:
        ValueError: fewer than two counts.
    """
    if len(curve) < 2:
        raise ValueError(f"a learning curve needs two numbers of calls, not {len(curve)}")
    mean = mean_curve(curve)
    calls, total = mean.calls / mean.calls[0], float(((mean.accuracy - mean.accuracy.mean()) ** 2).sum())
    y = mean.accuracy - mean.accuracy.mean()
    low, high = math.log(0.02), math.log(4.0)
    for _ in range(8):  # a grid of 17 exponents, then again between the neighbours of the best
        exponents = np.exp(np.linspace(low, high, 17))
        x = calls ** -exponents[:, None]  # (17, c)
        x = x - x.mean(axis=1, keepdims=True)
        explained = (x @ y) ** 2 / (x**2).sum(axis=1)
        best = int(explained.argmax())
        low, high = (math.log(exponents[min(max(best + step, 0), 16)]) for step in (-1, 1))
    c, slope = (
        float(exponents[best]),
        float((x[best] @ y) / (x[best] @ x[best])),
    )  # accuracy = a + slope (calls/first)^-c
    a = float(mean.accuracy.mean() - slope * (calls**-c).mean())
    r2 = float(explained[best]) / total if total > 0 else math.nan
    return LearningCurve(a, -slope * float(mean.calls[0]) ** c, c, r2, mean)


def effective_rank(singular_values: np.ndarray) -> float:
    """exp of the entropy of the singular values over their sum (Roy and Vetterli, 2007): between 1 and their number."""
    p = np.asarray(singular_values, dtype=float)
    p = p[p > 0] / p.sum()
    return float(np.exp(-(p * np.log(p)).sum()))
