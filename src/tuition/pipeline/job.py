"""One run from settings alone: check, ask, complete, train."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tuition import stopping
from tuition.data import Pool, TransferSet
from tuition.data.transfer import rows_answered
from tuition.errors import UserError
from tuition.pipeline.checks import check_answer, check_budget, check_fit, preflight
from tuition.pipeline.paid_mixes import UNLIMITED, add_paid_mixes
from tuition.pipeline.settings import (
    AskSettings,
    DistillSettings,
    TeachSettings,
    described,
)
from tuition.pipeline.sources import load_data, question, test_data
from tuition.store import ResponseStore, maps_bytes, recompute, refusals
from tuition.teachers import Teacher
from tuition.training import Run, TrainSettings, distill, parallel, train_teacher
from tuition.training.loop import Progress
from tuition.training.methods import teacher_layers


def run(settings: DistillSettings, out: Path | None = None, progress: Progress | None = None) -> Run:
    """Check, ask, train."""
    teacher = preflight(settings, out)
    transfer, validation = ask(settings, teacher)
    return train_student(settings, complete(settings, teacher, transfer), validation, out, progress)


def ask(
    settings: AskSettings, teacher: Teacher, progress: Callable[[int, int], None] | None = None
) -> tuple[TransferSet, Pool | TransferSet]:
    """The transfer set, and what to validate on: labelled inputs, or else further answers of the teacher."""
    asked = question(settings, teacher)
    check_answer(teacher, asked.inputs)
    trial = None
    if isinstance(settings, DistillSettings) and not teacher.local:  # what it answers with is not known before
        trial = partial(check_fit, settings, teacher, asked.inputs, None)
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
    return recompute(teacher, transfer, layers) if layers else transfer


def maps_megabytes(settings: DistillSettings, teacher: Teacher, transfer: TransferSet) -> float:
    """Memory that `complete` will take for feature maps, in 10^6 bytes."""
    layers = _missing_layers(settings, transfer)
    return maps_bytes(teacher, transfer, layers) / 1e6 if layers else 0.0


def _missing_layers(settings: DistillSettings, transfer: TransferSet) -> list[str]:
    wanted = teacher_layers(settings.method, settings.student, settings.options)
    return [layer for layer in wanted if layer not in transfer.responses]


def training_settings(settings: TrainSettings) -> dict[str, Any]:
    """The settings of `distill`; a command, in a process of its own, uses the threads that its student keeps busy."""
    values = settings.model_dump(include=set(TrainSettings.model_fields))
    return values | {"threads": 0 if settings.threads is None else settings.threads}


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
        described=described(settings, transfer.teacher, transfer.fingerprint),
        progress=progress,
        **training_settings(settings),
    )
    if out is not None and transfer.refused:
        refusals.write(out / refusals.NAME, transfer.teacher, transfer.refused)
    return run


def teach(settings: TeachSettings, out: Path, progress: Progress | None = None) -> Run:
    """Train a teacher on the data's labels; a tenth is held out to choose the best epoch by."""
    pool = load_data(settings.data, "train", settings.size, settings.columns)
    if settings.examples is not None:
        pool = pool.sample(settings.examples, seed=settings.seed, stratified=True)
    validation, train = pool.split(max(10, len(pool) // 10), seed=settings.seed, stratified=True)
    return train_teacher(
        settings.model,
        train,
        validation=validation,
        test=test_data(settings),
        seed=settings.seed,
        out=out,
        described=settings.model_dump(include={"data", "size", "test", "examples"}) | settings.columns.named,
        progress=progress,
        **training_settings(settings),
    )
