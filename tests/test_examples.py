"""Each script in examples/ runs in an empty folder, without a network, and says what its readers are to see."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
EXPECTED = {
    "callable_teacher": [
        "Accounts(paid=0, served=120",
        "nothing was asked, raise the budget",
        "accuracy of the student of 120 calls",
    ],
    "onnx_teacher": ["the net that is exported has", "accuracy of the student of 160 calls"],
    "openai_teacher": [
        "first: Accounts(paid=20, served=0, failed=3",
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
        [sys.executable, EXAMPLES / f"{name}.py"],
        cwd=tmp_path,
        env=here | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    for words in EXPECTED[name]:
        assert words in run.stdout
