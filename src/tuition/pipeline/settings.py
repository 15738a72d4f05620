"""The settings of each command, validated."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from tuition.models import reads_text
from tuition.store.price import Price, amount, amounts, price
from tuition.training import TrainSettings
from tuition.training.methods import checked
from tuition.training.settings import usual


class Columns(NamedTuple):
    """Where a table has what; "auto" finds the usual names, and labels of None are not looked at."""

    text: str = "auto"
    label: str | None = "auto"
    image: str = "auto"

    @property
    def named(self) -> dict[str, str | None]:
        """Those that were named, as settings."""
        return {f"{what}_column": column for what, column in self._asdict().items() if column != "auto"}


class DataSettings(TrainSettings):
    """What every command needs to know."""

    @model_validator(mode="before")
    @classmethod
    def _usual(cls, values: dict[str, Any]) -> dict[str, Any]:
        return usual(values, reads_text(str(values.get("student", values.get("model", "")))))

    data: str = Field("digits", description="digits, a folder, or a name on the hub")
    size: int | None = Field(None, ge=8, description="squash each picture to so many pixels a side")
    test: str | None = Field("test", description="the data's split to evaluate on; null evaluates nothing")
    seed: int = Field(0, ge=0, lt=2**32, description="of the draw of inputs, the initial weights and the training")
    text_column: str = Field("auto", description="the column of texts, or several that are joined, as in title,body")
    label_column: str | None = Field("auto", description="the column of labels; null looks at none")
    image_column: str = Field("auto", description="the column of images")
    trust_code: bool = Field(False, description="run the code that a run's folder or a file of settings names")

    @property
    def columns(self) -> Columns:
        return Columns(self.text_column, self.label_column, self.image_column)


class TeachSettings(DataSettings):
    """What `tuition teach` needs: a model trained on labels by plain cross-entropy."""

    model: str = Field("cnn_32", description="the teacher's architecture (see `tuition models`)")
    examples: int | None = Field(None, ge=20, description="train on so many examples only")


class AskSettings(DataSettings):
    """What is asked: which inputs, of which teacher, answered into which store, for how much."""

    teacher: str | None = Field(
        None,
        description="a folder made by `tuition teach`, timm:NAME, transformers:NAME_OR_FOLDER, onnx:FILE, "
        "openai:MODEL, v2:URL, or package.module:factory",
    )
    calls: int = Field(320, ge=1, description="inputs of the transfer set, each one teacher call")
    budget: int | None = Field(
        None, ge=0, description="most calls ever paid for this teacher in this store; by default no limit but the calls"
    )
    store: str = Field("responses.db", description="SQLite file or database URL")
    select: Literal["random", "stratified", "k-centre", "medoids"] = "random"
    features: str | None = Field(
        None, description="folder of a run whose features k-centre and medoids use; else pixels"
    )
    view: Literal["clean", "random"] = Field(
        "clean", description="ask about the image as it is, or about one random crop of it, as the authors do"
    )
    labels: bool = Field(True, description="use the data's labels where it has them")
    classes: Literal["data", "teacher"] = Field(
        "data",
        description="whose classes the student learns; the data's must be among the teacher's",
    )
    check_answers: bool = Field(
        True, description="look at the first answers, and stop where they are not better than chance"
    )
    ask_batch: int = Field(64, ge=1, description="inputs a request")
    concurrency: int = Field(1, ge=1, description="requests in flight at once")
    cost_per_call: Annotated[Decimal, BeforeValidator(amount)] | None = Field(
        None, description="price of one call, in any currency"
    )
    cost_per_million_tokens: Annotated[tuple[Decimal, Decimal], BeforeValidator(amounts)] | None = Field(
        None, description="price of a million tokens as IN,OUT, beside that of a call; needs a server that counts them"
    )
    seconds_per_call: float | None = Field(None, ge=0, description="time of one call, to estimate by")

    @property
    def price(self) -> Price | None:
        """None where no price is set."""
        if self.cost_per_call is None and self.cost_per_million_tokens is None:
            return None
        return price(self.cost_per_call, self.cost_per_million_tokens)


class DistillSettings(AskSettings):
    """What `tuition distill` needs; a study is many of these."""

    calls: int = Field(320, ge=2, description="inputs of the transfer set, each one teacher call")
    student: str = Field("cnn_8", description="the student's architecture (see `tuition models`)")
    method: str = Field("ckd", description="what it is trained by (see `tuition methods`)")
    options: dict[str, Any] = Field({}, description="settings of the method")
    paid_mixes: int = Field(0, ge=0, description="CutMixes to ask about as well, each a call; half of them are kept")
    log_dir: str | None = Field(None, description="write TensorBoard logs of every epoch to this folder")

    @field_validator("method")
    @classmethod
    def _known(cls, method: str) -> str:
        checked(method, {})
        return method

    @field_validator("options")
    @classmethod
    def _checked(cls, options: dict[str, Any], others: ValidationInfo) -> dict[str, Any]:
        return checked(others.data["method"], options) if "method" in others.data else options


# What a run's record holds of its settings; the store may move, and its address may hold a password.
ASKED = {"data", "size", "test", "calls", "select", "features", "view", "labels", "paid_mixes"}


TRAINED = set(TrainSettings.model_fields) - {"device", "threads", "checkpoint_seconds"}


def described(settings: DistillSettings, teacher: str, fingerprint: str) -> dict[str, Any]:
    """What a run is to record beside the settings of its training."""
    later = {} if settings.classes == "data" else {"classes": settings.classes}  # older runs do not record it
    return (
        settings.model_dump(include=ASKED)
        | settings.columns.named
        | later
        | {"teacher": teacher, "fingerprint": fingerprint}
    )


def default_folder(settings: DistillSettings) -> Path:
    """Where a run is written when no folder is named."""
    name = f"{Path(settings.data).name}-{settings.student}-{settings.method}-{settings.calls}-seed{settings.seed}"
    return Path("runs") / name.replace(":", "-")
