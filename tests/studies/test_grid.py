"""Study files, the grids they stand for, keys of runs, and the choice of settings."""

import math
from collections import Counter
from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tuition.errors import UserError
from tuition.pipeline.settings import DistillSettings
from tuition.studies import grid
from tuition.studies.grid import Study
from tuition.studies.records import Record

WHO = {"teacher": "fingerprint", "data": "digest"}
SMALL = {
    "settings": {"epochs": 4},
    "pairs": [{"teacher": "cnn_16", "student": "cnn_8"}],
    "methods": ["kd", "ckd_published"],
    "axes": {"calls": [40, 80], "seed": [0, 1, 2], "accounting": ["published", "matched"]},
}
RATES = {"candidates": {"learning_rate": [0.1, 0.05]}}


def key(**changes):
    return grid.key_of(DistillSettings.of(changes), WHO)


def plan(study, known=()):
    records = {record.key: record for record in known}
    return grid.plan(study, lambda planned: records.get(planned.key), lambda _: WHO)


def record(planned, validation, **fields):
    names = ("student", "calls", "seed", "learning_rate", "schedule", "epochs", "accounting")
    chosen = {name: planned.settings.flat()[name] for name in names}
    fields = {"accuracy": 50.0} | fields
    return Record(
        key=planned.key,
        dataset="d",
        teacher="t",
        method=planned.row,
        purpose="selection",
        validation=validation,
        **chosen,
        **fields,
    )


# -- files -------------------------------------------------------------------------------------------------------------


def test_later_goes_before_earlier_key_by_key_and_null_removes(tmp_path):
    (tmp_path / "base.yaml").write_text(
        "settings: {epochs: 5, momentum: 0.8}\npairs: [{teacher: a, student: b}]\nmethods: [ce, kd]\n"
        "axes: {calls: [10], view: [clean, random]}\nvariants: {quick: {settings: {epochs: 1}, axes: {view: null}}}\n"
    )
    (tmp_path / "child.yaml").write_text(
        "extends: base.yaml\nsettings: {epochs: 7}\nmethods: [ckd]\nvariants: {quick: {axes: {seed: [3]}}}\n"
    )
    name = str(tmp_path / "child.yaml")
    study = grid.read(name)
    assert study.settings == {"epochs": 7, "momentum": 0.8}
    assert [row.method for row in study.methods] == ["ckd"]
    assert study.axes == {"calls": [10], "view": ["clean", "random"]}
    study = grid.read(name, ["quick"])
    assert study.settings == {"epochs": 1, "momentum": 0.8}
    assert study.axes == {"calls": [10], "seed": [3]}


def test_changes_take_the_place_of_settings_axes_and_candidates():
    study = grid.read("figure2-wrn", ["fast"], {"test": None, "calls": 20, "view": ["clean"], "learning_rate": 0.3})
    assert study.settings == {"data": "cifar100", "schedule": "cosine", "epochs": 120, "patience": 50, "test": None}
    assert (study.axes["calls"], study.axes["view"], study.axes["seed"]) == ([20], ["clean"], [0, 1, 2])
    assert study.choose.candidates == {"learning_rate": [0.3]}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("pairs: []\nmethods: [kd]", "pairs"),
        ("pairs: [{teacher: a}]\nmethods: [kd]", r"pairs\.0\.student"),
        ("pairs: [{teacher: a, student: b}]\nmethods: [kd]\naxis: {calls: [3]}", "did you mean axes"),
        ("pairs: [{teacher: a, student: b}]\nmethods: [{name: kd}]", r"methods\.0\.method"),
        ("data: digits\npairs: [{teacher: a, student: b}]", "data is a setting of each run; write it under settings"),
        ("extends: figure2-wm", "did you mean figure2-wrn"),
    ],
)
def test_a_study_that_cannot_be_is_one_sentence(tmp_path, text, sentence):
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(UserError, match=sentence):
        grid.read(str(tmp_path / "s.yaml"))


def test_unknown_studies_variants_and_settings_are_named(tmp_path):
    with pytest.raises(UserError, match="did you mean table1"):
        grid.read("tabel1")
    with pytest.raises(UserError, match="no variant 'slow'; it has fast, as_authors, digits, smoke"):
        grid.read("table1", ["slow"])
    with pytest.raises(UserError, match="did you mean calls"):
        plan(Study.of(SMALL | {"axes": {"call": [3]}}))


# -- keys --------------------------------------------------------------------------------------------------------------


def test_a_key_is_of_what_matters_and_of_nothing_else():
    usual = key(method="kd")
    for machine in ({"device": "cpu"}, {"store": "elsewhere.db"}, {"budget": 3}, {"log_dir": "x"}, {"ask_batch": 1}):
        assert key(method="kd", **machine) == usual
    assert key(method="kd", options={"temperature": 4.0}) == usual, "a default that is spelt out"
    assert key(method="kd", data="some/folder", teacher="a/folder") == usual, "places; contents are in the identity"
    changes = [
        {"method": "mse"},
        {"options": {"temperature": 2.0}},
        {"student": "cnn_4"},
        {"calls": 3},
        {"seed": 5},
        {"learning_rate": 0.01},
        {"epochs": 7},
        {"weight_decay": 0.0},
        {"augment": False},
        {"view": "random"},
        {"select": "k-centre"},
        {"labels": False},
    ]
    keys = {key(**{"method": "kd"} | change) for change in changes}
    assert len(keys | {usual}) == len(changes) + 1
    kd = DistillSettings(method="kd")
    assert len({grid.key_of(kd, WHO | other) for other in ({}, {"teacher": "2"}, {"data": "2"})}) == 3


def test_both_accountings_are_one_run_unless_groups_are_compared():
    assert key(method="kd", accounting="matched") == key(method="kd")
    assert key(method="ckd", accounting="matched") == key(method="ckd")
    for groups in (
        {"method": "ckd_published", "options": {"left": 2}},
        {"method": "fitnets_ckd", "options": {"sampled": True}},
    ):
        assert key(accounting="matched", **groups) != key(**groups)


@pytest.mark.parametrize(
    ("method", "options", "seen"),
    [("kd", {}, 100), ("ckd_published", {}, 2 * 128), ("ckd_published", {"left": 2}, 3 * 128)],
)
def test_images_count_both_sides_of_groups(method, options, seen):
    made = DistillSettings.of({"method": method, "options": options, "calls": 100, "epochs": 3})
    assert grid.images(made) == 3 * seen
    assert grid.images(made.changed(accounting="matched")) == 3 * 100


# -- plans -------------------------------------------------------------------------------------------------------------


def test_the_grid_holds_every_combination_once():
    now = plan(Study.of(SMALL))
    combinations = product(["kd", "ckd_published"], [40, 80], [0, 1, 2], ["published", "matched"])
    cells = [(e.row, t.settings.ask.calls, t.settings.data.seed, e.accounting) for e, t in now.rows.items()]
    assert Counter(cells) == Counter(combinations)
    assert len(now.ready) == 6 + 12, "kd is one run for both accountings"
    assert not now.later
    sizes = [grid.images(planned.settings) for planned in now.ready]
    assert sizes == sorted(sizes, reverse=True), "the largest first"
    done = [record(planned, 1.0) for planned in now.ready[:5]]
    assert {planned.key for planned in plan(Study.of(SMALL), done).ready} == {planned.key for planned in now.ready[5:]}


def test_rows_tell_variants_apart():
    rows = [{"method": "ckd", "options": {"anchor": 0.3}}, {"name": "mine", "method": "kd"}, "kd"]
    study = Study.of(SMALL | {"methods": rows, "axes": {"options.label_weight": [1.0], "view": ["clean", "random"]}})
    study = study.model_copy(update={"methods": study.methods[:1]})
    assert {end.row for end in plan(study).rows} == {"ckd [anchor=0.3, view=clean]", "ckd [anchor=0.3, view=random]"}
    assert plan(study).ready[0].settings.options == {"anchor": 0.3, "label_weight": 1.0}
    study = Study.of(SMALL | {"methods": rows})
    assert {end.row for end in plan(study).rows} == {"ckd [anchor=0.3]", "mine", "kd"}


def test_a_row_has_settings_of_its_own():
    """Beside each other or under `settings`; they take precedence over those of the study, and make another key."""
    rows = [
        "ckd",
        {"method": "ckd", "name": "stratified", "select": "stratified", "momentum": 0.5},
        {"method": "ckd", "settings": {"ask": {"select": "medoids"}}, "options": {"anchor": 0.3}},
    ]
    study = Study.of(SMALL | {"methods": rows, "settings": {"epochs": 4, "momentum": 0.8}})
    runs = {run.row: run for run in plan(study).ready}
    assert list(runs) == ["ckd", "stratified", "ckd [anchor=0.3, select=medoids]"]
    chosen = [(run.settings.ask.select, run.settings.train.momentum) for run in runs.values()]
    assert chosen == [("random", 0.8), ("stratified", 0.5), ("medoids", 0.8)]
    assert len({run.key for run in runs.values()}) == 3


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"calls": 10}, "calls of the row ckd .calls=10. is also an axis or a candidate"),
        ({"student": "cnn_8"}, "student of the row .* is not of a row"),
        ({"roundz": 4}, "roundz"),
        ({"momentum": "much"}, "momentum"),
    ],
)
def test_a_setting_that_a_row_cannot_have_is_named(row, sentence):
    with pytest.raises(UserError, match=sentence):
        plan(Study.of(SMALL | {"methods": [{"method": "ckd"} | row]}))


def test_settings_are_chosen_for_each_row_budget_and_accounting():
    study = Study.of(SMALL | {"choose": RATES | {"also": {"ckd_published": {"options.left": [1, 2]}}}})
    now = plan(study)
    assert len(now.ready) == 2 * 3 * 2 + 2 * 3 * 4 * 2, "kd: budgets, seeds, rates; ckd: also groups and accountings"
    assert {end.purpose for end in now.rows} == {"selection"}
    assert len(now.later) == 0, "all results will be among these runs"
    # With kd a high rate is best at 40 calls, a low one at 80; groups of three are always better.
    best = {40: 0.1, 80: 0.05}
    done = [
        record(
            run,
            (run.settings.train.learning_rate == best[run.settings.ask.calls]) + run.settings.options.get("left", 0),
        )
        for run in now.ready
    ]
    now = plan(study, done)
    assert not now.ready
    results = [planned.settings for end, planned in now.rows.items() if end.purpose == "result"]
    assert len(results) == 2 * 2 * 3 * 2
    assert all(chosen.train.learning_rate == best[chosen.ask.calls] for chosen in results)
    assert all(chosen.options == {"left": 2} for chosen in results if chosen.method == "ckd_published")


def test_settings_are_chosen_once_where_the_file_says_so():
    study = Study.of(SMALL | {"methods": ["kd"], "choose": RATES | {"at": {"calls": 80, "seed": 1}}})
    now = plan(study)
    assert [(t.settings.ask.calls, t.settings.data.seed) for t in now.ready] == [(80, 1), (80, 1)]
    assert len(now.later) == 5, "the sixth result is among the candidates"
    now = plan(study, [record(planned, planned.settings.train.learning_rate) for planned in now.ready])
    assert len(now.ready) == 5
    assert {planned.settings.train.learning_rate for planned in now.ready} == {0.1}
    assert not now.later


def test_of_equals_the_first_is_chosen_and_failures_are_out():
    nan = math.nan
    assert grid.choose([[2.0, 3.0], [3.0, 2.0]]) == 0
    assert grid.choose([[0.1, 0.2, 0.3], [0.3, 0.2, 0.1]]) == 0, "sums that differ by rounding alone"
    assert grid.choose([[1.0], [nan], [2.0]]) == 2
    assert grid.choose([[90.0, nan], [1.0, 1.0]]) == 1
    assert grid.choose([[nan], [nan]]) is None


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0, 100), min_size=4, max_size=4), st.integers(0, 2**32))
def test_the_choice_never_sees_test_data(validations, salt):
    """Whatever was measured on test data, the plan is the same."""
    study = Study.of(SMALL | {"methods": ["kd"], "axes": {"calls": [40, 80], "seed": [0]}, "choose": RATES})
    done = [record(planned, v) for planned, v in zip(plan(study).ready, validations, strict=True)]
    tested = ("accuracy", "accuracy_last", "top5", "calibration_error", "agreement")
    other = [replace(r, **{name: float(hash((salt, i, name)) % 100) for name in tested}) for i, r in enumerate(done)]
    assert plan(study, other) == plan(study, done)
