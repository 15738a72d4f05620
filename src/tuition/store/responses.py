"""Statements about teachers and their responses, inside a transaction of the caller's."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from torch import Tensor

from tuition.data.transfer import BY_CLASS
from tuition.errors import UserError
from tuition.store import payload
from tuition.store.database import blobs, layouts, names, responses, teachers

LOOKUP, BLOCK = 500, 65_536  # digests a query, and looked up at a time
BLOB_BYTES = 64 << 20  # reading one response never loads more than this


def identify(connection: Connection, name: str, fingerprint: str) -> int | None:
    """The id of the teacher with this fingerprint, None if it is new.

    Raises:
        UserError: the name is bound to another fingerprint.
    """
    bound = _bound(connection, name)
    if bound is not None and bound != fingerprint and not _only_imported(connection, bound):
        old, new = bound.split("; "), fingerprint.split("; ")
        lost, added = [part for part in old if part not in new], [part for part in new if part not in old]
        raise UserError(
            f"the name {name!r} stands for another teacher in this store (stored: {', '.join(lost) or 'nothing more'}; "
            f"given: {', '.join(added) or 'nothing more'}); {_way_out(lost, added)}."
        )
    return connection.scalar(sa.select(teachers.c.id).where(teachers.c.fingerprint == fingerprint))


def _bound(connection: Connection, name: str) -> str | None:
    by_name = sa.select(teachers.c.fingerprint).join(names, names.c.teacher_id == teachers.c.id)
    return connection.scalar(by_name.where(names.c.name == name))


def _only_imported(connection: Connection, fingerprint: str) -> bool:
    """Whether a teacher came by import and was never asked here: then the user's teachers may take its names."""
    row = connection.execute(sa.select(teachers).where(teachers.c.fingerprint == fingerprint)).first()
    return row is not None and row.imported > 0 and not (row.paid or row.served or row.failed)


def _way_out(lost: Sequence[str], added: Sequence[str]) -> str:
    """What to do about a teacher whose name is another's."""
    code = [part.startswith("code ") for part in (*lost, *added)]
    if not all(code) or not code:
        return "give this teacher another name, or ask the one meant"
    kept = lost[0].removeprefix("code ") if lost else ""
    what = "its code was edited" if lost and added else "one of the two was stored without its code"
    return (
        f"{what}: give it another name to ask again, or, if its answers are the same and it is made by from_callable, "
        f'keep them with from_callable(..., code="{kept}")'
    )


def register(connection: Connection, name: str, fingerprint: str) -> int:
    """As `identify`, but a new teacher is entered, and the name bound to it."""
    teacher_id = identify(connection, name, fingerprint)
    if teacher_id is None:
        insert = teachers.insert().values(fingerprint=fingerprint).returning(teachers.c.id)
        teacher_id = connection.execute(insert).scalar_one()
    bound = _bound(connection, name)
    if bound not in (None, fingerprint):  # brought by an import
        free = next(other for i in itertools.count(1) if _bound(connection, other := f"{name} (imported {i})") is None)
        connection.execute(names.update().where(names.c.name == name).values(name=free))
    if bound != fingerprint:
        connection.execute(names.insert().values(name=name, teacher_id=teacher_id))
    return teacher_id


def named(connection: Connection, name: str) -> int:
    """The id of the teacher of this name.

    Raises:
        UserError: it is not known.
    """
    teacher_id = connection.scalar(sa.select(names.c.teacher_id).where(names.c.name == name))
    if teacher_id is None:
        raise UserError(f"the store knows no teacher {name!r}; `tuition store usage` lists those it knows.")
    return teacher_id


def located(connection: Connection, teacher_id: int, digests: Sequence[bytes]) -> dict[bytes, tuple[int, int]]:
    """Blob and row of those of the digests that are stored."""
    # This statement and index_blob's see every response: as text, because SQLAlchemy's own take several times as long.
    places: dict[bytes, tuple[int, int]] = {}
    query = f"SELECT digest, blob_id, blob_row FROM {responses.name} WHERE teacher_id = "
    for start in range(0, len(digests), LOOKUP):
        part = digests[start : start + LOOKUP]
        if connection.dialect.name == "sqlite":
            marks = ",".join("?" * len(part))
            rows = connection.exec_driver_sql(f"{query}? AND digest IN ({marks})", (teacher_id, *part))
        else:
            rows = connection.exec_driver_sql(f"{query}%s AND digest = ANY(%s)", (teacher_id, list(part)))
        places.update((digest, (blob, row)) for digest, blob, row in rows.all())
    return places


def index_blob(connection: Connection, teacher_id: int, blob_id: int, digests: Sequence[bytes]) -> None:
    """Enter the rows of a blob in the index."""
    marks = ", ".join(["?" if connection.dialect.name == "sqlite" else "%s"] * 4)
    insert = f"INSERT INTO {responses.name} (teacher_id, digest, blob_id, blob_row) VALUES ({marks})"
    connection.exec_driver_sql(insert, [(teacher_id, digest, blob_id, row) for row, digest in enumerate(digests)])


def store_rows(
    connection: Connection, teacher_id: int, fingerprint: str, digests: Sequence[bytes], outputs: Mapping[str, Tensor]
) -> None:
    """Store rows of outputs, already in their stored types, as one blob (or a few, where rows are large)."""
    spec = payload.layout(outputs)
    known = sa.select(layouts.c.id).where(layouts.c.teacher_id == teacher_id, layouts.c.outputs == spec)
    layout_id = connection.scalar(known)
    if layout_id is None:
        insert = layouts.insert().values(teacher_id=teacher_id, outputs=spec).returning(layouts.c.id)
        layout_id = connection.execute(insert).scalar_one()
    step = max(1, BLOB_BYTES // sum(value[0].nbytes for value in outputs.values()))
    for start in range(0, len(digests), step):
        part = digests[start : start + step]
        data = payload.encode(part, {name: value[start : start + step] for name, value in outputs.items()})
        blob = {"layout_id": layout_id, "checksum": payload.checksum(fingerprint, data), "payload": data}
        blob_id = connection.execute(blobs.insert().values(blob).returning(blobs.c.id)).scalar_one()
        index_blob(connection, teacher_id, blob_id, part)


def wrong_widths(connection: Connection, teacher_id: int, outputs: Mapping[str, Tensor]) -> str | None:
    """What is wrong where vectors are not as wide as those stored for this teacher, None if nothing is."""
    for stored in connection.scalars(sa.select(layouts.c.outputs).where(layouts.c.teacher_id == teacher_id)):
        for name, (_, shape) in payload.read_layout(stored).items():
            if len(shape) == 1 and name in outputs and list(outputs[name].shape[1:]) != shape:
                return f"{name} {outputs[name][0].numel()} wide, where those stored are {shape[0]} wide"
    return None


def drop_odd_widths(connection: Connection, teacher_id: int, expected: int | None) -> int:
    """Drop answers whose vectors are not as wide as most of this teacher's; returns how many.

    Ties go to logits of the expected width, then to what came first.
    """
    by_width: dict[str, dict[int, list[int]]] = {}
    for row in connection.execute(sa.select(layouts).where(layouts.c.teacher_id == teacher_id).order_by(layouts.c.id)):
        for name, (_, shape) in payload.read_layout(row.outputs).items():
            if len(shape) == 1:
                by_width.setdefault(name, {}).setdefault(shape[0], []).append(row.id)
    if all(len(widths) == 1 for widths in by_width.values()):
        return 0
    rows = sa.select(blobs.c.layout_id, sa.func.count()).join(responses, responses.c.blob_id == blobs.c.id)
    rows = rows.where(responses.c.teacher_id == teacher_id).group_by(blobs.c.layout_id)
    count = {layout: number for layout, number in connection.execute(rows)}
    odd: set[int] = set()
    for name, widths in by_width.items():
        sizes = {width: sum(count.get(layout, 0) for layout in ids) for width, ids in widths.items()}
        kept = max(sizes, key=lambda width: (sizes[width], name in BY_CLASS and width == expected))
        odd.update(*(ids for width, ids in widths.items() if width != kept))
    blob_ids = sa.select(blobs.c.id).where(blobs.c.layout_id.in_(odd))
    own = responses.c.teacher_id == teacher_id
    dropped = connection.execute(responses.delete().where(own, responses.c.blob_id.in_(blob_ids))).rowcount
    connection.execute(blobs.delete().where(blobs.c.layout_id.in_(odd)))
    connection.execute(layouts.delete().where(layouts.c.id.in_(odd)))
    return dropped


def unstored(connection: Connection, teacher_id: int, digests: Sequence[bytes], layers: Sequence[str]) -> list[bytes]:
    """Those of the digests that are not stored.

    Raises:
        UserError: stored answers lack a feature map asked for; to ask again would be to pay twice.
    """
    query = sa.select(layouts.c.id, layouts.c.outputs).where(layouts.c.teacher_id == teacher_id)
    short = [row.id for row in connection.execute(query) if not set(layers) <= set(payload.read_layout(row.outputs))]
    lacking = set(connection.scalars(sa.select(blobs.c.id).where(blobs.c.layout_id.in_(short)))) if short else set()
    count, new = 0, list[bytes]()
    for start in range(0, len(digests), BLOCK):  # so that what is stored is never in memory all at once
        part = digests[start : start + BLOCK]
        stored = located(connection, teacher_id, part)
        new += [digest for digest in part if digest not in stored]
        count += sum(blob in lacking for blob, _ in stored.values()) if lacking else 0
    if count:
        raise UserError(
            f"{count} of these inputs are stored without the maps {', '.join(layers)}; ask without layers and add them "
            "with `recompute`, which costs no calls, or ask into another store."
        )
    return new
