"""A study as a file: its grid of runs, and the choice of settings by validation.

Nothing here loads data, trains or writes: a study and the records of finished runs go in, planned runs come out.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import resources
from itertools import chain, product
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, BeforeValidator, Field, field_validator

from tuition.errors import UserError
from tuition.pipeline.rounds import sizes
from tuition.pipeline.settings import DistillSettings
from tuition.pipeline.settings_file import read_settings, refuse_code
from tuition.studies.records import Record
from tuition.training import methods
from tuition.training.settings import Settings

MOST_RUNS = 100_000
COMMON_AXES = ("calls", "seed", "accounting")  # the axes that do not make another row of a table


class Pair(Settings):
    """A teacher (an architecture to train, or what `tuition ask --teacher` takes) and a student."""

    teacher: str
    student: str


class MethodRow(Settings):
    """A row of the tables: a method with options of its own, and any other settings, such as `rounds: 4`, beside it."""

    method: str
    name: str = Field("", description="by default the method, with its options and settings in brackets")
    options: dict[str, Any] = Field({}, description="settings of the method")
    settings: Annotated[dict[str, Any], AfterValidator(DistillSettings.flat_names)] = Field(
        {}, description="other settings of the row's runs"
    )

    @classmethod
    def read(cls, value: Any) -> Any:
        """A method's name will do. What is a setting of a run is moved into `settings`."""
        if isinstance(value, str):
            return {"method": value}
        if not isinstance(value, Mapping):
            return value
        moved = {k: v for k, v in value.items() if k not in cls.model_fields and k in DistillSettings.known()}
        kept = {k: v for k, v in value.items() if k not in moved}
        return kept | {"settings": {**kept.get("settings", {}), **moved}} if moved else kept

    def title(self, variant: Mapping[str, Any]) -> str:
        """The row's name, where `variant` tells it from others of the same method."""
        own = [] if self.name else [*self.options.items(), *self.settings.items()]
        values = [*own, *variant.items()]
        brackets = ", ".join(f"{name.removeprefix('options.')}={value}" for name, value in values)
        return (self.name or self.method) + (f" [{brackets}]" if brackets else "")


class Choose(Settings):
    """Settings chosen for each row by validation: the best mean over seeds; the first of ties."""

    candidates: dict[str, list[Any]] = Field({}, description="setting: values, for every row")
    also: dict[str, dict[str, list[Any]]] = Field({}, description="row: further settings with values")
    at: dict[str, Any] = Field({}, description="axis: value, to choose once there; seed takes a list")


class Study(Settings):
    """Every combination of pairs, methods and axes. Settings are those of `tuition distill`; "options.anchor" nests."""

    settings: Annotated[dict[str, Any], AfterValidator(DistillSettings.flat_names)] = Field(
        {}, description="those of every run"
    )
    teaching: dict[str, Any] = Field({}, description="how teachers that are absent are trained (`tuition teach`)")
    pairs: list[Pair] = Field(min_length=1)
    methods: list[Annotated[MethodRow, BeforeValidator(MethodRow.read)]] = Field(min_length=1)
    options: dict[str, dict[str, Any]] = Field({}, description="method: settings of every row of it")
    axes: dict[str, list[Any]] = Field({}, description="setting: values")
    choose: Choose = Choose()
    spectra: bool = Field(False, description="keep the singular values of the students' features and logits")

    @field_validator("options")
    @classmethod
    def _of_methods(cls, options: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        return {method: methods.checked(method, of_method) for method, of_method in options.items()}

    @classmethod
    def unknown(cls, name: Any) -> str:
        if name in DistillSettings.known():
            return f"{name} is a setting of each run; write it under settings, or its values as a list under axes."
        return super().unknown(name)


# -- files -------------------------------------------------------------------------------------------------------------


def names() -> list[str]:
    """The paper's studies."""
    files = (Path(file.name) for file in resources.files("tuition.studies").joinpath("paper").iterdir())
    return sorted(file.stem for file in files if file.suffix == ".yaml" and not file.stem.startswith("_"))


def read(
    name: str, variants: Sequence[str] = (), changes: Mapping[str, Any] | None = None, *, trust_code: bool = False
) -> Study:
    """A study by the name of one of the paper's or by its YAML file.

    A file may name another that it `extends`, hold `variants`, such as `fast`, and name those of them that it is, as in
    `variant: as_authors`. What is later goes before what is earlier, key by key, and null removes a key: the extended
    file, the file, each of its variants and of `variants` in turn.

    Args:
        changes: settings, which replace an axis or candidates of that name; a list makes an axis.
        trust_code: whether the file may name code, as package.module:factory. `changes` may: they are the user's own.

    Raises:
        UserError: an unknown study or variant, settings that cannot be, or code that is not trusted.
    """
    values = _read(name)
    known = _mapping(values.pop("variants", {}), "variants")
    for variant in dict.fromkeys((*_own_variants(values), *variants)):
        if variant not in known:
            raise UserError(f"the study {name} has no variant {variant!r}; it has {', '.join(known) or 'none'}.")
        values = merge(values, _mapping(known[variant], variant))
    refuse_code(values, f"the study {name}", trust_code)
    study = Study.of(values)
    settings, axes, candidates = dict(study.settings), dict(study.axes), dict(study.choose.candidates)
    for key, value in (changes or {}).items():
        if key in candidates:
            candidates[key] = value if isinstance(value, list) else [value]
        elif key in axes or isinstance(value, list):
            axes[key] = value if isinstance(value, list) else [value]
        else:
            settings[key] = value
    choose = study.choose.model_copy(update={"candidates": candidates})
    return study.model_copy(update={"settings": settings, "axes": axes, "choose": choose})


def variants_of(name: str) -> list[str]:
    """The variants that a study has."""
    return list(_mapping(_read(name).get("variants", {}), "variants"))


def _own_variants(values: dict[str, Any]) -> list[Any]:
    """The variants that a study says it is, taken out of its values."""
    own = values.pop("variant", [])
    return own if isinstance(own, list) else [own]


def _mapping(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{name} of a study holds 'setting: value' lines, not a {type(value).__name__}; correct it.")
    return value


def _read(name: str, folder: Path | None = None) -> dict[str, Any]:
    paper = resources.files("tuition.studies").joinpath("paper", f"{name}.yaml")
    if name.endswith((".yaml", ".yml")):
        path = (folder or Path()) / name
    elif paper.is_file():
        path = Path(str(paper))
    else:
        near = get_close_matches(name, names(), n=1)
        hint = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(names())}, or name a YAML file."
        raise UserError(f"the study {name!r} was not found; {hint}")
    values = read_settings(path)
    base = values.pop("extends", None)
    if not isinstance(base, str | None):
        raise UserError(f"extends of {name} names a study, not a {type(base).__name__}; correct it.")
    return values if base is None else merge(_read(base, path.parent), values)


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` before `base`, key by key; null removes."""
    merged = dict(base)
    for key, value in over.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, Mapping):
            below = merged.get(key)
            merged[key] = merge(below if isinstance(below, Mapping) else {}, value)
        else:
            merged[key] = value
    return merged


# -- planned runs ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PlannedRun:
    """One run of the grid: `row` names its row in the tables, `key` identifies its content."""

    row: str
    settings: DistillSettings
    key: str


class RecordId(NamedTuple):
    """What identifies a row of runs.csv: a run and its use. A run that is used several times has several rows."""

    key: str
    row: str
    purpose: Literal["result", "selection"]
    accounting: Literal["published", "matched"]


Identify = Callable[[DistillSettings], Mapping[str, str]]
Find = Callable[[PlannedRun], Record | None]


def resolved(settings: DistillSettings) -> dict[str, Any]:
    """All settings that matter to a run, the method's defaults among them, without paths of this machine."""
    values = settings.flat(free=False)
    values["data"] = Path(settings.data.data).name
    values["features"] = settings.ask.features and Path(settings.ask.features).name
    values["options"] = methods.defaults(settings.method) | settings.options
    if methods.groups(settings.method, settings.options) is None:
        values["accounting"] = "published"  # a step forwards the same images in both
    return values


def key_of(settings: DistillSettings, identity: Mapping[str, str]) -> str:
    """Digest of the settings that matter, the data's content and the teacher's fingerprint.

    Settings at their defaults are left out, so a setting that is added later leaves old keys as they are.
    """
    values, defaults = resolved(settings), resolved(DistillSettings(method=settings.method))
    named = ("method", "options", "data", "teacher")  # options and identities are compared in their own way
    matters = {
        "method": settings.method,
        "settings": {k: v for k, v in values.items() if k not in named and v != defaults[k]},
        "options": {k: v for k, v in values["options"].items() if v != defaults["options"].get(k)},
        **identity,
    }
    return hashlib.sha256(json.dumps(matters, sort_keys=True).encode()).hexdigest()[:32]


def images(settings: DistillSettings) -> int:
    """The most images that a run sees: those of all rounds, and unasked ones beside each batch of answers."""
    counts = sizes(settings) if settings.in_rounds else [settings.ask.calls]
    return sum(_images(settings, calls) for calls in counts) * (2 if settings.unasked else 1)


def _images(settings: DistillSettings, calls: int) -> int:
    train, groups = settings.train, methods.groups(settings.method, settings.options)
    if groups is None or train.accounting == "matched":
        return train.epochs * calls
    return train.epochs * math.ceil(calls / train.batch_size) * train.batch_size * sum(groups)


@dataclass(frozen=True)
class StudyPlan:
    """What a study has done and has yet to do.

    Attributes:
        rows: every row that runs.csv should hold, as far as choices are made, and its run.
        ready: runs to start now, each once, the largest first.
        later: results whose settings are not chosen yet, with the first candidate in place of the chosen one.
    """

    rows: Mapping[RecordId, PlannedRun]
    ready: Sequence[PlannedRun]
    later: Sequence[PlannedRun]


def plan(study: Study, find: Find, identify: Identify) -> StudyPlan:
    """What `study` has yet to do, after the finished runs (failed ones too) that `find` returns."""
    _check_size(study)
    seeds = study.axes.get("seed", [study.settings.get("seed", 0)])
    at = study.choose.at
    tuning_seeds = at.get("seed", seeds)
    tuning_seeds = tuning_seeds if isinstance(tuning_seeds, list) else [tuning_seeds]
    rows: dict[RecordId, PlannedRun] = {}
    later: dict[str, PlannedRun] = {}
    for point in _points(study, identify):
        candidates = point.candidates()
        chosen: int | None = 0
        if len(candidates) > 1:
            tried = [[point.run(at, each, {"seed": seed}) for seed in tuning_seeds] for each in candidates]
            rows |= _records(chain(*tried), "selection")
            finished = [[find(run) for run in runs] for runs in tried]
            if any(record is None for record in chain(*finished)):
                later |= {run.key: run for run in (point.run(candidates[0], {"seed": seed}) for seed in seeds)}
                continue
            chosen = choose([[record.validation for record in of_one if record] for of_one in finished])
        if chosen is not None:
            rows |= _records((point.run(candidates[chosen], {"seed": seed}) for seed in seeds), "result")
    missing = {run.key: run for run in rows.values() if find(run) is None}
    return StudyPlan(
        rows,
        sorted(missing.values(), key=lambda run: -images(run.settings)),
        [run for run in later.values() if run.key not in missing and find(run) is None],
    )


@dataclass(frozen=True)
class _Point:
    """A place in the grid without a seed: a pair, a method, and a value of every other axis."""

    study: Study
    identify: Identify
    pair: Pair
    method: MethodRow
    values: Mapping[str, Any]

    def candidates(self) -> list[dict[str, Any]]:
        choose = self.study.choose
        options = choose.candidates | choose.also.get(self.method.name or self.method.method, {})
        return [dict(zip(options, values, strict=True)) for values in product(*options.values())]

    def run(self, *changes: Mapping[str, Any]) -> PlannedRun:
        """The run of this place with changed settings."""
        axes = self.study.axes
        title = self.method.title({k: v for k, v in self.values.items() if k not in COMMON_AXES and len(axes[k]) > 1})
        place = {"teacher": self.pair.teacher, "student": self.pair.student, "method": self.method.method}
        options = self.study.options.get(self.method.method, {}) | self.method.options
        flat = self.study.settings | place | {f"options.{k}": v for k, v in options.items()}
        flat |= self.method.settings
        for change in (self.values, *changes):
            flat |= DistillSettings.flat_names(change)
        settings = DistillSettings.of(flat)
        return PlannedRun(title, settings, key_of(settings, self.identify(settings)))


def _points(study: Study, identify: Identify) -> Iterator[_Point]:
    axes = {name: values for name, values in study.axes.items() if name != "seed"}
    for pair, method, *values in product(study.pairs, study.methods, *axes.values()):
        yield _Point(study, identify, pair, method, dict(zip(axes, values, strict=True)))


def _records(runs: Iterable[PlannedRun], purpose: Literal["result", "selection"]) -> dict[RecordId, PlannedRun]:
    return {RecordId(run.key, run.row, purpose, run.settings.train.accounting): run for run in runs}


def _check_size(study: Study) -> None:
    """Refuse a study without runs, and one that is too large to run."""
    axes = study.axes | study.choose.candidates | {k: v for also in study.choose.also.values() for k, v in also.items()}
    empty = [name for name, values in axes.items() if not values]
    if empty:
        raise UserError(f"{empty[0]} of the study has no value; give at least one.")
    for row in study.methods:
        for name in row.settings:
            if name in axes or name in ("seed", "method", "student", "teacher"):
                place = "also an axis or a candidate" if name in axes else "not of a row"
                raise UserError(f"{name} of the row {row.title({})} is {place} of the study; keep it in one place.")
    runs = len(study.pairs) * len(study.methods) * math.prod(map(len, axes.values()))
    if runs > MOST_RUNS:
        raise UserError(f"the study has {runs:,} runs, and at most {MOST_RUNS:,} are possible; take values away.")


def choose(validations: Sequence[Sequence[float]]) -> int | None:
    """Index of the candidate with the best mean validation accuracy; nan marks a failed run.

    The first of ties is chosen. A candidate with a failed run is left out; None if all are.
    """
    means = [round(fmean(values), 9) for values in validations]  # equal figures in another order must stay equal
    left = [mean for mean in means if not math.isnan(mean)]
    return means.index(max(left)) if left else None
