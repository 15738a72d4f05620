"""How often the intervals of a study hold the truth, by simulation: they promise 95 %.

    python benchmarks/coverage.py [--repeats 1000] [--seeds 3 5]

Runs are drawn around mean curves of several shapes at 1,600 to 4,000 calls; half of the variance belongs to the seed,
whatever the method and the calls. The target lies in the middle of the curve's range. Beside each interval of today
stands the expanded bootstrap percentile interval (Hesterberg, 2015), which was used before.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

import numpy as np
from scipy.stats import norm, t

from tuition import learning_curve
from tuition.studies import statistics
from tuition.studies.statistics import Curve

CALLS = np.arange(1600.0, 4001.0, 400.0)
SHAPES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "linear": lambda n: n / 100,
    "logarithm": lambda n: -80 + 16 * np.log(n),
    "power law": lambda n: 70 - 900 * n**-0.42,
    "saturating": lambda n: 60 * (1 - np.exp(-n / 1500)),
    "sigmoid": lambda n: 10 + 60 / (1 + np.exp(-(n - 2400) / 500)),
}
NOISE: dict[str, Callable[..., np.ndarray]] = {
    "normal": lambda generator, *shape: generator.standard_normal(shape),
    "heavy tails": lambda generator, *shape: generator.standard_t(4, shape) / math.sqrt(2),
    "skewed": lambda generator, *shape: 1 - generator.exponential(1, shape),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=1000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[3, 5])
    given = parser.parse_args()
    print(f"how often a 95 % interval held the truth, in percent of {given.repeats} studies: today (before)\n")
    print("| seeds | curve | noise | calls | saving, 1 baseline | saving, best of 3 | difference |")
    print("|---|---|---|---|---|---|---|")
    for seeds in given.seeds:
        for shape, truth in SHAPES.items():
            for name, sigma in (("normal", 0.5), ("normal", 2.0), ("heavy tails", 1.0), ("skewed", 1.0)):
                held = study(truth, seeds, name, sigma, given.repeats)
                cells = " | ".join(shown(*each) for each in held)
                print(f"| {seeds} | {shape} | {name}, {sigma:g} points | {cells} |", flush=True)


def shown(today: list[bool], before: list[bool]) -> str:
    return f"{100 * np.mean(today):.1f}" + (f" ({100 * np.mean(before):.1f})" if before else "")


def study(
    truth: Callable, seeds: int, noise: str, sigma: float, repeats: int
) -> tuple[tuple[list[bool], list[bool]], ...]:
    """Of each kind of interval, whether it held the truth, today and before, study by study."""
    generator, draw = np.random.default_rng(seeds), NOISE[noise]
    target = float(np.mean(truth(CALLS[[0, -1]])))

    def lower(n: np.ndarray) -> np.ndarray:
        return truth(n) - 3

    def runs(curve: Callable, shift: np.ndarray) -> Curve:
        parts = math.sqrt(0.5) * (shift + draw(generator, len(CALLS), seeds))
        accuracy = curve(CALLS)[:, None] + sigma * parts
        return {int(n): dict(enumerate(row)) for n, row in zip(CALLS, accuracy, strict=True)}

    ours, theirs = (float(np.interp(target, curve(CALLS), CALLS)) for curve in (truth, lower))
    found: tuple[tuple[list[bool], list[bool]], ...] = (([], []), ([], []), ([], []), ([], []))
    for _ in range(repeats):
        shift = draw(generator, 1, seeds)
        curve, *baselines = (runs(each, shift) for each in (truth, lower, lower, lower))
        true = (ours, 100 * (1 - ours / theirs), 100 * (1 - ours / theirs), 3.0)
        difference = statistics.paired(curve[2400], baselines[0][2400])
        today = (
            statistics.calls_to_reach(curve, target),
            statistics.saving(curve, baselines[:1], target),
            statistics.saving(curve, baselines, target),
            difference,
        )
        before = (bootstrap(curve, [], target), bootstrap(curve, baselines[:1], target),
                  bootstrap(curve, baselines, target), None)  # fmt: skip
        for (now, then), value, new, old in zip(found, true, today, before, strict=True):
            now.append(new.low <= value <= new.high)
            if old is not None:
                then.append(old[0] <= value <= old[1])
    return found


def bootstrap(curve: Curve, baselines: list[Curve], target: float, resamples: int = 500) -> tuple[float, float]:
    """The interval of before: of calls, or with baselines of the percentage saved against the best of them."""
    values = [np.array([list(each[n].values()) for n in sorted(each)]) for each in (curve, *baselines)]
    seeds = values[0].shape[1]
    weights = np.random.default_rng(0).multinomial(seeds, [1 / seeds] * seeds, size=resamples) / seeds
    crossings = [learning_curve.interpolate_calls(CALLS, weights @ each.T, target) for each in values]
    with np.errstate(invalid="ignore", divide="ignore"):
        samples = 100 * (1 - crossings[0] / np.min(crossings[1:], axis=0)) if baselines else crossings[0]
    samples = samples[~np.isnan(samples)]
    if not samples.size:
        return -math.inf, math.inf
    tail = float(norm.cdf(-math.sqrt(seeds / (seeds - 1)) * t.ppf(0.975, seeds - 1)))
    low, high = np.quantile(samples, [tail, 1 - tail], method="inverted_cdf")
    return float(low), float(high)


if __name__ == "__main__":
    main()
