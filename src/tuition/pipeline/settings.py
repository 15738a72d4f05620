"""The settings of each command, in parts: data, ask, train.

People write names without their part (`size: 32`) or in it (`data: {size: 32}`); a name means the same in both.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple, Self

from pydantic import (
    Field,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo

from tuition import escape
from tuition.pipeline.parts import AskSettings, DataSettings, StartSettings
from tuition.training.options import words
from tuition.training.settings import SettingError, Settings, TrainSettings, extra, optimizer_defaults, setting

if TYPE_CHECKING:
    from tuition.models import Start

# What needs torch is imported where it is used, because the help of the command line is made from these classes.

OPTIONS = {"options": "options", "teacher_options": "teacher"}  # mappings, and how people begin the names in them


class CommandSettings(Settings):
    """The settings of a command: parts, and what is its own."""

    command: ClassVar[str]

    @classmethod
    def parts(cls) -> dict[str, type[Settings]]:
        kinds = {name: field.annotation for name, field in cls.model_fields.items()}
        return {name: kind for name, kind in kinds.items() if isinstance(kind, type) and issubclass(kind, Settings)}

    @classmethod
    def known(cls) -> dict[str, FieldInfo]:
        parts = cls.parts()
        own = {name: field for name, field in cls.model_fields.items() if name not in parts}
        return {name: field for part in parts.values() for name, field in part.model_fields.items()} | own

    @classmethod
    def unknown(cls, name: Any) -> str:
        others = [f"`tuition {other.command}`" for other in COMMANDS if name in other.known() or name in other.parts()]
        if others:
            return f"{name} is a setting of {' and '.join(others)}, and not of `tuition {cls.command}`; leave it out."
        return super().unknown(name)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        return super().of(cls._with_options(cls.flat_names(values)))

    @classmethod
    def flat_names(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Values by names without parts; options of the method and the teacher as "options.anchor", "teacher.task".

        Raises:
            UserError: a name appears twice, or in a part that it does not belong to.
        """
        parts, flat = cls.parts(), dict[str, Any]()

        def put(name: str, value: Any) -> None:
            prefix = OPTIONS.get(name)
            if prefix is not None and isinstance(value, Mapping):
                for option, below in value.items():
                    put(f"{prefix}.{option}", below)
                return
            if name in flat:
                raise SettingError(f"the setting {name} appears twice; keep one of the two.")
            flat[name] = value

        for name, value in values.items():
            if name in parts and (isinstance(value, Mapping) or name not in cls.known()):
                if not isinstance(value, Mapping):
                    shown = escape.shorten(repr(value), 80)
                    raise SettingError(f"{name} holds 'setting: value' lines, not {shown}; correct it.")
                for inner, below in value.items():
                    if inner not in parts[name].model_fields:
                        known = inner in cls.known()
                        raise SettingError(
                            f"{inner} is not a setting of {name}; move it." if known else cls.unknown(inner)
                        )
                    put(inner, below)
            else:
                put(name, value)
        return flat

    @classmethod
    def _with_options(cls, flat: Mapping[str, Any]) -> dict[str, Any]:
        rest = {k: v for k, v in flat.items() if str(k).partition(".")[0] not in OPTIONS.values() or "." not in str(k)}
        for name, prefix in OPTIONS.items():
            options = {k.removeprefix(f"{prefix}."): v for k, v in flat.items() if str(k).startswith(f"{prefix}.")}
            rest |= {name: options} if options else {}
        return rest

    @classmethod
    def nested(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        parts = cls.parts()
        place = {name: part for part, kind in parts.items() for name in kind.model_fields}
        nested: dict[str, Any] = {}
        for name, value in values.items():
            if name in place:
                nested.setdefault(place[name], {})[name] = value
            else:
                nested[name] = value
        return nested

    def flat(self, *, free: bool = True) -> dict[str, Any]:
        """All values by names without parts; with `free=False` only those that the result depends on."""
        parts = self.parts()
        values: dict[str, Any] = {}
        for name in type(self).model_fields:
            values |= getattr(self, name).model_dump() if name in parts else {name: getattr(self, name)}
        return {name: values[name] for name, field in self.known().items() if free or not extra(field, "free")}

    def changed(self, **values: Any) -> Self:
        """The same settings with other values, by names without parts."""
        return self.of(self.flat() | values)


class TeachSettings(CommandSettings):
    """What `tuition teach` needs: a model trained on labels by plain cross-entropy."""

    command: ClassVar[str] = "teach"
    data: DataSettings = DataSettings()
    train: TrainSettings = TrainSettings()
    model: str = setting("cnn_32", "the teacher's architecture (see `tuition models`)")
    examples: int | None = setting(None, "train on this number of examples only", unit="examples", ge=20)
    hold_out: bool = setting(
        True, "without validation, choose the best epoch by a tenth of train; false: train on all, keep the last epoch"
    )

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_training(cls, values: dict[str, Any]) -> dict[str, Any]:
        return _with_train_defaults(values, values.get("model"))


class TransferSettings(CommandSettings):
    """What `tuition ask` and `tuition check` need: a transfer set."""

    command: ClassVar[str] = "ask"
    data: DataSettings = DataSettings()
    ask: AskSettings = AskSettings()
    device: str = setting("auto", "where a teacher of this machine computes: auto, cpu, cuda, cuda:1 or mps", free=True)

    @field_validator("ask")
    @classmethod
    def _without_student(cls, ask: AskSettings) -> AskSettings:
        if ask.chosen_by_student:
            raise SettingError(f"{ask.select} chooses by a student's outputs; use `tuition distill` with --rounds.")
        return ask


class DistillSettings(CommandSettings):
    """What `tuition distill` needs; a study is many of these."""

    command: ClassVar[str] = "distill"
    data: DataSettings = DataSettings()
    ask: AskSettings = AskSettings()
    train: TrainSettings = TrainSettings()
    start: StartSettings = StartSettings()
    student: str = setting(
        "cnn_8",
        "the student's architecture (see `tuition models`), transformers:NAME_OR_FOLDER, timm:NAME, or a finished run",
    )
    method: str = setting("ckd", "what it is trained by (see `tuition methods`), or package.module:function")
    options: dict[str, Any] = setting({}, "settings of the method")
    unasked: Annotated[int, Field(ge=0)] | Literal["all"] = setting(
        0, "inputs of train that the teacher is not asked about, learned from beside its answers: a number, or all"
    )
    neighbours: int = setting(
        0,
        "of each input in a graph over which answers are spread to unasked ones, by `features`; 0: they learn what the "
        "student's average answers",
        ge=0,
    )
    paid_mixes: int = setting(0, "CutMixes to ask about as well; half of them are kept", unit="calls", ge=0)
    rounds: int = setting(
        1,
        "ask in this many rounds, each of twice the inputs of all before, chosen with the student of the last one",
        unit="rounds",
        ge=1,
        le=30,
    )
    until: float | None = setting(
        None,
        "ask in rounds until validation is above this with 95 % confidence, or the budget is spent or will not do",
        unit="percent",
        gt=0,
        lt=100,
    )
    round_start: Literal["fresh", "warm"] = setting(
        "fresh", "what the student of a round begins with: fresh weights, or those of the round before (warm)"
    )
    log_dir: str | None = setting(None, "folder for TensorBoard logs of every epoch", free=True)
    wandb_project: str | None = setting(
        None, "project of Weights & Biases for the figures of every epoch; needs tuition[wandb]", free=True
    )

    @property
    def in_rounds(self) -> bool:
        return self.rounds > 1 or self.until is not None

    @property
    def device(self) -> str:
        return self.train.device

    @property
    def student_start(self) -> Start:
        from tuition.models import Start

        return Start(**self.start.model_dump(), trust_code=self.ask.trust_code)

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_training(cls, values: dict[str, Any]) -> dict[str, Any]:
        return _with_train_defaults(values, values.get("student"))

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_rounds(cls, values: dict[str, Any]) -> dict[str, Any]:
        ask, until = values.get("ask", {}), values.get("until")
        if not isinstance(ask, dict) or (until is None and str(values.get("rounds", 1)) == "1"):
            return values
        ask = {"select": "diverse-margin"} | ask
        if until is not None and "calls" not in ask:
            if ask.get("budget") is None:
                raise SettingError("until needs the most that may be paid; give --budget, or --calls.")
            ask["calls"] = ask["budget"]
        return values | {"ask": ask}

    @field_validator("ask")
    @classmethod
    def _two_calls(cls, ask: AskSettings) -> AskSettings:
        if ask.calls < 2:
            raise SettingError("a student needs at least 2 calls; raise calls.")
        return ask

    @field_validator("unasked", mode="wrap")
    @classmethod
    def _number_or_all(cls, value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
        try:
            return validate(value)
        except ValidationError:
            raise SettingError(f"unasked is a number of inputs, or all, not {value!r}.") from None

    @model_validator(mode="after")
    def _rounds_fit(self) -> Self:
        if not self.in_rounds:
            if self.ask.chosen_by_student:
                raise SettingError(
                    f"{self.ask.select} chooses by the student of the round before; set rounds to 2 or more."
                )
        elif self.until is not None and self.paid_mixes:
            raise SettingError("paid mixes belong to the last round, which until does not know before; leave one out.")
        elif self.ask.calls < 2**self.rounds:
            raise SettingError(
                f"{self.rounds} rounds, of twice the inputs of the one before, need {2**self.rounds} calls or more, "
                f"not {self.ask.calls}; choose fewer rounds."
            )
        return self

    @field_validator("method")
    @classmethod
    def _known_method(cls, method: str) -> str:
        from tuition.training import methods

        methods.find(method)
        return method

    @field_validator("options")
    @classmethod
    def _checked_options(cls, options: dict[str, Any], others: ValidationInfo) -> dict[str, Any]:
        from tuition.training import methods

        return methods.checked(others.data["method"], options) if "method" in others.data else options


Asking = TransferSettings | DistillSettings
COMMANDS: tuple[type[CommandSettings], ...] = (TeachSettings, TransferSettings, DistillSettings)


def _with_train_defaults(values: dict[str, Any], model: Any) -> dict[str, Any]:
    """The defaults of a model of text; and a command, in a process of its own, uses the threads that are kept busy."""
    train = values.get("train", {})
    if not isinstance(train, dict):
        return values
    if model is None:
        return values | {"train": optimizer_defaults({"threads": 0} | train, None, False)}
    return values | {"train": optimizer_defaults({"threads": 0} | train, model, _reads_text(str(model)))}


def _reads_text(model: str) -> bool:
    from tuition.models import reads_text

    return reads_text(model)


class SettingInfo(NamedTuple):
    """A setting as people read it: `group` is its part, or "" for one of the command's own."""

    name: str
    annotation: Any
    type: str
    default: Any
    description: str
    unit: str
    group: str


def fields(kind: type[CommandSettings]) -> list[SettingInfo]:
    """Every setting of a command, part by part."""
    place = {name: part for part, model in kind.parts().items() for name in model.model_fields}
    defaults = kind.of({}).flat()
    return [
        SettingInfo(
            name,
            field.annotation,
            words(Annotated[field.annotation, field]),
            defaults[name],
            field.description or "",
            extra(field, "unit") or "",
            place.get(name, ""),
        )
        for name, field in kind.known().items()
    ]


def default_folder(settings: DistillSettings) -> Path:
    """Where a run is written when no folder is named."""
    data, ask = settings.data, settings.ask
    pool = "+".join(Path(part).name for part in data.data.split(","))
    count = ask.calls if settings.until is None else f"until{settings.until:g}"
    count = f"{count}-rounds{settings.rounds}" if settings.rounds > 1 else count
    name = f"{pool}-{settings.student}-{settings.method}-{count}-seed{data.seed}"
    return Path("runs") / name.replace(":", "-")
