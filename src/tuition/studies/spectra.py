"""Figure 5: the spectra of the students' features and logits, by method and calls, and their effective ranks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tuition.studies import statistics
from tuition.studies.names import label
from tuition.studies.records import SPECTRAL, Section, Spectra
from tuition.studies.table import Cell, Row, Table, fill


def groups(section: Section, spectra: Mapping[str, Spectra]) -> dict[int, dict[str, dict[str, np.ndarray]]]:
    """calls -> output -> method -> (runs, r): the singular values of a section's runs, best method first."""
    found: dict[int, dict[str, dict[str, list[Any]]]] = {}
    for run in section.runs:
        for output, values in spectra.get(run.key, {}).items():
            found.setdefault(run.calls, {}).setdefault(output, {}).setdefault(run.method, []).append(values)
    return {
        calls: {
            output: {method: np.array(found[calls][output][method]) for method in section.curves if method in by_method}
            for output, by_method in found[calls].items()
        }
        for calls in sorted(found)
    }


def table(section: Section, spectra: Mapping[str, Spectra]) -> Table:
    """The effective rank of each spectrum, mean and deviation over seeds."""
    data = []
    grouped = groups(section, spectra)
    columns = [(output, calls) for output in SPECTRAL for calls in grouped]
    for output, calls in columns:
        for method, runs in grouped[calls][output].items():
            ranks = statistics.summarise([statistics.effective_rank(run) for run in runs])
            data.append({"method": method, "output": output, "calls": calls, "mean": ranks.mean, "std": ranks.std,
                         "low": ranks.low, "high": ranks.high, "seeds": ranks.n})  # fmt: skip

    def cell(row: Row) -> Cell:
        return Cell(f"{row['mean']:.1f}", f"({row['std']:.1f})" if row["seeds"] > 1 else "", row["mean"])

    note = (
        "Effective rank of the student's centred penultimate features and logits over the test set: exp of the entropy "
        "of the singular values over their sum. Mean (sample standard deviation) over seeds. A flatter spectrum has a "
        "higher one; it is at most the number of features, and for logits the number of classes."
    )
    keyed = [{**row, "column": (row["output"], row["calls"])} for row in data]
    rows = fill(keyed, "column", columns, lambda row: (Cell(label(row["method"])),), cell)
    header = ["method", *(f"{output}, {calls:,} calls" for output, calls in columns)]
    return Table("rank", "Effective rank of features and logits", note, header, rows, data)
