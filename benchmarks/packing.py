"""Runs an hour by the number of processes that share the machine, or the GPU.

    python benchmarks/packing.py [--quick] [--json FILE] [--device cpu] [--student wrn_16_2] [--epochs 2]

A run is `distill` with ckd on 1600 calls, with validation on 400 more inputs after every epoch; a few epochs are
trained, and the time of 120 follows. Of each number of processes all train at once, each with its share of the cores.
Starting a process is not counted: a study's processes train many students each.
"""

import os
import statistics
from dataclasses import dataclass
from typing import Any

from common import arguments, pool, report, transfer_set

from tuition import distill
from tuition.studies.executor import run_parallel

EPOCHS = 120  # of the cosine schedule


@dataclass(frozen=True)
class Job:
    student: str
    rows: int
    epochs: int
    device: str
    seed: int


def train(job: Job) -> float:
    """Seconds an epoch; the first, in which memory is got and libraries are set up, is left out."""
    run = distill(
        job.student,
        transfer_set(job.rows),
        validation=pool(job.rows // 4, seed=2),
        seed=job.seed,
        epochs=job.epochs + 1,
        device=job.device,
    )
    return (run.history[-1]["seconds"] - run.history[0]["seconds"]) / job.epochs


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--student", default=None)
    parser.add_argument("--epochs", type=int, default=None, help="to measure, after a first one")
    parser.add_argument("--processes", nargs="+", type=int, default=None)
    given = parser.parse_args()
    cuda, cores = given.device.startswith("cuda"), os.cpu_count() or 1
    student = given.student or ("cnn_4" if given.quick else "wrn_16_2")
    epochs = given.epochs or (1 if given.quick else 10 if cuda else 2)
    usual = [1, 2, 4, 8, 16] if cuda else sorted({1, 2, cores})
    rows: list[dict[str, Any]] = []
    for processes in given.processes or ([1, 2] if given.quick else usual):
        jobs = [Job(student, 160 if given.quick else 1600, epochs, given.device, seed) for seed in range(processes)]
        seconds = []
        for outcome in run_parallel(train, jobs, workers=processes):
            if outcome.result is None:
                raise SystemExit(f"a run failed: {outcome.error}")
            seconds.append(outcome.result)
        runs = sum(3600 / (EPOCHS * each) for each in seconds)
        rows.append(
            {
                "student": student,
                "processes": processes,
                "seconds an epoch": statistics.median(seconds),
                "runs an hour": runs,
                "times one": runs / rows[0]["runs an hour"] if rows else 1.0,
            }
        )
    report("packing", rows, given)


if __name__ == "__main__":
    main()
