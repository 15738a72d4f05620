"""Ctrl-C at any moment of an ask from Python: the store is free at once, and the books are exact."""

import contextlib
import os
import random
import signal
import sqlite3
import threading
from pathlib import Path

import pytest
import torch

from tuition import ResponseStore, teachers
from tuition.data import from_tensors


@pytest.mark.slow
def test_an_interrupt_leaves_no_lock_behind(tmp_path: Path) -> None:
    pool, chance, interrupted = from_tensors(torch.arange(200.0).unsqueeze(1)), random.Random(0), 0
    teacher = teachers.from_callable(lambda inputs: inputs * 2, fingerprint="1", name="t")
    for trial in range(30):
        path = tmp_path / f"{trial}.db"
        store = ResponseStore(str(path))
        timer = threading.Timer(chance.uniform(0.005, 0.1), os.kill, (os.getpid(), signal.SIGINT))
        try:
            timer.start()
            store.ask(teacher, pool, budget=400, batch_size=2, concurrency=1 + 3 * (trial % 2))
            timer.join()
        except KeyboardInterrupt:
            interrupted += 1
        timer.join()
        with contextlib.closing(sqlite3.connect(path, timeout=0)) as connection:
            connection.execute("BEGIN IMMEDIATE")  # raises if anybody holds the lock
        store.ask(teacher, pool, budget=400)
        accounts = store.accounts()
        assert accounts.paid - accounts.unknown == 200
    assert interrupted > 0
