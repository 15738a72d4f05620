"""The teacher calls of a study: counted before they are paid, paid once, and written down for the report."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tuition.errors import UserError
from tuition.pipeline import job
from tuition.pipeline.settings import DistillSettings
from tuition.pipeline.sources import question
from tuition.pipeline.teacher import find_teacher, named_teacher
from tuition.store import ResponseStore, address, usage
from tuition.studies import paid_calls
from tuition.studies.paid_calls import PaidCalls
from tuition.studies.study_sources import Progress, is_ready


def _largest(runs: Iterable[DistillSettings]) -> list[DistillSettings]:
    """Settings that together ask all that `runs` do, because random draws of one seed are nested."""

    def draw(s: DistillSettings) -> tuple[Any, ...]:
        apart = () if s.select == "random" and not s.paid_mixes else (s.calls, s.paid_mixes)
        return s.teacher, s.data, s.seed, s.select, s.features, s.view, s.labels, *apart

    return list({draw(settings): settings for settings in sorted(runs, key=lambda s: s.calls)}.values())


def count(runs: Iterable[DistillSettings]) -> dict[str, tuple[int, int]]:
    """New calls, and calls paid before, by teacher; paid mixes count as if none were stored.

    Raises:
        UserError: the budget is too small.
    """
    seen: dict[str, set[bytes]] = defaultdict(set)
    counts: dict[str, tuple[int, int]] = {}
    for settings in _largest(runs):
        name = settings.teacher or ""
        inputs = question(settings).inputs
        fresh = inputs[[row for row, digest in enumerate(inputs.digests) if digest not in seen[name]]]
        seen[name].update(inputs.digests)
        new, paid = len(set(fresh.digests)), 0
        if is_ready(name) and address.exists(settings.store):
            known = ResponseStore(settings.store).plan(find_teacher(name, trust_code=settings.trust_code), fresh)
            new, paid = known.new, known.paid
        counts[name] = counts.get(name, (0, 0))[0] + new + settings.paid_mixes, paid
        if settings.budget is not None and sum(counts[name]) > settings.budget:
            raise UserError(
                f"the study needs {counts[name][0]:,} new calls of {Path(name).name} or more, {paid:,} are paid, and "
                f"the budget is {settings.budget:,}; raise it, or take fewer calls or seeds."
            )
    return counts


def pay(runs: Sequence[DistillSettings], watch: Progress) -> None:
    """Ask all that the runs need. They are then answered from the store, and can pay for nothing."""
    if not any(new for new, _ in count(runs).values()):
        return
    for settings in _largest(runs):
        teacher = named_teacher(settings)
        transfer, _ = job.ask(settings, teacher, partial(watch, "calls"))
        if settings.paid_mixes:
            job.complete(settings, teacher, transfer)


def note_paid(runs: Sequence[DistillSettings], out: Path) -> None:
    """Write what the store was paid for the teachers of these runs to OUT, for the report."""
    rows = []
    for settings in {settings.teacher: settings for settings in runs}.values():
        fingerprint = named_teacher(settings).fingerprint
        rows += [
            PaidCalls(Path(settings.teacher or "").name, held.accounts, held.bill)
            for held in usage(ResponseStore(settings.store))
            if held.fingerprint == fingerprint
        ]
    paid_calls.write(out, rows)
