"""Accuracy against teacher calls: calls needed for a target, power laws, and when neither may be believed.

Accuracies are in percent. A curve is a `MeanCurve` over the seeds of a study, or a `RoundsCurve` of one run that asked
in rounds. Inside the measured range calls are interpolated; beyond it a power law is followed to MAX_STRETCH times the
largest number of calls, if it passes its checks. What cannot be known is nan, with the reason.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np

INTERVAL = 0.95
TAIL = (1 - INTERVAL) / 2  # the probability that a true value lies beyond one end
MIN_COUNTS, MAX_STRETCH, MIN_R2 = 4, 2.0, 0.95  # when to trust a power law, see `LearningCurve.distrust`
MOST_MISSED = 1.0  # points by which it may miss the largest number of calls when fitted to the others


@dataclass(frozen=True)
class IntervalEstimate:
    """A number with its 95 % interval. nan: unknown. An infinite end lies outside what was measured."""

    value: float
    low: float = math.nan
    high: float = math.nan


class Curve(Protocol):
    """Accuracies (c,) measured at ascending numbers of calls (c,), and how well combinations of them are known."""

    @property
    def calls(self) -> np.ndarray: ...

    @property
    def accuracy(self) -> np.ndarray: ...

    def combine(self, weights: np.ndarray, tail: float = TAIL) -> tuple[np.ndarray, np.ndarray]:
        """Weighted sums (..., c) -> (...,) of the accuracies, and the half widths of their intervals."""


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


@dataclass(frozen=True)
class RoundsCurve:
    """Validation accuracies of one run that asked in rounds, and the standard error of each.

    Shapes: all (c,). The error is that of a limited number of validation inputs. How much another seed would differ is
    not in it, because one run cannot tell.
    """

    calls: np.ndarray
    accuracy: np.ndarray
    error: np.ndarray

    @classmethod
    def of(cls, calls: Sequence[int], accuracy: Sequence[float], inputs: int) -> Self:
        """From what each round measured, in percent, on the same number of validation inputs.

        The error is Agresti and Coull's (1998), which is not zero where every input is right.
        """
        measured = np.asarray(accuracy, dtype=float)
        share = (measured / 100 * inputs + 2) / (inputs + 4)
        return cls(np.asarray(calls, dtype=float), measured, 100 * np.sqrt(share * (1 - share) / (inputs + 4)))

    def combine(self, weights: np.ndarray, tail: float = TAIL) -> tuple[np.ndarray, np.ndarray]:
        """As `MeanCurve.combine`, with normal intervals.

        All rounds are measured on the same inputs. The half width is the larger of those for errors that the rounds
        share completely and for independent ones, which bounds every common correlation between.
        """
        from scipy.special import ndtri

        shared, apart = np.abs(weights @ self.error), np.sqrt(weights**2 @ self.error**2)
        return weights @ self.accuracy, -ndtri(tail) * np.maximum(shared, apart)


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


def crossing(curve: Curve, target: float, tail: float = TAIL) -> tuple[float, float, float]:
    """Calls for a target accuracy, infinite where they lie outside the measured range, and the ends of their interval.

    The interval inverts t tests (Fieller's method): it ends where the curve is significantly below the target on the
    left, and significantly above it on the right. An end that is not reached is infinite. The interval also exists
    where the curve does not cross the target in the measured range.
    """
    value = float(interpolate_calls(curve.calls, curve.accuracy, target))
    parts = np.linspace(curve.calls[:-1], curve.calls[1:], 50, endpoint=False, axis=1).flatten()
    grid = np.append(parts, curve.calls[-1])
    at, half = curve.combine(weights_at(curve.calls, grid), tail)
    return value, *_open_range(grid, at - target, half, value)


def weights_at(calls: np.ndarray, at: np.ndarray) -> np.ndarray:
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
    high = _edge(grid, gap - half, above[0]) if above.size else math.inf
    below = np.flatnonzero((gap < -half) & (grid < min(value, high)))
    return _edge(grid, -gap - half, below[-1]) if below.size else -math.inf, high


def _edge(grid: np.ndarray, excess: np.ndarray, i: int) -> float:
    """Where `excess`, positive at i, falls to zero towards a neighbour of i; grid[i] if it does not."""
    for j in (i - 1, i + 1):
        if 0 <= j < len(grid) and excess[j] <= 0:
            return float(grid[i] + (grid[j] - grid[i]) * excess[i] / (excess[i] - excess[j]))
    return float(grid[i])


@dataclass(frozen=True)
class LearningCurve:
    """accuracy = a - b calls^-c, fitted to a measured curve by least squares.

    Intervals are those of the fit made linear in the measured accuracies.

    Attributes:
        limit: the interval of a.
    """

    a: float
    b: float
    c: float
    r2: float
    measured: Curve

    @property
    def distrust(self) -> str:
        """Why the fit must not be trusted; "" if nothing speaks against it.

        Fewer than MIN_COUNTS counts (three parameters), accuracy that does not rise, a fit that explains less than
        MIN_R2 of the variance, or one to all counts but the largest that misses this by more than MOST_MISSED points
        and more than its noise.
        """
        if len(self.measured.calls) < MIN_COUNTS:
            return f"too few counts: {len(self.measured.calls)} points for 3 parameters"
        if self.b <= 0:
            return "accuracy does not rise with calls"
        return self._missed if self.r2 >= MIN_R2 else f"poor fit: R² {self.r2:.2f}"

    @property
    def _missed(self) -> str:
        calls, accuracy = self.measured.calls, self.measured.accuracy
        without_last = _power_law(calls[:-1], accuracy[:-1])
        expected = float(_value(without_last, calls[-1:])[0])
        _, half = self.measured.combine(np.eye(len(calls))[-1:])
        if abs(expected - accuracy[-1]) <= np.fmax(MOST_MISSED, half[0]):
            return ""
        return (
            f"fitted to the smaller counts it expects {expected:.1f} % at {calls[-1]:,.0f} calls, which had "
            f"{accuracy[-1]:.1f} %"
        )

    @property
    def limit(self) -> IntervalEstimate:
        return self.at(math.inf)

    def at(self, calls: float) -> IntervalEstimate:
        """Fitted accuracy at a number of calls."""
        _, half = self.measured.combine(self._weights(np.array([calls])))
        value = self.a - self.b * calls**-self.c
        return IntervalEstimate(value, value - float(half[0]), value + float(half[0]))

    def _weights(self, calls: np.ndarray) -> np.ndarray:
        """(n, c) by how much the fitted accuracy at (n,) calls moves with each measured one."""

        def gradient(x: np.ndarray) -> np.ndarray:
            power = x**-self.c
            return np.stack([np.ones_like(x), -power, power * np.log(np.where(np.isinf(x), 1.0, x))], axis=1)

        first = self.measured.calls[0]
        return gradient(calls / first) @ np.linalg.pinv(gradient(self.measured.calls / first))

    def predict(self, target: float) -> tuple[IntervalEstimate, str]:
        """Calls for a target accuracy, and why not to believe them ("" if nothing speaks against it).

        That is the fit's distrust, a target above the limit a, more than MAX_STRETCH times the largest count, or one
        seed. A wide interval is not a reason: keeping the narrow ones alone would keep those that miss.
        """
        largest = float(self.measured.calls[-1])
        value = (self.b / (self.a - target)) ** (1 / self.c) if self.a > target and self.b > 0 else math.inf
        grid = np.geomspace(self.measured.calls[0], 4 * MAX_STRETCH * largest, 2000)
        _, half = self.measured.combine(self._weights(grid))
        low, high = _open_range(grid, self.a - self.b * grid**-self.c - target, half, value)
        estimate = IntervalEstimate(value if math.isfinite(value) else math.nan, low, high)
        if self.distrust:
            return estimate, self.distrust
        if target >= self.a:
            return estimate, f"accuracy above the fitted limit of {self.a:.1f} %"
        if value > MAX_STRETCH * largest:
            return estimate, f"{value / largest:.1f} times the most calls measured"
        if math.isnan(low):
            return estimate, "no interval: one seed"
        return estimate, ""


def fit(curve: Curve) -> LearningCurve:
    """Fit a power law.

    Raises:
        ValueError: fewer than two counts.
    """
    if len(curve.calls) < 2:
        raise ValueError(f"a learning curve needs two numbers of calls, not {len(curve.calls)}")
    return LearningCurve(*_power_law(curve.calls, curve.accuracy), curve)


def _power_law(calls: np.ndarray, accuracy: np.ndarray) -> tuple[float, float, float, float]:
    """a, b, c and R². For each exponent a and b are a straight line's; the exponent is searched."""
    first, y = float(calls[0]), accuracy - accuracy.mean()
    calls, total = calls / first, float((y**2).sum())
    low, high = math.log(0.02), math.log(4.0)
    for _ in range(8):  # a grid of 17 exponents, then again between the neighbours of the best
        exponents = np.exp(np.linspace(low, high, 17))
        x = calls ** -exponents[:, None]  # (17, c)
        x = x - x.mean(axis=1, keepdims=True)
        explained = (x @ y) ** 2 / (x**2).sum(axis=1)
        best = int(explained.argmax())
        low, high = (math.log(exponents[min(max(best + step, 0), 16)]) for step in (-1, 1))
    # accuracy = a + slope (calls/first)^-c
    c, slope = float(exponents[best]), float((x[best] @ y) / (x[best] @ x[best]))
    a = float(accuracy.mean() - slope * (calls**-c).mean())
    return a, -slope * first**c, c, float(explained[best]) / total if total > 0 else math.nan


def _value(law: tuple[float, float, float, float], calls: np.ndarray) -> np.ndarray:
    a, b, c, _ = law
    return a - b * calls**-c


@dataclass(frozen=True)
class CallsNeeded:
    """Calls for a target accuracy, with their 95 % interval.

    Attributes:
        value: nan where it is not known, and `why` says the reason, to be read after "because".
        low, high: infinite where they lie outside what was measured; nan where nothing is known.
        measured: whether the target lies in the measured range; else the value follows a power law.
    """

    value: float
    low: float
    high: float
    measured: bool
    why: str = ""


def calls_needed(curve: Curve, target: float) -> CallsNeeded:
    """Calls for a target: interpolated in the measured range, else by a power law that passes its checks."""
    value, low, high = crossing(curve, target)
    if math.isfinite(value):
        return CallsNeeded(value, low, high, measured=True)
    if value < 0:
        return CallsNeeded(
            math.nan, low, high, True, f"the fewest calls measured, {curve.calls[0]:,.0f}, do it already"
        )
    if len(curve.calls) < 2:
        return CallsNeeded(math.nan, low, high, False, "one number of calls makes no curve")
    estimate, distrust = fit(curve).predict(target)
    if not distrust and math.isinf(estimate.high):
        distrust = "its interval has no upper end"
    if distrust:
        why = f"the accuracy is beyond the measured range, and a power law must not be trusted there ({distrust})"
        return CallsNeeded(math.nan, low, high, False, why)
    return CallsNeeded(estimate.value, estimate.low, estimate.high, measured=False)


def out_of_reach(curve: Curve, target: float, budget: int) -> str:
    """Why `budget` calls will not reach a target, as a sentence; "" where they may.

    Each doubling of calls is assumed to bring at most what the last one brought, and the noise of both ends: a power
    law grows by less and less. A curve that does not rise yet, or rises ever faster, tells nothing. Up to MAX_STRETCH
    times the calls measured, the upper end of a power law that passes its checks counts too.
    """
    calls = curve.calls
    halves = np.flatnonzero(calls <= calls[-1] / 2)
    if halves.size < 2:
        return ""
    unit, half = np.eye(len(calls)), int(halves[-1])
    rows = np.stack([unit[-1], unit[-1] - unit[half], unit[half] - unit[0]])
    (now, rise, before), (now_noise, rise_noise, before_noise) = curve.combine(rows)
    doublings, doublings_before = math.log2(calls[-1] / calls[half]), math.log2(calls[half] / calls[0])
    if not before > before_noise or before / doublings_before < rise / doublings:
        return ""
    most = now + now_noise + max(0.0, rise + rise_noise) / doublings * math.log2(max(1.0, budget / calls[-1]))
    if budget <= MAX_STRETCH * calls[-1] and not (fitted := fit(curve)).distrust:
        most = np.fmin(most, fitted.at(budget).high)
    if not most < target:
        return ""
    return (
        f"{budget:,} calls will not reach {target:g} %: if each doubling of calls brings no more than the last one, "
        f"they reach {most:.1f} % at most."
    )
