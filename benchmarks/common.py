"""What the benchmarks of training share: a made-up task, the bare step, interleaved timing, tables."""

import argparse
import copy
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from tuition import data, models
from tuition.data import Crop, Pool, TransferSet
from tuition.training import Objective, Student, methods, parallel
from tuition.training.batches import Batches
from tuition.training.cpu_threads import using
from tuition.training.learner import Learner, step

ROWS, CLASSES, BATCH = 1600, 100, 64
BLACK_BOX = [
    *("ce", "kd", "mse", "ckd", "ckd_published", "rkd", "rkd_projected"),
    *("dist", "cc", "crd", "mixup", "cutmix"),
]


def arguments(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="see that it runs; the figures mean nothing")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser


def pool(rows: int = ROWS, *, seed: int = 0) -> Pool:
    """Labelled noise of CIFAR's shape; what is in a picture takes no part in how long a step takes."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (rows, 3, 32, 32), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, CLASSES, (rows,), generator=generator)
    return data.from_tensors(images, labels, class_names=[f"class {i}" for i in range(CLASSES)], augment=Crop())


def transfer_set(rows: int = ROWS) -> TransferSet:
    generator = torch.Generator().manual_seed(1)
    return TransferSet(pool(rows), {"logits": 3 * torch.randn(rows, CLASSES, generator=generator)})


@dataclass
class Training:
    """A student in training, as `distill` trains it."""

    student: Student
    objective: Objective
    batches: Batches
    optimizer: torch.optim.Optimizer

    @classmethod
    def of(cls, name: str, method: str, transfer: TransferSet, device: torch.device) -> "Training":
        model = models.create(name, num_classes=CLASSES, seed=0)
        student = Student(model, models.Preprocess.fit(transfer.pool.inputs), input_shape=(3, 32, 32))
        example = student.preprocess(transfer.pool.inputs[:2])
        task = methods.Task(transfer.labels, transfer.responses, CLASSES, 0, model, example)
        objective = methods.create(method, task).to(device)
        student = student.to(device).train()
        batches = Batches(
            transfer,
            objective,
            batch_size=BATCH,
            augment=transfer.pool.augment,
            num_classes=CLASSES,
            device=device,
            generator=torch.Generator().manual_seed(0),
            rank=parallel.rank(),
            processes=parallel.count(),
        )
        return cls(student, objective, batches, sgd(student, objective))

    def steps(self) -> Iterator[int]:
        """Runs a step, and tells how many images it took; on and on."""
        learner = parallel.averaged(Learner(self.student, self.objective))
        try:
            for drawn in chain.from_iterable(self.batches.draw() for _ in repeat(None)):
                step(learner, self.optimizer, self.batches.batch(*drawn))
                yield len(drawn[0])
        finally:
            parallel.release(learner)


def sgd(*modules: torch.nn.Module) -> torch.optim.SGD:
    parameters = [p for module in modules for p in module.parameters()]
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9, weight_decay=5e-4, fused=True)


def bare_steps(training: Training, *, apart: bool = False) -> Iterator[int]:
    """The student's own arithmetic: forward, cross-entropy, backward, optimizer, on an epoch of ready float batches.

    `apart`: in two forwards of half a batch each, as methods of pairs have to, for batch norm is to see sides apart.
    """
    model, device = copy.deepcopy(training.student.model), training.batches.device
    optimizer = sgd(model)
    ready = []
    with torch.no_grad():
        for batch in training.batches.epoch():
            assert batch.targets is not None
            for part in torch.arange(len(batch.inputs)).split(BATCH):
                inputs = training.student.preprocess(batch.inputs[part])
                inputs = inputs.contiguous(memory_format=torch.channels_last)
                ready.append((inputs, batch.targets[part].argmax(dim=1)))
    while True:
        for inputs, labels in ready:
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                logits = torch.cat([model(half) for half in inputs.chunk(2)]) if apart else model(inputs)
            F.cross_entropy(logits.float(), labels).backward()
            optimizer.step()
            yield len(inputs)


def compare(
    name: str, chosen: Sequence[str], given: argparse.Namespace, transfer: TransferSet
) -> dict[str, list[list[float]]]:
    """Seconds an image, block by block, of each method's step, of the bare step beside it and, for a method that
    forwards the sides of its groups apart, of the bare step in two halves."""
    device = torch.device(given.device)
    blocks, seconds = (2, 0.0) if given.quick else (5, 1.0 if device.type == "cpu" else 0.4)
    found = {}
    for method in chosen:
        training = Training.of(name, method, transfer, device)
        runs = [training.steps(), bare_steps(training)]
        if training.objective.groups is not None:
            runs.append(bare_steps(training, apart=True))
        with using(0, training.student, BATCH):
            found[method] = alternating(runs, device, blocks=blocks, seconds=seconds)
        print(f"{name} {method}: {ratio(*found[method][:2]):.3f} of the bare step", file=sys.stderr)
    return found


def alternating(
    runs: Sequence[Iterator[int]], device: torch.device, *, blocks: int, seconds: float
) -> list[list[float]]:
    """Seconds an image of each run, block by block: the median over a block's steps.

    Within a block of about `seconds` for each run, the runs take turns step by step, so that what else the machine does
    falls on all of them alike. (Not for runs that work ahead while others have their turn.)
    """
    found: list[list[float]] = [[] for _ in runs]
    images = max([next(run) for run in runs for _ in range(3)])
    turns = max(2, round(seconds / (max(seconds_an_image(run, 3, device) for run in runs) * images)))
    for _ in range(blocks):
        times = [[seconds_an_image(run, 1, device) for run in runs] for _ in range(turns)]
        for kept, taken in zip(found, zip(*times, strict=True), strict=True):
            kept.append(statistics.median(taken))
    return found


def interleaved(
    runs: Sequence[Iterator[int]], device: torch.device, *, blocks: int, seconds: float
) -> list[list[float]]:
    """Seconds an image of each run, block by block; a block visits each for about `seconds`."""
    counts = []
    for run in runs:
        for _ in range(3):
            images = next(run)
        counts.append(max(2, round(seconds / (seconds_an_image(run, 3, device) * images))))
    found: list[list[float]] = [[] for _ in runs]
    for _ in range(blocks):
        for times, run, count in zip(found, runs, counts, strict=True):
            times.append(seconds_an_image(run, count, device))
    return found


def seconds_an_image(run: Iterator[int], steps: int, device: torch.device) -> float:
    wait(device)
    begun = time.perf_counter()
    images = sum(next(run) for _ in range(steps))
    wait(device)
    return (time.perf_counter() - begun) / images


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median over blocks."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def report(title: str, rows: list[dict[str, Any]], given: argparse.Namespace) -> None:
    """Print a table of the rows, and write them."""
    about = {
        "benchmark": title,
        "machine": platform.processor() or platform.machine(),
        "device": torch.cuda.get_device_name() if given.device.startswith("cuda") else "cpu",
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_before": LOAD,
        "torch": torch.__version__,
        "commit": commit(),
        "quick": given.quick,
    }
    print(", ".join(f"{name} {value}" for name, value in about.items()))
    cells = [list(rows[0]), *([shown(value) for value in row.values()] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    for row in cells:
        print("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(about | {"rows": rows}, indent=1) + "\n")


def shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)


def commit() -> str | None:
    found = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=Path(__file__).parent, capture_output=True, text=True
    )
    return found.stdout.strip() or None


LOAD = round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None  # other work spoils a measurement
