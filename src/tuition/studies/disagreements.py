"""Inputs about which a student and its teacher disagree most, by answers that are stored."""

from __future__ import annotations

import io
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tuition.data import Pool, TransferSet
from tuition.data.transfer import by_class
from tuition.training import Student

SHOWN, SIDE, LONGEST = 24, 128, 240  # examples, pixels of a picture, characters of a text


@dataclass(frozen=True)
class Shown:
    """An input, or a class, as a person sees it: a PNG, or words."""

    text: str
    picture: bytes | None = None


@dataclass(frozen=True)
class Disagreement:
    """One input, what teacher and student make of it, and its label where it has one."""

    input: Shown
    teacher: Shown
    student: Shown
    label: str


def of_classes(student: Student, transfer: TransferSet, labels: list[str] | None) -> tuple[int, list[Disagreement]]:
    """How many answers differ in their class, and those of them of which both are surest.

    Raises:
        ValueError: the teacher's classes are not the student's.
    """
    answers, ours = by_class(transfer.responses), student.logits(transfer.pool)
    names = student.class_names or transfer.pool.class_names
    if answers is None or answers.shape != ours.shape or student.class_names not in (None, transfer.pool.class_names):
        raise ValueError("the teacher's answers are not of the student's classes")
    sure, theirs = (x.softmax(dim=1).max(dim=1) for x in (ours, answers))
    differ = (sure.indices != theirs.indices).nonzero()[:, 0]
    order = differ[(sure.values + theirs.values)[differ].argsort(descending=True, stable=True)][:SHOWN]

    def named(row: int, best: torch.return_types.max, *, confident: bool) -> Shown:
        index = int(best.indices[row])
        name = str(index) if names is None else names[index]
        return Shown(f"{name} ({100 * float(best.values[row]):.0f} %)" if confident else name)

    examples = [
        Disagreement(
            shown,
            named(row, theirs, confident="logits" in transfer.responses),
            named(row, sure, confident=True),
            "" if labels is None else labels[row],
        )
        for row, shown in zip(order.tolist(), shown_inputs(transfer.pool, order), strict=True)
    ]
    return len(differ), examples


def of_embeddings(student: Student, transfer: TransferSet) -> tuple[int, list[Disagreement]]:
    """How many inputs have another nearest neighbour, and those where the teacher finds the student's most unlike."""
    theirs, ours = transfer.responses["embedding"], student.outputs(transfer.pool)
    s, t = (F.normalize(x.float() - x.float().mean(dim=0)) for x in (ours, theirs))
    near = [(x @ x.T).fill_diagonal_(-2).argmax(dim=1) for x in (t, s)]
    lost = (t * (t[near[0]] - t[near[1]])).sum(dim=1)
    differ = (near[0] != near[1]).nonzero()[:, 0]
    order = differ[lost[differ].argsort(descending=True, stable=True)][:SHOWN]
    columns = [shown_inputs(transfer.pool, rows[order]) for rows in (torch.arange(len(s)), *near)]
    return len(differ), [Disagreement(a, b, c, "") for a, b, c in zip(*columns, strict=True)]


def shown_inputs(pool: Pool, rows: Tensor) -> list[Shown]:
    """Images as pictures, texts as they are, of vectors the first values."""
    if len(rows) == 0:
        return []
    inputs = pool.asked(rows)
    if isinstance(inputs, list):
        return [Shown(text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…") for text in inputs]
    if inputs.ndim == 4:
        return [Shown("", picture(image)) for image in inputs]
    starts = (", ".join(f"{value:.3g}" for value in vector[:8].tolist()) for vector in inputs)
    return [Shown(f"{start}, …" if inputs.shape[1] > 8 else start) for start in starts]


def picture(image: Tensor) -> bytes:
    """A uint8 image (c, h, w) as a PNG of at most `SIDE` pixels; of other than three channels, the first in grey."""
    from PIL import Image

    array = image.permute(1, 2, 0).numpy() if len(image) == 3 else image[0].numpy()
    drawn = Image.fromarray(array)
    drawn.thumbnail((SIDE, SIDE))
    content = io.BytesIO()
    drawn.save(content, format="PNG", optimize=True)
    return content.getvalue()
