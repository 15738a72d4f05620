"""When rounds are enough: the target is reached, the budget is spent, or it will not do."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tuition.errors import UserError
from tuition.learning_curve import RoundsCurve, calls_needed, out_of_reach

ONE_SIDED = 1.6449  # standard deviations that a normal value is below with a probability of 95 %
FIRST, GROWTH = 20, 1.5  # inputs of the first round at least, and how much the number asked about grows in a round


@dataclass(frozen=True)
class Ending:
    """Why no further round is asked."""

    reason: Literal["reached", "out of reach", "spent"]
    sentence: str


def growing(calls: int) -> list[int]:
    """How many inputs are asked about up to the end of each round, where a target may end the rounds early.

    From 20, or a 64th of all calls, and by half of that in each round: a round overshoots the target by little, and all
    rounds together train on three times the inputs of the last.
    """
    sizes = [min(calls, max(FIRST, calls // 64))]
    while sizes[-1] < calls:
        grown = math.ceil(sizes[-1] * GROWTH)
        sizes.append(grown if grown * GROWTH**0.5 < calls else calls)
    return sizes


def at_least(percent: float, inputs: int) -> float:
    """Lower end, in percent, of Wilson's one-sided 95 % interval for a share that was measured on `inputs` inputs.

    Source: Wilson, Probable inference, JASA 1927.
    """
    share, z = percent / 100, ONE_SIDED**2 / inputs
    centre, half = share + z / 2, ONE_SIDED * math.sqrt((share * (1 - share) + z / 4) / inputs)
    return 100 * max(0.0, (centre - half) / (1 + z))


def check_reachable(until: float, inputs: int, *, calls: bool) -> None:
    """Refuse a target that `inputs` validation inputs cannot show, before the first call.

    Args:
        calls: whether a fourth of the calls are validated on, so that more calls bring more of these inputs.

    Raises:
        UserError: the bound of 100 % right does not pass the target.
    """
    highest = at_least(100, inputs)
    if highest > until:
        return
    enough = math.floor(ONE_SIDED**2 * until / (100 - until)) + 1  # at_least(100, n) is 100 n / (n + ONE_SIDED**2)
    more = f" (calls {4 * enough - 3:,} or more)" if calls else ""
    raise UserError(
        f"with {inputs:,} inputs to validate on, even 100 % right shows only {highest:.1f} %; choose until "
        f"{math.ceil(highest) - 1} or less, or validate on {enough:,} inputs or more{more}."
    )


def ending(
    table: Sequence[Mapping[str, Any]], until: float, most: int, what: str, spent: str | None = None
) -> Ending | None:
    """Why no round follows those of the table; None where another one may be asked.

    Args:
        until: the target in percent, which the lower bound of the validation figure must pass.
        most: inputs that may be asked about in all rounds.
        what: the validation figure in words.
        spent: what is used up, in words; None where more may be asked.
    """
    row = table[-1]
    figure = f"validation {what} is {row['validation']:.1f} % of {row['validation_inputs']:,} inputs"
    bound = f"at least {row['at_least']:.1f} % with 95 % confidence"
    after = f"Stopped after {row['calls']:,} of at most {most:,} inputs"
    if row["at_least"] > until:
        return Ending("reached", f"{after}: {figure}, {bound}, which is above {until:g} %.")
    if reason := "" if spent is not None else out_of_reach(_curve(table), until, most):
        return Ending("out of reach", f"{after}: {figure}. {reason[0].upper() + reason[1:]}")
    if spent is not None:
        after = spent if row["calls"] == most else f"{spent}; stopped after {row['calls']:,} of at most {most:,} inputs"
        return Ending("spent", f"{after}: {figure}, {bound}, not above {until:g} %.")
    return None


def next_point(table: Sequence[Mapping[str, Any]]) -> str:
    """A sentence on what one more point of the validation figure would take."""
    calls, best = table[-1]["calls"], table[-1]["validation"]
    if best + 1 >= 100:
        return f"Validation is {best:.1f} % right, so that one more percentage point cannot be bought."
    needed = calls_needed(_curve(table), best + 1)
    if needed.why:
        return f"What one more percentage point, to {best + 1:.1f} %, would cost cannot be told, because {needed.why}."
    more = math.ceil(needed.value) - calls
    if more <= 0:
        return "What one more percentage point would cost cannot be told, because an earlier round had it by chance."
    price = float(table[-1]["cost"]) / max(1, table[-1]["paid"])
    cost = f", about {price * more:.3g} in money" if price else ""
    high = math.ceil(needed.high) - calls
    return f"One more percentage point would take about {more:,} more calls{cost} (up to {high:,})."


def _curve(table: Sequence[Mapping[str, Any]]) -> RoundsCurve:
    calls, figures = ([row[name] for row in table] for name in ("calls", "validation"))
    return RoundsCurve.of(calls, figures, table[-1]["validation_inputs"])
