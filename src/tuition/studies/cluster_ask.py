"""`tuition ask` on a Ray cluster: one ask in parts, each sent by a free node."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from tuition.data import Pool
from tuition.errors import UserError
from tuition.pipeline.checks import check_answer, check_budget
from tuition.pipeline.paid_mixes import UNLIMITED
from tuition.pipeline.settings import AskSettings
from tuition.pipeline.sources import question
from tuition.pipeline.teacher import named_teacher
from tuition.store import ResponseStore
from tuition.store.price import FREE
from tuition.store.shared_ask import SharedAsk, ask_part, open_shared_ask
from tuition.studies import cluster
from tuition.teachers import Teacher

REQUESTS = 16  # of a part, one after another, at most


def ask(
    settings: AskSettings,
    teacher: Teacher,
    *,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> SharedAsk:
    """Ask all that `job.ask` would, by the nodes of the cluster; returns the accounts, and leaves the answers stored.

    Inputs travel with the parts, so that nodes need the teacher and a way to the store, but no data.

    Raises:
        UserError: as `job.ask`; a node without the teacher or the store. What was answered well is stored.
    """
    cluster.check_store(settings.store)
    kind, colon, place = (settings.teacher or "").rpartition(":")
    if Path(place).exists():  # nodes have other current folders
        settings = settings.model_copy(update={"teacher": f"{kind}{colon}{Path(place).resolve()}"})
    inputs = question(settings, teacher).inputs
    check_answer(teacher, inputs)
    check_budget(settings, inputs)
    for node, fingerprint in cluster.on_every_node(_look, settings).items():
        if fingerprint != teacher.fingerprint:
            raise UserError(f"node {node} has another teacher of the name {settings.teacher}; give it the same files.")
    store, failed, done = ResponseStore(settings.store), list[str](), 0
    price = settings.price or FREE
    with open_shared_ask(store, teacher, inputs, budget=_budget(settings), price=price) as shared:
        # Four parts for each worker, for balance, or more.
        batch = settings.ask_batch * settings.concurrency
        requests = math.ceil(len(shared.rows) / (4 * batch * (workers or cluster.cores())))
        size = batch * min(requests, REQUESTS)

        def parts() -> Iterator[AskPart]:
            for start in range(0, len(shared.rows), size):
                if failed:
                    return  # running parts continue, because their calls in flight are paid
                yield AskPart(settings, inputs[shared.rows[start : start + size]].without_labels, shared.number)

        on_gpu = settings.device != "cpu"
        with closing(cluster.run_on_cluster(send, parts(), workers=workers, on_gpu=on_gpu)) as outcomes:  # type: ignore[type-var]
            for outcome in outcomes:
                done += outcome.result or 0
                if outcome.error is not None:
                    failed.append(outcome.error)
                if progress is not None:
                    progress(done, len(shared.rows))
        if failed:
            raise UserError(failed[0]) if "\n" not in failed[0] else RuntimeError(failed[0])
    return shared


# -- on a node ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AskPart:
    """Different inputs to ask about, and the number of the ask that they are a part of."""

    settings: AskSettings
    inputs: Pool
    shared: int


def send(part: AskPart) -> int:
    """Ask about a part; returns how many inputs that were."""
    settings = part.settings
    ask_part(
        ResponseStore(settings.store),
        _teacher(settings.teacher or "", settings.device, settings.trust_code),
        part.inputs,
        part.shared,
        budget=_budget(settings),
        batch_size=settings.ask_batch,
        concurrency=settings.concurrency,
        price=settings.price or FREE,
    )
    return len(part.inputs)


def _look(settings: AskSettings) -> str:
    """The teacher's fingerprint, on a node that sees the store."""
    ResponseStore(settings.store)
    return named_teacher(settings).fingerprint


@lru_cache(maxsize=1)
def _teacher(name: str, device: str, trust_code: bool) -> Teacher:
    """The teacher, loaded once for all parts."""
    return named_teacher(AskSettings.of({"teacher": name, "device": device, "trust_code": trust_code}))


def _budget(settings: AskSettings) -> int:
    return UNLIMITED if settings.budget is None else settings.budget
