"""`tuition check`: a teacher tried on a few inputs, at a known price."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from tuition.data import Pool, TransferSet
from tuition.data.classes import shown
from tuition.data.transfer import by_class
from tuition.pipeline.checks import check_answer
from tuition.pipeline.settings import TransferSettings
from tuition.pipeline.sources import Sources
from tuition.store import ResponseStore, stepwise
from tuition.store.agreement import CLEAR, ENOUGH, FEWEST, PROBABILITIES, SCALE, Judgement, are_probabilities
from tuition.teachers import Teacher
from tuition.teachers.protocol import Reads, wrapped

READ_AS: dict[Reads, str] = {
    "anything": "it is",
    "bytes": "images of bytes, 0 to 255",
    "floats": "floats; images in [0, 1]",
    "texts": "texts",
}


@dataclass
class TimedTeacher:
    """Measures how long a teacher's answers take."""

    teacher: Teacher
    seconds: float = 0.0
    inputs: int = 0

    def __call__(self, inputs: Any) -> Mapping[str, Tensor]:
        started = time.perf_counter()
        answer = self.teacher(inputs)
        self.seconds, self.inputs = self.seconds + time.perf_counter() - started, self.inputs + len(inputs)
        return answer


@dataclass(frozen=True)
class TeacherCheck:
    """What a teacher takes and gives, how fast it is, and how often it is right."""

    transfer: TransferSet
    judgement: Judgement
    class_names: tuple[str, ...] | None
    reads: Reads
    seconds: float | None

    def rows(self) -> list[tuple[str, str]]:
        """The rows of a table: what, and its figure."""
        judgement, gives, refused = self.judgement, self.transfer.responses.items(), self.transfer.refused
        right = "not known: the answers name no classes"
        if self.transfer.labels is None:
            right = "not known: the inputs have no labels"
        elif not math.isnan(judgement.accuracy):
            right = f"{judgement.accuracy:.1f} %, beside chance {judgement.chance:.1f} %"
        return [
            ("takes", _inputs(self.transfer.pool)),
            ("reads it as", READ_AS[self.reads]),
            *((f"gives {name}", f"({_range(value.to(torch.float32), '.3g')}") for name, value in gives),
            ("names of its classes", "not known" if self.class_names is None else shown(self.class_names)),
            ("seconds a call", "all answers are from the store" if self.seconds is None else f"{self.seconds:.3g}"),
            ("right", right),
            *([("left out", f"{len(refused)}: {refused[0].reason}")] if refused else []),
        ]

    @property
    def verdict(self) -> str:
        """Sentences: whether its answers are better than chance, and what is odd about their form."""
        logits = self.transfer.responses.get("logits")
        odd = f" Note: {PROBABILITIES}." if logits is not None and are_probabilities(logits) else ""
        return self._right + odd

    @property
    def _right(self) -> str:
        look, one_class = self.judgement, self._one_class()
        if look.verdict == "bad":
            return f"This teacher needs a look: {look.reason}. {look.advice}."
        if one_class is not None:
            advice = stepwise.TEXTS if self.transfer.pool.kind == "texts" else SCALE
            return f"This teacher needs a look: all {len(self.transfer)} answers are of class {one_class}. {advice}."
        if math.isnan(look.accuracy):
            return "It answers; whether it is right cannot be told without labels and classes to compare."
        if look.score >= CLEAR and look.accuracy > look.chance:
            return "It answers, and better than chance."
        if look.inputs < ENOUGH:
            more = max(40, 2 * look.inputs)
            return f"{look.inputs} inputs are too few to tell whether it is better than chance; try --calls {more}."
        return "Its answers are not clearly better than chance yet; try more calls."

    def _one_class(self) -> str | None:
        """The class of all answers; None where they differ, are few or no classes, or all labels are this class."""
        outputs, labels = by_class(self.transfer.responses), self.transfer.labels
        if outputs is None or outputs.ndim != 2 or outputs.shape[1] < 2 or len(outputs) < FEWEST:
            return None
        first, *others = outputs.argmax(dim=1).unique().tolist()
        if others or (labels is not None and bool((labels == first).all())):
            return None
        names = self.transfer.pool.class_names
        return str(first) if names is None or first >= len(names) else names[first]


def check(settings: TransferSettings, sources: Sources) -> TeacherCheck:
    """Ask about `calls` random inputs; the answers are stored, and their calls paid within the budget.

    Raises:
        UserError: as for `job.ask`.
    """
    ask = settings.ask
    teacher = sources.teacher(settings)
    pool = sources.train_pool(settings)
    pool = pool.sample(min(ask.calls, len(pool)), seed=settings.data.seed)
    pool = pool if ask.labels else pool.without_labels
    check_answer(teacher, pool)
    timed = TimedTeacher(teacher)
    transfer = ResponseStore(ask.store).ask(
        replace(wrapped(teacher), teacher=timed),
        pool,
        **ask.payment,
        batch_size=ask.ask_batch,
        check_answers=False,
    )
    judgement = stepwise.judge(transfer.responses, transfer.labels, texts=pool.kind == "texts")
    seconds = timed.seconds / timed.inputs if timed.inputs else None
    return TeacherCheck(transfer, judgement, teacher.class_names, teacher.reads, seconds)


def _inputs(pool: Pool) -> str:
    if pool.kind == "texts":
        lengths = [len(text) for text in pool.texts]
        return f"texts of {min(lengths):,} to {max(lengths):,} characters"
    inputs = pool.asked_tensor()
    return f"{str(inputs.dtype).removeprefix('torch.')} ({_range(inputs, 'g')}"


def _range(value: Tensor, form: str) -> str:
    return f"{', '.join(map(str, value.shape[1:]))}), {float(value.min()):{form}} to {float(value.max()):{form}}"
