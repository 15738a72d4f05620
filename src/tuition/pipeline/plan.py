"""What an ask would take, before anything is asked."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from decimal import Decimal

from tuition.pipeline.checks import try_blank
from tuition.pipeline.question import question_of
from tuition.pipeline.rounds import sizes
from tuition.pipeline.settings import Asking, DistillSettings
from tuition.pipeline.sources import Sources
from tuition.store import AskPlan, BudgetError, ResponseStore, address
from tuition.store.price import estimate, money


@dataclass(frozen=True)
class Estimate:
    """What an ask would take: calls, money and time, as far as they are known.

    Attributes:
        needed: calls that must be left in the budget, even where all that is paid is of use.
        budget: as it was set; None where there is none.
        open_end: whether the ask takes what the budget has left.
        trains, validates: inputs asked about to train on, and to validate on, because there are no labels.
    """

    plan: AskPlan
    seconds: float | None
    by_tokens: bool = False
    at_most: bool = False
    needed: int = 0
    budget: int | None = None
    open_end: bool = False
    trains: int = 0
    validates: int = 0

    def rows(self) -> list[tuple[str, str]]:
        cost = "give --cost-per-call or --cost-per-million-tokens"
        if self.plan.cost is not None:
            cost = ("about " if self.by_tokens else "") + money(self.plan.cost)
        elif self.by_tokens:
            cost = "unknown until answers of this teacher tell their tokens; ask about a few first"
        seconds = "give --set seconds_per_call=..." if self.seconds is None else f"{self.seconds:,.1f} s"
        shares = f"{self.trains:,} to train on, {self.validates:,} to validate on"
        return [
            *([("inputs asked about, without labels", shares)] if self.validates else []),
            ("new calls, at most" if self.at_most else "new calls", f"{self.plan.new:,}"),
            *([] if self.at_most else [("from cache", f"{self.plan.served:,}")]),
            ("paid so far", f"{self.plan.paid:,}"),
            *self._budget(),
            *self._accuracy(),
            ("cost of the new calls", cost),
            *([] if self.plan.tokens is None else [("tokens of a call, so far", _tokens(*self.plan.tokens))]),
            ("time", seconds),
        ]

    def _budget(self) -> list[tuple[str, str]]:
        if self.budget is None:
            return []
        left = max(0, self.budget - self.plan.paid)
        short = (self.needed if self.open_end else self.plan.new) - left
        said = f": {'up to ' if self.at_most and not self.open_end else ''}{short:,} short" if short > 0 else ""
        return [("budget", f"{self.budget:,}, left {left:,}{said}")]

    def check_budget(self) -> None:
        """Refuse, as the ask would, what certainly does not fit in the budget.

        Raises:
            BudgetError: it does not.
        """
        paid, budget = self.plan.paid, self.budget
        if budget is not None and self.needed and paid + self.needed > budget:
            raise BudgetError(
                f"{self.needed:,} new calls do not fit in the budget of {budget:,}, of which {paid:,} are paid; "
                f"nothing was asked, raise the budget to {paid + self.needed:,} or ask about less."
            )

    def _accuracy(self) -> list[tuple[str, str]]:
        if self.plan.accuracy is None:
            return []
        figure = f"{self.plan.accuracy:.2f} % of {self.plan.labelled:,}"
        return [("teacher's accuracy on what is stored", figure)]


def _tokens(read: Decimal, written: Decimal) -> str:
    return f"{read:,.1f} in, {written:,.1f} out"


def plan(settings: Asking, sources: Sources) -> Estimate:
    """Look ahead, and ask nothing. A local teacher's time is measured on a blank batch."""
    teacher, asking = sources.teacher(settings), settings.ask
    question = question_of(settings, sources, teacher)
    inputs, shares = question.inputs, (question.calls, len(question.inputs) - question.calls)
    charged = asking.price
    if address.exists(asking.store):
        calls = ResponseStore(asking.store).plan(
            teacher,
            inputs,
            cost_per_call=asking.cost_per_call,
            cost_per_million_tokens=asking.cost_per_million_tokens,
        )
    else:  # a store is not made either
        new = len(set(inputs.digests))
        calls = AskPlan(new, len(inputs) - new, 0, estimate(charged, new, None), None)
    needed, open_end = calls.new, False
    in_rounds = isinstance(settings, DistillSettings) and settings.in_rounds
    if isinstance(settings, DistillSettings) and in_rounds:
        # What will be chosen is not known, so that none of it may be stored.
        most = teacher.calls_per_input * len(inputs) + settings.paid_mixes
        calls = replace(calls, new=most, served=0, cost=estimate(charged, most, calls.tokens))
        open_end, first = settings.until is not None, sizes(settings)[:-1][:1]
        # All that is paid may be for inputs that will be chosen; on the way to a target `Rounds` wants a first round.
        needed = teacher.calls_per_input * sum(first) if open_end else max(0, most - calls.paid)
    seconds = None
    if asking.seconds_per_call is not None:
        seconds = calls.new * asking.seconds_per_call / asking.concurrency
    elif teacher.local:
        try_blank(teacher, inputs, asking.ask_batch)
        started = time.perf_counter()
        try_blank(teacher, inputs, asking.ask_batch)
        seconds = calls.new * (time.perf_counter() - started) / asking.ask_batch
    by_tokens = charged is not None and charged.per_token
    return Estimate(calls, seconds, by_tokens, in_rounds, needed, asking.budget, open_end, *shares)
