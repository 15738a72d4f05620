"""The offset of the classes over a training, where a study notes it: what comparison losses do not teach."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from tuition.studies.names import label
from tuition.studies.records import Section
from tuition.studies.table import Cell, Table

LAST = 0.25  # share of the epochs over which a course is said to have settled


def courses(section: Section) -> dict[str, np.ndarray]:
    """method -> (epochs, 3): epoch, offset and validation accuracy (percent), mean over seeds at the most calls.

    Of the epochs that all runs of a method have.
    """
    noted: dict[str, list[dict[float, list[float]]]] = defaultdict(list)
    for run in section.runs:
        if run.calls == section.calls[-1] and run.curve and len(run.curve[0]) == 4:
            noted[run.method].append({point[0]: [point[0], point[3], point[2]] for point in run.curve})
    found = {}
    for method in section.curves:
        if runs := noted.get(method):
            epochs = sorted(set.intersection(*map(set, runs)))
            found[method] = np.mean([[run[epoch] for epoch in epochs] for run in runs], axis=0)
    return found


def table(section: Section) -> Table:
    """The largest and the settled offset of each method, beside its accuracy then; `data` has the courses."""
    rows, data = [], []
    for method, course in courses(section).items():
        settled = course[-max(1, round(LAST * len(course))) :].mean(axis=0)
        values = course[:, 1].max(), settled[1], settled[2]
        figures = zip(values, (".2f", ".2f", ".1f"), strict=True)
        rows.append([Cell(label(method)), *(Cell(f"{value:{form}}", value=value) for value, form in figures)])
        data += [
            {"method": method, "epoch": int(epoch), "offset": offset, "validation": validation}
            for epoch, offset, validation in course
        ]
    note = (
        "Offset: root mean square over classes of the mean residual over the transfer set, without what all classes "
        f"have in common (in logits). Settled: mean over the last {LAST:.0%} of the epochs; validation accuracy in "
        "percent likewise. Means over seeds."
    )
    header = ["method", "largest offset", "settled offset", "accuracy (%)"]
    return Table("offset", "The offset of the classes", note, header, rows, data)
