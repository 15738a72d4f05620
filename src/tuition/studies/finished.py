"""The finished runs that a study knows, and the rows that it writes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tuition import escape
from tuition.studies import records
from tuition.studies.grid import End, Study, Trial, resolved
from tuition.studies.records import Record
from tuition.training.run import versions


class Book:
    """Finished runs: those known, from here and elsewhere, and what stands in the study's own runs.csv."""

    def __init__(self, study: Study, out: Path, others: Sequence[Path] = (), *, retry: bool = False) -> None:
        self.out, self.wants_spectra = out, study.spectra
        own = records.read(out) if (out / records.RUNS).exists() else []
        self.known: dict[str, Record] = {}
        for record in (*records.read(*others), *own):
            if record.status == "done" or not (retry or record.key in self.known):
                self.known[record.key] = record
        self.written = {End(r.key, r.method, r.purpose, r.accounting): r.status for r in own}
        own_spectra = records.read_spectra(out)
        self.spectra = records.read_spectra(*others) | own_spectra
        self.written_spectra = set(own_spectra)

    def find(self, trial: Trial) -> Record | None:
        """The finished run that serves a trial: of its key, and of equal settings, for defaults may change."""
        record = self.known.get(trial.key)
        if record is None or (record.status == "done" and self.wants_spectra and trial.key not in self.spectra):
            return None
        there, here = records.flatten(record.settings), records.flatten(resolved(trial.settings))
        named = ("data", "teacher")  # which may go by other names; the key holds what they are
        return record if all(there.get(k, v) == v for k, v in here.items() if k not in named) else None

    def add(self, record: Record, found: list[float] | None) -> None:
        """A run has ended."""
        self.known[record.key] = record
        if found is not None:
            self.spectra[record.key] = found

    def write(self, ends: Mapping[End, Trial]) -> None:
        """See to it that each of `ends` has its row, as far as its run is known."""
        for end, trial in ends.items():
            record = self.find(trial)
            if record is None or self.written.get(end) == record.status:
                continue
            if self.wants_spectra and end.key in self.spectra and end.key not in self.written_spectra:
                records.append_spectrum(self.out, end.key, self.spectra[end.key])
                self.written_spectra.add(end.key)
            row = replace(
                record,
                dataset=Path(trial.settings.data).name,
                teacher=trial.settings.teacher or "",
                method=end.row,
                purpose=end.purpose,
                accounting=end.accounting,
            )
            records.append(self.out, row)
            self.written[end] = record.status


def record_of(trial: Trial, figures: Mapping[str, Any] | None, error: str | None) -> Record:
    settings = trial.settings
    shared = settings.model_dump(include={"student", "calls", "seed", "learning_rate", "schedule", "accounting"})
    row = Record(
        key=trial.key,
        dataset=Path(settings.data).name,
        teacher=settings.teacher or "",
        method=trial.row,
        epochs=settings.epochs,
        purpose="result",
        versions=versions(),
        settings=resolved(settings),
        **shared,
    )
    if figures is not None:
        return replace(row, **figures)
    return replace(row, status="failed", error=escape.shorten((error or "").strip() or "it gave no reason"))
