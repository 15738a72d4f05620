"""Inputs that a teacher refused: the sentence about them, and the file that names them all."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from tuition.data.transfer import Refusal
from tuition.errors import UserError
from tuition.store import files

_log = logging.getLogger(__name__)

NAME = "refused.jsonl"


def beside(store: Path | None) -> Path:
    """Where refused inputs are named: beside the store's file, or in the current folder where it is on a server."""
    return Path(NAME) if store is None else store.with_name(f"{store.name}.{NAME}")


def write(path: Path, teacher: str, refused: Sequence[Refusal]) -> None:
    """Name refused inputs in a file, a line each; what it says of other inputs stays.

    A file that cannot be written costs a warning only: the transfer set names these inputs too.
    """
    try:
        files.write_durably(path, _joined(path, teacher, refused).encode())
    except (OSError, UserError) as error:
        _log.warning("the refused inputs could not be written to %s: %s", path, error)


def _joined(path: Path, teacher: str, refused: Sequence[Refusal]) -> str:
    lines: dict[tuple[str, str], dict[str, object]] = {}
    for text in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        with contextlib.suppress(ValueError, KeyError, TypeError):  # a line that somebody else wrote is dropped
            line = json.loads(text)
            lines[str(line["teacher"]), str(line["digest"])] = line
    lines |= {(teacher, one.digest): {"teacher": teacher} | asdict(one) for one in refused}
    return "".join(json.dumps(line) + "\n" for line in lines.values())


def sentence(refused: Sequence[Refusal], asked: int, path: Path | None) -> str:
    """What a user reads: "1 of 81 inputs was refused by the teacher (row 40: ...): too long; it is left out"."""
    first = refused[0]
    were, they = ("was", "it is") if len(refused) == 1 else ("were", "they are")
    which = str(first) if len(refused) == 1 else f"the first is {first}"
    reason = first.reason.rstrip(".")
    text = f"{len(refused)} of {asked} inputs {were} refused by the teacher ({which}): {reason}; {they} left out"
    return f"{text}." if path is None else f"{text}; see {path}."
