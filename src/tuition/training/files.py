"""The files of a run: written completely or left as they were, and never over another run."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from tuition import escape
from tuition.disk import append, check_ours, check_writable, write, write_new
from tuition.errors import UserError
from tuition.training.settings import TrainSettings, extra

__all__ = ["check_writable", "write", "write_new"]

RUN, CHECKPOINT, METRICS, CURVES = "run.json", "checkpoint.bin", "metrics.csv", "curves.png"
ROUNDS = "rounds"  # folder of a run that asks in rounds, with what it needs to resume before there is a run.json

# What `write` leaves of a file of a run when it is killed.
UNFINISHED = re.compile(
    r"\.(run\.json|config\.yaml|checkpoint\.bin|metrics\.csv|curves\.png|README\.md|tokenizer\.json|\w+\.safetensors"
    r"|rounds\.(csv|png)|settings\.json|asked-\d+\.csv)\.[0-9a-f]{8}\.tmp"
)

# What may differ between a run and its continuation.
FREE = {name for name, field in TrainSettings.model_fields.items() if extra(field, "free")}

# What may differ, too, where a finished run is trained for more epochs.
LENGTHENED = ("epochs", "learning_rate")


def write_json(path: Path, value: Any) -> None:
    write(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as CSV, with the columns of the first, as `escape.cell` has them; of no rows, no text."""
    if not rows:
        return ""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(escape.cell, rows[0]))
    writer.writerows([escape.cell(row[name]) for name in rows[0]] for row in rows)
    return text.getvalue()


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """A CSV file with the columns of the first row."""
    write(path, csv_text(rows).encode())


class GrowingRows:
    """A CSV file that holds the rows of its last call. What was there before is replaced; then it grows.

    Its end may be lost in a crash, so that a finished table is written again by `write_rows`.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._written = path, 0

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> None:
        if self._written == 0:
            write_rows(self._path, rows)
        else:
            lines = csv_text(rows).splitlines(keepends=True)
            append(self._path, "".join(lines[1 + self._written :]).encode())
        self._written = len(rows)


def write_new_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """As `write_rows`, but not over another file."""
    write_new(path, csv_text(rows).encode())


def open_run(
    directory: Path, settings: dict[str, Any], accounts: dict[str, int], bill: dict[str, str | int]
) -> dict[str, Any]:
    """Begin a run in `directory`, or continue the one there, whose accounts it keeps; returns what run.json holds.

    Where a finished run gets more epochs, `continued` holds the settings of each part before, and its last epoch.

    Raises:
        UserError: the folder holds another run or other files, or cannot be written.
    """
    there = find_run(directory, settings)
    if there is None:
        there = {"settings": settings, "status": "running", "accounts": accounts, "bill": bill}
        write_json(directory / RUN, there)
    elif lengthens(there, settings):
        part = {"ended_after": there["results"]["epochs"]} | {name: there["settings"][name] for name in LENGTHENED}
        there = {
            "settings": there["settings"] | {name: settings[name] for name in LENGTHENED},
            "status": "running",
            "accounts": there["accounts"],
            "bill": there["bill"],
            "continued": [*there.get("continued", []), part],
        }
        (directory / CURVES).unlink(missing_ok=True)
        write_json(directory / RUN, there)
    return there


def lengthens(there: Mapping[str, Any], settings: Mapping[str, Any]) -> bool:
    """Whether these settings are of more epochs than those of the finished run that `there` records."""
    before, now = there["settings"].get("epochs"), settings.get("epochs")
    return there["status"] == "done" and isinstance(before, int) and isinstance(now, int) and now > before


def find_run(directory: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """What run.json of a run with these `settings` (it may have more, and `FREE` ones may differ) in `directory` holds.

    None where nothing is.

    Raises:
        UserError: the folder holds another run or other files; or a finished run without a checkpoint to continue from.
    """
    if (directory / RUN).exists():
        there = read_run(directory)
        longer = lengthens(there, settings)
        compare(directory, there["settings"], settings, {*FREE, *(LENGTHENED if longer else ())})
        if longer and not (directory / CHECKPOINT).exists():
            raise UserError(
                f"{directory} holds a finished run without its checkpoint, from which more epochs would continue; "
                "choose another folder."
            )
        return there
    in_rounds = settings.get("rounds", 1) > 1 or settings.get("until") is not None
    check_ours(directory, [ROUNDS] if in_rounds else [], "a run")
    return None


def compare(directory: Path, there: Mapping[str, Any], settings: Mapping[str, Any], free: Collection[str]) -> None:
    """Refuse `settings` that differ from those of the run in `directory`, but for the `free` ones.

    Raises:
        UserError: the first that differs.
    """
    for name, new in json.loads(json.dumps(settings)).items():
        old = there.get(name)
        if old != new and name not in free:
            raise UserError(
                f"{directory} holds a run with other settings ({name}: {old!r} there, {new!r} now); "
                "choose another folder."
            )


def read_run(directory: Path) -> dict[str, Any]:
    """What run.json in `directory` holds.

    Raises:
        UserError: the folder holds no run, or its record is damaged.
    """
    path = directory / RUN
    try:
        record = json.loads(path.read_text())
        if not isinstance(record, dict) or not {"settings", "status", "accounts"} <= record.keys():
            raise ValueError("it is not the record of a run")
        if not isinstance(record["settings"], dict) or not isinstance(record["accounts"], dict):
            raise ValueError("its settings or accounts are not mappings")
        return record
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"{directory} is not the folder of a run (it has no {RUN}); give the folder of a finished run."
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read ({error}); restore it, or make the run again in another folder."
        ) from None


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Tensors and plain values, behind the digest that `load_checkpoint` compares."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getvalue()
    write(path, hashlib.sha256(content).digest() + content)


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """The state that was saved; None where nothing was.

    Raises:
        UserError: the file is damaged.
    """
    if not path.exists():
        return None
    content = path.read_bytes()
    if hashlib.sha256(content[32:]).digest() != content[:32]:
        raise UserError(f"the checkpoint {path} is damaged; delete it to train this run from its start.")
    return torch.load(io.BytesIO(content[32:]), weights_only=True, map_location="cpu")


def finish(directory: Path, keep_checkpoint: bool) -> None:
    """Remove what a finished run does not need, and what kills left of files half written."""
    if not keep_checkpoint:
        (directory / CHECKPOINT).unlink(missing_ok=True)
    for path in directory.glob(".*.tmp"):
        if UNFINISHED.fullmatch(path.name):
            path.unlink(missing_ok=True)
