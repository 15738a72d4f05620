"""Moving responses between stores: safetensors for the answers, parquet for what they answer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
import torch
from sqlalchemy.engine import Connection
from torch import Tensor

from tuition.errors import UserError
from tuition.store import payload
from tuition.store.books import billed
from tuition.store.database import layouts, names, teachers
from tuition.store.entries import located, register, store_rows, wrong_widths
from tuition.store.reading import every_blob, open_blob
from tuition.store.store import ResponseStore

FILE_BYTES = 256 << 20  # of one file of answers; about twice that is in memory
INDEX = "responses.parquet"


@dataclass(frozen=True)
class Moved:
    """How many responses were moved, and how many more the store had already and kept as they were."""

    responses: int
    known: int = 0


def export(store: ResponseStore, folder: str | Path, *, teacher: str | None = None) -> Moved:
    """Write the responses of all teachers, or of the one of this name, to a folder, without loss.

    `responses-00000.safetensors` and its successors hold the outputs as they are stored, rows stacked. A row of
    `responses.parquet` says of each response: the teacher's fingerprint, the input's digest, the file, the row in it,
    and the BLAKE2b digest of the file. Its metadata give the teachers' names, accounts,
    tokens and cost (text, with every digit).

    Raises:
        UserError: the folder holds an export already, there is no teacher of this name, or an answer is damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = Path(folder)
    if (folder / INDEX).exists():
        raise UserError(f"{folder} holds an export already; choose another folder.")
    folder.mkdir(parents=True, exist_ok=True)
    fields = [("fingerprint", pa.string()), ("digest", pa.binary(16)), ("file", pa.string()), ("row", pa.int32())]
    total = 0
    with store.database.read() as connection:
        about = _about(connection, teacher)
        schema = pa.schema([*fields, ("checksum", pa.string())], metadata={"tuition": json.dumps(about)})
        unfinished = folder / f"{INDEX}.part"
        with pq.ParquetWriter(unfinished, schema) as writer:
            for number, (fingerprint, digests, outputs) in enumerate(_stacked(connection, list(about))):
                file, data = f"responses-{number:05d}.safetensors", payload.encode(digests, outputs)
                (folder / file).write_bytes(data)
                n = len(digests)
                same = [[fingerprint] * n, digests, [file] * n, list(range(n)), [_digest(data)] * n]
                writer.write_table(pa.table(same, schema=schema), row_group_size=n)
                total += n
        unfinished.rename(folder / INDEX)
    return Moved(total)


def import_(store: ResponseStore, folder: str | Path) -> Moved:
    """Take over the responses of an export. They count as imported, not as paid; what is stored already stays as it is.

    Raises:
        UserError: no export there, a damaged file, a name that stands for another teacher here, or answers of other
            widths than those stored for the same teacher. What was imported before the trouble stays.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = Path(folder)
    try:
        index = pq.ParquetFile(folder / INDEX)
        about = json.loads(index.schema_arrow.metadata[b"tuition"])
        groups = [index.read_row_group(i).to_pydict() for i in range(index.num_row_groups)]
    except (OSError, pa.ArrowInvalid, KeyError, TypeError) as error:
        raise UserError(f"{folder} holds no whole export ({error}); export again.") from error
    moved = known = 0
    with store.database.connect() as connection:
        ids: dict[str, int] = {}
        with store.database.write(connection):  # every name, before anything is stored
            for fingerprint, teacher in about.items():
                for name in teacher["names"]:
                    ids[fingerprint] = register(connection, name, fingerprint)
        for group in groups:
            file, fingerprint = Path(group["file"][0]).name, group["fingerprint"][0]
            data = (folder / file).read_bytes() if (folder / file).is_file() else b""
            if _digest(data) != group["checksum"][0]:
                raise UserError(f"{folder / file} is missing or damaged; export again.")
            digests, outputs = payload.decode(data)
            if digests != group["digest"]:
                raise UserError(f"{folder / INDEX} does not belong to {file}; export again.")
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
    return Moved(moved, known)


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
