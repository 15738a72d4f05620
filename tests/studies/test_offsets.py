"""Courses of the offset from records: means over seeds, the table's figures, and the figure's files."""

from dataclasses import replace

import numpy as np
import pytest

from tuition.errors import UserError
from tuition.studies import grid, offsets, records, report


@pytest.fixture
def noted(runs):
    """Two seeds of two methods: the offset of one falls from 4 to 1, of the other it is 0; and a run without."""
    made = []
    for run in runs(methods=("mse", "ckd"), calls=(1600,), seeds=2):
        start = 4.0 + run.seed if run.method == "mse" else 0.0
        course = [[epoch, 1.0, 50.0 + epoch, max(start - epoch, start / 4)] for epoch in range(1, 9)]
        made.append(replace(run, curve=course))
    return [*made, *runs(methods=("kd",), calls=(1600,), seeds=1)]


def test_courses_are_means_over_seeds_and_settle_over_the_last_quarter(noted):
    (section,) = records.sections(noted)
    found = offsets.courses(section)
    assert set(found) == {"mse", "ckd"}
    first, second = ([max(s - e, s / 4) for e in range(1, 9)] for s in (4.0, 5.0))
    expected = [[e, (a + b) / 2, 50.0 + e] for e, a, b in zip(range(1, 9), first, second, strict=True)]
    np.testing.assert_allclose(found["mse"], expected)
    table = offsets.table(section)
    rows = {row[0].text: [cell.text for cell in row[1:]] for row in table.rows}
    assert rows == {"MSE": ["3.50", "1.12", "57.5"], "CKD": ["0.00", "0.00", "57.5"]}
    assert len(table.data) == 16


def test_the_report_draws_them_and_writes_their_csv(noted, tmp_path):
    for run in noted:
        records.append(tmp_path / "study", run)
    report.build([tmp_path / "study"], tmp_path / "out")
    names = {path.name for path in (tmp_path / "out" / "figures").iterdir()}
    assert {"offset", "validation"} <= {name.partition("-")[0] for name in names}
    (table,) = (tmp_path / "out" / "tables").glob("offset-*.csv")
    assert len(table.read_text().splitlines()) == 17


def test_a_point_of_another_length_is_refused(noted, tmp_path):
    records.append(tmp_path, noted[0])
    path = tmp_path / "runs.csv"
    assert records.read(tmp_path)[0].curve == noted[0].curve
    path.write_text(path.read_text().replace("1.0,51.0,", "1.0,51.0,9.0,", 1))
    with pytest.raises(UserError, match="not three numbers, or four"):
        records.read(tmp_path)


def test_the_study_trains_at_a_constant_rate():
    study = grid.read("offset")
    now = grid.plan(study, lambda run: None, lambda settings: {"teacher": "t", "data": "d"})
    assert len(now.ready) == 16
    for run in now.ready:
        train = run.settings.train
        assert train.offset
        assert (train.schedule, train.patience > train.epochs) == ("stages", True)
    decays = {run.row: run.settings.train.weight_decay for run in now.ready}
    assert (decays["ckd_published_no_decay"], decays["ckd_published"], decays["ckd_published_decay"]) == (0, 5e-4, 5e-3)
