"""The finished runs of a study, and their rows in runs.csv."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tuition import escape
from tuition.studies import records
from tuition.studies.grid import PlannedRun, RecordId, Study, resolved
from tuition.studies.records import Record, Spectra
from tuition.training.run import versions


class FinishedRuns:
    """The finished runs of this study and of others, and what the study's own runs.csv holds of them."""

    def __init__(self, study: Study, out: Path, others: Sequence[Path] = (), *, retry: bool = False) -> None:
        self.out, self.keep_spectra = out, study.spectra
        own = records.read(out) if (out / records.RUNS).exists() else []
        self.known: dict[str, Record] = {}
        theirs = records.read(*others)
        self.elsewhere = {record.key for record in theirs}
        for record in (*theirs, *own):
            if record.status == "done" or not (retry or record.key in self.known):
                self.known[record.key] = record
        self.written = {RecordId(r.key, r.method, r.purpose, r.accounting): r.status for r in own}
        own_spectra = records.read_spectra(out)
        self.spectra = records.read_spectra(*others) | own_spectra
        self.written_spectra = set(own_spectra)

    def find(self, run: PlannedRun) -> Record | None:
        """The finished run of this key, if its settings are equal too, because defaults may change."""
        record = self.known.get(run.key)
        if record is None or (record.status == "done" and self.keep_spectra and run.key not in self.spectra):
            return None
        there, here = records.flatten(record.settings), records.flatten(resolved(run.settings))
        named = ("data", "teacher")  # names may differ; the key covers the content
        return record if all(there.get(k, v) == v for k, v in here.items() if k not in named) else None

    def add(self, record: Record, spectra: Spectra | None) -> None:
        """A run has ended."""
        self.known[record.key] = record
        if spectra is not None:
            self.spectra[record.key] = spectra

    def write(self, rows: Mapping[RecordId, PlannedRun]) -> None:
        """Append those of `rows` whose runs are finished and that runs.csv does not hold yet."""
        for row, run in rows.items():
            record = self.find(run)
            if record is None or self.written.get(row) == record.status:
                continue
            if self.keep_spectra and row.key in self.spectra and row.key not in self.written_spectra:
                records.append_spectra(self.out, row.key, self.spectra[row.key])
                self.written_spectra.add(row.key)
            used = replace(
                record,
                dataset=Path(run.settings.data.data).name,
                teacher=run.settings.ask.teacher or "",
                method=row.row,
                purpose=row.purpose,
                accounting=row.accounting,
            )
            records.append(self.out, used)
            self.written[row] = record.status


def record_of(run: PlannedRun, figures: Mapping[str, Any] | None, error: str | None) -> Record:
    """The record of a run that has ended, with its figures or with the error that stopped it."""
    settings = run.settings
    flat = settings.flat()
    shared = {
        name: flat[name] for name in ("student", "calls", "seed", "learning_rate", "schedule", "epochs", "accounting")
    }
    record = Record(
        key=run.key,
        dataset=Path(settings.data.data).name,
        teacher=settings.ask.teacher or "",
        method=run.row,
        purpose="result",
        versions=versions(),
        settings=resolved(settings),
        **shared,
    )
    if figures is not None:
        return replace(record, **figures)
    return replace(record, status="failed", error=escape.shorten((error or "").strip() or "it gave no reason"))
