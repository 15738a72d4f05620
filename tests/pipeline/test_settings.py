"""Settings of commands: flat or nested, each name in one place; and the file that a run keeps of its own."""

import re
from decimal import Decimal
from pathlib import Path

import pytest
import yaml

from tuition.errors import UserError
from tuition.pipeline.settings import COMMANDS, DistillSettings, TeachSettings, TransferSettings, fields
from tuition.pipeline.settings_file import CONFIG, kept_settings, read_settings


def test_flat_and_nested_names_mean_the_same() -> None:
    flat = {"data": "pets", "size": 32, "calls": 40, "epochs": 3, "method": "ckd", "options.anchor": 0.2}
    nested = {
        "data": {"data": "pets", "size": 32},
        "ask": {"calls": 40},
        "train": {"epochs": 3},
        "method": "ckd",
        "options": {"anchor": 0.2},
    }
    mixed = {"data": "pets", "size": 32, "ask": {"calls": 40}, "epochs": 3, "options": {"anchor": 0.2}}
    made = DistillSettings.of(flat)
    assert made == DistillSettings.of(nested) == DistillSettings.of(mixed)
    assert (made.data.size, made.ask.calls, made.train.epochs, made.options) == (32, 40, 3, {"anchor": 0.2})
    assert DistillSettings.of(made.flat()) == made


@pytest.mark.parametrize(
    ("kind", "values", "sentence"),
    [
        (
            TransferSettings,
            {"momentum": 0.5},
            r"momentum is a setting of `tuition teach` and `tuition distill`, and not",
        ),
        (TransferSettings, {"train": {"epochs": 1}}, "train is a setting of .*, and not of `tuition ask`"),
        (TeachSettings, {"budget": 3}, r"budget is a setting of `tuition ask` and `tuition distill`, and not"),
        (DistillSettings, {"batchsize": 3}, "there is no setting 'batchsize'; did you mean batch_size?"),
        (DistillSettings, {"train": {"epoch": 3}}, "there is no setting 'epoch'; did you mean epochs?"),
        (DistillSettings, {"size": 8, "data": {"size": 9}}, "the setting size appears twice; keep one"),
        (DistillSettings, {"options": {"anchor": 1}, "options.anchor": 1}, r"options\.anchor appears twice"),
        (DistillSettings, {"data": {"calls": 9}}, "calls is not a setting of data; move it"),
        (DistillSettings, {"ask": "digits"}, "ask holds 'setting: value' lines, not 'digits'"),
        (DistillSettings, {"ask": {"calls": 0}}, "the setting calls cannot be 0: input should be greater"),
        (DistillSettings, {"train": {"epochs": True}}, "the setting epochs cannot be true"),
        (DistillSettings, {"epochs": 10**7}, "the setting epochs cannot be 10000000: input should be less"),
        (DistillSettings, {"calls": 1}, "at least 2 calls"),
        (DistillSettings, {"data": None}, "the setting data cannot be None"),
        (DistillSettings, {"data": "digits", "size": "x"}, "the setting size cannot be 'x'"),
        (DistillSettings, {"threads": 10**6}, "the setting threads cannot be 1000000: input should be less"),
        (DistillSettings, {"mean": "0.5,0.4"}, r"should be a valid list, written \[A, B\]\."),
        (DistillSettings, {"options": 5}, "the setting options cannot be 5"),
        (DistillSettings, {"data": {"data": "a\0"}}, "the setting data holds a zero byte"),
    ],
)
def test_each_mistake_is_a_sentence(kind: type[DistillSettings], values: dict[str, object], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        kind.of(values)


@pytest.mark.parametrize("kind", COMMANDS)
def test_every_setting_is_described_in_one_place(kind: type[DistillSettings]) -> None:
    rows = fields(kind)
    assert len({row.name for row in rows}) == len(rows)
    assert {row.name for row in rows} == kind.of({}).flat().keys()
    for row in rows:
        assert row.description, row.name
        assert row.type, row.name
        assert not re.search("any value", row.type), row.name


def test_what_changes_only_how_a_run_is_made_is_free() -> None:
    every, matters = DistillSettings.of({}).flat(), DistillSettings.of({}).flat(free=False)
    assert {"data", "seed", "calls", "classes", "epochs", "momentum", "student", "options"} <= matters.keys()
    free = [
        "store",
        "budget",
        "ask_batch",
        "concurrency",
        "cost_per_call",
        "trust_code",
        "device",
        "checkpoint_seconds",
        "keep_checkpoint",
        "log_dir",
        "wandb_project",
    ]
    assert set(free) <= every.keys() - matters.keys()
    settings = DistillSettings.of({})
    assert settings.changed(store="other.db", device="cpu").flat(free=False) == matters
    assert settings.changed(classes="teacher").flat(free=False) != matters


@pytest.mark.parametrize(
    "settings",
    [
        DistillSettings.of(
            {
                "teacher": "timm:resnet50",
                "calls": 40,
                "cost_per_call": "0.002",
                "cost_per_million_tokens": "0.15,0.60",
                "student": "bag_8",
                "options.anchor": 0.25,
                "test": None,
                "data": "caf\xe9/\udcff",
                "trust_code": True,
            }
        ),
        TeachSettings.of({"model": "cnn_8", "epochs": 4, "examples": 30}),
    ],
)
def test_a_kept_file_gives_the_same_settings(settings: DistillSettings, tmp_path: Path) -> None:
    (tmp_path / CONFIG).write_bytes(kept_settings(settings)[CONFIG])
    read = type(settings).of(read_settings(tmp_path / CONFIG))
    assert "trust_code" not in (tmp_path / CONFIG).read_text()
    assert read == (settings.changed(trust_code=False) if isinstance(settings, DistillSettings) else settings)


@pytest.mark.parametrize(
    ("address", "kept"),
    [
        ("postgresql://ann:p%40ss@db.example:5432/calls", "postgresql+psycopg://ann@db.example:5432/calls"),
        ("postgresql://ann@db.example/calls", "postgresql://ann@db.example/calls"),
        ("sqlite:///r:x@y.db", "sqlite:///r:x@y.db"),
    ],
)
def test_a_kept_file_holds_no_password(address: str, kept: str) -> None:
    content = kept_settings(DistillSettings.of({"store": address}))[CONFIG]
    assert yaml.safe_load(content)["ask"]["store"] == kept


def test_prices_are_exact() -> None:
    assert DistillSettings.of({"ask": {"cost_per_call": "0.1"}}).ask.payment["cost_per_call"] == Decimal("0.1")
