"""The students that a study keeps: the best one as OUT/best, or all of them under OUT/students."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from tuition.errors import UserError
from tuition.studies.grid import PlannedRun
from tuition.studies.records import Record
from tuition.training import files

Keep = Literal["best", "all", "none"]
BEST, ALL, UNFINISHED, CHOSEN = "best", "students", "unfinished", "chosen.json"


def winner(results: Iterable[tuple[PlannedRun, Record]]) -> tuple[PlannedRun, Record] | None:
    """The run to ship, by validation alone: the first of ties; None where nothing was validated.

    It is of the row with the best mean over seeds at the most calls, and there the best seed. Validation sets grow with
    the calls, so the best single figure of all would be that of a small set and luck.
    """
    done = [(run, record) for run, record in results if not math.isnan(record.validation)]
    most = max((record.calls for _, record in done), default=0)
    rows: dict[tuple[Any, ...], list[tuple[PlannedRun, Record]]] = defaultdict(list)
    for run, record in done:
        if record.calls == most:
            settings = run.settings
            row = run.row, settings.data.data, settings.ask.teacher, settings.student, settings.train.accounting
            rows[row].append((run, record))
    if not rows:
        return None
    best = max(rows.values(), key=lambda row: fmean(record.validation for _, record in row))
    return max(best, key=lambda each: each[1].validation)


def check(out: Path) -> None:
    """Refuse a folder in which something else stands where the best student goes, before anything is trained."""
    place = out / BEST
    if place.exists() and not (place / CHOSEN).is_file():
        raise UserError(f"{place} is not the best student of a study; move it away, or say --keep none.")


def keep_best(
    out: Path, run: PlannedRun, record: Record, made: Callable[[], Path | None], others: Sequence[Path] = ()
) -> Path | None:
    """Put the folder of the winner in OUT/best, complete or not at all.

    Args:
        made: makes the folder of this run within OUT, finished; None where it cannot.
        others: folders of studies that may have kept it.

    Returns:
        OUT/best, or None where it was not made.
    """
    place, replaced = out / BEST, out / UNFINISHED / "replaced"
    if _kept(place) != run.key:
        there = [out / ALL / folder_name(run), *(each / BEST for each in others if _kept(each / BEST) == run.key)]
        copies = [folder for folder in there if folder.is_dir()]
        folder = _copied(copies[0], out / UNFINISHED / "copy") if copies else made()
        if folder is None:
            return None
        figures = {"validation": record.validation, "test": None if math.isnan(record.accuracy) else record.accuracy}
        chosen = {"key": run.key, "row": run.row, "calls": record.calls, "seed": record.seed, "in_runs_csv": figures}
        files.write_json(folder / CHOSEN, chosen)
        if replaced.exists():  # a kill left it
            shutil.rmtree(replaced)
        if place.exists():
            os.replace(place, replaced)
        os.replace(folder, place)
    shutil.rmtree(out / UNFINISHED, ignore_errors=True)  # the study has ended
    return place


def _kept(place: Path) -> str | None:
    """The key of the run whose student is in a folder."""
    return json.loads((place / CHOSEN).read_text())["key"] if (place / CHOSEN).is_file() else None


def _copied(folder: Path, to: Path) -> Path:
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(folder, to)
    return to


def keep_one(out: Path, run: PlannedRun, folder: Path) -> None:
    """Move the folder of a finished run to where all of them are kept."""
    place = out / ALL / folder_name(run)
    place.parent.mkdir(exist_ok=True)
    if place.exists():
        shutil.rmtree(place)
    os.replace(folder, place)


def folder_name(run: PlannedRun) -> str:
    """Of a kept student: what it is, and enough of its key to be unique."""
    words = f"{run.row}-{run.settings.ask.calls}-seed{run.settings.data.seed}"
    return f"{re.sub(r'[^A-Za-z0-9_.=-]+', '-', words)[:100]}-{run.key[:8]}"
