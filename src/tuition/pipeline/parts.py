"""Parts that the settings of several commands have: the data, what is asked, and what a student begins with."""

from __future__ import annotations

import warnings
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BeforeValidator, model_validator

from tuition.errors import Notice
from tuition.training.settings import Settings, setting

if TYPE_CHECKING:
    from tuition.store.price import Price

BY_OUTPUTS = ("margin", "entropy", "diverse-margin")  # ways to select that need class outputs of a student
UNLIMITED = 2**62  # a budget; an ask never pays for more calls than it has inputs


def _amount(value: Any) -> Decimal:
    from tuition.store.price import amount

    return amount(value)


def _amounts(value: Any) -> tuple[Decimal, Decimal]:
    from tuition.store.price import amounts

    return amounts(value)


class DataSettings(Settings):
    """The inputs, and what is read of them."""

    data: str = setting("digits", "digits, a folder or table, or a name on the hub; several as in a,b are one pool")
    size: int | None = setting(None, "squash each picture to a square of this side", unit="pixels", ge=8)
    validation: str | None = setting(
        None, "labelled inputs to choose the epoch by: a split, or other data; null: a part of train"
    )
    test: str | None = setting("test", "labelled inputs to evaluate on: a split, or other data; null evaluates nothing")
    seed: int = setting(0, "of the draw of inputs, the initial weights and the training", ge=0, lt=2**32)
    text_column: str = setting("auto", "the column of texts, several as in title,body, or a template: {title}: {body}")
    label_column: str | None = setting("auto", "the column of labels; null reads none")
    image_column: str = setting("auto", "the column of images, or of their paths")
    class_names: str | None = setting(None, "names of the classes, as in cat,dog, or a file of them, one a line")


class AskSettings(Settings):
    """Which inputs a teacher is asked about, where its answers are kept, and what it may cost."""

    teacher: str | None = setting(
        None,
        "a folder made by `tuition teach`, timm:NAME, transformers:NAME_OR_FOLDER, onnx:FILE, openai:MODEL, v2:URL, "
        "or package.module:factory",
    )
    teacher_options: dict[str, Any] = setting({}, "options of the teacher, such as --set teacher.labels=[cat,dog]")
    calls: int = setting(320, "inputs of the transfer set, each one teacher call", unit="calls", ge=1)
    budget: int | None = setting(
        None, "most calls ever paid for this teacher in this store; null: only `calls`", unit="calls", free=True, ge=0
    )
    store: str = setting("responses.db", "where paid answers are kept: an SQLite file or a database URL", free=True)
    select: Literal[
        "random", "stratified", "k-centre", "medoids", "margin", "entropy", "diverse-margin", "coverage"
    ] = setting("random", "how inputs are chosen; in rounds the default is diverse-margin")
    features: str | None = setting(
        None,
        "encoder whose features k-centre, medoids, coverage and neighbours use: a run, timm:NAME, transformers:NAME or "
        "package.module:factory; null: pixels, or the student's",
    )
    view: Literal["clean", "random"] = setting(
        "clean", "ask about the image as it is, or about one random crop of it, as the authors do"
    )
    labels: bool = setting(True, "use the data's labels where it has them")
    classes: Literal["data", "teacher"] = setting(
        "data", "whose classes the student learns; the data's must be among the teacher's"
    )
    check_answers: bool = setting(True, "stop where the first answers are not better than chance", free=True)
    ask_batch: int = setting(64, "inputs of one request", unit="inputs", free=True, ge=1)
    concurrency: int = setting(1, "requests in flight at once", unit="requests", free=True, ge=1)
    cost_per_call: Annotated[Decimal, BeforeValidator(_amount)] | None = setting(
        None, "price of one call, in any currency", free=True
    )
    cost_per_million_tokens: Annotated[tuple[Decimal, Decimal], BeforeValidator(_amounts)] | None = setting(
        None, "price of a million tokens as IN,OUT; needs a server that counts them", free=True
    )
    seconds_per_call: float | None = setting(None, "time of one call, to estimate by", unit="seconds", free=True, ge=0)
    trust_code: bool = setting(False, "run code that a folder or a file of settings names", free=True)

    @model_validator(mode="after")
    def _two_prices(self) -> Self:
        """Say that both count, because one of them may stand in a file that is not looked at."""
        if self.cost_per_call and self.cost_per_million_tokens and any(self.cost_per_million_tokens):
            read, written = self.cost_per_million_tokens
            warnings.warn(
                f"two prices are set, and both are charged: {self.cost_per_call} for each call, and {read} and "
                f"{written} for a million tokens in and out; set one to null to charge the other alone.",
                Notice,
                stacklevel=1,
            )
        return self

    @property
    def chosen_by_student(self) -> bool:
        """Whether inputs are chosen by the outputs of a student."""
        return self.select in BY_OUTPUTS or (self.select == "coverage" and self.features is None)

    @property
    def price(self) -> Price | None:
        """None where no price is set."""
        if self.cost_per_call is None and self.cost_per_million_tokens is None:
            return None
        from tuition.store.price import price

        return price(self.cost_per_call, self.cost_per_million_tokens)

    @property
    def payment(self) -> dict[str, Any]:
        """What every ask is told of money: the budget and the prices."""
        return {
            "budget": UNLIMITED if self.budget is None else self.budget,
            "cost_per_call": self.cost_per_call,
            "cost_per_million_tokens": self.cost_per_million_tokens,
        }


class StartSettings(Settings):
    """What a student begins with, where its kind has a choice."""

    pretrained: bool | None = setting(None, "published weights: the default for transformers:NAME, not for timm:NAME")
    weights: str | None = setting(None, "safetensors file of weights for timm:NAME, in the layout of timm")
    layers: int | None = setting(None, "first layers of an encoder of text that are kept; null keeps all", ge=1)
    pooling: Literal["mean", "cls"] = setting("mean", "of an encoder of text: mean over tokens, or the first token")
    max_tokens: int = setting(128, "longest text of a transformers:NAME; the rest is cut off", unit="tokens", ge=2)
    head: Literal["default", "repdistiller"] = setting(
        "default", "initial last layer of VGG and ResNet: as PyTorch with bias 0, or as RepDistiller has it"
    )
    resolution: int | None = setting(
        None, "side that a pretrained model of images sees; null: as it was trained", unit="pixels", ge=8
    )
