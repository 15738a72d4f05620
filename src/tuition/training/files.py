"""The files of a run: written whole or not at all, and never over another run."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from tuition import escape
from tuition.errors import UserError
from tuition.models.weights import write_atomically as write
from tuition.training.settings import TrainSettings

RUN, CHECKPOINT, METRICS, CURVES = "run.json", "checkpoint.bin", "metrics.csv", "curves.png"

# What may differ between a run and its continuation: these change how it is come by, not what comes out.
FREE = {"device", "graphs", "checkpoint_seconds"}


def write_json(path: Path, value: Any) -> None:
    write(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as CSV, with the columns of the first, as `escape.cell` has them."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(escape.cell, rows[0]))
    writer.writerows([escape.cell(row[name]) for name in rows[0]] for row in rows)
    return text.getvalue()


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """A CSV file with the columns of the first row."""
    write(path, csv_text(rows).encode())


def open_run(
    directory: Path, settings: dict[str, Any], accounts: dict[str, int], bill: dict[str, str | int]
) -> dict[str, Any]:
    """Begin a run in `directory`, or continue the one there, whose accounts it keeps; returns what run.json holds.

    Raises:
        UserError: the folder holds another run or other files, or cannot be written.
    """
    there = find_run(directory, settings)
    if there is None:
        there = {"settings": settings, "status": "running", "accounts": accounts, "bill": bill}
        write_json(directory / RUN, there)
    return there


def find_run(directory: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """What run.json of a run with these `settings` (it may have more, and `FREE` ones may differ) in `directory` holds.

    None where nothing is.

    Raises:
        UserError: the folder holds another run or other files.
    """
    if (directory / RUN).exists():
        there = read_run(directory)
        usual = TrainSettings().model_dump()  # what a run was made with that is older than a setting
        for name, new in json.loads(json.dumps(settings)).items():
            old = there["settings"].get(name, usual.get(name))
            if old != new and name not in FREE:
                raise UserError(
                    f"{directory} holds a run with other settings ({name}: {old!r} there, {new!r} now); "
                    "choose another folder."
                )
        return there
    if directory.exists() and (not directory.is_dir() or any(not f.name.startswith(".") for f in directory.iterdir())):
        raise UserError(f"{directory} exists and is not a run; choose another folder.")
    return None


def check_writable(directory: Path) -> None:
    """Find out whether files can be written to a folder; one that is not there is made, and removed again.

    Raises:
        UserError: they cannot.
    """
    missing = [folder for folder in (directory, *directory.parents) if not folder.exists()]
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory) as file:
            file.write(bytes(4096))
            file.flush()
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise UserError(f"cannot write to {directory}: {why}; free space or choose another folder.") from error
    finally:
        for folder in missing:
            with contextlib.suppress(OSError):  # it was not made, or somebody has put something there
                folder.rmdir()


def read_run(directory: Path) -> dict[str, Any]:
    """What run.json in `directory` holds.

    Raises:
        UserError: there is no run, or its record is damaged.
    """
    path = directory / RUN
    try:
        record = json.loads(path.read_text())
        if not isinstance(record, dict) or not {"settings", "status", "accounts"} <= record.keys():
            raise ValueError("it is not the record of a run")
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
        UserError: the file is not whole.
    """
    if not path.exists():
        return None
    content = path.read_bytes()
    if hashlib.sha256(content[32:]).digest() != content[:32]:
        raise UserError(f"the checkpoint {path} is damaged; delete it to train this run from its start.")
    return torch.load(io.BytesIO(content[32:]), weights_only=True, map_location="cpu")


def finish(directory: Path) -> None:
    """Remove what only an unfinished run needs, and what kills left of files half written."""
    for path in (directory / CHECKPOINT, *directory.glob(".*.tmp")):
        path.unlink(missing_ok=True)
