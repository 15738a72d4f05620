"""Answers that were paid before, read back for the inputs of some settings. Nothing is asked, and nothing written."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tuition.data import Pool, TransferSet
from tuition.errors import UserError
from tuition.pipeline.settings import DistillSettings
from tuition.pipeline.sources import Sources
from tuition.store import ResponseStore, address
from tuition.store.class_columns import match_classes


@dataclass(frozen=True)
class StoredAnswers:
    """Inputs whose answers are stored.

    Attributes:
        transfer: n of them, without labels, and the answers.
        labels: the names (n) of their labels; None where the data has none.
        stored: how many of the data's inputs have stored answers; n is less where that is more than enough.
    """

    transfer: TransferSet
    labels: list[str] | None
    stored: int


def stored_answers(settings: DistillSettings, sources: Sources, fingerprint: str, most: int) -> StoredAnswers:
    """The answers of the teacher `fingerprint` to inputs of the data, at most `most`, drawn by the seed.

    Raises:
        UserError: the store or the teacher was not found, the teacher is another one by now, or nothing is stored.
    """
    from tuition.store import reading, responses

    ask, pool = settings.ask, sources.train_pool(settings)
    if not address.exists(ask.store):
        raise UserError(f"the store {address.without_password(ask.store)} was not found.")
    teacher = sources.teacher(settings)  # which knows the order of its classes; it is not asked
    if teacher.fingerprint != fingerprint:
        raise UserError(f"the teacher {ask.teacher} is not the one that this run was distilled from.")
    viewed = pool.view(pool.augment, seed=settings.data.seed) if ask.view == "random" else pool
    known = match_classes(teacher, viewed.without_labels)
    with ResponseStore(ask.store).database.read() as connection:
        teacher_id = responses.identify(connection, teacher.name, fingerprint)
        there = {} if teacher_id is None else responses.located(connection, teacher_id, list(set(viewed.digests)))
        rows = torch.tensor([row for row, digest in enumerate(viewed.digests) if digest in there])
        if teacher_id is None or len(rows) == 0:
            raise UserError("the store holds no answers to inputs of this data.")
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(settings.data.seed))
        chosen = rows[order[:most].sort().values]
        answers = reading.read(connection, teacher_id, [viewed.digests[row] for row in chosen.tolist()])
    answers = known.responses(answers)
    unread = answers.pop("unread", torch.zeros(len(chosen), 1))[:, 0] > 0  # these name no class
    answers, chosen = {name: value[~unread] for name, value in answers.items()}, chosen[~unread]
    return StoredAnswers(
        TransferSet(known.pool[chosen], answers, teacher.name, fingerprint), _names(pool, chosen), len(rows)
    )


def _names(pool: Pool, rows: Tensor) -> list[str] | None:
    if pool.labels is None:
        return None
    labels = pool.labels[rows].tolist()
    return [str(i) if pool.class_names is None else pool.class_names[i] for i in labels]
