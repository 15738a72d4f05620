"""The tables of a study, as Markdown, LaTeX and CSV; published values stand under the measured ones."""

from __future__ import annotations

import csv
import io
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tuition import disk, escape
from tuition.store.price import money
from tuition.studies import published, statistics
from tuition.studies.names import label
from tuition.studies.paid_calls import PaidCalls
from tuition.studies.records import Record, Section
from tuition.studies.statistics import Curve, IntervalEstimate
from tuition.studies.templating import render

ALPHA = 0.05
PUBLISHED = "published"
PAPER = "the best baseline of the paper"
STEPS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)  # between target accuracies, in points


class Cell(NamedTuple):
    """`text`, then `detail` in small print; `value` is what a column is sorted by."""

    text: str
    detail: str = ""
    value: float | None = None
    best: bool = False


@dataclass(frozen=True)
class Table:
    """Rows of cells for people, and `data`, one measured quantity a row, for CSV."""

    name: str
    title: str
    note: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    data: Sequence[Mapping[str, Any]] = ()

    @property
    def kind(self) -> str:
        return self.name.partition("-")[0]


# -- what is shown -----------------------------------------------------------------------------------------------------


def all_tables(section: Section) -> list[Table]:
    """Every table that the section's runs can fill."""
    made = [selection(section)] if section.selection else []
    if section.runs:
        made = [accuracy(section), calls_to_accuracy(section), paired(section), learning(section), quality(section),
                cost(section), *made]  # fmt: skip
    return [replace(table, name=f"{table.name}-{section.slug}") for table in made if table.rows]


def accuracy(section: Section) -> Table:
    """Mean and standard deviation over seeds, by method and calls; the published white-box values (table 2) below."""
    curves, data = section.curves, []
    means = {(m, n): statistics.summarise(list(v.values())) for m, curve in curves.items() for n, v in curve.items()}
    best = {n: max(s.mean for (_, count), s in means.items() if count == n) for n in section.calls}
    seeds = {s.n for s in means.values()}
    printed = published.table2(section.dataset, section.teacher, section.student)
    rows = []
    for method in curves:
        row = [Cell(label(method))]
        for n in section.calls:
            if (s := means.get((method, n))) is None:
                row.append(Cell("-"))
                continue
            number = f" [{s.n}]" if len(seeds) > 1 else ""
            detail = number.strip() if math.isnan(s.std) else f"({s.std:.2f}){number}"
            row.append(Cell(f"{s.mean:.2f}", detail, s.mean, s.mean == best[n]))
            data.append({"method": method, "calls": n, "source": "measured", "mean": s.mean, "std": s.std,
                         "low": s.low, "high": s.high, "seeds": s.n})  # fmt: skip
        rows.append(row)
        if values := printed.get(method):
            known = {n: values[n] for n in section.calls if n in values}
            cells = (Cell(f"{known[n][0]:.2f}", f"({known[n][1]:.2f})", known[n][0]) if n in known else Cell("-")
                     for n in section.calls)  # fmt: skip
            rows.append([Cell(label(method), PUBLISHED), *cells])
            data += [{"method": method, "calls": n, "source": "published", "mean": mean, "std": std}
                     for n, (mean, std) in known.items()]  # fmt: skip
    count = f"seeds: {seeds.pop()}" if len(seeds) == 1 else "number of seeds in brackets"
    note = f"Test accuracy in percent at the best validation: mean (sample standard deviation); {count}."
    return Table("accuracy", "Accuracy by teacher calls", note, ["method", *_calls(section.calls)], rows, data)


def calls_to_accuracy(section: Section) -> Table:
    """Table 1: calls for each target accuracy, with the percentage that the section's focus saves."""
    curves, data = section.curves, []
    printed = published.table1(section.dataset, section.teacher, section.student)
    theirs = next((name for name in published.CKD if name in curves), "ckd")  # the paper's CKD is printed below it
    if printed:
        printed[theirs] = printed.pop("ckd")
    goals = targets(curves)
    if printed and max(goals, default=0) <= max(published.TABLE1_TARGETS):
        goals = sorted({*goals, *published.TABLE1_TARGETS}, reverse=True)
    rows = []
    for method, curve in curves.items():
        found = {goal: statistics.calls_to_reach(curve, goal) for goal in goals} if len(curve) > 1 else {}
        if found:
            rows.append([Cell(label(method)), *(_count(found[goal]) for goal in goals)])
            data += [{"method": method, "target": goal, "source": "measured", "calls": e.value, "low": e.low,
                      "high": e.high} for goal, e in found.items()]  # fmt: skip
        if values := printed.get(method):
            rows.append(
                [Cell(label(method), PUBLISHED), *(_count(IntervalEstimate(values.get(g, math.nan))) for g in goals)]
            )
            data += [{"method": method, "target": goal, "source": "published", "calls": calls}
                     for goal, calls in values.items()]  # fmt: skip
    saved = _savings(section, goals)
    rows += [[Cell(f"saved by {label(section.focus)}", f"against {name}"), *map(_percent, found.values())]
             for name, found in saved.items()]  # fmt: skip
    data += [{"method": f"saved by {section.focus}", "target": goal, "source": "measured", "against": name,
              "percent": e.value, "low": e.low, "high": e.high}
             for name, found in saved.items() for goal, e in found.items()]  # fmt: skip
    if section.focus == "ckd" and printed:
        delta = {goal: _published_saving(printed, theirs, goal) for goal in goals}
        rows.append([Cell("saved by CKD", PUBLISHED), *map(_percent, delta.values())])
        data += [{"method": "saved by ckd", "target": goal, "source": "published", "against": PAPER, "percent": e.value}
                 for goal, e in delta.items()]  # fmt: skip
    note = (
        "Teacher calls needed for a test accuracy, by linear interpolation of the mean curve; - where it does not "
        "cross the target. The 95 % interval holds the calls at which a t test over seeds cannot tell the curve from "
        "the target. Saved: percent of calls, against the best of the paper's baselines "
        f"({', '.join(map(label, published.BASELINES))}) that were run, and against each other method, with the 95 % "
        "interval over seeds."
    )
    return Table("calls", "Calls needed for an accuracy", note, ["method", *(f"{g:g} %" for g in goals)], rows, data)


def _savings(section: Section, goals: Sequence[float]) -> dict[str, dict[float, IntervalEstimate]]:
    """By what the focus is compared with: percent of calls saved for each target."""
    curves = {method: curve for method, curve in section.curves.items() if len(curve) > 1}
    if section.focus not in curves:
        return {}
    others = [method for method in curves if method != section.focus]
    papers = [method for method in others if method.partition(" [")[0] in published.BASELINES]
    compared = {PAPER: [curves[method] for method in papers]} if papers else {}
    compared |= {label(method): [curves[method]] for method in others if method not in papers}
    ours = curves[section.focus]
    return {name: {g: statistics.saving(ours, them, g) for g in goals} for name, them in compared.items()}


def _published_saving(printed: Mapping[str, Mapping[float, float]], ours: str, goal: float) -> IntervalEstimate:
    """Delta of table 1, in percent: against the baseline with the fewest printed calls."""
    calls = printed[ours].get(goal)
    others = [printed[method][goal] for method in published.BASELINES if goal in printed[method]]
    return IntervalEstimate(100 * (1 - calls / min(others)) if calls and others else math.nan)


def paired(section: Section) -> Table:
    """Differences of the focus to every other method on equal seeds, with Holm's correction over the whole table."""
    curves, focus = section.curves, section.focus
    cells = [(m, n) for m in curves if m != focus for n in section.calls if n in curves[m] and n in curves[focus]]
    found = {(m, n): statistics.paired(curves[focus][n], curves[m][n]) for m, n in cells}
    corrected = dict(zip(found, statistics.holm([pair.p for pair in found.values()]), strict=True))
    rows = []
    for method in dict.fromkeys(m for m, _ in cells):
        row = [Cell(label(method))]
        for n in section.calls:
            pair = found.get((method, n))
            if pair is None or pair.n == 0:
                row.append(Cell("-"))
                continue
            mark = "*" if corrected[method, n] <= ALPHA else ""
            detail = f"[{pair.low:+.2f}, {pair.high:+.2f}]" if pair.n > 1 else "one seed"
            row.append(Cell(f"{pair.difference:+.2f}{mark}", detail, pair.difference))
        rows.append(row)
    data = [{"method": focus, "other": m, "calls": n, "seeds": d.n, "difference": d.difference, "low": d.low,
             "high": d.high, "p": d.p, "p_holm": corrected[m, n]} for (m, n), d in found.items()]  # fmt: skip
    tested = sum(not math.isnan(p) for p in corrected.values())
    note = (
        f"Accuracy of {label(focus)} minus that of each method, on equal seeds, in points, with the 95 % t interval. "
        f"* p ≤ {ALPHA} in a paired t test after Holm's correction over the {tested} tests of this table."
    )
    title = f"{label(focus)} against the others"
    return Table("paired", title, note, ["method", *_calls(section.calls)], rows, data)


def learning(section: Section) -> Table:
    """Power laws, and the calls they predict for two accuracies that no method has reached."""
    curves = {method: curve for method, curve in section.curves.items() if len(curve) > 1}
    highest, widest = max(_means(section.curves)), _step(section.curves)
    ahead = ([(math.floor(highest / s) + k) * s for k in (1, 2)] for s in reversed(STEPS) if s <= widest)
    beyond = next((goals for goals in ahead if goals[-1] < 100), [])
    rows, data = [], []
    for method, curve in curves.items():
        fit = statistics.fit_learning_curve(curve)
        row = [Cell(label(method)), _limit(fit, highest), _r2(fit)]
        for goal in beyond:
            estimate, word = fit.predict(goal)
            row.append(Cell("-", f"({word})") if word else _count(estimate))
            shown = IntervalEstimate(math.nan) if word else estimate
            data.append({"method": method, "a": fit.a, "b": fit.b, "c": fit.c, "r2": fit.r2, "target": goal,
                         "distrust": word, "calls": shown.value, "low": shown.low, "high": shown.high})  # fmt: skip
        rows.append(row)
    header = ["method", "limit a (%)", "R²", *(f"calls for {goal:g} %" for goal in beyond)]
    note = (
        "Least-squares fit of accuracy = a - b calls^(-c) to the mean curve, and the calls it predicts for accuracies "
        "not reached, with 95 % intervals over seeds (of the fit made linear); - with the reason where the fit must "
        "not be trusted."
    )
    return Table("learning", "Learning curves beyond the range", note, header, rows, data)


def _limit(fit: statistics.LearningCurve, highest: float) -> Cell:
    """The accuracy that no number of calls exceeds: at least the highest measured, at most 100."""
    if fit.distrust:
        return Cell("-")
    if fit.a > 100:
        return Cell("over 100", value=fit.a)
    found = fit.limit
    ends = (f"{min(max(end, highest), 100):.1f}" for end in (found.low, found.high))
    return Cell(f"{fit.a:.1f}", "" if math.isnan(found.low) else f"[{', '.join(ends)}]", fit.a)


def _r2(fit: statistics.LearningCurve) -> Cell:
    """- where two or three points are fitted by three parameters."""
    return Cell("-") if len(fit.mean.calls) < statistics.MIN_COUNTS else Cell(f"{fit.r2:.3f}", value=fit.r2)


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
    rows, data = [], []
    for method in section.curves:
        runs = [run for run in section.runs if run.method == method and run.calls == most]
        found = {name: statistics.summarise([getattr(run, name) for run in runs]) for name in QUALITIES}
        if runs:
            rows.append([Cell(label(method)), *(_mean(summary) for summary in found.values())])
            data += [{"method": method, "calls": most, "measure": name, "mean": s.mean, "std": s.std, "seeds": s.n}
                     for name, s in found.items()]  # fmt: skip
    note = (
        "In percent, of the test set unless another is named: mean (sample standard deviation) over seeds. The teacher "
        "is asked about the transfer set alone, so agreement is measured there, on inputs that were trained on."
    )
    return Table("quality", f"All measures at {most:,} calls", note, ["method", *QUALITIES.values()], rows, data)


def cost(section: Section) -> Table:
    """What the runs of each method took."""
    names = ("method", "runs", "calls", "images_a_run", "seconds_a_run")
    rows, data = [], []
    for method in section.curves:
        runs = [run for run in section.runs if run.method == method]
        images, seconds = np.mean([run.images_seen for run in runs]), np.mean([run.seconds for run in runs])
        totals = (len(runs), sum(run.paid for run in runs), float(images), float(seconds))
        rows.append([Cell(label(method)), *(_count(IntervalEstimate(total)) for total in totals)])
        data.append(dict(zip(names, (method, *totals), strict=True)))
    note = "Calls stood for are those the runs' transfer sets hold; runs of one seed share them, so fewer were paid."
    header = ["method", "runs", "calls stood for", "images seen a run", "seconds a run"]
    return Table("cost", "What the runs took", note, header, rows, data)


def selection(section: Section) -> Table:
    """Validation accuracy of every learning rate tried."""
    tried: dict[tuple[str, int], dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for run in section.selection:
        tried[run.method, run.calls][run.learning_rate].append(run.validation)
    rates = sorted({rate for found in tried.values() for rate in found}, reverse=True)
    rows, data = [], []
    for (method, calls), found in sorted(tried.items()):
        means = {rate: float(np.mean(values)) for rate, values in found.items()}
        best = max(means.values())
        cells = (Cell(f"{m:.2f}", f"[{len(found[r])}]", m, m == best) if (m := means.get(r)) is not None else Cell("-")
                 for r in rates)  # fmt: skip
        rows.append([Cell(label(method)), Cell(f"{calls:,}", value=calls), *cells])
        data += [{"method": method, "calls": calls, "learning_rate": rate, "validation": mean, "runs": len(found[rate])}
                 for rate, mean in means.items()]  # fmt: skip
    note = "Best validation accuracy in percent, mean over [runs]; the test set takes no part in the choice."
    header = ["method", "calls", *(f"lr {rate:g}" for rate in rates)]
    return Table("selection", "Learning rates tried", note, header, rows, data)


def accounts(runs: Iterable[Record]) -> Table:
    """Teacher calls behind the runs of every section."""
    groups: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for run in {run.key: run for run in runs}.values():
        groups[run.dataset, run.teacher].append(run)
    rows, data = [], []
    for (dataset, teacher), group in groups.items():
        largest: dict[int, int] = defaultdict(int)
        for run in group:
            largest[run.seed] = max(largest[run.seed], run.paid)
        totals = len(group), sum(run.paid for run in group), sum(largest.values())
        rows.append([Cell(label(dataset)), Cell(label(teacher)), *(Cell(f"{n:,}", value=n) for n in totals)])
        data.append(
            dict(zip(("dataset", "teacher", "runs", "calls", "once"), (dataset, teacher, *totals), strict=True))
        )
    note = (
        "A run stands for the answers in its transfer set. With one store for all runs a seed's answers are paid once; "
        "its transfer sets are nested, so that is at most the largest of each seed."
    )
    header = ["data", "teacher", "runs", "calls the runs stand for", "paid at most, with one store"]
    return Table("accounts", "Accounts of teacher calls", note, header, rows, data)


def paid(rows: Iterable[PaidCalls]) -> Table:
    """Teacher calls and money, as the studies' stores hold them."""
    names = ("paid", "unknown", "failed")
    cells = [
        [
            Cell(label(row.teacher)),
            *(Cell(f"{n:,}", value=n) for n in (getattr(row.accounts, name) for name in names)),
            Cell(money(row.bill.cost), value=float(row.bill.cost)) if row.bill.cost else Cell("-"),
        ]
        for row in rows
    ]
    data = [{"teacher": row.teacher, **row.accounts.as_dict(), **row.bill.as_dict()} for row in rows]
    header = ["teacher", "paid calls", "in flight when interrupted", "failed, not paid", "cost"]
    note = (
        "All calls of the teacher that the study's store holds, those of other commands too, and what they cost at the "
        "prices that were set; - where none was set. Calls in flight when interrupted are among the paid ones."
    )
    return Table("paid", "Paid teacher calls", note, header, cells, data)


def versions(runs: Iterable[Record]) -> Table:
    """Software behind the runs."""
    counts = Counter(tuple(sorted(run.versions.items())) for run in runs)
    names = sorted({name for found in counts for name, _ in found})
    rows = [[Cell(f"{n:,}", value=n), *(Cell(str(dict(found).get(name, "-"))) for name in names)]
            for found, n in counts.most_common()]  # fmt: skip
    return Table("versions", "Versions", "Number of runs made with each set of versions.", ["runs", *names], rows)


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


def _calls(calls: Sequence[int]) -> list[str]:
    return [f"{n:,} calls" for n in calls]


def _mean(s: statistics.SeedSummary) -> Cell:
    if math.isnan(s.mean):
        return Cell("-")
    return Cell(f"{s.mean:.2f}", "" if math.isnan(s.std) else f"({s.std:.2f})", s.mean)


def _count(estimate: IntervalEstimate) -> Cell:
    known = math.isfinite(estimate.low) or math.isfinite(estimate.high)
    interval = f"[{_end(estimate.low)}, {_end(estimate.high)}]" if known else ""
    if math.isnan(estimate.value):
        return Cell("-", interval)
    return Cell(f"{estimate.value:,.0f}", interval, estimate.value)


def _percent(estimate: IntervalEstimate) -> Cell:
    if math.isnan(estimate.value):
        return Cell("-")
    ends = (f"{end:.1f}" if -math.inf < end < 100 else "unknown" for end in (estimate.low, estimate.high))
    return Cell(f"{estimate.value:.1f} %", "" if math.isnan(estimate.low) else f"[{', '.join(ends)}]", estimate.value)


def _end(value: float) -> str:
    return f"{value:,.0f}" if math.isfinite(value) else "below range" if value < 0 else "beyond range"


# -- how it is written -------------------------------------------------------------------------------------------------


def markdown(table: Table) -> str:
    return render("table.md", table=table)


def latex(table: Table) -> str:
    """A `table` environment for the package booktabs."""
    return render("table.tex", table=table)


def comma_separated(table: Table) -> str:
    """The data behind the table, unrounded, one quantity a row; unknown is empty."""
    names = list(dict.fromkeys(name for row in table.data for name in row))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(escape.cell, names))
    for row in table.data:
        values = (escape.cell(row.get(name, "")) for name in names)
        writer.writerow("" if isinstance(value, float) and math.isnan(value) else value for value in values)
    return text.getvalue()


WRITERS: dict[str, Callable[[Table], str]] = {".md": markdown, ".tex": latex, ".csv": comma_separated}


def write(made: Iterable[Table], directory: Path) -> None:
    """Write each table as Markdown, LaTeX and CSV."""
    directory.mkdir(parents=True, exist_ok=True)
    for table in made:
        for suffix, text in WRITERS.items():
            disk.write(directory / f"{table.name}{suffix}", text(table).encode())
