"""Studies whose rows ask in rounds and learn from unasked inputs: what they count, pay and keep."""

import pytest
from tests.studies.test_study import in_this_process, teacher  # noqa: F401

from tuition import ResponseStore, data, load
from tuition.errors import UserError
from tuition.pipeline.settings import DistillSettings
from tuition.pipeline.sources import Sources
from tuition.studies import grid, needed, paid_calls, records, study, study_calls
from tuition.studies.forecast import forecast
from tuition.studies.grid import Study

STUDY = {
    "settings": {"epochs": 2, "device": "cpu", "cost_per_call": "0.5"},
    "pairs": [{"teacher": "cnn_16", "student": "cnn_8"}],
    "methods": [
        "ckd",
        {"method": "ckd", "name": "ckd_rounds", "rounds": 2, "select": "diverse-margin", "unasked": "all"},
    ],
    "axes": {"calls": [20, 40], "seed": [0]},
}


@pytest.fixture
def here(monkeypatch):
    monkeypatch.setattr(study, "run_parallel", in_this_process)


def test_a_study_with_rounds_pays_no_more_than_it_announced_and_says_what(teacher, tmp_path, here):  # noqa: F811
    planned = Study.of(STUDY)
    ahead = forecast(planned, tmp_path, teachers=[teacher])
    assert (ahead.new, ahead.chosen, ahead.paid) == (40 + 60, 60, 0)  # draws at random are nested, rounds are not
    short = Study.of(STUDY | {"settings": STUDY["settings"] | {"budget": 99}})
    with pytest.raises(UserError, match="may need up to 100 new calls of cnn_16, 0 are paid, and the budget is 99"):
        study.run(short, tmp_path, teachers=[teacher])
    assert not (tmp_path / "responses.db").exists()

    summary = study.run(planned, tmp_path, teachers=[teacher])
    assert (summary.done, summary.failed, summary.left) == (4, [], 0)
    paid = ResponseStore(str(tmp_path / "responses.db")).accounts("cnn_16").paid
    assert 40 < paid <= 100
    (row,) = paid_calls.read([tmp_path])
    assert row.accounts.paid == paid
    rows = {(each.method, each.calls): each for each in records.read(tmp_path)}
    assert all(each.paid == calls for (_, calls), each in rows.items())
    assert rows["ckd_rounds", 40].settings["select"] == "diverse-margin"
    assert rows["ckd_rounds", 40].images_seen > 2 * rows["ckd", 40].images_seen
    (section,) = records.sections(rows.values())
    assert section.conditions.endswith("more in rounds and with unasked inputs")
    assert {each.method for each in needed.measured(tmp_path)} == {"ckd", "ckd_rounds"}
    assert load(tmp_path / "best").predict(data.load("digits", split="test")[:5]).classes is not None
    # Nothing is left to do or to pay.
    again = forecast(planned, tmp_path, teachers=[teacher])
    assert (again.runs, again.new) == (0, 0)
    assert study.run(planned, tmp_path, teachers=[teacher]).done == 4
    assert ResponseStore(str(tmp_path / "responses.db")).accounts("cnn_16").paid == paid


def test_rounds_of_many_runs_are_bounded_by_the_pool(teacher, tmp_path):  # noqa: F811
    settings = {"teacher": str(teacher), "store": str(tmp_path / "r"), "rounds": 2, "calls": 400}
    runs = [DistillSettings.of(settings | {"seed": seed}) for seed in range(6)]
    sources = Sources()
    (calls,) = study_calls.count(runs, sources).values()
    distinct = len(set(sources.train_pool(runs[0]).digests))
    assert calls.new == calls.chosen == distinct < 6 * 400
    assert [each.new for each in study_calls.count(runs[:2], sources).values()] == [800]


def test_images_count_all_rounds_and_unasked_inputs():
    base = {"calls": 100, "epochs": 3}
    assert grid.images(DistillSettings.of(base)) == 300
    assert grid.images(DistillSettings.of(base | {"rounds": 3})) == 3 * (25 + 50 + 100)
    assert grid.images(DistillSettings.of(base | {"unasked": "all"})) == 600
