"""The store at size: rates, file sizes, memory. `python benchmarks/store.py [--responses 1000000] [--url postgresql://...]`."""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from tuition.data import Pool, from_tensors
from tuition.store import ResponseStore
from tuition.teachers import from_callable

COLUMNS = 100


def numbered(count: int) -> Pool:
    """A pool of different inputs, digested already: that is the pool's work, not the store's."""
    pool = from_tensors(torch.arange(count, dtype=torch.float64).unsqueeze(1))
    _ = pool.digests
    return pool


def answers(inputs: torch.Tensor) -> torch.Tensor:
    """Logits that depend on the input and cost next to nothing."""
    return (inputs.float() * 0.37 + torch.arange(COLUMNS)).sin() * 10


def logits(name: str, url: str, count: int, batch: int, read: int) -> None:
    """Write `count` responses at `batch` a commit, then read a random transfer set of `read`."""
    pool = numbered(count)
    teacher = from_callable(answers, fingerprint=name, name=name)
    store = ResponseStore(url, dtype="float16")
    settled = [time.perf_counter()]
    store.ask(teacher, pool, budget=count, batch_size=batch, progress=lambda *_: settled.append(time.perf_counter()))
    print(f"{name}: {count} reserved, asked and stored at {count / (settled[-1] - settled[0]):,.0f} a second", end=", ")
    print(f"and all read back in {time.perf_counter() - settled[-1]:.1f} s")
    part = pool.sample(min(read, count), seed=0)
    _ = part.digests
    start = time.perf_counter()
    transfer = store.ask(teacher, part, budget=count)
    seconds = time.perf_counter() - start
    expected = answers(part.inputs)
    assert torch.equal(transfer.responses["logits"], expected.half().float())
    print(f"{name}: a transfer set of {len(part)} read in {seconds:.2f} s")
    size(name, url, count * COLUMNS * 2)


def maps(name: str, url: str, count: int) -> None:
    """Feature maps of 64x16x16 in bfloat16: 32 KiB each."""
    import resource

    def answer(inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"logits": inputs.float().expand(-1, 10), "map": inputs.float().view(-1, 1, 1, 1).expand(-1, 64, 16, 16)}

    pool, teacher = numbered(count), from_callable(answer, fingerprint=name, name=name)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    transfer = ResponseStore(url).ask(teacher, pool, budget=count)
    seconds = time.perf_counter() - start
    start = time.perf_counter()
    transfer = ResponseStore(url).ask(teacher, pool, budget=count)
    raw = transfer.responses["map"].nbytes
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(f"{name}: {count} maps ({raw >> 20} MiB) asked and read back in {seconds:.1f} s", end=", ")
    print(f"read again in {time.perf_counter() - start:.1f} s, peak {peak >> 10} MiB more than before")
    size(name, url, raw)


def size(name: str, url: str, raw: int) -> None:
    if url.startswith("sqlite"):
        path = Path(url.removeprefix("sqlite:///"))
        stored = sum(file.stat().st_size for file in path.parent.glob(f"{path.name}*"))
        print(f"{name}: {stored / 2**20:,.1f} MiB, {stored / raw:.2f} times the raw payload")


def apart(function: Any, *arguments: Any) -> None:
    """In a process of its own, so that peaks of memory are its own."""
    process = multiprocessing.get_context("spawn").Process(target=function, args=arguments)
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"{arguments[0]} failed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--responses", type=int, default=1_000_000)
    parser.add_argument("--single", type=int, default=20_000, help="responses committed one by one")
    parser.add_argument("--maps", type=int, default=5_000)
    parser.add_argument("--url", help="a database to use instead of SQLite files in a temporary folder")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        url = (lambda name: given.url) if given.url else (lambda name: f"sqlite:///{folder}/{name}.db")
        apart(logits, "by the thousand", url("thousand"), given.responses, 1000, 50_000)
        apart(logits, "one by one", url("single"), given.single, 1, 50_000)
        apart(maps, "maps", url("maps"), given.maps)


if __name__ == "__main__":
    main()
