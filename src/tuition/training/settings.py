"""The settings of one training, validated: a typo is answered with the nearest name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo

from tuition import escape
from tuition.errors import UserError


def setting(default: Any, description: str, *, unit: str = "", free: bool = False, **limits: Any) -> Any:
    """Declare a setting.

    Args:
        unit: what a number counts.
        free: whether it changes only how a result is obtained, not the result; a run may resume with another value.
    """
    return Field(default, description=description, json_schema_extra={"unit": unit, "free": free}, **limits)


def extra(field: FieldInfo, name: Literal["unit", "free"]) -> Any:
    """What `setting` said of a field."""
    return field.json_schema_extra.get(name) if isinstance(field.json_schema_extra, dict) else None


_HALF = re.compile("[\ud800-\udc7f\udd00-\udfff]")  # surrogates that do not stand for a byte of a file's name


class SettingError(UserError):
    """A complete sentence about a setting."""


class Settings(BaseModel):
    """Settings that refuse what they do not know, with one sentence."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @classmethod
    def known(cls) -> dict[str, FieldInfo]:
        """The settings by the names that people write."""
        return dict(cls.model_fields)

    @classmethod
    def parts(cls) -> dict[str, type[Settings]]:
        """The settings that hold settings."""
        return {}

    @classmethod
    def nested(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of the class, from values by the names that people write."""
        return dict(values)

    @classmethod
    def unknown(cls, name: Any) -> str:
        """The sentence about a name that is not a setting."""
        known = list(cls.known())
        near = get_close_matches(str(name), known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known settings are {', '.join(sorted(known))}."
        return f"there is no setting {escape.shorten(repr(name), 80)}; {hint}"

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Validate `values`.

        Raises:
            UserError: the first unknown or invalid setting, and the nearest known name.
        """
        cls._check_names(values)
        return cls._of(values)

    @classmethod
    def _check_names(cls, values: Mapping[str, Any]) -> None:
        """Refuse unknown settings, and texts that can be neither a name nor a path."""
        known = cls.known()
        for name, value in values.items():
            if name not in known:
                raise SettingError(cls.unknown(name))
            _check_texts(name, value)

    @classmethod
    def _of(cls, values: Mapping[str, Any], prefix: str = "") -> Self:
        cls._check_kinds(values, prefix)
        try:
            return cls(**cls.nested(values))
        except ValidationError as error:
            raise cls._refusal(error, prefix) from None

    @classmethod
    def _check_kinds(cls, values: Mapping[str, Any], prefix: str = "") -> None:
        """Refuse true and false where a number or a text belongs."""
        known = cls.known()
        for name, value in values.items():
            if isinstance(value, bool) and not {bool, Any} & _kinds(known[name].annotation):
                raise SettingError(f"the setting {prefix}{name} cannot be {str(value).lower()}; give it a value.")

    @classmethod
    def _refusal(cls, error: ValidationError, prefix: str = "") -> SettingError:
        """The first of the errors as a sentence."""
        first = error.errors()[0]
        cause = first.get("ctx", {}).get("error")
        if isinstance(cause, SettingError):
            return cause
        where = first["loc"]
        where = where[1:] if len(where) > 1 and where[0] in cls.parts() else where
        name = prefix + ".".join(str(part) for part in where)
        what = first["msg"].removeprefix("Value error, ").rstrip(".")
        what += ", written [A, B]" if first["type"] == "list_type" else ""
        shown = repr(first["input"])
        shown = shown if len(shown) <= 80 else f"{shown[:77]}..."
        return SettingError(f"the setting {name} cannot be {shown}: {what[0].lower() + what[1:]}.")


def _kinds(annotation: Any) -> set[Any]:
    """The types that an annotation is made of."""
    parts = get_args(annotation)
    return {annotation} if not parts else set().union(*map(_kinds, parts))


def _check_texts(name: str, value: Any) -> None:
    """Refuse texts that can be neither a name nor a path: with a zero byte, or half of a character."""
    if isinstance(value, str) and ("\0" in value or (not value.isprintable() and _HALF.search(value))):
        raise SettingError(f"the setting {escape.shorten(name, 80)} holds a zero byte or half a character; correct it.")
    if isinstance(value, Mapping):
        for key, below in value.items():
            _check_texts(name, key)
            _check_texts(f"{name}.{key}", below)
    elif isinstance(value, (list, tuple, set)):
        for below in value:
            _check_texts(name, below)


FINE_TUNING = 1e-4  # the learning rate of AdamW for pretrained transformers


def optimizer_defaults(values: dict[str, Any], student: object, reads_text: bool) -> dict[str, Any]:
    """The settings named in `values`, and the further defaults of AdamW or of a kind of student."""
    fine_tunes = isinstance(student, str) and student.startswith("transformers:")
    if values.get("optimizer", "adamw" if reads_text or fine_tunes else "sgd") != "adamw":
        return values
    return {"optimizer": "adamw", "learning_rate": FINE_TUNING if fine_tunes else 0.003} | values


def _several(value: Any) -> Any:
    """A list, also where one name stands alone."""
    return [value] if isinstance(value, str) else value


class TrainSettings(Settings):
    """How a student is trained; the defaults are a fixed cosine schedule with the paper's optimizer.

    That optimizer is SGD, with which students of text hardly learn: the gradient of a word's embedding is small and
    rare. Their default is AdamW, which starts with a learning rate of 0.003 (see `optimizer_defaults`).
    """

    schedule: Literal["cosine", "stages", "milestones"] = setting(
        "cosine",
        "cosine of fixed length; the paper's three stages with patience; or its teachers' tenfold drops after 5/8, 6/8 "
        "and 7/8 of the epochs",
    )
    epochs: int = setting(
        120, "length of the schedule; the most that the stages take", unit="epochs", ge=1, le=1_000_000
    )
    learning_rate: float = setting(0.05, "at the start of training", gt=0)
    patience: int = setting(50, "epochs without a better validation that end a stage", unit="epochs", ge=1)
    ties: Literal["later", "first"] = setting("later", "which of equally good epochs is the best")
    stage_momentum: Literal["clear", "keep"] = setting("clear", "of the optimizer, where a further stage begins")
    stage_memory: Literal["restore", "keep"] = setting(
        "restore", "of CRD where a further stage begins: as at the best epoch, like the weights, or as it is"
    )
    warm_up: float = setting(
        0.0, "linear rise to the learning rate at the start; below 1 it is a share of the schedule", unit="epochs", ge=0
    )
    stop_after: int | None = setting(
        None, "epochs without a better validation that end a cosine schedule early; null: none do", unit="epochs", ge=1
    )
    batch_size: int = setting(64, "inputs of one step", unit="inputs", ge=2)
    last_batch: Literal["equal", "short"] = setting(
        "equal", "all batches of an epoch are of one size to within an input, or the last holds what is left"
    )
    optimizer: Literal["sgd", "adamw"] = setting("sgd", "adamw is the default for students of text, sgd for others")
    momentum: float = setting(0.9, "of sgd", ge=0, lt=1)
    weight_decay: float = setting(5e-4, "of the optimizer", ge=0)
    clip_norm: float | None = setting(
        None, "longest gradient of a step, as the norm over all that is trained; null: any", gt=0
    )
    head_learning_rate: float | None = setting(
        None, "learning rate of the student's last linear layer; null: that of the others", gt=0
    )
    layer_decay: float = setting(
        1.0, "factor of the learning rate from each layer of a stack to the layer before it", gt=0, le=1
    )
    head_only: bool = setting(False, "train the student's last linear layer alone")
    freeze: Annotated[list[str], BeforeValidator(_several)] = setting(
        [], "module paths of the student that are not trained; batch norms there keep their statistics"
    )
    average: float | None = setting(
        None,
        "decay of an exponential average of the student, which is kept in its place; 0: off; null: 0.99 with unasked, "
        "else 0",
        ge=0,
        lt=1,
    )
    precision: Literal["auto", "float32", "bf16", "fp16"] = setting(
        "auto", "of the student's forward pass in training; auto is bf16 on CUDA, else float32; fp16 scales the loss"
    )
    class_weights: Literal["balanced"] | None = setting(
        None, "balanced: each label's cross-entropy is weighted by the inverse frequency of its class"
    )
    augment: bool = setting(True, "random crops and flips, where the data has them")
    mean: list[float] | None = setting(
        None, "subtracted from each channel of the student's inputs in [0, 1]; null: that of the inputs"
    )
    std: list[float] | None = setting(
        None, "by which each channel of the student's inputs is divided then; null: that of the inputs"
    )
    accounting: Literal["published", "matched"] = setting(
        "published", "a step of groups forwards batch_size groups, as published, or batch_size inputs, matched"
    )
    teacher_labels: bool = setting(False, "without labels, use the teacher's hard answers in their place")
    smoothing: float = setting(0.1, "share of a teacher's hard label that is spread over all classes", ge=0, lt=1)
    aligned: bool = setting(True, "apply the student's crop and flip to the teacher's feature maps")
    offset: bool = setting(
        False, "note in metrics.csv, after every epoch, the offset of the classes that comparison losses do not teach"
    )
    device: str = setting("auto", "where models compute: auto, cpu, cuda, cuda:1 or mps", free=True)
    threads: int | None = setting(
        None,
        "PyTorch's threads on a CPU; 0: those that the student keeps busy; null: as they are",
        unit="threads",
        free=True,
        ge=0,
        le=4096,  # PyTorch is killed by numbers far beyond the cores of any machine
    )
    checkpoint_seconds: float = setting(60.0, "least time between two checkpoints", unit="seconds", free=True, ge=0)
    keep_checkpoint: bool = setting(
        True,
        "keep the last checkpoint (3 to 5 times the weights), from which more epochs continue a finished run",
        free=True,
    )

    if not TYPE_CHECKING:  # type checkers know the settings by their fields

        def __init__(self, **values: Any) -> None:
            """As `of`, because Python code makes these settings by their class.

            Raises:
                UserError: the first unknown or invalid setting.
            """
            self._check_names(values)
            self._check_kinds(values)
            try:
                super().__init__(**values)
            except ValidationError as error:
                raise self._refusal(error) from None

    @model_validator(mode="after")
    def _fit_each_other(self) -> Self:
        if self.stop_after is not None and self.schedule == "stages":
            raise SettingError("stop_after ends a cosine schedule, and stages end by patience; leave stop_after out.")
        if (self.mean is None) != (self.std is None):
            raise SettingError("mean and std belong together; give both or none.")
        if self.warm_up >= max(1, self.epochs):
            raise SettingError(
                f"a warm-up of {self.warm_up:g} epochs is not shorter than the schedule of {self.epochs}; shorten it."
            )
        return self
