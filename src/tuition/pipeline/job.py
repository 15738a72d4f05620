"""One run from settings alone: load the data, ask the teacher, train the student."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import lru_cache, partial
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import torch
from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator
from torch import Tensor, nn

from tuition import data, factories, stopping, teachers
from tuition.data import Bill, Pool, TransferSet, folders, texts
from tuition.data.classes import numbers
from tuition.data.images import read_images
from tuition.data.transfer import rows_answered
from tuition.errors import UserError
from tuition.models import Hashing, Preprocess, reads_text
from tuition.pipeline.paid_mixes import UNLIMITED, add_paid_mixes
from tuition.store import BudgetError, Plan, ResponseStore, address, maps_bytes, recompute, refusals
from tuition.store.class_columns import arranged, local_width
from tuition.store.price import Price, amount, amounts, estimate, money, price
from tuition.teachers import NotCharged, Teacher
from tuition.teachers.function import with_code
from tuition.teachers.pytorch import TorchTeacher
from tuition.training import Run, Student, TrainSettings, check, distill, load, parallel, teach
from tuition.training.loop import Progress
from tuition.training.methods import checked, teacher_layers
from tuition.training.preflight import check_width, pick_device
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
TRAINED = set(TrainSettings.model_fields) - {"device", "checkpoint_seconds"}


@lru_cache(maxsize=4)
def load_data(name: str, split: str, size: int | None = None, columns: Columns = Columns()) -> Pool:  # noqa: B008
    return data.load(
        name,
        split=split,
        size=size,
        text_column=columns.text,
        label_column=columns.label,
        image_column=columns.image,
    )


def train_columns(settings: AskSettings) -> Columns:
    """The columns of what is asked about: labels only if somebody wants them."""
    wanted = settings.labels or settings.select == "stratified"
    return settings.columns if wanted else settings.columns._replace(label=None)


def test_data(settings: DataSettings) -> Pool | None:
    """The labelled inputs to evaluate on.

    Raises:
        UserError: the data has no such split, or no labels in it.
    """
    if settings.test is None:
        return None
    try:
        pool = load_data(settings.data, settings.test, settings.size, settings.columns)
    except UserError as error:
        raise UserError(f"{str(error).rstrip('.')} (or --set test=null, to evaluate nothing).") from error
    if pool.labels is None:
        raise UserError(f"{pool.name} has no labels to evaluate by; evaluate nothing with --set test=null.")
    return pool


def draw(pool: Pool, settings: AskSettings) -> tuple[Tensor, Tensor]:
    """Rows to ask about, and a fourth as many for validation, disjoint (the paper's 80 and 20 %).

    Both are nested when drawn at random: of one seed, a draw of more calls holds every smaller one.
    """
    held_out = -(-settings.calls // 4)
    if settings.calls + held_out > len(pool):
        raise UserError(
            f"{settings.calls} calls and {held_out} inputs for validation do not fit in the {len(pool)} of "
            f"{pool.name}; choose at most {len(pool) * 4 // 5} calls."
        )
    order = torch.randperm(len(pool), generator=torch.Generator().manual_seed(settings.seed))
    validation = order[len(pool) - held_out :]
    if settings.select == "random":
        return order[: settings.calls], validation
    rest = order[: len(pool) - held_out]
    features = None
    if settings.features is not None:
        features = load(settings.features, trust_code=settings.trust_code).features(pool[rest])
    chosen = data.select(pool[rest], settings.calls, method=settings.select, features=features, seed=settings.seed)
    return rest[chosen], validation


KINDS: dict[str, Callable[[str], Teacher]] = {
    "onnx": teachers.from_onnx,
    "openai": teachers.from_openai,
    "timm": teachers.from_timm,
    "transformers": teachers.from_transformers,
    "v2": teachers.from_v2,
}


def find_teacher(name: str, *, trust_code: bool = False) -> Teacher:
    """A teacher by the folder that `tuition teach` made, by a kind of `KINDS` and its name, or by `module:factory`.

    The factory's name is the user's own word, and its code is run; code that a folder names needs `trust_code`.

    Raises:
        UserError: nothing of that name, a missing extra, a factory that fails or returns something else, or code that
            is not trusted.
    """
    if "\0" in name:
        raise UserError(f"the teacher's name {name!r} holds a zero byte; correct it.")
    module_name, _, attribute = name.partition(":")
    if ":" in name and not Path(name).exists():
        if module_name in KINDS:
            return _of_kind(module_name, attribute, Path.cwd())
        return _from_factory(name)
    return _taught(str(Path(name).resolve()), trust_code)


def _from_factory(name: str) -> Teacher:
    if not factories.is_factory(name):
        known = ", ".join(f"{kind}:..." for kind in KINDS)
        raise UserError(f"{name!r} is not a teacher; name a folder, {known} or package.module:factory.")
    factory = factories.find(name)
    if isinstance(factory, nn.Module):  # a model of the module itself
        return teachers.from_torch(factory)
    made = factories.call(name, factory)
    if isinstance(made, nn.Module):
        return teachers.from_torch(made)
    if isinstance(made, type) or not callable(made) or not all(hasattr(made, it) for it in ("name", "fingerprint")):
        raise UserError(f"{name} returned {factories.kind(made)}, not a teacher; return teachers.from_callable(...).")
    return with_code(made)


@lru_cache(maxsize=4)
def _of_kind(kind: str, name: str, here: Path) -> Teacher:
    """Made once for each folder `here`, as `name` may be a path from it."""
    return KINDS[kind](name)


@lru_cache(maxsize=4)
def _taught(folder: str, trust_code: bool) -> Teacher:
    taught = load(folder, trust_code=trust_code)
    name, names = Path(folder).name, taught.class_names
    if isinstance(taught.preprocess, Hashing):
        return TorchTeacher(taught.model, name, _Hashed(taught.preprocess), class_names=names)
    assert isinstance(taught.preprocess, Preprocess)
    mean, std = taught.preprocess.mean.tolist(), taught.preprocess.std.tolist()
    return teachers.from_torch(taught.model, name=name, mean=mean, std=std, class_names=names)


@dataclass(frozen=True)
class _Hashed:
    """Texts to the token ids that a model of text was trained on."""

    hashing: Hashing

    def __call__(self, inputs: Any, /) -> Tensor:
        if isinstance(inputs, Tensor):
            raise NotCharged("it reads text, and the inputs are images or vectors", retry=False)
        return self.hashing(inputs)

    def __str__(self) -> str:
        return f"hashing {json.dumps(self.hashing.settings())}"


def train_teacher(settings: TeachSettings, out: Path, progress: Progress | None = None) -> Run:
    """Train a teacher on the data's labels; a tenth is held out to choose the best epoch by."""
    pool = load_data(settings.data, "train", settings.size, settings.columns)
    if settings.examples is not None:
        pool = pool.sample(settings.examples, seed=settings.seed, stratified=True)
    validation, train = pool.split(max(10, len(pool) // 10), seed=settings.seed, stratified=True)
    return teach(
        settings.model,
        train,
        validation=validation,
        test=test_data(settings),
        seed=settings.seed,
        out=out,
        described=settings.model_dump(include={"data", "size", "test", "examples"}) | settings.columns.named,
        progress=progress,
        **settings.model_dump(include=set(TrainSettings.model_fields)),
    )


@dataclass(frozen=True)
class Question:
    """What is to be asked, before it is: `inputs` are the transfer set's, then those to validate on without labels."""

    inputs: Pool
    calls: int
    validation: Pool | None


def question(settings: AskSettings, teacher: Teacher | None = None) -> Question:
    """The inputs that these settings ask about, as this teacher answers them.

    Raises:
        UserError: the teacher's classes, as far as they are known, are not those of the data.
    """
    pool = load_data(settings.data, "train", settings.size, train_columns(settings))
    rows, held_out = draw(pool, settings)
    labelled = settings.labels and pool.labels is not None
    if not labelled:
        # Validation measures agreement with the teacher, which takes further answers.
        rows = torch.cat([rows, held_out])
    # Views are drawn for the whole pool, so that they are nested as the rows are.
    viewed = pool.view(pool.augment, seed=settings.seed) if settings.view == "random" else pool
    inputs = viewed[rows] if labelled else viewed[rows].without_labels
    validation = pool[held_out] if labelled else None
    if teacher is not None:
        names = getattr(teacher, "class_names", None)
        if settings.classes == "teacher" and labelled:
            width = local_width(teacher, inputs)
            if names is None and width is None:
                raise UserError("this teacher does not name its classes; give class_names=, or drop classes: teacher.")
            names = names if names is not None else numbers(width or 0)
            inputs, validation = (part.in_classes(names, "the teacher") for part in (inputs, pool[held_out]))
        inputs = arranged(teacher, inputs).pool
    return Question(inputs, settings.calls, validation)


def ask(
    settings: AskSettings, teacher: Teacher, progress: Callable[[int, int], None] | None = None
) -> tuple[TransferSet, Pool | TransferSet]:
    """The transfer set, and what to validate on: labelled inputs, or else further answers of the teacher."""
    asked = question(settings, teacher)
    check_answer(teacher, asked.inputs)
    trial = None
    if isinstance(settings, DistillSettings) and not is_local(teacher):  # what it answers with is not known before
        trial = partial(_fits, settings, teacher, asked.inputs, None)
    check_budget(settings, asked.inputs)
    store = ResponseStore(settings.store)
    with stopping.deferred():
        answered = store.ask(
            teacher,
            asked.inputs,
            budget=UNLIMITED if settings.budget is None else settings.budget,
            batch_size=settings.ask_batch,
            concurrency=settings.concurrency,
            cost_per_call=settings.cost_per_call,
            cost_per_million_tokens=settings.cost_per_million_tokens,
            progress=progress,
            stopping=stopping.requested,
            check_answers=settings.check_answers,
            trial=trial,
        )
    if asked.validation is not None:
        return answered, asked.validation
    first = len([row for row in rows_answered(asked.inputs, answered.refused) if row < asked.calls])
    if not 0 < first < len(answered):
        raise UserError(
            f"the teacher refused too many inputs ({answered.refused[0].reason}): {first} are left to train on and "
            f"{len(answered) - first} to validate on; ask about more, or about others."
        )
    return answered[:first], answered[first:]


def check_budget(settings: AskSettings, inputs: Pool) -> None:
    """Refuse what does not fit in the budget before a store is made for it; one that is there says so itself."""
    new = len(set(inputs.digests))
    if settings.budget is not None and new > settings.budget and not address.exists(settings.store):
        raise BudgetError(
            f"{new} new calls do not fit in the budget of {settings.budget}; nothing was asked, raise the budget to "
            f"{new} or ask about less."
        )


def train_student(
    settings: DistillSettings,
    transfer: TransferSet,
    validation: Pool | TransferSet,
    out: Path | None = None,
    progress: Progress | None = None,
) -> Run:
    """Train on what was answered, and evaluate on the data's test split."""
    if settings.log_dir is not None and parallel.rank() == 0:
        from tuition.training.tensorboard import logged

        progress = logged(settings.log_dir, progress)
    run = distill(
        settings.student,
        transfer,
        settings.method,
        options=settings.options,
        validation=validation,
        test=test_data(settings),
        seed=settings.seed,
        out=out,
        described=_described(settings, transfer.teacher, transfer.fingerprint),
        progress=progress,
        **settings.model_dump(include=set(TrainSettings.model_fields)),
    )
    if out is not None and transfer.refused:
        refusals.write(out / refusals.NAME, transfer.teacher, transfer.refused)
    return run


def run(settings: DistillSettings, out: Path | None = None, progress: Progress | None = None) -> Run:
    """Check, ask, train."""
    teacher = preflight(settings, out)
    transfer, validation = ask(settings, teacher)
    return train_student(settings, complete(settings, teacher, transfer), validation, out, progress)


def complete(settings: DistillSettings, teacher: Teacher, transfer: TransferSet) -> TransferSet:
    """The transfer set with all that the method needs beside answers: paid mixes, and maps of a local teacher."""
    if settings.paid_mixes:
        store = ResponseStore(settings.store)
        transfer = add_paid_mixes(
            store,
            teacher,
            transfer,
            settings.paid_mixes,
            seed=settings.seed,
            budget=settings.budget,
            cost_per_call=settings.cost_per_call,
            cost_per_million_tokens=settings.cost_per_million_tokens,
        )
    layers = _missing_layers(settings, transfer)
    return recompute(_local(teacher, layers), transfer, layers) if layers else transfer


def maps_megabytes(settings: DistillSettings, teacher: Teacher, transfer: TransferSet) -> float:
    """Memory that `complete` will take for feature maps, in 10^6 bytes."""
    layers = _missing_layers(settings, transfer)
    return maps_bytes(_local(teacher, layers), transfer, layers) / 1e6 if layers else 0.0


def _missing_layers(settings: DistillSettings, transfer: TransferSet) -> list[str]:
    wanted = teacher_layers(settings.method, settings.student, settings.options)
    return [layer for layer in wanted if layer not in transfer.responses]


def _local(teacher: Teacher, layers: list[str]) -> TorchTeacher:
    if not isinstance(teacher, TorchTeacher):
        raise UserError(f"this teacher did not answer with the maps {', '.join(layers)}; use a method without maps.")
    return teacher


def usual_folder(settings: DistillSettings) -> Path:
    """Where a run is written when no folder is named."""
    name = f"{Path(settings.data).name}-{settings.student}-{settings.method}-{settings.calls}-seed{settings.seed}"
    return Path("runs") / name.replace(":", "-")


def preflight(settings: DistillSettings, out: Path | None) -> Teacher:
    """The teacher, once everything is known to fit that can be known before a call is paid."""
    teacher = the_teacher(settings)
    load_data(settings.data, "train", settings.size, train_columns(settings))
    test_data(settings)  # a split that is missing is told before classes that differ
    pool = question(settings, teacher).inputs
    if settings.log_dir is not None:
        from tuition.training import tensorboard

        tensorboard.check(settings.log_dir)
    if not is_local(teacher):
        check_answer(teacher, pool)
    _fits(settings, teacher, pool, out, _blank_answer(teacher, settings, pool))
    return teacher


def _fits(
    settings: DistillSettings, teacher: Teacher, pool: Pool, out: Path | None, answer: Mapping[str, Tensor] | None
) -> None:
    """Refuse what does not fit the teacher's answer to one input; None if that is not known yet."""
    check(
        settings.student,
        pool,
        settings.method,
        answer=answer,
        test=test_data(settings),
        seed=settings.seed,
        out=out,
        options=settings.options,
        described=_described(settings, teacher.name, teacher.fingerprint),
        **settings.model_dump(include=set(TrainSettings.model_fields)),
    )


def _described(settings: DistillSettings, teacher: str, fingerprint: str) -> dict[str, Any]:
    """What a run is to record beside the settings of its training."""
    later = {} if settings.classes == "data" else {"classes": settings.classes}  # older runs do not record it
    return (
        settings.model_dump(include=ASKED)
        | settings.columns.named
        | later
        | {"teacher": teacher, "fingerprint": fingerprint}
    )


def the_teacher(settings: AskSettings) -> Teacher:
    """The teacher; a model of PyTorch on the device of training, where answers and maps take seconds."""
    if settings.teacher is None:
        described = type(settings).model_fields["teacher"].description
        raise UserError(f"name a teacher: {described}.")
    teacher = find_teacher(settings.teacher, trust_code=settings.trust_code)
    if isinstance(teacher, TorchTeacher):
        teacher.model.to(pick_device(settings.device))
    return teacher


def is_local(teacher: Teacher) -> bool:
    """Whether it computes here, so that it can be tried before calls are paid."""
    return getattr(teacher, "local", False)


def _blank_answer(teacher: Teacher, settings: DistillSettings, pool: Pool) -> Mapping[str, Tensor] | None:
    """A local teacher's answer to a blank input, with the maps that are needed; a remote one would be paid for it."""
    if not is_local(teacher):
        return None
    if isinstance(teacher, TorchTeacher):
        teacher = teacher.with_layers(teacher_layers(settings.method, settings.student, settings.options))
    return _answer(teacher, pool, 1)


def check_answer(teacher: Teacher, pool: Pool) -> None:
    """Find out what is wrong with a teacher before a call is paid; with a local one as `_answer`.

    Raises:
        UserError: it cannot be asked about such inputs.
    """
    if is_local(teacher):
        _answer(teacher, pool, 1)
    elif hasattr(teacher, "check"):
        try:
            teacher.check(_blank(pool, 1))
        except NotCharged as error:
            raise UserError(f"the teacher cannot be asked about {pool.name}: {error}.") from None


def _answer(teacher: Teacher, pool: Pool, count: int) -> Mapping[str, Tensor]:
    """What a local teacher says to blank inputs, or to a text of the pool.

    Raises:
        UserError: it cannot read such inputs, or its answers are not what a pool like this needs.
    """
    try:
        answer = teacher(_blank(pool, count))
    except NotCharged as error:
        why = str(error).splitlines()[0].rstrip(".")
        raise UserError(
            f"the teacher cannot answer inputs of {pool.name} ({why}); use a teacher of such data."
        ) from error
    vectors = answer.get("logits", answer.get("embedding"))
    if vectors is None or vectors.ndim != 2:
        raise UserError(
            "the teacher must return logits of shape (n, classes), or an embedding (n, width); wrap it in a module "
            "that does."
        )
    if not bool(vectors.isfinite().all()):
        raise UserError("the teacher answers a blank input with NaN or infinity; mend it before asking.")
    if "logits" in answer:
        check_width(vectors)
        arranged(teacher, pool, width=vectors.shape[1])
    return answer


def _blank(pool: Pool, count: int) -> Tensor | list[str]:
    sample = pool[:1].asked()
    if not isinstance(sample, Tensor):
        return sample * count
    return torch.zeros_like(sample).expand(count, *sample.shape[1:])


@dataclass(frozen=True)
class Estimate:
    """What an ask would take: calls, money and time, as far as they are known."""

    plan: Plan
    seconds: float | None
    by_tokens: bool = False

    def rows(self) -> list[tuple[str, str]]:
        cost = "give --cost-per-call or --cost-per-million-tokens"
        if self.plan.cost is not None:
            cost = ("about " if self.by_tokens else "") + money(self.plan.cost)
        elif self.by_tokens:
            cost = "unknown until answers of this teacher tell their tokens; ask about a few first"
        seconds = "give --set seconds_per_call=..." if self.seconds is None else f"{self.seconds:,.1f} s"
        return [
            ("new calls", f"{self.plan.new:,}"),
            ("served from the store", f"{self.plan.served:,}"),
            ("paid so far", f"{self.plan.paid:,}"),
            *self._accuracy(),
            ("cost of the new calls", cost),
            *([] if self.plan.tokens is None else [("tokens of a call, so far", _tokens(*self.plan.tokens))]),
            ("time", seconds),
        ]

    def _accuracy(self) -> list[tuple[str, str]]:
        if self.plan.accuracy is None:
            return []
        figure = f"{self.plan.accuracy:.2f} % of {self.plan.labelled:,}"
        return [("teacher's accuracy on what is stored", figure)]


def _tokens(read: Decimal, written: Decimal) -> str:
    return f"{read:,.1f} in, {written:,.1f} out"


def plan(settings: AskSettings) -> Estimate:
    """Look ahead, and ask nothing. A local teacher's time is measured on a blank batch."""
    teacher = the_teacher(settings)
    asked = question(settings, teacher).inputs
    charged = settings.price
    if address.exists(settings.store):
        found = ResponseStore(settings.store).plan(
            teacher,
            asked,
            cost_per_call=settings.cost_per_call,
            cost_per_million_tokens=settings.cost_per_million_tokens,
        )
    else:  # nor make a store
        new = len(set(asked.digests))
        found = Plan(new, len(asked) - new, 0, *estimate(charged, new, Bill()))
    seconds = None
    if settings.seconds_per_call is not None:
        seconds = found.new * settings.seconds_per_call / settings.concurrency
    elif is_local(teacher):
        _answer(teacher, asked, settings.ask_batch)
        begun = time.perf_counter()
        _answer(teacher, asked, settings.ask_batch)
        seconds = found.new * (time.perf_counter() - begun) / settings.ask_batch
    return Estimate(found, seconds, charged is not None and charged.per_token)


# -- a stand-in where no teacher is named ------------------------------------------------------------------------------

STAND_IN, STAND_IN_EPOCHS = "resnet14", 3


def stand_in_folder(settings: AskSettings) -> Path:
    return Path("teachers") / f"{Path(settings.data).name}-{STAND_IN}"


def with_stand_in(settings: DistillSettings, progress: Progress | None = None) -> DistillSettings:
    """The same settings, with a small teacher that is trained now, unless it was trained before."""
    folder = stand_in_folder(settings)
    check(
        settings.student,
        question(settings).inputs,
        settings.method,
        answer=None,
        test=test_data(settings),
        seed=settings.seed,
        options=settings.options,
        **settings.model_dump(include=set(TrainSettings.model_fields)),
    )
    quick = TeachSettings(
        data=settings.data,
        size=settings.size,
        test=settings.test,
        model=STAND_IN,
        epochs=STAND_IN_EPOCHS,
        learning_rate=0.1,
        device=settings.device,
        text_column=settings.text_column,
        label_column=settings.label_column,
        image_column=settings.image_column,
    )
    train_teacher(quick, folder, progress)
    return settings.model_copy(update={"teacher": str(folder)})


# -- inputs to predict -------------------------------------------------------------------------------------------------


def inputs_of(
    name: str,
    split: str,
    size: int | None,
    student: Student,
    columns: Columns = Columns(),  # noqa: B008
) -> tuple[list[str], Pool]:
    """Names and inputs of an image file, of all images in a folder, or of a split of a data set.

    Grey images are made RGB for a student of RGB images. With a `size`, pictures are squashed to size x size.
    """
    path = Path(name)
    found = folders.pictures(path) if path.is_dir() else [path]
    if (path.exists() and not path.is_dir() and not texts.is_text(path)) or (path.is_dir() and found):
        # What a file system holds need not be UTF-8, what is written about it is.
        names = [os.fsencode(p).decode(errors="backslashreplace") for p in found]
        pool = read_images(found, size=size)
    else:
        pool = load_data(name, "train" if path.is_file() else split, size, columns._replace(label=None))
        names = pool.inputs if isinstance(pool.inputs, list) else [f"{pool.name} {i}" for i in range(len(pool))]
    inputs = pool.inputs
    if isinstance(inputs, Tensor) and inputs.ndim == 4 and inputs.shape[1] == 1 and student.input_shape[0] == 3:
        pool = replace(pool, inputs=inputs.expand(-1, 3, -1, -1))
    return names, pool
