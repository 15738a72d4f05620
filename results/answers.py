"""The questions of this page, answered from its runs: differences between methods on equal seeds, with intervals.

    python results/answers.py [FOLDER with runs.csv]

Each difference is the mean over seeds of test accuracy (at the best validation), in points, with the t interval of the
paired differences. The last question is a ratio of two means, with its expanded bootstrap interval over seeds.
"""

import sys
from pathlib import Path

import numpy as np

from tuition.studies import records, statistics

QUESTIONS = {
    "what the anchor changes in the exact loss": ("ckd", "ckd_exact"),
    "what recentring changes in published CKD": ("ckd_published_recentred", "ckd_published"),
    "what exact pairs change against sampled ones": ("ckd_exact", "ckd_published"),
    "the same, both without their blindness to a constant": ("ckd", "ckd_published_recentred"),
    "CKD against KD": ("ckd", "kd"),
    "regression against KD": ("mse", "kd"),
    "CKD against regression": ("ckd", "mse"),
}
TRIO = ("mse", "kd", "ckd")


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    for section in records.sections(records.read(folder)):
        print(f"\n## {section.title}: {section.conditions}\n")
        print("| question | difference | calls | points | 95 % interval | seeds | p |")
        print("|---|---|---|---|---|---|---|")
        for question, (a, b) in QUESTIONS.items():
            for calls in section.calls:
                ours, theirs = (section.curves.get(name, {}).get(calls, {}) for name in (a, b))
                found = statistics.paired(ours, theirs)
                if found.n > 1:
                    interval = f"{found.low:+.1f} to {found.high:+.1f}"
                    numbers = f"{found.difference:+.1f} | {interval} | {found.n} | {small(found.p)}"
                    print(f"| {question} | `{a}` − `{b}` | {calls} | {numbers} |")
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
    values = np.array([[each[seed] for seed in seeds] for each in (mse, kd, ckd)])
    drawn = np.random.default_rng(0).integers(len(seeds), size=(10_000, len(seeds)))
    drawn[0] = np.arange(len(seeds))
    a, b, c = values[:, drawn].mean(axis=2)
    if (c - b)[0] <= 0:
        return f"CKD gains nothing on KD | - | {len(seeds)}"
    shares = np.where(c > b, (a - b) / np.where(c > b, c - b, 1), np.inf)
    found = statistics.bootstrap_estimate(shares, len(seeds))
    return f"{found.value:.0%} | {found.low:.0%} to {found.high:.0%} | {len(seeds)}"


if __name__ == "__main__":
    main()
