"""Askers that are killed and interrupted over HTTP, and the accounts that are left. The long form is http_faults.py."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from tuition import ResponseStore
from tuition.data import Accounts
from tuition.store import verify

KEY = "sk-7hKq2ZxW9-of-the-command-line"


@pytest.mark.slow
def test_faults() -> None:
    """Five stores: of both protocols, with and without kills."""
    script = Path(__file__).with_name("http_faults.py")
    command = [sys.executable, script, "--runs", "5", "--runs-a-store", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no difference in 5 runs" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("concurrency", [1, 3])
def test_ctrl_c_at_the_command_line(server, reply, tmp_path, concurrency) -> None:
    """What arrived is stored, what is in flight is paid and unknown; then the same command asks for the rest."""
    held = threading.Event()

    def answer(request):
        if request.method == "GET":
            return reply({"name": "net", "versions": ["1"], "inputs": [], "outputs": []})
        if len(server.requests) > 5:  # the metadata, and four batches that are answered
            held.wait(60)
        tensor = request.body["inputs"][0]
        rows = torch.tensor(tensor["data"]).view(tensor["shape"][0], -1)[:, :10]
        output = {"name": "y", "datatype": "FP32", "shape": list(rows.shape), "data": rows.flatten().tolist()}
        return reply({"outputs": [output]})

    server.reply = answer
    command = [sys.executable, "-m", "tuition", "ask", "--data", "digits", "--teacher", "user:teacher", "--calls", "60"]
    command += ["--store", "store.db", "--set", "ask_batch=5", "--set", f"concurrency={concurrency}"]
    (tmp_path / "user.py").write_text(
        "from tuition import teachers\n"
        f"def teacher(): return teachers.from_v2({server.url + '/v2/models/net'!r}, key_variable='A_KEY')\n"
    )
    settings = {"cwd": tmp_path, "env": os.environ | {"A_KEY": KEY, "OMP_NUM_THREADS": "1"}, "text": True}
    asker = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **settings)
    deadline = time.monotonic() + 120
    while len(server.requests) < 5 + concurrency:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    store = ResponseStore(str(tmp_path / "store.db"))
    while verify(store).intact < 20:  # the last answer is recorded
        assert time.monotonic() < deadline
        time.sleep(0.05)
    asker.send_signal(signal.SIGINT)
    said, _ = asker.communicate(timeout=120)
    assert asker.returncode == 130, said
    assert "Stopped. Give the same command again" in said
    in_flight = 5 * concurrency
    assert store.accounts() == Accounts(paid=20 + in_flight, unknown=in_flight, served=0)
    assert verify(store).intact == 20

    held.set()
    done = subprocess.run(command, capture_output=True, **settings)
    assert done.returncode == 0, done.stderr
    assert "Teacher calls: 40 paid, 20 from cache, 0 failed, 0 in flight when interrupted." in done.stderr
    assert all(request.headers["authorization"] == f"Bearer {KEY}" for request in server.requests)
    assert KEY not in said + done.stdout + done.stderr
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or KEY.encode() not in path.read_bytes(), path
