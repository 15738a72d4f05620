"""The questions of this page, answered from its runs: differences between methods on equal seeds, with intervals.

    python results/answers.py [FOLDER with runs.csv]

Each difference is the mean over seeds of test accuracy (at the best validation), in points, with the t interval of the
paired differences; p values stand beside their values after Holm's correction over the table. The last question is a
ratio of two means, with its interval by Fieller's method.
"""

import math
import sys
from pathlib import Path

import numpy as np

from tuition.studies import records, statistics

QUESTIONS = {
    "what the anchor changes in the exact loss": ("ckd", "ckd_exact"),
    "what recentring changes in published CKD": ("ckd_published_recentred", "ckd_published"),
    "what exact pairs change against sampled ones": ("ckd_exact", "ckd_published"),
    "the same, both without their blindness to a constant": ("ckd", "ckd_published_recentred"),
    "published CKD against KD": ("ckd_published", "kd"),
    "CKD against KD": ("ckd", "kd"),
    "regression against KD": ("mse", "kd"),
    "CKD against regression": ("ckd", "mse"),
}
TRIO = ("mse", "kd", "ckd")


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    for section in records.sections(records.read(folder)):
        print(f"\n## {section.title}: {section.conditions}\n")
        print("| question | difference | calls | points | 95 % interval | seeds | p | corrected |")
        print("|---|---|---|---|---|---|---|---|")
        found = {}
        for question, (a, b) in QUESTIONS.items():
            for calls in section.calls:
                ours, theirs = (section.curves.get(name, {}).get(calls, {}) for name in (a, b))
                if len(ours.keys() & theirs.keys()) > 1:
                    found[f"{question} | `{a}` − `{b}` | {calls}"] = statistics.paired(ours, theirs)
        corrected = statistics.holm([pair.p for pair in found.values()])
        for (about, pair), p in zip(found.items(), corrected, strict=True):
            interval = f"{pair.low:+.1f} to {pair.high:+.1f}"
            print(f"| {about} | {pair.difference:+.1f} | {interval} | {pair.n} | {small(pair.p)} | {small(p)} |")
        shares = {
            calls: gain_share(*(section.curves.get(m, {}).get(calls, {}) for m in TRIO)) for calls in section.calls
        }
        if any(shares.values()):
            print("\n| calls | share of CKD's gain over KD that regression gives | 95 % interval | seeds |")
            print("|---|---|---|---|")
            print("\n".join(f"| {calls} | {share} |" for calls, share in shares.items() if share))


def small(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def gain_share(mse: dict[int, float], kd: dict[int, float], ckd: dict[int, float]) -> str:
    """(mse - kd) / (ckd - kd), of means over seeds; no number where CKD gains nothing on KD; empty below two seeds."""
    seeds = sorted(mse.keys() & kd.keys() & ckd.keys())
    if len(seeds) < 2:
        return ""
    gains = [np.array([each[seed] - kd[seed] for seed in seeds]) for each in (mse, ckd)]
    if gains[1].mean() <= 0:
        return f"CKD gains nothing on KD | - | {len(seeds)}"
    low, high = fieller(*gains)
    interval = "not bounded" if math.isnan(low) else f"{low:.0%} to {high:.0%}"
    return f"{gains[0].mean() / gains[1].mean():.0%} | {interval} | {len(seeds)}"


def fieller(above: np.ndarray, below: np.ndarray) -> tuple[float, float]:
    """95 % interval of mean(above) / mean(below), paired: the r at which a t test of above - r below finds nothing.

    nan, nan where `below` itself is not significantly different from zero.
    """
    from scipy.stats import t

    n = len(above)
    (xx, xy), (_, yy) = np.cov(above, below) * float(t.isf(0.025, n - 1)) ** 2 / n
    x, y = above.mean(), below.mean()
    a, b, c = y * y - yy, x * y - xy, x * x - xx  # a r^2 - 2 b r + c <= 0
    if a <= 0:
        return math.nan, math.nan
    root = math.sqrt(b * b - a * c)
    return (b - root) / a, (b + root) / a


if __name__ == "__main__":
    main()
