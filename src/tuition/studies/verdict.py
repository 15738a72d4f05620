"""The verdict on a section in words: which method, by how much, whether seeds can tell, calls saved, and what next."""

from __future__ import annotations

import math
from collections.abc import Iterable

from tuition.store.price import money
from tuition.studies import statistics
from tuition.studies.names import label
from tuition.studies.paid_calls import PaidCalls
from tuition.studies.records import Section
from tuition.studies.statistics import ALPHA, Lead, Paired
from tuition.studies.tables import targets


def verdict(section: Section) -> list[str]:
    """Sentences for whoever has to decide; none without results."""
    if not section.runs:
        return []
    lead = statistics.leads(section.curves)[section.calls[-1]]
    return [_best(section, lead), *_separation(lead), *_saved(section, lead), *_teacher(section), _next(section, lead)]


def paid(stores: Iterable[PaidCalls]) -> list[str]:
    """What the teachers' calls cost."""
    return [
        f"{each.accounts.paid:,} calls of {label(each.teacher)} were paid"
        + (f", for {money(each.bill.cost)} in the currency of the price." if each.bill.cost else "; no price was set.")
        for each in stores
    ]


def _best(section: Section, lead: Lead) -> str:
    summary = statistics.summarise(list(section.curves[lead.method][lead.calls].values()))
    seeds = "one seed" if summary.n == 1 else f"mean of {summary.n} seeds"
    return f"{label(lead.method)} is best at {lead.calls:,} calls: {summary.mean:.2f} % ({seeds})."


def _separation(lead: Lead) -> list[str]:
    """From which methods the seeds can tell the best, and from which they cannot."""
    clear = [_difference(other, pair) for other, (pair, p) in lead.others.items() if p <= ALPHA]
    unclear = [_difference(other, pair) for other, (pair, p) in lead.others.items() if not p <= ALPHA]
    sentences = []
    if clear:
        sentences.append(f"Its lead is beyond the noise of the seeds over {'; '.join(clear)}.")
    if unclear:
        sentences.append(f"The seeds cannot tell it from {'; '.join(unclear)}.")
    return sentences


def _difference(other: str, pair: Paired) -> str:
    if pair.n == 0:
        return f"{label(other)} (no seed in common)"
    interval = "" if math.isnan(pair.low) else f", 95 % interval {pair.low:+.2f} to {pair.high:+.2f}"
    return f"{label(other)} ({pair.difference:+.2f} points{interval})"


def _saved(section: Section, lead: Lead) -> list[str]:
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
            needs = f"For {goal:g} % it needs {calls[lead.method]:,.0f} calls, and {label(other)} {calls[other]:,.0f}"
            if saved.value <= 0:
                return [f"{needs}: it saves none."]
            sure = (
                f"{saved.low:.0f} % or more in the 95 % interval" if saved.low > 0 else "the seeds cannot rule out 0 %"
            )
            return [f"{needs}: {saved.value:.0f} % saved ({sure})."]
    return []


def _teacher(section: Section) -> list[str]:
    measured = [run.teacher_accuracy for run in section.runs if not math.isnan(run.teacher_accuracy)]
    if not measured:
        return []
    return [f"The teacher itself is right on {sum(measured) / len(measured):.2f} % of the inputs it was asked about."]


def _next(section: Section, lead: Lead) -> str:
    """More seeds, more calls, or ship it."""
    curve = section.curves[lead.method]
    if min(len(values) for values in curve.values()) < 2:
        return "Next: run more seeds; one seed tells nothing about noise."
    doubt = [label(other) for other, (_, p) in lead.others.items() if not p <= ALPHA]
    advice = (
        f"run more seeds if the choice between {' and '.join([label(lead.method), *doubt][:3])} matters"
        if doubt
        else f"ship {label(lead.method)}"
    )
    counts = sorted(curve)
    if len(counts) > 1:
        gain = statistics.paired(curve[counts[-1]], curve[counts[-2]])
        if gain.low > 0:
            advice += (
                f"; more calls still help, because the last step from {counts[-2]:,} to {counts[-1]:,} calls "
                f"brought {gain.difference:.2f} points"
            )
        else:
            advice += f"; {counts[-2]:,} calls may do, because the step to {counts[-1]:,} is within the noise"
    return f"Next: {advice}."
