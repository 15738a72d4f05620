"""What the losses cost: forward and backward, against the straightforward published formulation, in one process.

    python benchmarks/losses.py [--quick] [--json FILE]

Time is the fastest of interleaved runs, on one core and on all; on a machine with other work the threads of the latter
wait for each other, so let it be idle. Memory is the peak of resident memory during one forward and backward above what
was resident before (Linux; freed memory is returned to the system first), so tensors below a few pages show as 0. A row
whose published form would need more than 6 GiB has no baseline.
"""

import argparse
import ctypes
import itertools
import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor

from tuition import losses

Loss = Callable[[Tensor, Tensor], Tensor]
SHAPES = [*itertools.product((64, 256, 1024), (10, 100, 1000)), (512, 1000)]
MEMORY_LIMIT = 6 * 2**30
CRD_ROWS, CRD_NEGATIVES = 2560, 16384


# The published formulations, written down as they stand in the papers' code bases.


def plain_kd(s: Tensor, t: Tensor) -> Tensor:
    return F.kl_div(F.log_softmax(s / 4, 1), F.softmax(t / 4, 1), reduction="batchmean") * 16


def plain_dist(s: Tensor, t: Tensor) -> Tensor:
    def pearson(a: Tensor, b: Tensor) -> Tensor:
        a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
        return (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1) + 1e-8)

    p, q = (s / 4).softmax(1), (t / 4).softmax(1)
    return 16 * (1 - pearson(p, q).mean() + 1 - pearson(p.T, q.T).mean())


def pairwise_ckd(s: Tensor, t: Tensor) -> Tensor:
    n = len(s)
    return F.mse_loss(s[:, None] - s, t[:, None] - t) * (n / (n - 1))


def plain_rkd_distance(s: Tensor, t: Tensor) -> Tensor:
    def distances(x: Tensor) -> Tensor:
        squares = x.square().sum(1)
        d = (squares[:, None] + squares - 2 * x @ x.T).clamp(min=1e-12).sqrt().clone()
        d[range(len(x)), range(len(x))] = 0
        return d / d[d > 0].mean()

    with torch.no_grad():
        teacher = distances(t)
    return F.smooth_l1_loss(distances(s), teacher)


def plain_rkd_angle(s: Tensor, t: Tensor) -> Tensor:
    def angles(x: Tensor) -> Tensor:
        directions = F.normalize(x[None] - x[:, None], dim=2)
        return torch.bmm(directions, directions.transpose(1, 2)).view(-1)

    with torch.no_grad():
        teacher = angles(t)
    return F.smooth_l1_loss(angles(s), teacher)


def plain_rkd(s: Tensor, t: Tensor) -> Tensor:
    return 25 * plain_rkd_distance(s, t) + 50 * plain_rkd_angle(s, t)


def plain_crd(crd: losses.CRD, ids: Tensor) -> Loss:
    """Draws nothing (that would only add to its time): the negatives are gathered for each sample."""
    n = len(crd.memory_student)
    generator = torch.Generator().manual_seed(0)
    idx = (ids[:, None] + torch.randint(1, n, (len(ids), CRD_NEGATIVES), generator=generator)) % n
    idx = torch.cat([ids[:, None], idx], dim=1)
    noise, z = CRD_NEGATIVES / n, {}

    def side(x: Tensor, memory: Tensor, name: str) -> Tensor:
        gathered = memory.index_select(0, idx.view(-1)).view(len(x), CRD_NEGATIVES + 1, -1)
        scores = torch.exp(torch.bmm(gathered, x[:, :, None]) / crd.temperature).squeeze(2)
        z.setdefault(name, scores.mean().item() * n)
        scores = scores / z[name]
        own = (scores[:, 0] / (scores[:, 0] + noise + 1e-7)).log()
        others = (noise / (scores[:, 1:] + noise + 1e-7)).log()
        return -(own.sum() + others.sum()) / len(x)

    def loss(student: Tensor, teacher: Tensor) -> Tensor:
        s, t = F.normalize(crd.embed_student(student)), F.normalize(crd.embed_teacher(teacher))
        return side(s, crd.memory_teacher, "student") + side(t, crd.memory_student, "teacher")

    return loss


@dataclass
class Case:
    loss: str
    against: str
    shape: tuple[int, int]
    ours: Loss
    plain: Loss
    plain_bytes: int = 0  # of the baseline's largest intermediate results, roughly
    tolerance: float | None = 1e-4  # between the two values; None: the baseline is another loss
    most: float | None = None  # target: ours / baseline in time
    most_memory: float | None = None  # target: the same in memory


def cases() -> Iterator[Case]:
    for shape in SHAPES:
        n, d = shape
        cubes = 4 * (5 * n**3 + 4 * n * n * d)
        wide = shape == (512, 1000)  # for ckd alone
        if not wide:
            yield Case("kd", "plain formula", shape, losses.kd, plain_kd, most=1.3)
            yield Case("dist", "plain formula", shape, losses.dist, plain_dist, most=1.3)
        yield Case("ckd", "F.mse_loss", shape, losses.ckd, F.mse_loss, tolerance=None, most=2.5 if wide else None)
        yield Case(
            "ckd, anchor 0.1",
            "F.mse_loss",
            shape,
            lambda s, t: losses.ckd(s, t, anchor=0.1),
            F.mse_loss,
            tolerance=None,
            most=2.5 if wide else None,
        )
        yield Case("ckd", "every pair", shape, losses.ckd, pairwise_ckd, plain_bytes=16 * n * n * d)
        if wide:
            continue
        target = {"most": 0.5, "most_memory": 0.2} if shape == (256, 100) else {}
        yield Case("rkd", "published", shape, losses.rkd, plain_rkd, plain_bytes=cubes, **target)
        yield Case("rkd_distance", "published", shape, losses.rkd_distance, plain_rkd_distance)
        if n < 1024:  # seconds each, and nearly all of rkd
            yield Case("rkd_angle", "published", shape, losses.rkd_angle, plain_rkd_angle, plain_bytes=cubes)
        crd, ids = losses.CRD(d, d, CRD_ROWS, negatives=CRD_NEGATIVES), torch.arange(n)
        yield Case(
            "CRD",
            "published",
            shape,
            lambda s, t, crd=crd, ids=ids: crd(s, t, ids),
            plain_crd(losses.CRD(d, d, CRD_ROWS), ids),
            plain_bytes=n * CRD_NEGATIVES * 128 * 4 * 3,
            tolerance=0.01,
            most=1 / 50 if n == 64 else None,
        )


def step(loss: Loss, student: Tensor, teacher: Tensor) -> float:
    student.grad = None
    start = time.perf_counter()
    loss(student, teacher).backward()
    return time.perf_counter() - start


def peak_memory(loss: Loss, student: Tensor, teacher: Tensor) -> int | None:
    """Bytes; None where the system does not tell."""

    def status(field: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))

    if platform.system() != "Linux":
        return None
    student.grad = None
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again
    before = status("VmRSS")
    loss(student, teacher).backward()
    return max(0, status("VmHWM") - before)


def measure(case: Case, all_threads: list[int], seconds: float) -> Iterator[dict]:
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, *case.shape, generator=generator)
    student.requires_grad_()
    both = [case.ours] + ([case.plain] if case.plain_bytes < MEMORY_LIMIT else [])
    values = [loss(student, teacher).item() for loss in both]
    if len(values) == 2 and case.tolerance is not None and abs(values[0] / values[1] - 1) > case.tolerance:
        raise AssertionError(f"{case.loss} at {case.shape} is {values[0]}, but its published form {values[1]}")
    for threads in all_threads:
        torch.set_num_threads(threads)
        times: list[list[float]] = [[] for _ in both]
        until = time.perf_counter() + seconds
        while not times[0] or (time.perf_counter() < until and len(times[0]) < 500):
            for kept, loss in zip(times, both, strict=True):
                kept.append(step(loss, student, teacher))
        row = {
            "loss": case.loss,
            "against": case.against,
            "shape": case.shape,
            "threads": threads,
            "runs": len(times[0]),
        }
        for side, kept, loss in zip(("", "against_"), times, both, strict=False):
            row[f"{side}ms"] = 1000 * min(kept)
            row[f"{side}bytes"] = peak_memory(loss, student, teacher)
        if case.most is not None:
            row["target"], row["met"] = case.most, row["ms"] <= case.most * row["against_ms"]
            if case.most_memory is not None and row["bytes"] is not None:
                row["memory_target"] = case.most_memory
                row["met"] = row["met"] and row["bytes"] <= case.most_memory * row["against_bytes"]
        yield row


def cells(row: dict) -> list[str]:
    def mib(key: str) -> str:
        return "" if row.get(key) is None else f"{row[key] / 2**20:.1f}"

    compared = "against_ms" in row
    return [
        row["loss"],
        f"{row['shape'][0]} x {row['shape'][1]}",
        str(row["threads"]),
        f"{row['ms']:.3f}",
        row["against"],
        f"{row['against_ms']:.3f}" if compared else "too large",
        f"{row['ms'] / row['against_ms']:.3g}" if compared else "",
        mib("bytes"),
        mib("against_bytes"),
        f"{row['target']:.3g} {'met' if row['met'] else 'MISSED'}" if "target" in row else "",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="only the rows that have a target")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    parser.add_argument("--seconds", type=float, default=2.0, help="spent on a row, at least")
    arguments = parser.parse_args()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    rows = []
    for case in cases():
        if arguments.quick and case.most is None:
            continue
        rows += measure(case, sorted({1, cores}), arguments.seconds)
    table = Table(title=f"forward + backward, PyTorch {torch.__version__}, {cores} core(s), {platform.machine()}")
    for name in ("loss", "shape", "threads", "ms", "against", "its ms", "ratio", "MiB", "its MiB", "target"):
        table.add_column(name, justify="left" if name in ("loss", "against", "target") else "right")
    for row in sorted(rows, key=lambda r: (r["loss"], r["against"])):
        table.add_row(*cells(row))
    Console(width=140).print(table)
    if arguments.json:
        about = {"torch": torch.__version__, "cores": cores, "machine": platform.machine()}
        arguments.json.write_text(json.dumps(about | {"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
