"""Each script in examples/ runs in an empty folder, without a network, and says what its readers are to see.

What a script trains on, validates on and tests on share no input. Code of pages and of the README: tests/docs.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
EXPECTED = {
    "callable_teacher": [
        "again:  0 paid, 120 from cache",
        "nothing was asked, raise the budget",
        "accuracy of the student of 120 calls",
    ],
    "onnx_teacher": ["the net that is exported has", "accuracy of the student of 160 calls"],
    "openai_teacher": [
        "first: 20 paid, 0 from cache, 3 failed",
        "stirred the soup      sports 0.00, cooking 0.99",
    ],
    "sklearn_teacher": ["% on test images", "accuracy of the student of 160 calls"],
    "text_embeddings": ["400 of them asked about; agreement on others", "Compute the inverse of a matrix. -> "],
    "timm_teacher": ["% on 200 test images", "accuracy of the student of 160 calls"],
    "transformers_teacher": ["The kitten naps on a couch.                   is nearest to: A cat sleeps on the sofa."],
    "v2_teacher": ["datatype FP32; output logits", "accuracy of the student of 160 calls"],
}
# What a script needs beside the development environment; it is skipped where that does not import.
NEEDS = {"timm_teacher": "timm"}

# Runs a script, with other settings for `distill` if any, and prints how many inputs its validation and test share with
# the transfer set, by the digests of their content.
WATCHED = """
import runpy, sys
import tuition

script, *changes = sys.argv[1:]
original = tuition.distill

def distill(student, transfer, *arguments, **settings):
    own = set(transfer.pool.digests)
    given = (settings.get("validation"), settings.get("test"))
    pools = [getattr(each, "pool", each) for each in given]
    print("shared inputs:", *(len(own & set(pool.digests)) if pool is not None else 0 for pool in pools))
    return original(student, transfer, *arguments, **settings | {k: int(v) for k, v in (c.split("=") for c in changes)})

tuition.distill = distill
runpy.run_path(script, run_name="__main__")
"""

# What would make a script ask a real server.
SERVERS = ("OPENAI_API_KEY", "OPENAI_BASE_URL", "MODEL", "MODEL_URL")


def test_every_script_is_run() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_an_example_runs(name: str, tmp_path: Path) -> None:
    if name in NEEDS:
        try:
            __import__(NEEDS[name])
        except (ImportError, RuntimeError) as error:  # RuntimeError: torchvision built for another torch
            pytest.skip(f"{NEEDS[name]} does not import here: {error}")
    here = {name: value for name, value in os.environ.items() if name not in SERVERS}
    run = subprocess.run(
        [sys.executable, "-c", WATCHED, EXAMPLES / f"{name}.py"],
        cwd=tmp_path,
        env=here | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    for words in EXPECTED[name]:
        assert words in run.stdout
    if "distill(" in (EXAMPLES / f"{name}.py").read_text():
        assert "shared inputs: 0 0" in run.stdout


def test_the_watch_sees_a_leak(tmp_path: Path) -> None:
    script = tmp_path / "leak.py"
    script.write_text(
        "import torch\n"
        "from tuition import data, distill\n"
        "pool = data.load('digits')\n"
        "answers = data.TransferSet(pool[:40], {'logits': torch.zeros(40, 10)})\n"
        "distill('cnn_4', answers, 'kd', validation=pool[37:60], test=pool[30:31])\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", WATCHED, script, "epochs=1"], cwd=tmp_path, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert "shared inputs: 3 1" in run.stdout
