"""Settings from YAML and by name: each mistake is one sentence that helps."""

import pytest

from tuition import UserError
from tuition.pipeline.settings_file import read_settings
from tuition.training import TrainSettings


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"learning_rte": 0.1}, "there is no setting 'learning_rte'; did you mean learning_rate?"),
        ({"zzz": 1}, "there is no setting 'zzz'; known settings are "),
        ({3: 1}, "there is no setting 3; known settings are "),
        ({"epochs": "many"}, "the setting epochs cannot be 'many': input should be a valid integer"),
        ({"epochs": 2.5}, "the setting epochs cannot be 2.5: input should be a valid integer"),
        ({"batch_size": 1}, "the setting batch_size cannot be 1: input should be greater than or equal to 2"),
        ({"momentum": 1}, "the setting momentum cannot be 1: input should be less than 1"),
        ({"learning_rate": float("nan")}, "the setting learning_rate cannot be nan: input should be a finite number"),
        ({"augment": "perhaps"}, "the setting augment cannot be 'perhaps': input should be a valid boolean"),
        ({"epochs": None}, "the setting epochs cannot be None"),
        ({"epochs": [1, 2]}, r"the setting epochs cannot be [1, 2]"),
    ],
)
def test_mistakes(values, says):
    with pytest.raises(UserError) as caught:
        TrainSettings.of(values)
    message = str(caught.value)
    assert message.startswith(says)
    assert "\n" not in message
    assert message[-1] in ".?"


def test_yaml(tmp_path):
    path = tmp_path / "settings.yaml"
    path.write_text("epochs: 3\nlearning_rate: 1e-3  # which YAML 1.1 reads as text\nschedule: stages\n")
    settings = TrainSettings.of(read_settings(path))
    assert (settings.epochs, settings.learning_rate, settings.schedule) == (3, 0.001, "stages")
    path.write_text("# nothing yet\n")
    assert read_settings(path) == {}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (
            b"epochs: [1\nseed: 2\n",
            "is not valid YAML near line 2 (expected ',' or ']', but got ':'); fix it and try again.",
        ),
        (b"- 1\n- 2\n", "must hold 'setting: value' lines, not a list."),
        (b"42", "must hold 'setting: value' lines, not a int."),
        (b"epochs: \xff", "is not valid YAML; fix it and try again."),
        (b"epochs: \x00", "is not valid YAML"),
    ],
)
def test_files_that_are_no_settings(tmp_path, content, says):
    path = tmp_path / "settings.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_settings(path)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(UserError, match=r"cannot read .*: no such file or directory; give a YAML file of settings"):
        read_settings(tmp_path / "no.yaml")
    with pytest.raises(UserError, match="is a directory"):
        read_settings(tmp_path)
