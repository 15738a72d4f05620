"""Unit costs of every part, and what 10^6, 10^8 and 10^9 calls would take: the tables of docs/scale.md.

`python benchmarks/scale.py [--inputs 1000000] [--announce] [--url postgresql://...] [--json FILE]`. Rates are of this
machine as it is loaded now; a second figure, of processor time, says how much of that is this program's own.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

SIZES = (10**6, 10**8, 10**9)
WIDTHS = (10, 100, 1000)
Costs = dict[str, float]  # by name; "... s" are seconds, "... B" bytes, each an input, a response or an image


def digests(count: int) -> Costs:
    """Naming images of CIFAR's size by their content."""
    from tuition.data import from_tensors

    images = torch.randint(0, 256, (min(count, 100_000), 3, 32, 32), dtype=torch.uint8)
    pool = from_tensors(images)
    took = timed(lambda: pool.digests)
    return each(took, len(pool), "digest of a 32x32 image") | {"image in a pool B": float(images[0].nbytes)}


def asking(url: str, count: int) -> Costs:
    """Announce, ask, store and read 100 logits as float16, 1,000 a commit; the pool's inputs are 8 bytes each."""
    import sqlalchemy as sa

    from tuition.data import from_tensors
    from tuition.store import ResponseStore
    from tuition.store.database import asks
    from tuition.teachers import from_callable

    pool = from_tensors(torch.arange(count, dtype=torch.float64).unsqueeze(1))
    base = peak()
    _ = pool.digests
    costs: Costs = {"digests in memory B": (peak() - base) / count}
    teacher = from_callable(
        lambda x: (x.float() * 0.37 + torch.arange(100)).sin(), fingerprint="made", name="made", code=""
    )
    store, moments = ResponseStore(url, dtype="float16"), [clock()]

    def note(done: int, total: int) -> None:
        if len(moments) == 1:
            with store.database.read() as connection:
                plan = connection.scalar(sa.select(sa.func.length(asks.c.plan)))
            costs["plan of an ask B"] = plan / count
        moments.append(clock())

    store.ask(teacher, pool, budget=count, batch_size=1000, progress=note)
    costs |= each(moments[1] - moments[0], count, "announcing an ask")
    costs |= each(moments[-1] - moments[1], count, "asking and storing, 1,000 a commit")
    costs |= each(clock() - moments[-1], count, "reading back in the pool's order")
    costs["peak of asking and reading, with answers B"] = (peak() - base) / count
    costs["answers in memory B"] = 400.0
    if store.database.path is not None:
        rows = sum(file.stat().st_size for file in store.database.path.parent.glob(f"{store.database.path.name}*"))
    else:
        with store.database.read() as connection:
            rows = connection.scalar(sa.text("SELECT pg_database_size(current_database())"))
    costs["100 x float16 in the store, 1,000 a commit B"] = rows / count
    again = timed(lambda: store.plan(teacher, pool))
    return costs | each(again, count, "looking up what is stored")


def announcing(url: str, count: int) -> Costs:
    """Announcing an ask to a new teacher; then, while that lasts, another of 64, in a budget that is roomy or tight."""
    import hashlib

    from tuition.store import ResponseStore, asking
    from tuition.store.price import FREE
    from tuition.teachers import from_callable

    base = peak()
    names = [hashlib.blake2b(i.to_bytes(8, "little"), digest_size=16).digest() for i in range(count)]
    teacher = from_callable(lambda x: x, fingerprint="another", name="another")
    store, costs = ResponseStore(url), Costs()
    with asking.opened(store, teacher, budget=count, price=FREE) as whole:
        costs |= each(timed(lambda: whole.open(names)), 1, f"announcing an ask of {count:,}, in all")
        for what, budget in ("roomy", 2 * count), ("tight", count):
            with asking.opened(store, teacher, budget=budget, price=FREE) as other:
                took = timed(lambda: other.open(names[:64]))
            costs |= each(took, 1, f"another of 64 beside it, {what} budget, in all")
    return costs | {"peak of announcing an input, digests among it B": (peak() - base) / count}


def commits(url: str, count: int) -> Costs:
    """Requests of 64, each reserved and stored in a transaction of its own."""
    from tuition.data import from_tensors
    from tuition.store import ResponseStore
    from tuition.teachers import from_callable

    pool = from_tensors(torch.arange(count, dtype=torch.float64).unsqueeze(1) + 0.5)
    teacher = from_callable(lambda x: x.float().expand(-1, 100), fingerprint="made", name="made", code="")
    store, moments = ResponseStore(url, dtype="float16"), [clock()]
    store.ask(teacher, pool, budget=2**40, batch_size=64, progress=lambda *_: moments.append(clock()))
    return each(moments[-1] - moments[1], count, "asking and storing, 64 a commit")


def sizes(folder: str, count: int) -> Costs:
    """Bytes a response by width, type and batch, in SQLite files."""
    from tuition.data import from_tensors
    from tuition.store import ResponseStore
    from tuition.teachers import from_callable

    pool, costs = from_tensors(torch.arange(count, dtype=torch.float64).unsqueeze(1)), Costs()
    for width in WIDTHS:
        for dtype in ("float16", "float32"):
            for batch in (64, 1000):
                path = Path(folder) / f"{width}-{dtype}-{batch}.db"
                teacher = from_callable(
                    lambda x, w=width: x.float().expand(-1, w), fingerprint="made", name="made", code=""
                )
                ResponseStore(str(path), dtype=dtype).ask(teacher, pool, budget=count, batch_size=batch)
                costs[f"{width} x {dtype}, {batch} a commit B"] = path.stat().st_size / count
                path.unlink()
    return costs


def training(images: int) -> Costs:
    """A student's training on 32x32 images, batch 64."""
    from tuition import distill
    from tuition.data import TransferSet, from_tensors

    generator = torch.Generator().manual_seed(0)
    pool = from_tensors(torch.randint(0, 256, (images + 64, 3, 32, 32), dtype=torch.uint8, generator=generator))
    transfer = TransferSet(pool, {"logits": torch.randn(images + 64, 100, generator=generator)})
    costs = Costs()
    for student in ("resnet8", "wrn_16_2"):
        asked, others = transfer[:images], transfer[images:]
        run = distill(student, asked, "ckd", validation=others, epochs=3, batch_size=64, device="cpu")
        costs[f"training {student}, an image and epoch s"] = min(row["seconds"] for row in run.history[1:]) / images
    return costs


# -- measuring ---------------------------------------------------------------------------------------------------------


class Moment(tuple[float, float]):
    """Seconds on the clock and of the processor."""

    def __sub__(self, other: Moment) -> Moment:
        return Moment(a - b for a, b in zip(self, other, strict=True))


def clock() -> Moment:
    return Moment((time.perf_counter(), time.process_time()))


def timed(function: Callable[[], Any]) -> Moment:
    begun = clock()
    function()
    return clock() - begun


def each(took: Moment, count: int, what: str) -> Costs:
    return {f"{what} s": took[0] / count, f"{what}, processor s": took[1] / count}


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0


def apart(function: Callable[..., Costs], *arguments: Any) -> Costs:
    """In a process of its own, so that peaks of memory are its own."""
    with multiprocessing.get_context("spawn").Pool(1) as process:
        return process.apply(function, arguments)


def human(value: float, kind: str) -> str:
    steps = [(1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")] if kind == "B" else [(86400, "days"), (3600, "h")]
    for size, name in steps:
        if value >= size:
            return f"{value / size:,.3g} {name}"
    return f"{value:,.3g} {kind}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--url", help="a PostgreSQL database to use instead of an SQLite file in a temporary folder")
    parser.add_argument("--announce", action="store_true", help="only announce the ask, and ask nothing")
    parser.add_argument("--json", type=Path, help="write the unit costs to this file")
    given = parser.parse_args()
    little = max(2000, given.inputs // 50)
    with tempfile.TemporaryDirectory() as folder:
        url = given.url or f"sqlite:///{folder}/store.db"
        if given.announce:
            for name, value in apart(announcing, url, given.inputs).items():
                print(f"{name.rpartition(' ')[0]}: {human(value, name.rpartition(' ')[2])}")
            return
        costs = apart(digests, given.inputs) | apart(asking, url, given.inputs)
        costs |= apart(commits, url, little)
        costs |= apart(sizes, folder, little) | apart(training, max(128, little // 20))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    kind = "PostgreSQL" if given.url else "SQLite"
    print(f"{given.inputs:,} inputs, {kind}; {platform.machine()}, {cores} cores, ", end="")
    print(f"load {os.getloadavg()[0]:.1f}, torch {torch.__version__}\n")
    print(f"| unit | one | {' | '.join(f'10^{len(str(n)) - 1}' for n in SIZES)} |")
    print("|---|---|" + "---|" * len(SIZES))
    for name, value in costs.items():
        what, _, kind = name.rpartition(" ")
        one = f"{value:,.0f} B" if kind == "B" else f"{value * 1e6:,.2f} µs"
        print(f"| {what} | {one} | {' | '.join(human(value * n, kind) for n in SIZES)} |")
    if given.json:
        given.json.write_text(json.dumps(costs, indent=2))


if __name__ == "__main__":
    main()
