"""Steps a second of one process and of several that share each batch, on one thread each.

    python benchmarks/parallel.py [--quick] [--json FILE] [--processes 2] [--methods ckd]

Blocks of one process and of all take turns. The share of communication is the time that the first process spends in
exchanges, waiting for the others included. On the CPU, by gloo.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as processes
from common import BATCH, ROWS, Training, arguments, report, seconds_an_image, transfer_set

CPU = torch.device("cpu")


class Clock:
    """Adds up the time of the calls it wraps."""

    seconds = 0.0

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            begun = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds += time.perf_counter() - begun

        return timed


def measure(rank: int, given: argparse.Namespace, folder: str, turn: Barrier) -> None:
    """One process: the first of them writes the median steps a second of each student and method to the folder."""
    torch.set_num_threads(1)
    clock = Clock()
    dist.all_reduce, dist.all_gather = clock.around(dist.all_reduce), clock.around(dist.all_gather)
    transfer = transfer_set(2 * BATCH if given.quick else ROWS)
    rows: list[dict[str, Any]] = []
    blocks, steps = (1, 2) if given.quick else (3, 5)
    for name in ["cnn_4"] if given.quick else ["cnn_32", "resnet8", "vgg8", "wrn_16_2"]:
        for method in given.methods:
            alone, together = (Training.of(name, method, transfer, CPU).steps() for _ in range(2))
            one, several, shares = [], [], []
            for block in range(blocks):
                turn.wait()
                if rank == 0:
                    next(alone)
                    one.append(1 / (BATCH * seconds_an_image(alone, steps, CPU)))
                turn.wait()
                store = dist.FileStore(f"{folder}/{name}{method}{block}", given.processes)
                dist.init_process_group("gloo", store=store, rank=rank, world_size=given.processes)
                next(together)
                clock.seconds, begun = 0.0, time.perf_counter()
                several.append(1 / (BATCH * seconds_an_image(together, steps, CPU)))
                shares.append(clock.seconds / (time.perf_counter() - begun))
                dist.destroy_process_group()
            if rank > 0:
                continue
            rows.append(
                {
                    "student": name,
                    "method": method,
                    "processes": given.processes,
                    "steps/s of one": statistics.median(one),
                    "steps/s of all": statistics.median(several),
                    "ratio": statistics.median(b / a for a, b in zip(one, several, strict=True)),
                    "communication": statistics.median(shares),
                }
            )
    if rank == 0:
        Path(folder, "rows.json").write_text(json.dumps(rows))


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--methods", nargs="+", default=["ckd"])
    given = parser.parse_args()
    given.device = "cpu"
    turn = processes.get_context("spawn").Barrier(given.processes)
    with tempfile.TemporaryDirectory() as folder:
        processes.spawn(measure, (given, folder, turn), nprocs=given.processes)
        report(Path(__file__).stem, json.loads(Path(folder, "rows.json").read_text()), given)


if __name__ == "__main__":
    main()
