"""Settings of methods and of training: types and ranges, numbers as YAML reads them, before anything is paid."""

import inspect
import json
import math

import pytest

from tuition import UserError, distill, teachers
from tuition.cli import main as cli
from tuition.cli.options import settings_of
from tuition.pipeline.settings import DistillSettings
from tuition.pipeline.settings_file import load_yaml, read_settings
from tuition.studies import grid
from tuition.training import methods
from tuition.training.settings import TrainSettings

NUMBERS = [
    (name, option, default)
    for name in methods.METHODS
    for option, default in methods.defaults(name).items()
    if isinstance(default, (int, float)) and not isinstance(default, bool)
]


@pytest.mark.parametrize(("name", "option", "default"), NUMBERS)
def test_every_number_of_every_method_has_a_type_and_a_range(name, option, default):
    for wrong in ("hot", "", -1, float("nan"), float("inf"), "nan", True, [1], {"a": 1}, None):
        with pytest.raises(UserError, match=rf"the setting options\.{option} cannot be "):
            methods.checked(name, {option: wrong})
    assert methods.checked(name, {option: default}) == {option: default}
    assert methods.checked(name, {option: str(default)}) == {option: default}


def test_defaults_are_within_their_ranges():
    for name in methods.METHODS:
        assert methods.checked(name, methods.defaults(name)) == methods.defaults(name)
        hints = inspect.signature(methods.find(name).build).parameters
        assert all(p.annotation is not inspect.Parameter.empty for p in hints.values())


@pytest.mark.parametrize(
    ("name", "option", "wrong"),
    [
        ("kd", "temperature", 0),
        ("kd", "temperature", "0"),
        ("mixup", "alpha", 0.0),
        ("crd", "momentum", 1),
        ("crd", "tau", 0),
        ("ckd_published", "left", 0),
        ("ckd_published", "left", 1.5),
        ("rkd_projected", "dimensions", 0),
        ("ckd", "recentre", "perhaps"),
        ("ckd", "reads", ""),
        ("ckd", "reads", 3),
        ("tf_fd", "layers", "stage1"),
        ("tf_fd", "layers", []),
        ("fitnets", "pairs", ["stage1"]),
        ("fitnets", "pairs", {"stage1": 2}),
        ("vid_ckd", "sampled", 2),
    ],
)
def test_wrong_kinds_are_refused(name, option, wrong):
    with pytest.raises(UserError, match=rf"the setting options\.{option}[^ ]* cannot be "):
        methods.checked(name, {option: wrong})


def test_every_option_is_explained_in_a_sentence():
    for name in methods.METHODS:
        options = methods.options(name)
        assert {option.name: option.default for option in options} == methods.defaults(name)
        for option in options:
            assert len(option.sentence) > 15, (name, option)
            assert "any value" not in option.type, (name, option)
    types = {option.name: option.type for name in ("crd", "ckd", "fitnets") for option in methods.options(name)}
    assert types["momentum"] == "number, at least 0, below 1"
    assert types["negatives"] == "whole number, at least 1, at most 1,000,000"
    assert types["recentre"] == "true or false"
    assert types["pairs"] == "mapping or none"


def test_numbers_in_text_are_numbers_and_others_stay_as_they_are():
    assert methods.checked("ckd", {"anchor": "1e-2"}) == {"anchor": 0.01}
    assert (
        json.dumps(methods.checked("rkd", {"distance_weight": 25, "angle_weight": 50.0}))
        == '{"distance_weight": 25, "angle_weight": 50.0}'
    )
    assert methods.checked("ckd_published", {"left": 2.0})["left"] == 2
    assert type(methods.checked("ckd_published", {"left": 2.0})["left"]) is int


def test_yaml_numbers_are_those_of_json():
    texts = ["1e-2", "1E+3", "-2e1", "1.5e3", ".5", "1", "0.05", "-3", "12."]
    for text in texts:
        value = load_yaml(text)
        assert isinstance(value, (int, float)), text
        assert value == float(text), text
    assert load_yaml("[a, true, null, '1e-2', e-2, 1e, -]") == ["a", True, None, "1e-2", "e-2", "1e", "-"]


def test_settings_files_and_set_read_them_alike(tmp_path):
    (tmp_path / "s.yaml").write_text("learning_rate: 1e-2\nepochs: 1e1\noptions:\n  anchor: 1e-2\n")
    read = read_settings(tmp_path / "s.yaml")
    assert read == {"learning_rate": 0.01, "epochs": 10, "options": {"anchor": 0.01}}
    sets = ["options.anchor=1e-2", "epochs=1e1", "learning_rate=1e-2"]
    settings = settings_of(DistillSettings, None, {}, sets, trust_code=False)
    assert (settings.options, settings.train.epochs, settings.train.learning_rate) == ({"anchor": 0.01}, 10, 0.01)
    (tmp_path / "s.yaml").write_text("data: 2020-13-45\n")
    with pytest.raises(UserError, match="is not valid YAML"):
        read_settings(tmp_path / "s.yaml")


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"epochs": True}, "the setting epochs cannot be true; give it a value"),
        ({"learning_rate": False}, "the setting learning_rate cannot be false"),
        ({"learning_rate": [0.1]}, r"the setting learning_rate cannot be \[0.1\]"),
        ({"learning_rate": "x" * 1000}, r"the setting learning_rate cannot be 'xxx[^ ]*\.\.\.: input"),
        ({"batch_size": math.nan}, "the setting batch_size cannot be nan"),
        ({"momentum": 1}, "the setting momentum cannot be 1"),
    ],
)
def test_settings_of_training_are_checked_too(values, says):
    with pytest.raises(UserError, match=says) as caught:
        TrainSettings.of(values)
    assert len(str(caught.value)) < 300


def test_a_study_is_refused_before_anything_is_loaded():
    for options, says in (({"temperature": 0}, "temperature cannot be 0"), ({"temprature": 1}, "did you mean")):
        study = grid.Study.of(
            {"pairs": [{"teacher": "t", "student": "cnn_4"}], "methods": [{"method": "kd", "options": options}]}
        )
        with pytest.raises(UserError, match=says):
            grid.plan(study, lambda trial: None, lambda settings: {})
    study = grid.Study.of(
        {
            "pairs": [{"teacher": "t", "student": "cnn_4"}],
            "methods": ["ckd"],
            "axes": {"options.anchor": ["1e-2", 0.01]},
        }
    )
    plan = grid.plan(study, lambda trial: None, lambda settings: {})
    assert [trial.settings.options for trial in plan.ready] == [{"anchor": 0.01}], "one run, however it is written"


def test_distill_in_python_checks_and_records_them(transfer, tmp_path):
    for options, says in (({"temperature": "hot"}, "cannot be 'hot'"), ({"temperature": 0}, "greater than 0")):
        with pytest.raises(UserError, match=says):
            distill("cnn_4", transfer, "kd", options=options, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    distill("cnn_4", transfer, "ckd", options={"anchor": "1e-2"}, epochs=1, out=tmp_path / "run")
    assert json.loads((tmp_path / "run/run.json").read_text())["settings"]["options"] == {"anchor": 0.01}
    distill("cnn_4", transfer, "ckd", options={"anchor": 0.01}, epochs=1, out=tmp_path / "run")


def never(inputs):
    raise AssertionError("the teacher was called")


@pytest.mark.parametrize(
    "words",
    [
        ["--method", "kd", "--set", "options.temperature=0"],
        ["--method", "kd", "--set", "options.temperature=hot"],
        ["--method", "kd", "--set", "options.temperature=.nan"],
        ["--method", "kd", "--set", "options.temperature=[4]"],
        ["--set", "options.anchor=-1"],
        ["--set", "options.anchr=1"],
        ["--set", "options=3"],
        ["--set", "learning_rate=yes"],
        ["--set", "data=2020-13-45"],
        ["--method", "kdd"],
    ],
)
def test_the_command_line_refuses_and_leaves_nothing_behind(tmp_path, monkeypatch, capsys, words):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(teachers, "load", never, raising=False)
    monkeypatch.setattr("sys.argv", ["tuition", "distill", "--calls", "40", "--epochs", "1", *words])
    assert cli.main() == 2
    said = capsys.readouterr().err
    assert said.startswith("Error: ")
    assert said.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
