"""`--as-authors`: every setting that it changes, in every study of the paper, and the page that lists them."""

import re
from pathlib import Path

import pytest

from tuition import UserError
from tuition.pipeline.settings import DistillSettings, TeachSettings
from tuition.studies import grid
from tuition.training import methods

ROOT = Path(__file__).parents[2]
NAMES = ["figure2-resnet", "figure2-vgg", "figure2-wrn", "figure3-cars", "figure4", "figure5", "kwise"]
NAMES += ["table1", "table2"]
MEAN, STD = [0.5071, 0.4867, 0.4408], [0.2675, 0.2565, 0.2761]
OFTEN = {"precision": "float32", "last_batch": "short", "mean": MEAN, "std": STD}
STUDENT = OFTEN | {"view": "random", "aligned": False, "ties": "first", "stage_momentum": "keep"}
STUDENT |= {"stage_memory": "keep", "head": "repdistiller"}
TEACHER = OFTEN | {"schedule": "milestones", "hold_out": False, "epochs": 240, "learning_rate": 0.05, "batch_size": 64}
OPTIONS = {
    "rkd": {"per_class": 5},
    "mixup": {"pairs_drawn": 100_000},
    "crd": {"drawn": True},
    "ckd_published": {"distinct": True},
    "fitnets": {"relu": "always", "crd_drawn": True},
    "fitnets_ckd": {"relu": "always", "sampled": True},
    "vid": {"crd_drawn": True},
    "vid_ckd": {"sampled": True},
    "cutmix": {"even": True},
    "cutmix_pick": {"even": True},
}


def runs_of(study):
    now = grid.plan(study, lambda run: None, lambda settings: {"teacher": "t", "data": "d"})
    return [*now.ready, *now.later]


@pytest.mark.parametrize("name", NAMES)
def test_every_run_follows_the_authors(name):
    study = grid.read(name, ["as_authors"])
    assert runs_of(study)
    for run in runs_of(study):
        flat = run.settings.flat()
        assert {key: flat[key] for key in STUDENT} == STUDENT
        assert flat["accounting"] == "published"
        assert flat["schedule"] == "stages"
        options = OPTIONS.get(run.settings.method, {})
        assert {key: flat["options"].get(key) for key in options} == options
    teaching = TeachSettings.of(TeachSettings.flat_names(study.teaching)).flat()
    assert {key: teaching[key] for key in TEACHER} == TEACHER


def test_all_of_it_differs_from_the_defaults():
    """So a row of the page that is no longer a difference fails here."""
    ours, teaching = DistillSettings.of({}).flat(), TeachSettings.of({}).flat()
    assert all(ours[key] != value for key, value in STUDENT.items())
    assert all(teaching[key] != value for key, value in TEACHER.items() if key not in ("learning_rate", "batch_size"))
    for method, options in OPTIONS.items():
        defaults = methods.defaults(method)
        assert all(defaults[key] != value for key, value in options.items())
    plain = grid.read("figure2-wrn")
    assert not plain.options
    assert not set(STUDENT) & set(plain.settings)


def test_digits_have_one_channel_and_fast_keeps_its_schedule():
    study = grid.read("figure2-wrn", ["fast", "as_authors", "digits", "smoke"])
    run = runs_of(study)[0].settings
    assert (run.data.data, run.train.mean, run.train.std) == ("digits", None, None)
    assert (run.ask.view, run.train.schedule, run.train.ties) == ("random", "cosine", "first")
    assert "mean" not in study.teaching


def test_a_row_s_own_options_come_before_those_of_its_method(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "extends: figure2-wrn\nvariant: as_authors\nchoose: null\n"
        "methods: [rkd, {name: other, method: rkd, options: {per_class: 2}}]\naxes: {calls: [1600], seed: [0]}\n"
    )
    options = {run.row: run.settings.options["per_class"] for run in runs_of(grid.read(str(path)))}
    assert options == {"rkd": 5, "other": 2}


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("variant: as_author", "no variant 'as_author'; it has fast, as_authors"),
        ("variant: [fast, 3]", "no variant 3"),
        ("options: {rdk: {per_class: 5}}", "'rdk' was not found; did you mean rkd"),
        ("options: {rkd: {per_clas: 5}}", "no setting 'per_clas'; did you mean per_class"),
        ("options: {rkd: {per_class: -1}}", "options.per_class cannot be -1"),
    ],
)
def test_what_cannot_be_is_refused(line, says, tmp_path):
    (tmp_path / "mine.yaml").write_text(f"extends: figure2-wrn\n{line}\n")
    with pytest.raises(UserError, match=says):
        grid.read(str(tmp_path / "mine.yaml"))


# -- the page ----------------------------------------------------------------------------------------------------------


def test_the_page_has_every_setting_and_its_tests_exist():
    page = (ROOT / "docs" / "deviations.md").read_text()
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page)
    assert {test.partition("_")[2].partition("_")[0] for _, test in named} >= {f"d{n}" for n in range(1, 17)}
    for file, test in named:
        assert f"def {test}(" in (ROOT / file).read_text(), f"{file} has no {test}"
    for key in {*STUDENT, "schedule", "hold_out", *(key for options in OPTIONS.values() for key in options)}:
        assert f"`{key}: " in page, f"the page does not name {key}"
    assert all(f"| D{n} |" in page for n in range(1, 17))
