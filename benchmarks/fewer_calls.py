"""Calls that a target accuracy needs, by what saves calls: each lever alone, all together, against kd and mse.

    python benchmarks/fewer_calls.py run digits --teacher teachers/digits --csv results/fewer-calls/digits.csv
    python benchmarks/fewer_calls.py run small --teacher teachers/small --csv results/fewer-calls/small.csv
    python benchmarks/fewer_calls.py run images --csv results/fewer-calls/images.csv        (news likewise)
    python benchmarks/fewer_calls.py show results/fewer-calls/*.csv [--figure FILE]

`benchmarks/frozen.py` makes the data of all but digits, in the folder `tasks`. A stopped `run` resumes from its file.

The learning rate of an arm is the best of three by validation over the last tenth of the epochs, mean over numbers of
calls (`Task.tuned_at`) and seeds. The test set is read at the best validation, and chooses nothing. Calls are
interpolated on the mean curve; factors are calls of a baseline over those of the arm; both with 95 % intervals over
seeds (`statistics.calls_to_reach`, `saving`).
"""

from __future__ import annotations

import argparse
import csv
import math
import os
import time
import warnings
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from common import commit

from tuition.errors import Notice
from tuition.pipeline.job import run as run_job
from tuition.pipeline.settings import DistillSettings
from tuition.pipeline.sources import Sources
from tuition.studies.statistics import Curve, calls_to_reach, saving, summarise
from tuition.training import Run


@dataclass(frozen=True)
class Task:
    """What is learned in `steps` of training, whatever the calls; rates to choose from, of kd others where named."""

    settings: dict[str, Any]
    calls: tuple[int, ...]
    targets: tuple[float, ...]
    steps: int
    tuned_at: tuple[int, ...]  # calls
    tuned_on: int = 5  # seeds
    rates: tuple[float, ...] = (0.1, 0.05, 0.025)
    rates_of_kd: tuple[float, ...] | None = None


def frozen(folder: str) -> dict[str, Any]:
    teacher = {"teacher": "frozen:teacher", "teacher_options": {"folder": folder}}
    return {"data": folder, "student": "frozen:head", "trust_code": True} | teacher


HEADS: dict[str, Any] = {"steps": 400, "rates": (0.01, 0.003, 0.001), "rates_of_kd": (0.1, 0.03, 0.01)}
TASKS = {
    "digits": Task({"data": "digits", "student": "cnn_8"}, (20, 40, 60, 80, 120, 160), (90, 95), 800, (40,)),
    "small": Task(
        {"data": "tasks/small", "student": "cnn_16", "features": "frozen:encoder", "trust_code": True},
        (80, 160, 320, 640),
        (40, 45),
        1000,
        (320,),
        2,
    ),
    "images": Task(frozen("tasks/images"), (50, 100, 200, 400, 800), (20, 25, 30), tuned_at=(100, 400), **HEADS),
    "news": Task(frozen("tasks/news"), (10, 20, 40, 80, 160, 320), (50, 60), tuned_at=(40, 160), **HEADS),
}

# What each arm sets. `longer` is a factor of the steps; the learning rate may be that of another arm.
ROUNDS = {"select": "diverse-margin", "rounds": 3}
NEAR = {"unasked": "all", "neighbours": 20}
MIXED = {"options.mix": 0.5, "average": 0.99}
ARMS: dict[str, dict[str, Any]] = {
    "kd": {"method": "kd"},
    "mse": {"method": "mse"},
    "ckd": {"method": "ckd"},
    "kd, 3x longer": {"method": "kd", "longer": 3},
    "kd, 7x longer": {"method": "kd", "longer": 7},
    "mse, 3x longer": {"method": "mse", "longer": 3},
    "ckd, 3x longer": {"method": "ckd", "longer": 3},
    "ckd, average": {"method": "ckd", "average": 0.99, "rate_of": "ckd"},
    "ckd, medoids": {"method": "ckd", "select": "medoids", "rate_of": "ckd"},
    "ckd, rounds": {"method": "ckd", "rate_of": "ckd"} | ROUNDS,
    "ckd, unasked": {"method": "ckd", "unasked": "all"},
    "ckd, mix, average": {"method": "ckd"} | MIXED,
    "ckd, mix, average, 3x longer": {"method": "ckd", "longer": 3} | MIXED,
    "ckd, neighbours": {"method": "ckd"} | NEAR,
    "ckd, medoids, neighbours": {"method": "ckd", "select": "medoids", "rate_of": "ckd, neighbours"} | NEAR,
    "ckd, medoids, unasked": {"method": "ckd", "unasked": "all", "select": "medoids", "rate_of": "ckd, unasked"},
    "ckd, rounds, unasked": {"method": "ckd", "unasked": "all", "rate_of": "ckd, unasked"} | ROUNDS,
}
BASELINES = ("kd", "mse", "kd, 3x longer")
DRAWN = ("kd", "kd, 3x longer", "ckd", "ckd, medoids", "ckd, medoids, neighbours", "ckd, rounds, unasked",
         "ckd, mix, average")  # fmt: skip
FIELDS = ("arm", "calls", "seed", "learning_rate", "steps", "images", "seconds", "validation", "test", "commit")
BATCH = 64


def settings_of(task: Task, arm: str, calls: int, seed: int, rate: float, place: Path) -> DistillSettings:
    chosen = dict(ARMS[arm])
    chosen.pop("rate_of", None)
    steps = task.steps * chosen.pop("longer", 1)
    values = {"calls": calls, "seed": seed, "learning_rate": rate, "threads": 1, "keep_checkpoint": False}
    values |= {"epochs": max(1, round(steps / math.ceil(calls / BATCH))), "batch_size": BATCH}
    return DistillSettings.of(task.settings | values | {"store": str(place)} | chosen)


def runs(task: Task, arms: list[str], seeds: int, place: Path, rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """One row a run: first those that choose the learning rate, whose test set is not read, then all others."""
    sources = Sources()
    done = {(row["arm"], int(row["calls"]), int(row["seed"]), float(row["learning_rate"]), bool(row["test"])): row
            for row in rows}  # fmt: skip

    def one(arm: str, calls: int, seed: int, rate: float, tested: bool) -> Iterator[dict[str, Any]]:
        key = arm, calls, seed, rate, tested
        if key not in done:
            settings = settings_of(task, arm, calls, seed, rate, place)
            began = time.process_time()
            run = run_job(settings if tested else settings.changed(test=None), None, sources)
            seconds = round(time.process_time() - began, 1)
            validation = round(run.validation or 0.0 if tested else late(run), 3)
            about = run.steps, run.images_seen, seconds, validation, run.accuracy if tested else "", commit()
            done[key] = dict(zip(FIELDS, (arm, calls, seed, rate, *about), strict=True))
            yield done[key]

    for arm in arms:
        tuned = ARMS[arm].get("rate_of", arm)
        rates = task.rates_of_kd if task.rates_of_kd and ARMS[arm]["method"] == "kd" else task.rates
        means = {}
        for rate in rates:
            trials = [(tuned, calls, seed, rate, False) for calls, seed in product(task.tuned_at, range(task.tuned_on))]
            for trial in trials:
                yield from one(*trial)
            means[rate] = sum(float(done[trial]["validation"]) for trial in trials)
        best = max(means, key=lambda rate: means[rate])
        for seed, calls in product(range(seeds), task.calls):
            yield from one(arm, calls, seed, best, True)


def late(run: Run) -> float:
    """Mean validation over the last tenth of the epochs: the best of many epochs is the luckiest where few inputs
    validate, and so prefers rates at which it varies."""
    values = [row["validation"] for row in run.history]
    last = values[-max(1, len(values) // 10) :]
    return sum(last) / len(last)


def run(given: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", Notice)
    task = TASKS[given.task]
    if given.teacher:
        task.settings["teacher"] = given.teacher
    rows = read(given.csv)
    given.csv.parent.mkdir(parents=True, exist_ok=True)
    with given.csv.open("a", newline="") as file:
        writer = csv.DictWriter(file, FIELDS)
        if file.tell() == 0:
            writer.writeheader()
        for row in runs(task, given.arms or list(ARMS), given.seeds, given.store, rows):
            writer.writerow(row)
            file.flush()
            print(" ".join(str(row[name]) for name in FIELDS), flush=True)


def read(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def curves_of(rows: list[dict[str, Any]]) -> dict[str, Curve]:
    curves: dict[str, dict[int, dict[int, float]]] = {}
    for row in rows:
        if row["test"]:
            curve = curves.setdefault(row["arm"], defaultdict(dict))
            curve[int(row["calls"])][int(row["seed"])] = float(row["test"])
    return curves  # type: ignore[return-value]


def factor(curve: Curve, baseline: Curve, target: float) -> str:
    """Calls of the baseline over those of the arm, with its interval; an end beyond what was measured is left open."""
    less = saving(curve, [baseline], target)
    value, low, high = (math.nan if math.isnan(each) else 1 / (1 - each / 100) if each < 100 else math.inf
                        for each in (less.value, less.low, less.high))  # fmt: skip
    low = max(low, 0.0)
    ends = f"{low:.2f} to {high:.2f}" if math.isfinite(high) else f"at least {low:.2f}" if low > 0 else "unknown"
    return f"({ends})" if not math.isfinite(value) else f"{value:.2f} ({ends})"


def needed(curve: Curve, target: float) -> str:
    reach = calls_to_reach(curve, target)
    low, high = ("" if math.isinf(end) else f"{end:.0f}" for end in (reach.low, reach.high))
    least, most = min(curve), max(curve)
    value = f"{reach.value:.0f}" if math.isfinite(reach.value) else f"< {least}" if high else f"> {most}"
    return f"{value} ({low} to {high})"


def show(given: argparse.Namespace) -> None:
    """Two tables a task: test accuracy, then calls for each target with factors against three baselines."""
    every = {path.stem: read(path) for path in given.csv}
    for name, rows in every.items():
        curves = {arm: curve for arm, curve in curves_of(rows).items() if arm in ARMS}
        calls = TASKS[name].calls
        print(f"\n## {name}\n\n| arm | learning rate | " + " | ".join(map(str, calls)) + " | CPU s |")
        print("|---" * (len(calls) + 3) + "|")
        for arm in (arm for arm in ARMS if arm in curves):
            part = [row for row in rows if row["arm"] == arm and row["test"]]
            cells = [summarise(list(curves[arm].get(count, {}).values())) for count in calls]
            seconds = sum(float(row["seconds"]) for row in part) / len(part)
            accuracy = " | ".join(f"{cell.mean:.1f} ± {cell.std:.1f}" if cell.n else "" for cell in cells)
            print(f"| {arm} | {part[0]['learning_rate']} | {accuracy} | {seconds:.1f} |")
        for target in TASKS[name].targets:
            print(f"\n| {name}, {target} % | calls | " + " | ".join(f"{it} needs" for it in BASELINES) + " |")
            print("|---" * (2 + len(BASELINES)) + "|")
            for arm in (arm for arm in ARMS if arm in curves):
                against = [
                    factor(curves[arm], curves[base], target) if base != arm and base in curves else ""
                    for base in BASELINES
                ]
                print(f"| {arm} | {needed(curves[arm], target)} | " + " | ".join(against) + " |")
    if given.figure:
        draw({name: curves_of(rows) for name, rows in every.items()}, given.figure)


def draw(every: dict[str, dict[str, Curve]], path: Path) -> None:
    """Mean accuracy against calls, with one standard deviation; a panel a task."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.2 * len(every), 3.4), layout="constrained")
    names = [arm for arm in DRAWN if any(arm in curves for curves in every.values())]
    for axes, (task, curves) in zip(figure.subplots(1, len(every), squeeze=False)[0], every.items(), strict=True):
        for number, arm in enumerate(names):
            if arm in curves:
                calls = sorted(curves[arm])
                cells = [summarise(list(curves[arm][count].values())) for count in calls]
                means, deviations = [cell.mean for cell in cells], [cell.std for cell in cells]
                style = "--" if arm in BASELINES else "-"
                axes.errorbar(calls, means, deviations, color=f"C{number}", ls=style, marker=".", capsize=2, label=arm)
        axes.set(title=task, xlabel="teacher calls", xscale="log")
        axes.set_xticks(TASKS[task].calls, map(str, TASKS[task].calls), minor=False)
        axes.minorticks_off()
    figure.axes[0].set_ylabel("test accuracy (%)")
    handles = {
        label: line for axes in figure.axes for line, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, fontsize="small")
    figure.savefig(path, dpi=90)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    running = commands.add_parser("run")
    running.add_argument("task", choices=TASKS)
    running.add_argument("--teacher", help="folder made by `tuition teach`")
    running.add_argument("--csv", type=Path, required=True)
    running.add_argument("--arms", nargs="*", choices=ARMS)
    running.add_argument("--seeds", type=int, default=5)
    running.add_argument("--store", type=Path, default=Path("fewer-calls.db"))
    running.set_defaults(command=run)
    showing = commands.add_parser("show")
    showing.add_argument("csv", type=Path, nargs="+")
    showing.add_argument("--figure", type=Path)
    showing.set_defaults(command=show)
    given = parser.parse_args()
    given.command(given)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
