"""Processes that are really killed, and a teacher that really fails. The long form is tests/store/faults.py."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tuition import teachers
from tuition.data import Accounts, from_tensors
from tuition.store import ResponseStore, verify

ASK = """
import os, sys, time, torch
from tuition import teachers
from tuition.data import from_tensors
from tuition.store import ResponseStore

def answer(inputs):
    if 50 in inputs:
        print("in flight", flush=True)
        time.sleep(3600)
    return inputs * 2

pool = from_tensors(torch.arange(100.0).unsqueeze(1))
teacher = teachers.from_callable(answer, fingerprint="twice", name="twice", code="")
ResponseStore(sys.argv[1]).ask(teacher, pool, budget=100, batch_size=10, concurrency=int(sys.argv[2]))
"""


@pytest.mark.parametrize("concurrency", ["1", "3"])
def test_what_a_killed_asker_had_in_flight_is_settled_at_once(url: str, concurrency: str) -> None:
    """While it lives, its inputs are waited for; when it is killed, they are paid, unknown and free."""
    asker = subprocess.Popen([sys.executable, "-c", ASK, url, concurrency], stdout=subprocess.PIPE, text=True)
    assert asker.stdout is not None
    assert asker.stdout.readline() == "in flight\n"
    answered = 50 if concurrency == "1" else 90
    deadline = time.monotonic() + 120
    while verify(ResponseStore(url)).intact < answered and time.monotonic() < deadline:
        time.sleep(0.05)
    store = ResponseStore(url)
    assert store.accounts() == Accounts(paid=answered), "the request in flight belongs to a living asker"

    os.kill(asker.pid, signal.SIGKILL)
    asker.wait()
    pool = from_tensors(torch.arange(100.0).unsqueeze(1))
    teacher = teachers.from_callable(lambda x: x * 2, fingerprint="twice", name="twice", code="")
    transfer = store.ask(teacher, pool, budget=110)
    assert transfer.accounts == Accounts(paid=100 - answered, served=answered)
    assert store.accounts() == Accounts(paid=110, served=answered, unknown=10)
    assert torch.equal(transfer.responses["logits"], pool.inputs * 2)
    if url.startswith("sqlite"):
        assert [file.name for file in Path(url.removeprefix("sqlite:///")).parent.iterdir()] == ["responses.db"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_faults(kind: str, request: pytest.FixtureRequest) -> None:
    """The short form of the long run, whose printed result is published."""
    arguments = ["--runs", "8", "--runs-a-store", "2"]
    if kind == "postgresql":
        arguments += ["--postgresql", request.getfixturevalue("server")]
    script = Path(__file__).with_name("faults.py")
    done = subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no difference in 8 runs" in done.stdout
