"""How far a study, a run or an ask is, by the files of its folder, which are read alone."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from tuition import disk, escape, progress
from tuition.data import Accounts, Bill
from tuition.errors import UserError
from tuition.store.price import money
from tuition.studies import paid_calls, records, statistics
from tuition.studies.names import label
from tuition.studies.records import read_rows
from tuition.studies.study_sources import Progress
from tuition.training import files

PROGRESS, ROUNDS, STORES = "progress.json", "rounds.csv", "*.db"
CALLS, LAST, BEST = "calls", "runs", "best student"  # what a study counts; epochs of its teachers come before
UNITS = {"s": 1, "min": 60, "h": 3600}


class Count(NamedTuple):
    """What is counted: how many are done, how many there are if that is known, and how many a second were done."""

    done: int
    total: int | None = None
    rate: float | None = None

    def __str__(self) -> str:
        parts = [f"{self.done:,}" if self.total is None else f"{self.done:,} of {self.total:,}"]
        if self.rate:
            unit = next((unit for unit, seconds in UNITS.items() if self.rate * seconds >= 1), "h")
            parts.append(f"{self.rate * UNITS[unit]:,.1f} a {unit}")
            if self.total is not None and self.done < self.total:
                parts.append(f"about {progress.duration((self.total - self.done) / self.rate)} left")
        return ", ".join(parts)


@dataclass(frozen=True)
class Frame:
    """One look at a folder: what is counted, by name, and other facts. `ended`: a run or a study is complete."""

    title: str
    counts: dict[str, Count] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)
    ended: bool = False


def noted(out: Path, show: Progress) -> Progress:
    """`show`, which also writes what it is called with to OUT/progress.json, where a study is watched.

    Calls of a teacher are in the store, so they are not written one by one.
    """
    began: dict[str, tuple[float, int]] = {}

    def advance(what: str, done: int, total: int) -> None:
        show(what, done, total)
        if what == CALLS and what in began:
            return
        since, first = began.setdefault(what, (time.time(), done))
        value = {"what": what, "done": done, "total": total, "began": since, "first": first, "now": time.time()}
        out.mkdir(parents=True, exist_ok=True)
        disk.write(out / PROGRESS, json.dumps(value).encode())

    return advance


def look(folder: Path) -> Frame:
    """What the files of a folder say now.

    Raises:
        UserError: it does not exist, or holds no study, no run and no store.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; name that of a study, of a run, or of the store of an ask.")
    if (folder / files.RUN).is_file() or (folder / ROUNDS).is_file() or (folder / files.ROUNDS).is_dir():
        return _run(folder)
    if (folder / records.RUNS).is_file() or (folder / PROGRESS).is_file():
        return _study(folder)
    stores = sorted(folder.glob(STORES))
    if not stores:
        raise UserError(
            f"{folder} holds no study, no run and no store of answers; name the folder of one, as --out named it."
        )
    counts, facts = _stores(stores)
    return Frame(f"Asking, in {folder}", counts, facts)


# -- studies -----------------------------------------------------------------------------------------------------------


def _study(folder: Path) -> Frame:
    runs = records.read(folder) if (folder / records.RUNS).is_file() else []
    stores, counts, facts, ended = sorted(folder.glob(STORES)), dict[str, Count](), dict[str, str](), False
    if (folder / PROGRESS).is_file():
        noted = json.loads((folder / PROGRESS).read_text())
        name, seconds = escape.shorten(noted["what"]), noted["now"] - noted["began"]
        rate = (noted["done"] - noted["first"]) / seconds if seconds > 0 else None
        if name != CALLS or not stores:  # which say more
            counts[name] = Count(noted["done"], noted["total"], rate)
        ended = noted["done"] >= noted["total"] and name in (LAST, BEST)
    if LAST not in counts and not (folder / paid_calls.NAME).is_file():
        asked, facts = _stores(stores)
        counts |= asked
    status = {run.key: run.status for run in runs}
    if LAST not in counts:
        facts["finished runs"] = f"{len(status):,}"
    if failed := sum(one == "failed" for one in status.values()):
        facts["failed"] = f"{failed:,}"
    facts |= {f"paid for {label(each.teacher)}": _paid(each.accounts, each.bill) for each in paid_calls.read([folder])}
    for section in records.sections(runs):
        if section.runs:
            method, curve = next(iter(section.curves.items()))
            most = max(curve)
            summary = statistics.summarise(list(curve[most].values()))
            seeds = "one seed" if summary.n == 1 else f"{summary.n} seeds"
            facts[f"best so far, {section.title}"] = f"{label(method)} {summary.mean:.2f} % at {most:,} calls, {seeds}"
    return Frame(f"Study {folder}", counts, facts, ended)


# -- runs --------------------------------------------------------------------------------------------------------------


def _run(folder: Path) -> Frame:
    """A run; of one that asks in rounds and is not finished, the latest round."""
    inner = [path.parent for path in (folder / files.ROUNDS).glob(f"*/{files.RUN}") if path.parent.name.isdecimal()]
    place = folder
    if not (folder / files.RUN).is_file():
        place = max(inner, key=lambda path: int(path.name), default=folder)
    counts, facts, status = dict[str, Count](), dict[str, str](), "running"
    for row in _rows(folder / ROUNDS):
        number = row.get("round", str(len(facts) + 1))
        facts[f"round {number}"] = f"{row['calls']} inputs, validation {float(row['validation']):.2f} %"
    if (place / files.RUN).is_file():
        record = files.read_run(place)
        status, settings = str(record["status"]), record["settings"]
        counts["epochs" if place == folder else f"epochs of round {place.name}"], said = _epochs(place, settings)
        facts |= said | {"teacher calls": _paid(Accounts(**record["accounts"]), Bill.from_dict(record.get("bill", {})))}
    ended = status == "done" and place == folder
    return Frame(f"Run {folder}", counts, {"status": "done" if ended else "running", **facts}, ended)


def _epochs(place: Path, settings: Mapping[str, Any]) -> tuple[Count, dict[str, str]]:
    """Epochs done, and the last and the best figures of metrics.csv."""
    rows = _rows(place / files.METRICS)
    total = settings.get("epochs")
    if not rows:
        return Count(0, total), {}
    last, seconds = rows[-1], float(rows[-1]["seconds"])
    said = {"loss": f"{float(last['loss']):.4g}"}
    if "validation" in last:
        said["validation"] = f"{float(last['validation']):.2f} %"
        said["best so far"] = f"{max(float(row['validation']) for row in rows):.2f} %"
    done = int(float(last["epoch"]))
    return Count(done, total, done / seconds if seconds > 0 else None), said


def _rows(path: Path) -> list[dict[str, str]]:
    """The complete lines of a file that may be growing."""
    return read_rows(path, dict) if path.is_file() else []


# -- stores ------------------------------------------------------------------------------------------------------------


def _stores(paths: list[Path]) -> tuple[dict[str, Count], dict[str, str]]:
    from tuition.store import ResponseStore
    from tuition.store.under_way import under_way

    counts, facts = dict[str, Count](), dict[str, str]()
    for each in (each for path in paths for each in under_way(ResponseStore(str(path)))):
        if each.total:
            counts[f"inputs asked of {each.teacher}"] = Count(each.done, each.total)
        facts[f"stored answers of {each.teacher}"] = f"{each.stored:,}"
        facts[f"paid for {each.teacher}"] = _paid(each.accounts, each.bill)
        if each.flying:
            facts[f"waiting for {each.teacher}"] = f"{each.flying:,} calls"
    return counts, facts


def _paid(accounts: Accounts, bill: Bill) -> str:
    cost = f", cost {money(bill.cost)}" if bill.cost else ""
    failed = f", {accounts.failed:,} failed and not paid" if accounts.failed else ""
    return f"{accounts.paid:,} calls{cost}{failed}"


# -- again and again ---------------------------------------------------------------------------------------------------


def frames(folder: Path) -> Iterator[Frame]:
    """Looks at a folder, one whenever the next is asked for, until its run or study is complete.

    What has no rate of its own gets that since the first look.
    """
    seen: dict[str, tuple[float, int]] = {}
    while True:
        frame, now = look(folder), time.monotonic()
        for name, count in frame.counts.items():
            since, first = seen.setdefault(name, (now, count.done))
            if count.rate is None and now > since and count.done > first:
                frame.counts[name] = count._replace(rate=(count.done - first) / (now - since))
        yield frame
        if frame.ended:
            return
