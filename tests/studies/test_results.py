"""What results/README.md and studies.md say is what their command gives from the runs beside them."""

import csv
import importlib.util
import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.optimize
import scipy.stats

from tuition.studies import records

RESULTS = Path(__file__).parents[2] / "results"


@pytest.fixture
def answers(monkeypatch):
    spec = importlib.util.spec_from_file_location("answers", RESULTS / "answers.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "answers", module)  # where its dataclasses look for their names
    spec.loader.exec_module(module)
    return module


def test_the_pages_hold_what_the_runs_say(answers):
    studies = answers.finished()
    for path, names in answers.PAGES.items():
        page = path.read_text()
        assert answers.written(page, studies, names) == page, f"run python results/answers.py --write, for {path.name}"
    page = (RESULTS / "README.md").read_text()
    assert answers.detail(studies) == (RESULTS / "studies.md").read_text()
    for folder in studies:
        assert folder == "." or folder in page


def accuracies(folder, method, calls, accounting):
    """Of seeds in order, read without the product."""
    with open(RESULTS / folder / "runs.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["purpose"] == "result" and row["status"] == "done"]
    place = {"method": method, "calls": str(calls), "accounting": accounting}
    return {int(r["seed"]): float(r["accuracy"]) for r in rows if place.items() <= r.items()}


def test_a_difference_of_the_page_is_that_of_its_runs(answers):
    ours, theirs = (accuracies(".", method, 1600, "matched") for method in ("ckd_published", "kd"))
    assert len(ours) == len(theirs) == 5
    test = scipy.stats.ttest_rel([ours[seed] for seed in range(5)], [theirs[seed] for seed in range(5)])
    low, high = test.confidence_interval()
    mean = np.mean([ours[seed] - theirs[seed] for seed in range(5)])
    cell = f"**{mean:+.1f}** ({low:+.1f} to {high:+.1f})"
    (row,) = (
        line for line in answers.as_published(answers.finished()["."]).splitlines() if "| equal | 1,600 |" in line
    )
    assert f"| {np.mean(list(theirs.values())):.1f} | " in row
    assert cell in row


def test_the_correction_is_over_a_table_and_counts_equal_comparisons_once(answers):
    """Holm's steps by hand for three tests, of which one is asked for twice."""
    generator = np.random.default_rng(0)
    kd = dict(enumerate(generator.normal(50, 1, 5)))
    others = [{seed: value + generator.normal(shift, 1) for seed, value in kd.items()} for shift in (0.5, 2.0, 4.0)]
    compare = answers.comparisons([(other, kd) for other in (*others, dict(others[0]))])
    raw = [scipy.stats.ttest_rel(list(other.values()), list(kd.values())).pvalue for other in others]
    first, second, third = np.argsort(raw)
    expected = {first: 3 * raw[first]}
    expected[second] = max(2 * raw[second], expected[first])
    expected[third] = max(raw[third], expected[second])
    for number, other in enumerate(others):
        assert compare(other, kd).corrected == pytest.approx(min(1, expected[number]))
    one = answers.comparisons([({0: 51.0}, {0: 50.0})])({0: 51.0}, {0: 50.0})
    assert (one.text, one.is_clear) == ("+1.0 (one seed)", False)


def test_calls_and_what_they_save_are_interpolated(answers, runs):
    made = [replace(run, method=run.method.replace("mse", "ckd_published")) for run in
            runs(methods=("ckd", "kd", "mse"), dataset="digits")]  # fmt: skip
    (section,) = records.sections(made)
    part = answers.Part("a study", section, section.curves)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in answers.calls([part]).splitlines()[2:]]

    def crossing(method, goal):
        counts = section.calls
        means = [np.mean(list(section.curves[method][n].values())) for n in counts]
        return float(np.interp(goal, means, counts))

    for _, _, goal, kd, published, *_ in rows:
        ours, theirs = (crossing(method, float(goal.split()[0])) for method in ("ckd_published", "kd"))
        assert kd == f"{theirs:,.0f}"
        if ours > section.calls[0]:
            assert published.startswith(f"{ours:,.0f} ({100 * (1 - ours / theirs):.1f} % [")
        else:
            assert published == f"< 1,600 (Δ > {100 * (1 - 1600 / theirs):.0f} %)"
    assert 1 < len(rows) <= 3


def test_factors_of_levers_are_those_of_their_runs(answers):
    rows = [line.split("|")[1:-1] for line in answers.levers([]).splitlines() if line.startswith("| ")][1:]
    for (task, target, arm, words), cells in zip(answers.LEVERS, rows, strict=True):
        with open(RESULTS / "fewer-calls" / f"{task}.csv", newline="") as file:
            tested = [row for row in csv.DictReader(file) if row["test"]]
        needed = {}
        for name in (arm, "kd", "mse"):
            counts = sorted({int(row["calls"]) for row in tested if row["arm"] == name})
            means = [
                np.mean([float(r["test"]) for r in tested if (r["arm"], r["calls"]) == (name, str(count))])
                for count in counts
            ]
            place = next(i for i, value in enumerate(means) if value >= target)
            needed[name] = np.interp(target, means[place - 1 : place + 1], counts[place - 1 : place + 1])
        assert cells[0].strip() == words
        assert cells[2].strip() == f"{needed[arm]:,.0f}"
        for cell, name in zip(cells[3:], ("kd", "mse"), strict=True):
            assert float(cell.split()[0].strip("*")) == pytest.approx(needed[name] / needed[arm], abs=0.006)


def test_what_a_row_is_worth_is_the_difference_of_its_runs(answers):
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in answers.worth([]).splitlines()[2:]]
    by_row = {(row, method): (default, authors, difference) for row, method, _, default, authors, difference in rows}
    found = {name: accuracies("deviations", name, 320, "published") for name in ("kd", "kd_D1", "kd_D7")}
    compared = [("D1", "kd", "kd_D1"), ("D7", "kd_D7", "kd")]  # kd_D7: half precision, which CUDA has by default
    for row, ours, theirs in compared:
        ours, theirs = (np.array([found[name][seed] for seed in range(10)]) for name in (ours, theirs))
        low, high = scipy.stats.ttest_rel(theirs, ours).confidence_interval()
        default, authors, difference = by_row[row, "KD"]
        assert (default, authors) == (f"{ours.mean():.1f}", f"{theirs.mean():.1f}")
        assert difference.replace("*", "") == f"{(theirs - ours).mean():+.1f} ({low:+.1f} to {high:+.1f})"
    page = (RESULTS.parent / "docs" / "deviations.md").read_text()
    listed = set(re.findall(r"^\| (D\d+) \|", page, re.M))
    assert {row for row, _ in by_row} == listed - {"D13"} | {"all but D6"}


def test_single_runs_are_collected(answers, tmp_path, capsys):
    settings = {"data": "tasks/cifar", "teacher_name": "lite", "student": {"name": "cnn_4"}, "calls": 40, "seed": 0}
    settings |= {"learning_rate": 0.05, "schedule": "stages", "accounting": "published"}
    results = dict.fromkeys(answers.MEASURED, 50.0) | dict.fromkeys(answers.COUNTED, 3) | {"accuracy": 61.5}
    run = {"status": "done", "settings": settings, "results": results, "versions": {}}
    run["accounts"] = {"paid": 30, "served": 10}
    for name, status in (("kd", "done"), ("ckd", "running")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(json.dumps(run | {"status": status}))
        (tmp_path / name / "metrics.csv").write_text("epoch,loss,validation,extra\n1,2.0,40.0,x\n2,1.0,50.0,x\n")
    for _ in range(2):  # a second time replaces the first
        answers.collect([tmp_path / name for name in ("kd", "ckd", "mse")], tmp_path / "out")
    (record,) = records.read(tmp_path / "out")
    assert (record.method, record.accuracy, record.paid, record.epochs) == ("kd", 61.5, 40, 3)
    assert record.curve == [[1, 2, 40], [2, 1, 50]]
    printed = capsys.readouterr().out
    assert "ckd is not finished" in printed
    assert "mse is not finished" in printed
    (part,) = answers.parts(tmp_path / "out", "WRN-16-2, as the authors")
    assert "| KD | as the authors | 40 | 61.5 | 50.0 | 3 | 3 |" in answers.single([part])


def test_a_ratio_lies_where_a_t_test_finds_nothing(answers):
    """The ends of Fieller's interval, searched."""
    above, below = np.array([2.0, 3.1, 2.4, 2.9, 3.6]), np.array([2.2, 2.5, 2.9, 2.0, 3.3])

    def p(ratio):
        return scipy.stats.ttest_1samp(above - ratio * below, 0).pvalue - 0.05

    middle = above.mean() / below.mean()
    expected = [scipy.optimize.brentq(p, *span) for span in ((0.1, middle), (middle, 5.0))]
    assert answers.fieller(above, below) == pytest.approx(expected)
    assert np.isnan(answers.fieller(above, below - 2.5)).all()  # the denominator may be zero
