"""The verdict on a section in words: who won, by how much, whether seeds can tell, calls saved, cost, what next."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from tuition.store.price import money
from tuition.studies import power, statistics
from tuition.studies.names import label
from tuition.studies.paid_calls import PaidCalls
from tuition.studies.records import Section
from tuition.studies.statistics import ALPHA, Curve, Lead, Paired
from tuition.studies.tables import accuracies_ahead, targets


@dataclass(frozen=True)
class Verdict:
    """Sentences for whoever has to decide. `is_clear`: the winner survives the correction."""

    winner: str
    is_clear: bool
    details: list[str]
    next: str

    @property
    def sentences(self) -> list[str]:
        return [self.winner, *self.details, self.next]


def verdict(section: Section, stores: Sequence[PaidCalls] = ()) -> Verdict | None:
    """The verdict on a section; None without results.

    Args:
        stores: what was paid for the teachers, where that is known.
    """
    if not section.runs:
        return None
    lead = statistics.leads(section.curves)[section.calls[-1]]
    price = _price(section, stores)
    details = [
        *_separation(lead),
        *_saved(section, lead, price),
        *_teacher(section, price),
        *_more_calls(section, lead),
    ]
    return Verdict(_winner(section, lead), lead.is_clear, details, _next(section, lead))


def paid(stores: Sequence[PaidCalls]) -> list[str]:
    """What the teachers' calls cost."""
    return [
        f"{each.accounts.paid:,} calls of {label(each.teacher)} were paid"
        + (f", for {money(each.bill.cost)} in the currency of the price." if each.bill.cost else "; no price was set.")
        for each in stores
    ]


def _price(section: Section, stores: Sequence[PaidCalls]) -> Decimal | None:
    """The mean price of a call of the section's teacher; None where it is not known."""
    named = [each for each in stores if each.teacher == Path(section.teacher).name]
    calls, cost = sum(each.accounts.paid for each in named), sum((each.bill.cost for each in named), Decimal(0))
    return cost / calls if calls and cost else None


def _winner(section: Section, lead: Lead) -> str:
    summary = statistics.summarise(list(section.curves[lead.method][lead.calls].values()))
    seeds = "one seed" if summary.n == 1 else f"mean of {summary.n} seeds"
    who = f"{label(lead.method)} wins"
    if not lead.others:
        who = f"{label(lead.method)} was run alone"
    elif not lead.is_clear:
        who = f"{label(lead.method)} is ahead, but not beyond the noise of the seeds"
    return f"{who}: {summary.mean:.2f} % of the test set is right at {lead.calls:,} calls ({seeds})."


def _separation(lead: Lead) -> list[str]:
    """From which methods the seeds can tell the best, and from which they cannot."""
    clear = [_difference(other, pair) for other, (pair, p) in lead.others.items() if p <= ALPHA]
    unclear = [_difference(other, pair) for other, (pair, p) in lead.others.items() if not p <= ALPHA]
    sentences = []
    if clear:
        sentences.append(f"It is better than {'; '.join(clear)}.")
    if unclear:
        corrected = "After the correction for all comparisons, the" if lead.undecided > 1 else "The"
        sentences.append(f"{corrected} seeds cannot tell it from {'; '.join(unclear)}.")
    return sentences


def _difference(other: str, pair: Paired) -> str:
    if pair.n == 0:
        return f"{label(other)} (no seed in common)"
    interval = "" if math.isnan(pair.low) else f", 95 % interval {pair.low:+.2f} to {pair.high:+.2f}"
    return f"{label(other)} ({pair.difference:+.2f} points{interval})"


def _saved(section: Section, lead: Lead, price: Decimal | None) -> list[str]:
    """Calls saved at the highest accuracy that the best and a method it is compared with both cross."""
    curves = {method: curve for method, curve in section.curves.items() if len(curve) > 1}
    if lead.method not in curves:
        return []
    for goal in targets(section.curves):
        calls = {method: statistics.calls_to_reach(curve, goal).value for method, curve in curves.items()}
        others = [method for method in lead.others if not math.isnan(calls.get(method, math.nan))]
        if others and not math.isnan(calls[lead.method]):
            other = min(others, key=lambda method: calls[method])
            saved = statistics.saving(curves[lead.method], [curves[other]], goal)
            ours, theirs = calls[lead.method], calls[other]
            needs = f"For {goal:g} % it needs {ours:,.0f} calls, and {label(other)} needs {theirs:,.0f}"
            if saved.value <= 0:
                return [f"{needs}: it saves none."]
            sure = "one seed gives no interval"
            if not math.isnan(saved.low):
                doubts = [] if saved.low > 0 else ["the seeds cannot rule out that none are saved"]
                interval = f"95 % interval {saved.low:.0f} to {saved.high:.0f} %"
                sure = ": ".join(([interval] if math.isfinite(saved.low) else []) + doubts)
            worth = "" if price is None else f", worth {money(round(price * Decimal(theirs - ours), 4))}"
            return [f"{needs}: {saved.value:.0f} % of the calls saved{worth} ({sure})."]
    return []


def _teacher(section: Section, price: Decimal | None) -> list[str]:
    measured = [run.teacher_accuracy for run in section.runs if not math.isnan(run.teacher_accuracy)]
    facts = []
    if measured:
        facts.append(f"is right on {sum(measured) / len(measured):.2f} % of the inputs it was asked about")
    if price is not None:
        facts.append(f"costs {money(round(price, 6))} a call")
    return [f"The teacher itself {' and '.join(facts)}."] if facts else []


def _more_calls(section: Section, lead: Lead) -> list[str]:
    """Whether the last step of calls helped, and what the learning curve expects of further ones."""
    curve = section.curves[lead.method]
    if len(curve) < 2:
        return []
    *_, before, last = sorted(curve)
    gain = statistics.paired(curve[last], curve[before])
    step = f"the step from {before:,} to {last:,} calls"
    if math.isnan(gain.low):
        return []
    if gain.low <= 0:
        return [f"{before:,} calls may do, because {step} brought {gain.difference:+.2f} points, within the noise."]
    return [f"More calls still help: {step} brought {gain.difference:+.2f} points{_expected(section, curve)}."]


def _expected(section: Section, curve: Curve) -> str:
    """The calls for an accuracy not reached yet, where the learning curve may be trusted."""
    for goal in accuracies_ahead(section.curves):
        estimate, distrust = statistics.fit_learning_curve(curve).predict(goal)
        if not distrust:
            high = f"{estimate.high:,.0f}" if math.isfinite(estimate.high) else "unknown"
            return f", and {goal:g} % may take {estimate.value:,.0f} (95 % interval {estimate.low:,.0f} to {high})"
    return ""


def _next(section: Section, lead: Lead) -> str:
    """More seeds, or ship it."""
    best = label(lead.method)
    if min(len(values) for values in section.curves[lead.method].values()) < 2:
        return "Next: run three seeds or more; one seed tells nothing about noise."
    unclear = [(other, pair) for other, (pair, p) in lead.others.items() if not p <= ALPHA]
    if not unclear:
        return f"Next: ship {best}." if lead.others else f"Next: compare {best} with another method, or ship it."
    other, pair = unclear[0]  # others are sorted, so this is the nearest
    if pair.n < 2:
        return f"Next: run {best} and {label(other)} with the same seeds, two or more."
    seeds = power.seeds_to_show(pair, lead.undecided)
    if seeds is None:
        return (
            f"Next: treat {best} and {label(other)} as equal at {lead.calls:,} calls and ship either; more than "
            f"{power.MOST} seeds would be needed to tell them apart."
        )
    return (
        f"Next: ship {best} if {pair.difference:.2f} points more or less do not matter; else run {seeds - pair.n} more "
        f"seeds, {seeds} in all, which tell it from {label(other)} with a probability of {100 * power.POWER:.0f} % if "
        "the difference is as measured."
    )
