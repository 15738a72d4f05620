"""Requests in flight on average, with 1,000 allowed: `python benchmarks/inflight.py [--requests 6000] [--url ...]`.

A teacher that takes half a second is asked about one input a request. The average is the time that all requests took,
over the time that the ask took; the limit is 1,000, less what the beginning and the end of the ask take.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from pathlib import Path

import torch

from tuition.data import from_tensors
from tuition.store import ResponseStore
from tuition.teachers import from_callable

SECONDS = 0.5  # of a request


def measure(url: str, requests: int, concurrency: int) -> dict[str, float]:
    """One ask about new inputs, in a new store."""
    spent, most, here, lock = 0.0, 0, 0, threading.Lock()

    def answer(inputs: torch.Tensor) -> torch.Tensor:
        nonlocal spent, most, here
        begun = time.perf_counter()
        with lock:
            here += 1
            most = max(most, here)
        time.sleep(SECONDS)
        with lock:
            here -= 1
            spent += time.perf_counter() - begun
        return inputs.expand(-1, 100)

    pool = from_tensors(torch.arange(float(requests)).unsqueeze(1))
    _ = pool.digests
    teacher = from_callable(answer, fingerprint="slow", name="slow")
    store = ResponseStore(url)
    begun, processor = time.perf_counter(), time.process_time()
    transfer = store.ask(teacher, pool, budget=requests, batch_size=1, concurrency=concurrency)
    seconds = time.perf_counter() - begun
    assert transfer.accounts.paid == requests
    return {
        "concurrency": concurrency,
        "seconds": seconds,
        "in flight on average": spent / seconds,
        "most": most,
        "requests a second": requests / seconds,
        "processor, ms a request": (time.process_time() - processor) / requests * 1e3,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=6000)
    parser.add_argument("--url", help="an empty database to use instead of an SQLite file in a temporary folder")
    parser.add_argument("--json", type=Path, help="write the table to this file too")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for concurrency in (1000,) if given.url else (64, 256, 1000):
        with tempfile.TemporaryDirectory() as folder:
            count = min(given.requests, concurrency * 10)
            rows.append(measure(given.url or f"{folder}/responses.db", count, concurrency))
    print(" | ".join(rows[0]))
    for row in rows:
        print(" | ".join(f"{value:,.1f}" for value in row.values()))
    if given.json is not None:
        given.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
