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
from tuition.pipeline.checks import Checked
from tuition.pipeline.settings import TransferSettings
from tuition.pipeline.sources import Sources
from tuition.store import ResponseStore
from tuition.store.price import FREE
from tuition.store.shared_ask import SharedAsk, ask_part, open_shared_ask
from tuition.studies import cluster
from tuition.teachers import Teacher

REQUESTS = 16  # of a part, one after another, at most


def ask(
    settings: TransferSettings,
    checked: Checked,
    *,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> SharedAsk:
    """Ask all that `job.ask` would, by the nodes of the cluster; returns the accounts, and leaves the answers stored.

    Inputs travel with the parts, so that nodes need the teacher and a way to the store, but no data.

    Raises:
        UserError: as `job.ask`; a node without the teacher or the store. What was answered well is stored.
    """
    teacher, inputs, bought = checked.teacher, checked.question.inputs, settings.ask
    cluster.check_store(bought.store)
    kind, colon, place = (bought.teacher or "").rpartition(":")
    if Path(place).exists():  # nodes have other current folders
        settings = settings.changed(teacher=f"{kind}{colon}{Path(place).resolve()}")
    for node, fingerprint in cluster.on_every_node(_look, settings).items():
        if fingerprint != teacher.fingerprint:
            raise UserError(f"node {node} has another teacher of the name {bought.teacher}; give it the same files.")
    store, failed, done = ResponseStore(bought.store), list[str](), 0
    price = bought.price or FREE
    with open_shared_ask(store, teacher, inputs, budget=bought.payment["budget"], price=price) as shared:
        # Four parts for each worker, for balance, or more.
        batch = bought.ask_batch * bought.concurrency
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

    settings: TransferSettings
    inputs: Pool
    shared: int


def send(part: AskPart) -> int:
    """Ask about a part; returns how many inputs that were."""
    ask = part.settings.ask
    ask_part(
        ResponseStore(ask.store),
        _teacher(part.settings.model_dump_json()),
        part.inputs,
        part.shared,
        budget=ask.payment["budget"],
        batch_size=ask.ask_batch,
        concurrency=ask.concurrency,
        price=ask.price or FREE,
    )
    return len(part.inputs)


def _look(settings: TransferSettings) -> str:
    """The teacher's fingerprint, on a node that sees the store."""
    ResponseStore(settings.ask.store)
    return Sources().teacher(settings).fingerprint


@lru_cache(maxsize=1)
def _teacher(settings: str) -> Teacher:
    """The teacher of settings as JSON, loaded once for all parts."""
    return Sources().teacher(TransferSettings.model_validate_json(settings))
