"""Steps a second of one process and of several that share each batch, on one thread each.

    python benchmarks/parallel.py [--quick] [--json FILE] [--processes 2] [--methods ckd]

Blocks of one process and of all take turns. On the CPU, by gloo.
"""

import argparse
import json
import statistics
import tempfile
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as processes
from common import BATCH, ROWS, Training, arguments, report, seconds_an_image, transfer_set

CPU = torch.device("cpu")


def measure(rank: int, given: argparse.Namespace, folder: str, turn: Barrier) -> None:
    """One process: the first of them writes the median steps a second of each student and method to the folder."""
    torch.set_num_threads(1)
    transfer = transfer_set(2 * BATCH if given.quick else ROWS)
    rows: list[dict[str, Any]] = []
    blocks, steps = (1, 2) if given.quick else (3, 5)
    for name in ["cnn_4"] if given.quick else ["cnn_32", "resnet8", "vgg8", "wrn_16_2"]:
        for method in given.methods:
            alone = Training.of(name, method, transfer, CPU).steps()
            next(alone)
            store = dist.FileStore(f"{folder}/{name}{method}", given.processes)
            dist.init_process_group("gloo", store=store, rank=rank, world_size=given.processes)
            together = Training.of(name, method, transfer, CPU).steps()
            one, several = [], []
            for _ in range(blocks):
                turn.wait()
                if rank == 0:
                    one.append(1 / (BATCH * seconds_an_image(alone, steps, CPU)))
                turn.wait()
                next(together)
                several.append(1 / (BATCH * seconds_an_image(together, steps, CPU)))
            together.close()
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
