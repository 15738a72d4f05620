"""Calls and money for target accuracies, from the rounds of a run or from the runs of a study."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Context, Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from tuition import escape
from tuition.errors import UserError
from tuition.learning_curve import CallsNeeded, Curve, RoundsCurve, calls_needed, crossing
from tuition.store.price import amount
from tuition.studies import paid_calls, records, statistics
from tuition.studies.names import label
from tuition.studies.records import RUNS, natural, read_rows
from tuition.studies.tables import targets as round_targets
from tuition.training import files

ROUNDS = "rounds.csv"
DIGITS = 4  # of a price that is a mean
POINTS = 60  # of a curve in a figure


@dataclass(frozen=True)
class Measured:
    """A method's accuracy against calls.

    Attributes:
        title: of the comparison it belongs to.
        figure: what was measured, and what the interval covers.
        price: mean cost of a paid call; None where no price was set or nothing was paid.
        validated: calls that were paid to validate on, beside those of the curve.
    """

    title: str
    method: str
    figure: str
    curve: Curve
    price: Fraction | None
    validated: int = 0

    def cost(self, needed: CallsNeeded) -> Decimal | None:
        """Of the calls for a target, and of those to validate on, at the mean price so far, to four digits."""
        if self.price is None or not math.isfinite(needed.value):
            return None
        total = self.price * (math.ceil(needed.value) + self.validated)
        return Context(prec=DIGITS).create_decimal(Decimal(total.numerator) / total.denominator)


def measured(folder: Path) -> list[Measured]:
    """The curves that a folder holds: of every method of a study, or of one run that asked in rounds.

    Raises:
        UserError: the folder is neither, or a study without results.
    """
    if (folder / RUNS).is_file():
        return _of_study(folder)
    if (folder / ROUNDS).is_file():
        return [_of_run(folder)]
    if (folder / files.RUN).is_file():
        raise UserError(
            f"{folder} asked all its calls at once, and one number of calls makes no curve; distil with --rounds 4 or "
            "more, or name the folder of a study."
        )
    raise UserError(f"{folder} has neither {RUNS} nor {ROUNDS}; name the folder of a study, or of a run with rounds.")


def _of_study(folder: Path) -> list[Measured]:
    prices = {row.teacher: _price(row.bill.cost, row.accounts.paid) for row in paid_calls.read([folder])}
    found = [
        Measured(
            f"{section.title}, {section.conditions}",
            method,
            "test accuracy, with the interval over seeds",
            statistics.mean_curve(curve),
            prices.get(Path(section.teacher).name),
        )
        for section in records.sections(records.read(folder))
        for method, curve in section.curves.items()
    ]
    if not found:
        raise UserError(f"no run in {folder} has a test accuracy yet; let the study finish some first.")
    return found


def _of_run(folder: Path) -> Measured:
    rows = read_rows(folder / ROUNDS, _parse)
    if not rows:
        raise UserError(f"no round of {folder} is finished yet; let it finish some first.")
    calls, accuracy, inputs, paid, cost = zip(*rows, strict=True)
    return Measured(
        f"{len(rows)} round{'s' if len(rows) > 1 else ''}",
        escape.shorten(folder.resolve().name, 80),
        f"validation figure, with the interval that {inputs[-1]:,} inputs allow; another seed may differ by more",
        RoundsCurve.of(calls, accuracy, inputs[-1]),
        _price(cost[-1], paid[-1]),
        # A run without labels pays for the inputs to validate on, in its first round.
        inputs[-1] if all(all_paid == each + inputs[-1] for each, all_paid in zip(calls, paid, strict=True)) else 0,
    )


def _parse(row: dict[str, str]) -> tuple[int, float, int, int, Decimal]:
    accuracy, inputs = float(row["validation"]), natural("validation_inputs", row["validation_inputs"])
    if not 0 <= accuracy <= 100 or inputs == 0:
        raise ValueError("validation is not a percentage of some inputs")
    return natural("calls", row["calls"]), accuracy, inputs, natural("paid", row["paid"]), amount(row["cost"])


def _price(cost: Decimal, paid: int) -> Fraction | None:
    return Fraction(cost) / paid if cost and paid else None


@dataclass(frozen=True)
class Target:
    """What one method needs for one target accuracy."""

    of: Measured
    target: float
    needed: CallsNeeded
    cost: Decimal | None

    def values(self) -> dict[str, Any]:
        """All of it, as --json has it."""
        place = {"comparison": self.of.title, "method": self.of.method, "target": self.target}
        calls = math.ceil(self.needed.value) if math.isfinite(self.needed.value) else None
        estimate = {
            "calls": calls,
            "validation_calls": self.of.validated,
            "low": self.needed.low,
            "high": self.needed.high,
        }
        return {**place, **estimate, "measured": self.needed.measured, "why": self.needed.why, "cost": self.cost}


def plan(curves: Sequence[Measured], targets: Sequence[float]) -> list[Target]:
    """What every method needs for every target."""
    found = []
    for each in curves:
        for target in targets:
            needed = calls_needed(each.curve, target)
            found.append(Target(each, target, needed, each.cost(needed)))
    return found


def unknown(targets: Sequence[Target]) -> list[str]:
    """A sentence for each reason why some of the calls are not told."""
    reasons: dict[str, list[str]] = {}
    for each in targets:
        if each.needed.why:
            reasons.setdefault(each.needed.why, []).append(f"{label(each.of.method)} {each.target:g} %")
    return [f"No number where {why}: {'; '.join(dict.fromkeys(names))}." for why, names in reasons.items()]


def validated(targets: Sequence[Target], *, priced: bool) -> list[str]:
    """A sentence for each number of calls that validation takes beside those of a target."""
    numbers = dict.fromkeys(each.of.validated for each in targets if each.of.validated)
    cost = "; the cost has them" if priced else ""
    return [f"Beside these calls, {count:,} calls to validate on are paid{cost}." for count in numbers]


def along(curves: Mapping[str, statistics.Curve]) -> list[dict[str, Any]]:
    """Calls that each method needs along the range of accuracies, for a figure.

    Intervals stand near round targets, a little beside each other, so that none hides another.
    """
    curves = {method: curve for method, curve in curves.items() if len(curve) > 1}
    goals, rows = round_targets(curves) if curves else [], []
    apart = 0.12 * abs(goals[0] - goals[1]) if len(goals) > 1 else 0.0
    for number, (method, curve) in enumerate(curves.items()):
        mean, shift = statistics.mean_curve(curve), apart * (number - (len(curves) - 1) / 2)
        marked = {goal + shift: statistics.calls_to_reach(curve, goal + shift) for goal in goals}
        between = np.linspace(mean.accuracy.min(), mean.accuracy.max(), POINTS)
        measured = {goal: statistics.IntervalEstimate(crossing(mean, goal)[0]) for goal in between}
        for goal, estimate in (measured | marked).items():
            known = estimate if math.isfinite(estimate.value) else statistics.IntervalEstimate(math.nan)
            ends = {"low": known.low, "high": known.high}
            rows.append({"method": method, "target": goal, "marked": goal in marked, "calls": known.value, **ends})
    return rows
