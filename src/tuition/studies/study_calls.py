"""The teacher calls of a study: counted before they are paid, paid once, and written down for the report."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tuition.data import Pool
from tuition.errors import UserError
from tuition.pipeline import job
from tuition.pipeline.checks import check_ask
from tuition.pipeline.question import question_of
from tuition.pipeline.rounds import resolved
from tuition.pipeline.settings import DistillSettings
from tuition.pipeline.sources import Sources
from tuition.store import ResponseStore, address, usage
from tuition.studies import paid_calls
from tuition.studies.paid_calls import PaidCalls
from tuition.studies.study_sources import Progress, is_ready


@dataclass(frozen=True)
class Calls:
    """Teacher calls of a study.

    Attributes:
        new: to pay for, of which at most `chosen` by runs that ask in rounds; what they choose is not known before, and
            what they choose alike is paid once.
        paid: before, in the study's store.
    """

    new: int
    paid: int
    chosen: int = 0


def _largest(runs: Iterable[DistillSettings]) -> list[DistillSettings]:
    """Settings that together ask all that `runs` without rounds do, because random draws of one seed are nested."""

    def draw(s: DistillSettings) -> tuple[Any, ...]:
        ask, data = s.ask, s.data
        apart = () if ask.select == "random" and not s.paid_mixes else (ask.calls, s.paid_mixes)
        return ask.teacher, data.data, data.seed, ask.select, ask.features, ask.view, ask.labels, *apart

    at_once = (settings for settings in runs if not settings.in_rounds)
    return list({draw(settings): settings for settings in sorted(at_once, key=lambda s: s.ask.calls)}.values())


def count(runs: Sequence[DistillSettings], sources: Sources) -> dict[str, Calls]:
    """Calls by teacher; paid mixes count as if none were stored.

    Raises:
        UserError: the budget is too small.
    """
    seen: dict[str, set[bytes]] = defaultdict(set)
    counts: dict[str, Calls] = {}
    for settings in _largest(runs):
        name, inputs = settings.ask.teacher or "", question_of(settings, sources).inputs
        fresh = inputs[[row for row, digest in enumerate(inputs.digests) if digest not in seen[name]]]
        seen[name].update(inputs.digests)
        new, paid = _unanswered(settings, fresh, sources)
        before = counts.get(name, Calls(0, 0))
        counts[name] = Calls(before.new + new + settings.paid_mixes, paid)
        _check_budget(settings, counts[name])
    for name, in_rounds in _in_rounds(runs).items():
        settings = in_rounds[0]
        chosen = sum(_most(each, sources) for each in in_rounds)
        left, paid = _unanswered(settings, sources.train_pool(settings), sources)
        before = counts.get(name, Calls(0, paid))
        if all(each.ask.view == "clean" and not each.paid_mixes for each in in_rounds):
            chosen = min(chosen, max(0, left - before.new))  # equal inputs are paid once
        counts[name] = Calls(before.new + chosen, paid, chosen)
        _check_budget(settings, counts[name])
    return counts


def _in_rounds(runs: Iterable[DistillSettings]) -> dict[str, list[DistillSettings]]:
    """The runs that ask in rounds, by teacher."""
    found: dict[str, list[DistillSettings]] = defaultdict(list)
    for settings in runs:
        if settings.in_rounds:
            found[settings.ask.teacher or ""].append(settings)
    return found


def _most(settings: DistillSettings, sources: Sources) -> int:
    """Calls that a run with rounds may pay for."""
    inputs = question_of(resolved(settings, sources), sources).inputs
    each = sources.teacher(settings).calls_per_input if is_ready(settings.ask.teacher or "") else 1
    return len(set(inputs.digests)) * each + settings.paid_mixes


def _unanswered(settings: DistillSettings, inputs: Pool, sources: Sources) -> tuple[int, int]:
    """Calls that these inputs would take, and those paid before."""
    if is_ready(settings.ask.teacher or "") and address.exists(settings.ask.store):
        known = ResponseStore(settings.ask.store).plan(sources.teacher(settings), inputs)
        return known.new, known.paid
    return len(set(inputs.digests)), 0


def _check_budget(settings: DistillSettings, calls: Calls) -> None:
    budget = settings.ask.budget
    if budget is not None and calls.new + calls.paid > budget:
        name = Path(settings.ask.teacher or "").name
        needs = f"may need up to {calls.new:,} new calls of {name}"
        if not calls.chosen:
            needs = f"needs {calls.new:,} new calls of {name} or more"
        raise UserError(
            f"the study {needs}, {calls.paid:,} are paid, and the budget is {budget:,}; raise it, or take fewer calls "
            "or seeds."
        )


def pay(runs: Sequence[DistillSettings], sources: Sources, watch: Progress) -> None:
    """Ask all that runs without rounds need. They are then answered from the store, and can pay for nothing."""
    if not any(calls.new - calls.chosen for calls in count(runs, sources).values()):
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
