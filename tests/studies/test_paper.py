"""The paper's studies: what they hold in full, and that each runs in its smallest size."""

import io
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tuition.cli import main as cli
from tuition.pipeline.settings import TeachSettings
from tuition.pipeline.teach import teach
from tuition.studies import grid, published, records, study
from tuition.studies.executor import Outcome
from tuition.training.methods import METHODS

NAMES = [
    *("figure2-resnet", "figure2-vgg", "figure2-wrn", "figure3-cars"),
    *("figure4", "figure5", "kwise", "table1", "table2"),
]
BASELINES = {"ce", "kd", "mse", "rkd", "dist", "mixup", "crd"}
FORMS = {"ckd", "ckd_exact", "ckd_published"}
CIFAR = Path(__file__).parents[3] / "shared" / "data" / "cifar100"
WHO = {"teacher": "t", "data": "d"}


def printed_pairs(table):
    return {tuple(pair.split()) for pair in published.read()[table]["pairs"]}


def in_this_process(function, jobs, workers=None):
    return (Outcome(i, function(task)) for i, task in enumerate(jobs))


def settings_of(name, *variants):
    """Every row of a study whose validation is always equal, so that first candidates are chosen."""
    full = grid.read(name, variants)
    same = {
        "key": "",
        **dict.fromkeys(("dataset", "teacher", "student", "method", "schedule"), ""),
        **dict.fromkeys(("calls", "seed", "learning_rate", "epochs"), 0),
    }
    done = records.Record(accounting="published", purpose="result", validation=1.0, **same)
    now = grid.plan(full, lambda planned: done, lambda _: WHO)
    return full, {row: SimpleNamespace(**planned.settings.flat()) for row, planned in now.rows.items()}


def test_all_of_them_are_there():
    assert grid.names() == sorted([*NAMES, "offset"])


@pytest.mark.parametrize("name", NAMES)
def test_in_full_they_follow_the_protocol(name):
    full, settings_by_row = settings_of(name)
    results = [settings for end, settings in settings_by_row.items() if end.purpose == "result"]
    tried = [settings for end, settings in settings_by_row.items() if end.purpose == "selection"]
    for chosen in results:
        assert (chosen.schedule, chosen.patience, chosen.epochs) == ("stages", 50, 1000)
        assert (chosen.batch_size, chosen.momentum, chosen.weight_decay) == (64, 0.9, 5e-4)
        assert chosen.data == ("stanford_cars" if name == "figure3-cars" else "cifar100")
    assert {chosen.seed for chosen in results} == set(range(5))
    assert {chosen.learning_rate for chosen in tried} == {0.1, 0.05, 0.025}
    assert {(chosen.calls, chosen.seed) for chosen in tried} == {(chosen.calls, chosen.seed) for chosen in results}
    accountings = {end.accounting for end in settings_by_row}
    assert accountings == ({"matched"} if name == "kwise" else {"published", "matched"})
    assert {row.method for row in full.methods} <= set(METHODS)
    for pair in full.pairs:
        assert (pair.teacher, pair.student) in printed_pairs("table1")


def test_methods_and_budgets_are_the_papers():
    rows, budgets, pairs = {}, {}, {}
    for name in NAMES:
        full = grid.read(name)
        rows[name] = {row.title({}) for row in full.methods}
        budgets[name] = full.axes["calls"]
        pairs[name] = {(pair.teacher, pair.student) for pair in full.pairs}
    subsets = [2000, 2500, 3000, 3500, 4000, 4500, 5000, 6000]
    for name in ("figure2-wrn", "figure2-vgg", "figure2-resnet", "figure3-cars"):
        assert budgets[name] == [subset * 4 // 5 for subset in subsets]
        assert rows[name] >= BASELINES | FORMS
    assert budgets["table1"] == [subset * 4 // 5 for subset in (*subsets, 7000, 8000)]
    assert pairs["table1"] == printed_pairs("table1")
    assert set(budgets["table2"]) == set(published.read()["table2"]["calls"])
    assert pairs["table2"] == printed_pairs("table2")
    white_box = {method for pair in printed_pairs("table2") for method in published.table2("cifar100", *pair)}
    assert rows["table2"] >= white_box | {"mse", "ckd", "fitnets_ckd_published"}
    assert rows["figure4"] >= {"rkd", "rkd_10", "rkd_50", "rkd_100", "rkd_100_alone", "mse"} | FORMS
    assert budgets["figure5"] == [1600, 2000]
    assert grid.read("figure5").spectra
    assert rows["kwise"] >= {"ckd_published", "ckd_2_1", "ckd_2_2", "mse"} | FORMS


def test_published_ckd_tunes_its_groups_too_and_fast_does_not():
    def tried(name, *variants):
        _, settings_by_row = settings_of(name, *variants)
        return {
            (s.learning_rate, s.options.get("left"))
            for end, s in settings_by_row.items()
            if end.purpose == "selection" and end.row == "ckd_published"
        }

    assert len(tried("figure2-wrn")) == 6
    assert len(tried("figure2-wrn", "fast")) == 3


@pytest.mark.parametrize("name", NAMES)
def test_fast_is_a_cosine_with_settings_chosen_once(name):
    _, settings_by_row = settings_of(name, "fast")
    results = [settings for end, settings in settings_by_row.items() if end.purpose == "result"]
    assert {(chosen.schedule, chosen.epochs) for chosen in results} == {("cosine", 120)}
    assert {chosen.seed for chosen in results} == {0, 1, 2}
    at = {(s.calls, s.seed) for end, s in settings_by_row.items() if end.purpose == "selection"}
    assert at == {(2000 if name == "figure5" else 2400, 0)}


@pytest.mark.parametrize("name", NAMES)
def test_digits_swaps_in_its_pair_and_small_budgets(name):
    for variants in (["digits"], ["fast", "digits"]):
        _, settings_by_row = settings_of(name, *variants)
        for chosen in settings_by_row.values():
            assert (chosen.data, chosen.teacher, chosen.student) == ("digits", "cnn_32", "cnn_8")
            assert chosen.calls * 5 // 4 <= 1297


@pytest.mark.long
def test_each_runs_on_digits_in_its_smallest_size(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "run_parallel", in_this_process)
    teacher = tmp_path / "cnn_32"
    teach(TeachSettings.of({"model": "cnn_32", "examples": 300, "epochs": 2, "device": "cpu"}), teacher)
    before: list[Path] = []
    for name in NAMES:
        full = grid.read(name, ["digits", "smoke"], {"device": "cpu"})
        out = tmp_path / name
        # Studies that share runs make them once.
        summary = study.run(full, out, teachers=[teacher], continue_from=before)
        assert not summary.failed, summary.failed[0].error
        recorded = records.read(out)
        results = {(r.method, r.calls, r.seed, r.accounting) for r in recorded if r.purpose == "result"}
        rows = [row.title({}) for row in full.methods]
        assert results == {
            (row, calls, seed, accounting)
            for row in rows
            for calls in full.axes["calls"]
            for seed in full.axes["seed"]
            for accounting in full.axes["accounting"]
        }
        assert not any(math.isnan(r.accuracy) for r in recorded)
        assert {r.learning_rate for r in recorded if r.purpose == "selection"} == {0.1, 0.05}
        assert (name == "figure5") == bool(records.read_spectra(out))
        before.append(out)


def cifar_subset(split, count):
    """The first images of a split, as arrays: to decode them all would take longer than the study."""
    import pyarrow.parquet as pq
    from PIL import Image

    rows = next(pq.ParquetFile(CIFAR / f"{split}.parquet").iter_batches(count)).to_pylist()
    images = [np.asarray(Image.open(io.BytesIO(row["img"]["bytes"]))).transpose(2, 0, 1) for row in rows]
    return {"inputs": np.stack(images), "labels": np.array([row["fine_label"] for row in rows])}


@pytest.mark.slow
@pytest.mark.skipif(not CIFAR.is_dir(), reason=f"CIFAR-100 is not at {CIFAR}")
def test_one_runs_on_a_subset_of_cifar100_by_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(study, "run_parallel", in_this_process)
    folder, out = tmp_path / "cifar100", tmp_path / "out"
    folder.mkdir()
    np.savez(folder / "train.npz", **cifar_subset("train-00000-of-00003", 1500))
    np.savez(folder / "test.npz", **cifar_subset("test-00000-of-00001", 500))
    words = ["tuition", "study", "kwise", "--smoke", "--data", str(folder), "--out", str(out)]
    monkeypatch.setattr(sys, "argv", [*words, "--set", "device=cpu"])
    cli.main()
    printed = capsys.readouterr()
    assert "CIFAR-100, cnn_32" in printed.out
    assert "equal inputs seen" in printed.out
    recorded = records.read(out)
    assert {r.dataset for r in recorded} == {"cifar100"}
    assert len([r for r in recorded if r.purpose == "result"]) == 3 * 2 * 2
    assert str(tmp_path) not in (out / "runs.csv").read_text()
    assert (out / "report.html").exists()
