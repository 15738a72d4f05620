"""The tables of a section. Published values stand below the measured ones."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tuition.learning_curve import LearningCurve
from tuition.studies import offsets, published, spectra, statistics
from tuition.studies.names import label
from tuition.studies.records import Section, Spectra
from tuition.studies.statistics import Curve, IntervalEstimate
from tuition.studies.table import UNKNOWN, Cell, Heads, Row, Table, count, counts, fill, percent

PUBLISHED, IN_PAPER = "published", "in the paper"
PAPER = "the best baseline of the paper"
STEPS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)  # between target accuracies, in points


def all_tables(section: Section, by_run: Mapping[str, Spectra] | None = None) -> list[Table]:
    """Every table that the section's runs, and their spectra by run key, can fill."""
    filled = [selection(section)] if section.selection else []
    if section.runs:
        of_results = (accuracy, calls_to_accuracy, paired, learning, quality, cost, offsets.table)
        filled = [*(table(section) for table in of_results), spectra.table(section, by_run or {}), *filled]
    return [replace(table, name=f"{table.name}-{section.slug}") for table in filled if table.rows]


def _method(quantity: Row) -> Heads:
    return (Cell(label(quantity["method"]), "" if quantity.get("source", "measured") == "measured" else IN_PAPER),)


def accuracy(section: Section) -> Table:
    """Mean and standard deviation over seeds, by method and calls, with the published white-box values (table 2)."""
    theirs = published.table2(section.dataset, section.teacher, section.student)
    printed = {_as_published(method, section.curves): values for method, values in theirs.items()}
    data: list[dict[str, Any]] = []
    for method, curve in section.curves.items():
        data += [{"method": method, "calls": n, "source": "measured", **_over(v.values())} for n, v in curve.items()]
        data += [
            {"method": method, "calls": n, "source": PUBLISHED, "mean": mean, "std": std}
            for n, (mean, std) in printed.get(method, {}).items()
            if n in section.calls
        ]
    seeds = {quantity["seeds"] for quantity in data if "seeds" in quantity}
    clear = {(lead.method, n) for n, lead in statistics.leads(section.curves).items() if lead.is_clear}

    def cell(row: Row) -> Cell:
        number = f"[{row['seeds']}]" if len(seeds) > 1 and "seeds" in row else ""
        spread = "" if math.isnan(row["std"]) else f"({row['std']:.2f})"
        best = "seeds" in row and (row["method"], row["calls"]) in clear
        return Cell(f"{row['mean']:.2f}", f"{spread} {number}".strip(), row["mean"], best)

    rows = fill(data, "calls", section.calls, _method, cell)
    note = (
        "Test accuracy in percent at the best validation: mean (sample standard deviation); "
        f"{f'seeds: {seeds.pop()}' if len(seeds) == 1 else 'number of seeds in brackets'}. Bold: better than every "
        f"other method in paired t tests (p ≤ {statistics.ALPHA}) after Holm's correction over all pairs of methods."
    )
    return Table("accuracy", "Accuracy by teacher calls", note, ["method", *_calls(section.calls)], rows, data)


def _as_published(method: str, run: Iterable[str]) -> str:
    """Our name for a method of the paper: its published form, where that was run beside ours."""
    return f"{method}_published" if f"{method}_published" in run else method


def calls_to_accuracy(section: Section) -> Table:
    """Table 1: calls for each target accuracy, and the percentage that CKD and CKD as published save."""
    curves = {method: curve for method, curve in section.curves.items() if len(curve) > 1}
    printed = published.table1(section.dataset, section.teacher, section.student)
    paper = published.read()
    theirs = _as_published("ckd", section.curves)
    if printed:
        printed[theirs] = printed.pop("ckd")
    goals = sorted({*targets(section.curves), *(paper["table1"]["targets"] if printed else ())}, reverse=True)
    data: list[dict[str, Any]] = []
    for method in section.curves:
        if method in curves:
            data += [
                {"method": method, "target": goal, "source": "measured"}
                | _ends("calls", statistics.calls_to_reach(curves[method], goal))
                for goal in goals
            ]
        data += [
            {"method": method, "target": goal, "source": PUBLISHED, **_ends("calls", IntervalEstimate(calls))}
            for goal, calls in printed.get(method, {}).items()
        ]
    savers = [section.focus, *(name for name in paper["ckd"] if name != section.focus)]
    for saver in savers:
        data += _savings(curves, saver, goals, paper["baselines"], alone=saver == section.focus)
        if printed and saver == theirs:
            data += [_published_saving(printed, paper["baselines"], theirs, goal) for goal in goals]

    def heads(row: Row) -> Heads:
        if "against" not in row:
            return _method(row)
        detail = f"against {row['against']}" if row["source"] == "measured" else IN_PAPER
        return (Cell(f"saved by {label(row['saver'])}", detail),)

    def cell(row: Row) -> Cell:
        if "percent" in row:
            return percent(IntervalEstimate(row["percent"], row["low"], row["high"]))
        shown = count(IntervalEstimate(row["calls"], row["low"], row["high"]))
        if math.isnan(row["calls"]) and row["source"] == "measured":
            return shown._replace(text=outside(curves[row["method"]], row["target"]))
        return shown

    note = (
        "Teacher calls needed for a test accuracy, by linear interpolation of the mean curve; < and > where it lies "
        "above or below the target in all of the measured range. The 95 % interval holds the calls at which a t test "
        "over seeds cannot tell the curve from the target. Saved: percent of calls, against the best of the paper's "
        f"baselines ({', '.join(map(label, paper['baselines']))}) that were run, by {label('ckd')} and by CKD as "
        f"published (the delta of the paper's table), and by {label(section.focus)} against each other method, with "
        "the 95 % interval over seeds."
    )
    if printed:
        note += " Rows in the paper: as printed there; - where it has no number."
    header = ["method", *(f"{goal:g} %" for goal in goals)]
    rows = fill(data, "target", goals, heads, cell)
    return Table("calls", "Calls needed for an accuracy", note, header, rows, data)


def outside(curve: Curve, target: float) -> str:
    """On which side of the measured range the calls for a target lie that the mean curve does not cross."""
    mean = statistics.mean_curve(curve)
    return f"< {mean.calls[0]:,.0f}" if mean.accuracy[0] >= target else f"> {mean.calls[-1]:,.0f}"


def _savings(
    curves: Mapping[str, Curve], saver: str, goals: Sequence[float], baselines: Sequence[str], *, alone: bool
) -> list[dict[str, Any]]:
    """Percent of calls that a method saves for each target, against the paper's baselines.

    Args:
        alone: compare with each other method too, alone.
    """
    if saver not in curves:
        return []
    others = {method: curve for method, curve in curves.items() if method != saver}
    papers = [method for method in others if method.partition(" [")[0] in baselines]
    compared = {PAPER: [others[method] for method in papers]} if papers else {}
    if alone:
        compared |= {label(method): [curve] for method, curve in others.items() if method not in papers}
    savings = {name: {g: statistics.saving(curves[saver], them, g) for g in goals} for name, them in compared.items()}
    return [
        {"method": f"saved by {saver}", "saver": saver, "target": goal, "source": "measured", "against": name}
        | _ends("percent", saved)
        for name, by_goal in savings.items()
        if any(math.isfinite(saved.value) for saved in by_goal.values())
        for goal, saved in by_goal.items()
    ]


def _published_saving(
    printed: Mapping[str, Mapping[float, float]], baselines: Sequence[str], ours: str, goal: float
) -> dict[str, Any]:
    """Delta of table 1: against the baseline with the fewest printed calls."""
    calls = printed[ours].get(goal)
    others = [printed[method][goal] for method in baselines if goal in printed[method]]
    saved = IntervalEstimate(100 * (1 - calls / min(others)) if calls and others else math.nan)
    row = {"method": f"saved by {ours}", "saver": ours, "target": goal, "source": PUBLISHED, "against": PAPER}
    return row | _ends("percent", saved)


def paired(section: Section) -> Table:
    """Differences of the focus to every other method on equal seeds, with Holm's correction over the table."""
    curves, focus = section.curves, section.focus
    pairs = {
        (other, n): statistics.paired(curves[focus][n], curves[other][n])
        for other in curves
        for n in section.calls
        if other != focus and n in curves[other] and n in curves[focus]
    }
    corrected = statistics.holm([pair.p for pair in pairs.values()])
    data = [
        {"method": focus, "other": other, "calls": n, "seeds": pair.n, "difference": pair.difference,
         "low": pair.low, "high": pair.high, "p": pair.p, "p_holm": p_holm}
        for ((other, n), pair), p_holm in zip(pairs.items(), corrected, strict=True)
    ]  # fmt: skip

    def cell(row: Row) -> Cell:
        if row["seeds"] == 0:
            return UNKNOWN
        mark = "*" if row["p_holm"] <= statistics.ALPHA else ""
        detail = f"[{row['low']:+.2f}, {row['high']:+.2f}]" if row["seeds"] > 1 else "one seed"
        return Cell(f"{row['difference']:+.2f}{mark}", detail, row["difference"])

    rows = fill(data, "calls", section.calls, lambda row: (Cell(label(row["other"])),), cell)
    tested = sum(not math.isnan(p) for p in corrected)
    note = (
        f"Accuracy of {label(focus)} minus that of each method, on equal seeds, in points, with the 95 % t interval. "
        f"* p ≤ {statistics.ALPHA} in a paired t test after Holm's correction over the {tested} tests of this table."
    )
    return Table("paired", f"{label(focus)} against the others", note, ["method", *_calls(section.calls)], rows, data)


def learning(section: Section) -> Table:
    """Power laws that may be trusted, and the calls they predict for two accuracies that no method has reached."""
    curves = {method: curve for method, curve in section.curves.items() if len(curve) > 1}
    highest, beyond = max(_means(section.curves)), accuracies_ahead(section.curves)
    rows, data, left_out = [], [], []
    for method, curve in curves.items():
        fit = statistics.fit_learning_curve(curve)
        row = [Cell(label(method)), _limit(fit, highest), Cell(f"{fit.r2:.3f}", value=fit.r2)]
        for goal in beyond:
            estimate, distrust = fit.predict(goal)
            row.append(Cell("-", f"({distrust})") if distrust else count(estimate))
            shown = IntervalEstimate(math.nan) if distrust else estimate
            law = {name: math.nan if fit.distrust else getattr(fit, name) for name in ("a", "b", "c")}
            data.append({"method": method, **law, "r2": fit.r2, "target": goal, "distrust": distrust,
                         **_ends("calls", shown)})  # fmt: skip
        if fit.distrust:
            left_out.append(f"{label(method)} ({fit.distrust})")
        else:
            rows.append(row)
    header = ["method", "limit a (%)", "R²", *(f"calls for {goal:g} %" for goal in beyond)]
    note = (
        "Least-squares fit of accuracy = a - b calls^(-c) to the mean curve, and the calls it predicts for accuracies "
        "not reached, with 95 % intervals over seeds (of the fit made linear); - with the reason where the prediction "
        "must not be trusted."
    )
    if left_out:
        note += f" Left out, because the fit must not be trusted: {'; '.join(left_out)}."
    return Table("learning", "Learning curves beyond the range", note, header, rows, data)


def accuracies_ahead(curves: Mapping[str, Curve]) -> list[float]:
    """The next two round accuracies that no mean curve has reached, ascending; none near 100 %."""
    highest, widest = max(_means(curves)), _step(curves)
    ahead = ([(math.floor(highest / s) + k) * s for k in (1, 2)] for s in reversed(STEPS) if s <= widest)
    return next((goals for goals in ahead if goals[-1] < 100), [])


def _limit(fit: LearningCurve, highest: float) -> Cell:
    """The accuracy that no number of calls exceeds: at least the highest measured, at most 100."""
    if fit.a > 100:
        return Cell("over 100", value=fit.a)
    limit = fit.limit
    ends = (f"{min(max(end, highest), 100):.1f}" for end in (limit.low, limit.high))
    return Cell(f"{fit.a:.1f}", "" if math.isnan(limit.low) else f"[{', '.join(ends)}]", fit.a)


QUALITIES = {
    "accuracy": "at best validation",
    "accuracy_last": "last epoch",
    "top5": "top-5",
    "agreement": "agreement with the teacher, on the transfer set",
    "teacher_accuracy": "the teacher's accuracy, on the transfer set",
    "calibration_error": "calibration error",
}


def quality(section: Section) -> Table:
    """Everything measured on the test set, at the most calls."""
    most = section.calls[-1]
    data = [
        {"method": method, "calls": most, "measure": name, **_over([getattr(run, name) for run in runs])}
        for method in section.curves
        if (runs := [run for run in section.runs if run.method == method and run.calls == most])
        for name in QUALITIES
    ]

    def cell(row: Row) -> Cell:
        if math.isnan(row["mean"]):
            return UNKNOWN
        return Cell(f"{row['mean']:.2f}", "" if math.isnan(row["std"]) else f"({row['std']:.2f})", row["mean"])

    note = (
        "In percent, of the test set unless another is named: mean (sample standard deviation) over seeds. The teacher "
        "is asked about the transfer set alone, so agreement is measured there, on inputs that were trained on."
    )
    rows = fill(data, "measure", list(QUALITIES), _method, cell)
    return Table("quality", f"All measures at {most:,} calls", note, ["method", *QUALITIES.values()], rows, data)


def cost(section: Section) -> Table:
    """What the runs of each method took."""
    rows, data = [], []
    for method in section.curves:
        runs = [run for run in section.runs if run.method == method]
        images, seconds = np.mean([run.images_seen for run in runs]), np.mean([run.seconds for run in runs])
        numbers: dict[str, float] = {"runs": len(runs), "calls": sum(run.paid for run in runs)}
        numbers |= {"images_a_run": float(images), "seconds_a_run": float(seconds)}
        data.append({"method": method, **numbers})
        rows.append([Cell(label(method)), *counts(numbers.values())])
    note = "The runs of one seed share answers, so fewer calls were paid than answers were used."
    header = ["method", "runs", "answers used", "inputs seen a run", "seconds a run"]
    return Table("cost", "What the runs took", note, header, rows, data)


def selection(section: Section) -> Table:
    """Validation accuracy of every learning rate tried."""
    tried: dict[tuple[str, int], dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for run in section.selection:
        tried[run.method, run.calls][run.learning_rate].append(run.validation)
    data: list[dict[str, Any]] = [
        {
            "method": method,
            "calls": calls,
            "learning_rate": rate,
            "validation": float(np.mean(values)),
            "runs": len(values),
        }
        for (method, calls), by_rate in sorted(tried.items())
        for rate, values in by_rate.items()
    ]
    best: dict[tuple[str, int], float] = {}
    for row in data:
        best[row["method"], row["calls"]] = max(row["validation"], best.get((row["method"], row["calls"]), 0.0))

    used: dict[tuple[str, int], set[float]] = defaultdict(set)  # by the results, where there are some
    for run in section.runs:
        used[run.method, run.calls].add(run.learning_rate)

    def heads(row: Row) -> Heads:
        return Cell(label(row["method"])), Cell(f"{row['calls']:,}", value=row["calls"])

    def cell(row: Row) -> Cell:
        mean, place = row["validation"], (row["method"], row["calls"])
        won = mean == best[place] and row["learning_rate"] in used.get(place, (row["learning_rate"],))
        chosen = ", chosen" if won else ""
        return Cell(f"{mean:.2f}", f"[{row['runs']}]{chosen}", mean)

    rates = sorted({row["learning_rate"] for row in data}, reverse=True)
    note = (
        "Best validation accuracy in percent, mean over [runs]; the highest is chosen. The test set takes no part in "
        "the choice."
    )
    rows = fill(data, "learning_rate", rates, heads, cell)
    return Table(
        "selection", "Learning rates tried", note, ["method", "calls", *(f"lr {r:g}" for r in rates)], rows, data
    )


def targets(curves: Mapping[str, Curve]) -> list[float]:
    """Round accuracies inside the range of the mean curves, descending, about six."""
    means, step = _means(curves), _step(curves)
    first, last = math.ceil(min(means) / step), math.floor(max(means) / step)
    return [k * step for k in range(last, first - 1, -1)]


def _step(curves: Mapping[str, Curve]) -> float:
    means = _means(curves)
    return next((step for step in STEPS if max(means) - min(means) < 7 * step), STEPS[-1])


def _means(curves: Mapping[str, Curve]) -> list[float]:
    return [float(np.mean(list(values.values()))) for curve in curves.values() for values in curve.values()]


def _over(values: Iterable[float]) -> dict[str, Any]:
    """Mean, deviation and interval over seeds, as columns."""
    s = statistics.summarise(list(values))
    return {"mean": s.mean, "std": s.std, "low": s.low, "high": s.high, "seeds": s.n}


def _ends(name: str, estimate: IntervalEstimate) -> dict[str, float]:
    """An estimate and its interval, as columns."""
    return {name: estimate.value, "low": estimate.low, "high": estimate.high}


def _calls(calls: Sequence[int]) -> list[str]:
    return [f"{n:,} calls" for n in calls]
