"""Moving responses between stores: safetensors for the answers, parquet for what they answer."""

from __future__ import annotations

import hashlib
import io
import json
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
import torch
from sqlalchemy.engine import Connection
from torch import Tensor

from tuition import disk
from tuition.data.pool import DIGEST_BYTES
from tuition.errors import UserError, first_line
from tuition.store import payload
from tuition.store.answers import check
from tuition.store.calls import billed
from tuition.store.database import layouts, names, teachers
from tuition.store.reading import every_blob, open_blob
from tuition.store.responses import identify, located, register, store_rows, wrong_widths
from tuition.store.store import ResponseStore

FILE_BYTES = 256 << 20  # of one file of answers; about twice that is in memory
INDEX = "responses.parquet"
INDEX_BYTES = 1 << 30  # of one row group, unpacked
LONGEST_FINGERPRINT, LONGEST_NAME = 10_000, 200  # characters


@dataclass(frozen=True)
class Copied:
    """How many responses were moved, and how many more the store had already and kept as they were."""

    responses: int
    known: int = 0


def export(store: ResponseStore, folder: str | Path, *, teacher: str | None = None) -> Copied:
    """Write the responses of all teachers, or of the one of this name, to a folder, without loss.

    `responses-00000.safetensors` and its successors hold the outputs as they are stored, rows stacked. A row of
    `responses.parquet` says of each response: the teacher's fingerprint, the input's digest, the file, the row in it,
    and the BLAKE2b digest of the file. Its metadata give the teachers' names, accounts,
    tokens and cost (text, with every digit).

    Raises:
        UserError: the folder holds an export already, the teacher is not known, or an answer is damaged.
    """
    folder = Path(folder)
    if (folder / INDEX).exists():
        raise UserError(f"{folder} holds an export already; choose another folder.")
    disk.check_ours(folder, (f"{INDEX}.part",), "an export")  # that is what an interrupted one leaves
    with disk.hold(folder):
        return _export(store, folder, teacher)


def _export(store: ResponseStore, folder: Path, teacher: str | None) -> Copied:
    import pyarrow as pa
    import pyarrow.parquet as pq

    fields = [("fingerprint", pa.string()), ("digest", pa.binary(16)), ("file", pa.string()), ("row", pa.int32())]
    total = 0
    with store.database.read() as connection:
        about = _about(connection, teacher)
        folder.mkdir(parents=True, exist_ok=True)
        schema = pa.schema([*fields, ("checksum", pa.string())], metadata={"tuition": json.dumps(about)})
        unfinished = disk.replaceable(folder / f"{INDEX}.part")
        with unfinished.open("wb") as file_of_index, pq.ParquetWriter(file_of_index, schema) as writer:
            for number, (fingerprint, digests, outputs) in enumerate(_stacked(connection, list(about))):
                file, data = f"responses-{number:05d}.safetensors", payload.encode(digests, outputs)
                disk.replaceable(folder / file).write_bytes(data)
                n = len(digests)
                same = [[fingerprint] * n, digests, [file] * n, list(range(n)), [_digest(data)] * n]
                writer.write_table(pa.table(same, schema=schema), row_group_size=n)
                total += n
        unfinished.rename(folder / INDEX)
    return Copied(total)


def import_(store: ResponseStore, folder: str | Path) -> Copied:
    """Take over the responses of an export. They count as imported, not as paid; what is stored already stays as it is.

    Raises:
        UserError: no export there, a damaged file, a name that stands for another teacher here, or answers of other
            widths than those stored for the same teacher, or such as `ask` would not store. What was imported before
            the trouble stays.
    """
    folder = Path(folder)
    moved = known = 0
    about, files = _read_index(folder)
    with store.database.connect() as connection:
        with store.database.write(connection):  # every name, before anything is stored
            ids = {fingerprint: _enter(connection, fingerprint, called) for fingerprint, called in about.items()}
        for file, fingerprint, digests, outputs in files:
            if fingerprint not in ids:
                raise UserError(f"{folder / INDEX} does not say whose answers {file} holds; export again.")
            with store.database.write(connection):
                teacher_id = ids[fingerprint]
                wrong = wrong_widths(connection, teacher_id, outputs)
                if wrong is not None:
                    raise UserError(
                        f"{folder / file} holds {wrong} for the same teacher; import it into another store."
                    )
                stored = located(connection, teacher_id, digests)
                new = [row for row, digest in enumerate(digests) if digest not in stored]
                if new:
                    kept = {name: value[torch.tensor(new)] for name, value in outputs.items()}
                    store_rows(connection, teacher_id, fingerprint, [digests[row] for row in new], kept)
                    changed = teachers.update().where(teachers.c.id == teacher_id)
                    connection.execute(changed.values(imported=teachers.c.imported + len(new)))
            moved, known = moved + len(new), known + len(digests) - len(new)
    return Copied(moved, known)


def check_export(folder: str | Path) -> None:
    """Find out whether a folder holds an export, before a store is made for it.

    Raises:
        UserError: it does not, or not a complete one.
    """
    _read_index(Path(folder))


def _enter(connection: Connection, fingerprint: str, called: list[str]) -> int:
    """The id of an imported teacher. Names are bound to one that is new here; the user's own keep theirs.

    Raises:
        UserError: a name stands for another teacher here.
    """
    known = None
    for name in called:
        known = identify(connection, name, fingerprint)
    if known is None:
        for name in called:
            known = register(connection, name, fingerprint)
    assert known is not None
    return known


File = tuple[str, str, list[bytes], dict[str, Tensor]]  # its name, the teacher's fingerprint, and the answers


def _read_index(folder: Path) -> tuple[dict[str, list[str]], Iterator[File]]:
    """Names by fingerprint, and the files of answers, each checked when it is read.

    Raises:
        UserError: it is not an export, or not a complete one.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if not stat.S_ISREG((folder / INDEX).lstat().st_mode):
            raise ValueError("its index is not a file")
        index = pq.ParquetFile(io.FileIO(folder / INDEX))  # not by its path, which need not be UTF-8
        about = {
            _word(fingerprint, LONGEST_FINGERPRINT): [_word(name, LONGEST_NAME) for name in teacher["names"]]
            for fingerprint, teacher in json.loads(index.schema_arrow.metadata[b"tuition"]).items()
        }
        if not all(about.values()):
            raise ValueError("a teacher has no name")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, pa.ArrowException) as error:
        raise UserError(f"{folder} holds no complete export ({first_line(error)}); export again.") from error

    def files() -> Iterator[File]:
        for number in range(index.num_row_groups):
            try:
                yield _read_file(folder, index, number)
            except UserError:
                raise
            except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
                raise UserError(
                    f"{folder} holds answers that cannot be taken ({first_line(error)}); export again."
                ) from error

    return about, files()


def _read_file(folder: Path, index: Any, number: int) -> File:
    """The answers of one row group of the index.

    Raises:
        UserError, ValueError and others: they are not an export's, or not what a store holds.
    """
    group = index.metadata.row_group(number)
    largest = max((path.stat().st_size for path in folder.glob("*.safetensors")), default=0)
    # A row stands for a digest of 16 bytes in a file that is there: a lie about their number allocates nothing.
    if not 0 < group.num_rows <= largest // DIGEST_BYTES or group.total_byte_size > INDEX_BYTES:
        raise UserError(f"{folder} announces more than its files hold, a file is missing or damaged; export again.")
    table = index.read_row_group(number)
    (file,), (fingerprint,), (checksum,) = (
        table.column(name).unique().to_pylist() for name in ("file", "fingerprint", "checksum")
    )
    path = folder / Path(_word(file, LONGEST_NAME)).name
    data = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
    if _digest(data) != checksum:
        raise UserError(f"{path} is missing or damaged; export again.")
    try:
        digests, outputs = payload.decode(data)
    except payload.UndecodableError as error:
        raise UserError(f"{path} does not hold answers ({error}); export again.") from error
    if digests != table.column("digest").to_pylist() or table.column("row").to_pylist() != list(range(len(digests))):
        raise UserError(f"{folder / INDEX} does not belong to {path.name}; export again.")
    _, _, wrong = check(outputs, len(digests), ())  # as answers of a teacher are
    if wrong is not None:
        raise UserError(f"{path} {wrong}; nothing of it was imported.")
    return path.name, fingerprint, digests, outputs


def _word(text: Any, most: int) -> str:
    if not isinstance(text, str) or not 0 < len(text) <= most or not text.isprintable():
        raise ValueError(f"{ascii(text)[:60]} is not a name")
    return text


def _about(connection: Connection, name: str | None) -> dict[str, dict[str, object]]:
    """Fingerprint -> names, accounts and cost of the teachers to export."""
    query = sa.select(teachers, names.c.name).join(names, names.c.teacher_id == teachers.c.id).order_by(names.c.name)
    rows = connection.execute(query).all()
    chosen = {row.id for row in rows if name in (None, row.name)}
    if not chosen:
        raise UserError(f"there is nothing to export of {name or 'any teacher'}; `tuition store usage` lists what is.")
    counts = ("paid", "served", "failed", "unknown", "imported")
    about: dict[str, dict[str, object]] = {}
    for row in rows:
        if row.id in chosen:
            called = [other.name for other in rows if other.id == row.id]
            about[row.fingerprint] = {"names": called, **{count: getattr(row, count) for count in counts}}
            about[row.fingerprint] |= billed(row).as_dict()
    return about


def _stacked(connection: Connection, fingerprints: list[str]) -> Iterator[tuple[str, list[bytes], dict[str, Tensor]]]:
    """Answers of one teacher and one layout at a time, in portions that fit in memory."""
    query = sa.select(layouts.c.id, teachers.c.fingerprint).join(teachers, teachers.c.id == layouts.c.teacher_id)
    for layout_id, fingerprint in connection.execute(query.where(teachers.c.fingerprint.in_(fingerprints))).all():
        parts: list[tuple[list[bytes], dict[str, Tensor]]] = []
        size = 0
        for blob in every_blob(connection, layouts.c.id == layout_id):
            parts.append(open_blob(blob))
            size += len(blob.payload)
            if size >= FILE_BYTES:
                yield fingerprint, *_stack(parts)
                parts, size = [], 0
        if parts:
            yield fingerprint, *_stack(parts)


def _stack(parts: list[tuple[list[bytes], dict[str, Tensor]]]) -> tuple[list[bytes], dict[str, Tensor]]:
    digests = [digest for some, _ in parts for digest in some]
    return digests, {name: torch.cat([outputs[name] for _, outputs in parts]) for name in parts[0][1]}


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()
