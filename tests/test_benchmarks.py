"""The benchmarks of training run, and write what they print. Their figures are not looked at: tests run in company."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parent.parent / "benchmarks"


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("overhead", []),
        ("step", ["--methods", "ckd_published", "cutmix"]),
        ("pipeline", []),
        ("packing", []),
        ("streaming", ["--students", "cnn_8"]),
        ("parallel", []),
    ],
)
def test_each_runs_and_writes_its_rows(name, arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(FOLDER))
    file = tmp_path / "rows.json"
    monkeypatch.setattr(sys, "argv", [name, "--quick", "--device", "cpu", "--json", str(file), *arguments])
    importlib.import_module(name).main()
    found = json.loads(file.read_text())
    assert found["benchmark"] == name
    assert found["quick"]
    printed = capsys.readouterr().out
    for row in found["rows"]:
        assert all(value > 0 for value in row.values() if isinstance(value, float))
        assert str(row.get("method") or row.get("what") or row["processes"]) in printed


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("store", ["--responses", "3000", "--single", "20", "--maps", "20"], "a transfer set of 3000 read"),
        ("scale", ["--announce", "--inputs", "4000"], "another of 64 beside it, tight budget, in all: "),
        ("inflight", ["--requests", "50"], "1,000.0 | "),
    ],
)
def test_benchmarks_of_the_store_run(name, arguments, says):
    """In a process of their own, because two of them start others."""
    command = [sys.executable, FOLDER / f"{name}.py", *arguments]
    assert says in subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.long
def test_unit_costs_are_extrapolated(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(FOLDER))
    file = tmp_path / "costs.json"
    monkeypatch.setattr(sys, "argv", ["scale", "--inputs", "4000", "--json", str(file)])
    importlib.import_module("scale").main()
    costs = json.loads(file.read_text())
    assert costs["plan of an ask B"] == 16
    assert costs["1000 x float32, 1000 a commit B"] > 4000
    assert all(value >= 0 for value in costs.values())
    assert "| plan of an ask | 16 B | 16 MB | 1.6 GB | 16 GB |" in capsys.readouterr().out


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, and this would use it")
@pytest.mark.parametrize(("arguments", "says"), [([], "packing.py --json"), (["table1"], "tuition study table1 --out")])
def test_without_a_gpu_the_script_says_what_it_would_do(arguments, says, tmp_path):
    script = subprocess.run(
        [FOLDER / "gpu.sh", tmp_path / "out", *arguments],
        env=os.environ | {"PYTHON": sys.executable},
        capture_output=True,
        text=True,
    )
    assert script.returncode == 1
    assert "There is no GPU here" in script.stdout
    assert says in script.stdout
    assert not (tmp_path / "out").exists()


def test_the_benchmark_of_text_runs_and_its_splits_share_no_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(FOLDER))
    text = importlib.import_module("text")
    train, test = text.sentences(20, 8)
    assert not set(train.inputs) & set(test.inputs)
    assert (train.labels.bincount().tolist(), test.labels.bincount().tolist()) == ([20] * 6, [8] * 6)
    assert text.sentences(20, 8)[0].inputs == train.inputs
    found, store = tmp_path / "rows.json", str(tmp_path / "r.db")
    monkeypatch.setattr(sys, "argv", ["text", "--quick", "--store", store, "--json", str(found)])
    text.main()
    rows = json.loads(found.read_text())["rows"]
    assert rows[0]["recall@10"] == 100
    assert [(row["method"], row["seed"]) for row in rows[3:]] == [
        (method, seed) for method in ("mse", "ckd", "rkd", "rkd, centred") for seed in (0, 1)
    ]
    assert "| ckd | 40 | 0.01 |" in capsys.readouterr().out


def test_the_coverage_of_intervals_is_printed():
    command = [sys.executable, FOLDER / "coverage.py", "--repeats", "3", "--seeds", "3"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rows = [line for line in printed.splitlines() if line.startswith("| 3 |")]
    assert len(rows) == 5 * 4
    assert all(0 <= float(cell.split()[0]) <= 100 for row in rows for cell in row.split(" | ")[3:6])


def test_the_time_of_a_start_is_printed():
    """Whether it keeps what is promised depends on the machine: exit code 1 says that it did not."""
    command = [sys.executable, FOLDER / "startup.py", "--repeats", "1"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stderr
    assert done.stdout.count("| tuition") == 3


def test_an_arm_that_needs_half_the_calls_has_a_factor_of_two(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(FOLDER))
    curves = {"kd": {20: 60.0, 40: 80.0, 80: 100.0}, "ckd": {20: 80.0, 40: 100.0, 80: 100.0}}
    lines = ["arm,calls,seed,learning_rate,steps,images,seconds,validation,test,commit"]
    lines += [
        f"{arm},{calls},{seed},0.1,1,1,1.0,0,{accuracy + seed / 10},x"
        for arm, curve in curves.items()
        for calls, accuracy in curve.items()
        for seed in range(3)
    ]
    (tmp_path / "digits.csv").write_text("\n".join(lines) + "\n")
    monkeypatch.setattr(sys, "argv", ["fewer_calls", "show", str(tmp_path / "digits.csv")])
    importlib.import_module("fewer_calls").main()
    row = next(line for line in capsys.readouterr().out.split("90 %")[1].splitlines() if line.startswith("| ckd |"))
    # Of the mean curves, 60.1, 80.1, 100.1 and 80.1, 100.1: 90 lies 9.9 of 20 points beyond the second and the first.
    assert f"| {20 + 20 * 9.9 / 20:.0f} (" in row
    assert f"| {(40 + 40 * 9.9 / 20) / (20 + 20 * 9.9 / 20):.2f} (" in row
