"""A study, a run and an ask watched by the files that they leave, also while these are written."""

import json
import os
import pty
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from tuition import ResponseStore, data, teachers
from tuition.cli.main import app
from tuition.errors import UserError
from tuition.studies import paid_calls, records
from tuition.studies.watching import Count, frames, look, noted


def run_folder(folder: Path, **fields: Any) -> Path:
    """A run of 40 epochs that has written three, and the beginning of a fourth line."""
    folder.mkdir(parents=True, exist_ok=True)
    accounts = {"paid": 90, "served": 10, "failed": 3, "unknown": 0}
    bill = {"cost": "0.45", "input_tokens": 0, "output_tokens": 0, "metered": 0}
    record = {"settings": {"epochs": 40}, "status": "running", "accounts": accounts, "bill": bill} | fields
    (folder / "run.json").write_text(json.dumps(record))
    lines = ["1,0.1,2.5,2.5,30.0,90,2.0", "2,0.1,1.5,1.5,61.5,180,4.0", "3,0.1,1.25,1.25,60.0,270,6.0", "4,0.1,1"]
    (folder / "metrics.csv").write_text("epoch,learning_rate,kd,loss,validation,images,seconds\n" + "\n".join(lines))
    return folder


def state(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


def test_a_run_that_is_trained(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run")
    before = state(tmp_path)
    frame = look(folder)
    assert frame.counts == {"epochs": Count(3, 40, 0.5)}
    assert str(frame.counts["epochs"]) == "3 of 40, 30.0 a min, about 74 s left"
    assert frame.facts == {
        "status": "running",
        "loss": "1.25",
        "validation": "60.00 %",
        "best so far": "61.50 %",
        "teacher calls": "90 calls, cost 0.45, 3 failed and not paid",
    }
    assert not frame.ended
    assert state(tmp_path) == before, "nothing is written"
    (folder / "metrics.csv").unlink()
    assert look(folder).counts == {"epochs": Count(0, 40)}
    assert look(run_folder(folder, status="done")).ended


def test_a_run_in_rounds_shows_the_latest_one(tmp_path: Path) -> None:
    (tmp_path / "rounds.csv").write_text("round,calls,validation\n1,50,61.25\n2,100,70.5\n3,20")
    run_folder(tmp_path / "rounds" / "9", status="done")
    run_folder(tmp_path / "rounds" / "10")
    frame = look(tmp_path)
    assert frame.counts == {"epochs of round 10": Count(3, 40, 0.5)}
    assert frame.facts["round 1"] == "50 inputs, validation 61.25 %"
    assert frame.facts["round 2"] == "100 inputs, validation 70.50 %"
    assert "round 3" not in frame.facts
    assert not frame.ended


def test_a_study_that_runs(tmp_path: Path, runs: Any) -> None:
    calls: list[tuple[str, int, int]] = []
    show = noted(tmp_path / "study", lambda *arguments: calls.append(arguments))
    folder = tmp_path / "study"
    for done in range(3):
        show("calls", done, 100)
    assert calls == [("calls", done, 100) for done in range(3)]
    assert look(folder).counts["calls"][:2] == (0, 100), "written once a phase: the store counts calls"
    made = runs(methods=("ckd", "kd"), calls=(1600, 2400), seeds=2)
    for record in made:
        records.append(folder, record)
    records.append(folder, replace(made[0], key="failed", seed=9, status="failed", accuracy=float("nan")))
    with (folder / "runs.csv").open("a") as file:
        file.write("half,a,li")
    show("runs", 2, 12)
    show("runs", 9, 12)
    paid_calls.write(folder, [paid_calls.PaidCalls("wrn_40_2", data.Accounts(paid=2400), data.Bill())])
    frame = look(folder)
    assert frame.counts["runs"][:2] == (9, 12)
    assert frame.counts["runs"].rate > 0, "since the first count of this phase"
    best = sum(run.accuracy for run in made if (run.method, run.calls) == ("ckd", 2400)) / 2
    assert frame.facts == {
        "failed": "1",
        "paid for WRN-40-2": "2,400 calls",
        "best so far, CIFAR-100, WRN-40-2 → WRN-16-2": f"CKD {best:.2f} % at 2,400 calls, 2 seeds",
    }
    assert not frame.ended
    show("runs", 12, 12)
    assert look(folder).ended


def test_an_ask_is_seen_from_outside_while_its_teacher_answers(tmp_path: Path) -> None:
    seen = []

    def answer(inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        seen.append(look(tmp_path))
        return {"logits": torch.eye(10)[inputs.flatten(1).sum(1).long() % 10]}

    store = ResponseStore(str(tmp_path / "responses.db"))
    pool = data.load("digits")[:40]
    ask = {"budget": 40, "batch_size": 10, "cost_per_call": "0.5", "check_answers": False}
    store.ask(teachers.from_callable(answer, fingerprint="f", name="t"), pool.without_labels, **ask)
    looked = seen[-4:]
    assert [frame.counts["inputs asked of t"][:2] for frame in looked] == [(0, 40), (10, 40), (20, 40), (30, 40)]
    assert looked[2].facts == {
        "stored answers of t": "20",
        "paid for t": "20 calls, cost 10.00",
        "waiting for t": "10 calls",
    }
    after = look(tmp_path)
    assert after.counts == {}
    assert after.facts == {"stored answers of t": "40", "paid for t": "40 calls, cost 20.00"}


def test_a_rate_is_found_by_looking_twice(tmp_path: Path) -> None:
    (tmp_path / "progress.json").write_text(json.dumps(dict(what="x", done=5, total=9, began=1.0, first=5, now=1.0)))
    looks = frames(tmp_path)
    assert next(looks).counts["x"].rate is None
    (tmp_path / "progress.json").write_text(json.dumps(dict(what="x", done=7, total=9, began=1.0, first=7, now=1.0)))
    assert next(looks).counts["x"].rate > 0


def test_what_cannot_be_watched_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="none is not a folder; name that of a study"):
        look(tmp_path / "none")
    with pytest.raises(UserError, match="holds no study, no run and no store of answers"):
        look(tmp_path)


def test_once_and_a_pipe_print_one_look(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run")
    for options in ([], ["--once"]):
        result = CliRunner().invoke(app, ["watch", str(folder), *options])
        assert result.exit_code == 0
        assert result.stdout.count("3 of 40, 30.0 a min") == 1
    found = json.loads(CliRunner().invoke(app, ["watch", str(folder), "--json"]).stdout)
    assert found["counts"]["epochs"] == {"done": 3, "total": 40, "rate": 0.5}
    assert found["facts"]["best so far"] == "61.50 %"


@pytest.mark.slow
def test_on_a_terminal_it_is_shown_until_ctrl_c_which_is_no_error(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run")
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "tuition", "watch", str(folder)]
    screen = os.environ | {"COLUMNS": "100", "LINES": "40", "TERM": "xterm"}
    process = subprocess.Popen(command, stdout=theirs, stderr=theirs, env=screen)
    os.close(theirs)
    shown = b""
    while b"61.50 %" not in shown:
        shown += os.read(ours, 1 << 16)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=120) == 0
    os.close(ours)
