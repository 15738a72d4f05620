"""What choosing buys: test accuracy on digits by how the inputs to ask about were chosen.

    python benchmarks/selection.py --teacher teachers/digits [--seeds 5] [--json FILE]

Students of `cnn_8` by `ckd`; a fourth as many labelled inputs as calls choose the best epoch. k-centre and medoids see
raw pixels. Calls to 90 % are interpolated on the mean curve; savings are percentages of the calls of a random draw;
both with 95 % intervals over seeds. Differences are on equal seeds; a star marks p <= 0.05 after Holm's correction.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import defaultdict
from itertools import product
from pathlib import Path

from tuition.pipeline.job import run
from tuition.pipeline.settings import DistillSettings
from tuition.studies.executor import run_parallel
from tuition.studies.statistics import calls_to_reach, holm, paired, saving, summarise

METHODS = ("random", "stratified", "k-centre", "medoids")
CALLS = (20, 40, 80, 160, 320)
TARGET = 90.0


def accuracy(values: dict) -> float:
    return run(DistillSettings.of(values)).accuracy or 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", required=True, help="folder made by `tuition teach --data digits`")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        jobs = [
            {"teacher": given.teacher, "select": m, "calls": c, "seed": s, "store": f"{folder}/responses.db"}
            for m, c, s in product(METHODS, CALLS, range(given.seeds))
        ]
        curves: dict[str, dict[int, dict[int, float]]] = {m: defaultdict(dict) for m in METHODS}
        for outcome in run_parallel(accuracy, jobs):
            job = jobs[outcome.index]
            if outcome.result is None:
                raise SystemExit(f"{job}: {outcome.error}")
            curves[job["select"]][job["calls"]][job["seed"]] = outcome.result
    print(f"test accuracy (%), mean ± std of {given.seeds} seeds\n")
    print("| selection | " + " | ".join(map(str, CALLS)) + f" | calls to {TARGET:.0f} % | saved |")
    print("|---" * (len(CALLS) + 3) + "|")
    for name, curve in curves.items():
        cells = [summarise(list(curve[calls].values())) for calls in CALLS]
        reach = calls_to_reach(curve, TARGET)
        row = " | ".join(f"{cell.mean:.1f} ± {cell.std:.1f}" for cell in cells)
        less = saving(curve, [curves["random"]], TARGET)
        saved = "" if name == "random" else f"{less.value:.0f} % ({less.low:.0f} to {less.high:.0f})"
        print(f"| {name} | {row} | {reach.value:.0f} ({reach.low:.0f} to {reach.high:.0f}) | {saved} |")
    differences = {
        (name, calls): paired(curves[name][calls], curves["random"][calls])
        for name, calls in product(METHODS[1:], CALLS)
    }
    corrected = dict(zip(differences, holm([each.p for each in differences.values()]), strict=True))
    print("\n| minus random | " + " | ".join(map(str, CALLS)) + " |")
    print("|---" * (len(CALLS) + 1) + "|")
    for name in METHODS[1:]:
        row = " | ".join(f"{differences[name, n].difference:+.1f}{'*' * (corrected[name, n] <= 0.05)}" for n in CALLS)
        print(f"| {name} | {row} |")
    if given.json:
        given.json.write_text(json.dumps(curves, indent=1))


if __name__ == "__main__":
    main()
