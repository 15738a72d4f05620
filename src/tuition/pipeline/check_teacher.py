"""`tuition check`: a teacher tried on a few inputs, at a known price, and what was seen of it."""

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
from tuition.pipeline.checks import check_answer
from tuition.pipeline.paid_mixes import UNLIMITED
from tuition.pipeline.settings import AskSettings
from tuition.pipeline.sources import load_data, train_columns
from tuition.pipeline.teacher import named_teacher
from tuition.store import ResponseStore
from tuition.store.agreement import Judgement
from tuition.teachers import Teacher
from tuition.teachers.protocol import wrapped


@dataclass
class Timed:
    """Measures how long a teacher's answers take."""

    teacher: Teacher
    seconds: float = 0.0
    inputs: int = 0

    def __call__(self, inputs: Any) -> Mapping[str, Tensor]:
        begun = time.perf_counter()
        answer = self.teacher(inputs)
        self.seconds, self.inputs = self.seconds + time.perf_counter() - begun, self.inputs + len(inputs)
        return answer


@dataclass(frozen=True)
class Tried:
    """What was seen of a teacher."""

    transfer: TransferSet
    look: Judgement
    class_names: tuple[str, ...] | None
    seconds: float | None

    def rows(self) -> list[tuple[str, str]]:
        """What it takes and gives, how fast it is, and how often it is right."""
        given = [(f"gives {name}", _figures(value)) for name, value in self.transfer.responses.items()]
        names = "not known" if self.class_names is None else shown(self.class_names)
        served = "all answers were stored before" if self.seconds is None else f"{self.seconds:.3g}"
        right = "not known: the inputs have no labels, or the answers no logits"
        if not math.isnan(self.look.accuracy):
            right = f"{self.look.accuracy:.1f} %, beside chance {self.look.chance:.1f} %"
        return [
            ("takes", _taken(self.transfer.pool)),
            *given,
            ("names of its classes", names),
            ("seconds a call", served),
            ("right", right),
        ]

    @property
    def verdict(self) -> str:
        """A sentence."""
        if self.look.verdict == "bad":
            return f"This teacher should be looked at: {self.look.reason}. {self.look.advice}."
        if math.isnan(self.look.accuracy):
            return "It answers; without labels and logits nothing tells whether it is right."
        if self.look.score < 2:
            return "Its answers are not clearly better than chance yet; try more calls."
        return "It answers, and better than chance."


def check(settings: AskSettings) -> Tried:
    """Ask about `settings.calls` random inputs; the answers are stored, and their calls paid within the budget.

    Raises:
        UserError: as for `job.ask`.
    """
    from tuition.store import stepwise

    teacher = named_teacher(settings)
    pool = load_data(settings.data, "train", settings.size, train_columns(settings))
    pool = pool.sample(min(settings.calls, len(pool)), seed=settings.seed)
    pool = pool if settings.labels else pool.without_labels
    check_answer(teacher, pool)
    timed = Timed(teacher)
    transfer = ResponseStore(settings.store).ask(
        replace(wrapped(teacher), teacher=timed),
        pool,
        budget=UNLIMITED if settings.budget is None else settings.budget,
        batch_size=settings.ask_batch,
        cost_per_call=settings.cost_per_call,
        cost_per_million_tokens=settings.cost_per_million_tokens,
        check_answers=False,
    )
    look = stepwise.judge(transfer.responses, transfer.labels)
    seconds = timed.seconds / timed.inputs if timed.inputs else None
    return Tried(transfer, look, teacher.class_names, seconds)


def _taken(pool: Pool) -> str:
    if pool.kind == "texts":
        lengths = sorted(map(len, pool.texts))
        return f"texts of {lengths[0]:,} to {lengths[-1]:,} characters"
    inputs = pool.asked_tensor()
    kind = str(inputs.dtype).removeprefix("torch.")
    return f"{kind} ({', '.join(map(str, inputs.shape[1:]))}), {float(inputs.min()):g} to {float(inputs.max()):g}"


def _figures(value: Tensor) -> str:
    value = value.to(torch.float32)
    return f"({', '.join(map(str, value.shape[1:]))}), {float(value.min()):.3g} to {float(value.max()):.3g}"
