"""The teacher calls of a study: counted before they are paid, paid once, and written down for the report."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tuition.errors import UserError
from tuition.pipeline import job
from tuition.pipeline.checks import check_ask
from tuition.pipeline.question import question_of
from tuition.pipeline.settings import DistillSettings
from tuition.pipeline.sources import Sources
from tuition.store import ResponseStore, address, usage
from tuition.studies import paid_calls
from tuition.studies.paid_calls import PaidCalls
from tuition.studies.study_sources import Progress, is_ready


def _largest(runs: Iterable[DistillSettings]) -> list[DistillSettings]:
    """Settings that together ask all that `runs` do, because random draws of one seed are nested."""

    def draw(s: DistillSettings) -> tuple[Any, ...]:
        ask, data = s.ask, s.data
        apart = () if ask.select == "random" and not s.paid_mixes else (ask.calls, s.paid_mixes)
        return ask.teacher, data.data, data.seed, ask.select, ask.features, ask.view, ask.labels, *apart

    return list({draw(settings): settings for settings in sorted(runs, key=lambda s: s.ask.calls)}.values())


def count(runs: Iterable[DistillSettings], sources: Sources) -> dict[str, tuple[int, int]]:
    """New calls, and calls paid before, by teacher; paid mixes count as if none were stored.

    Raises:
        UserError: the budget is too small.
    """
    seen: dict[str, set[bytes]] = defaultdict(set)
    counts: dict[str, tuple[int, int]] = {}
    for settings in _largest(runs):
        ask, name = settings.ask, settings.ask.teacher or ""
        inputs = question_of(settings, sources).inputs
        fresh = inputs[[row for row, digest in enumerate(inputs.digests) if digest not in seen[name]]]
        seen[name].update(inputs.digests)
        new, paid = len(set(fresh.digests)), 0
        if is_ready(name) and address.exists(ask.store):
            known = ResponseStore(ask.store).plan(sources.teacher(settings), fresh)
            new, paid = known.new, known.paid
        counts[name] = counts.get(name, (0, 0))[0] + new + settings.paid_mixes, paid
        if ask.budget is not None and sum(counts[name]) > ask.budget:
            raise UserError(
                f"the study needs {counts[name][0]:,} new calls of {Path(name).name} or more, {paid:,} are paid, and "
                f"the budget is {ask.budget:,}; raise it, or take fewer calls or seeds."
            )
    return counts


def pay(runs: Sequence[DistillSettings], sources: Sources, watch: Progress) -> None:
    """Ask all that the runs need. They are then answered from the store, and can pay for nothing."""
    if not any(new for new, _ in count(runs, sources).values()):
        return
    for settings in _largest(runs):
        checked = check_ask(settings, sources)
        transfer, _ = job.ask(settings, checked, partial(watch, "calls"))
        if settings.paid_mixes:
            job.complete(settings, checked.teacher, transfer)


def note_paid(runs: Sequence[DistillSettings], sources: Sources, out: Path) -> None:
    """Write what the store was paid for the teachers of these runs to OUT, for the report."""
    rows = []
    for settings in {settings.ask.teacher: settings for settings in runs}.values():
        fingerprint = sources.teacher(settings).fingerprint
        rows += [
            PaidCalls(Path(settings.ask.teacher or "").name, held.accounts, held.bill)
            for held in usage(ResponseStore(settings.ask.store))
            if held.fingerprint == fingerprint
        ]
    paid_calls.write(out, rows)
