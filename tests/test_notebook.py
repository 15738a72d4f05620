"""The quickstart notebook runs from top to bottom in an empty folder, and shows what it says."""

import re
from pathlib import Path

import nbclient
import nbformat
import pytest

NOTEBOOK = Path(__file__).parents[1] / "examples" / "quickstart.ipynb"
BARS = [(15, ""), (60, r", validation \d+\.\d\d %")]  # epochs, and what is shown beside the loss


@pytest.mark.slow
def test_the_quickstart_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert all(cell.get("outputs", []) == [] for cell in notebook.cells), "keep the notebook without outputs"
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": tmp_path}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    text = "".join(output.get("text", "") for output in outputs)
    # A bar of the teacher's training and one of the student's: one output each, at its end.
    drawn = [
        output["data"]["text/html"] for output in outputs if "<progress" in output.get("data", {}).get("text/html", "")
    ]
    assert len(drawn) == len(BARS)
    for bar, (epochs, shows) in zip(drawn, BARS, strict=True):
        words = (
            rf'<progress value="{epochs}" max="{epochs}"></progress> epochs: {epochs} of {epochs}, loss [\d.]+{shows}'
        )
        assert re.fullmatch(words, bar), bar
    assert "160 new calls, 0 from cache, cost 0.320" in text
    assert "160 paid, 0 from cache" in text
    assert "0 paid, 160 from cache" in text
    assert "% on test" in text
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2
    assert not re.search("in the (transfer|training) set too", text)
    assert {path.name for path in tmp_path.iterdir()} >= {"runs", "quickstart.db"}
