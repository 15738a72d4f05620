"""Reading responses back, each checked against its checksum and its input's digest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import sqlalchemy as sa
import torch
from sqlalchemy.engine import Connection
from torch import Tensor

from tuition.errors import UserError
from tuition.store import payload
from tuition.store.database import blobs, layouts, teachers
from tuition.store.ledger import located

BLOBS = 32  # blobs a query


class DamagedError(UserError):
    """Stored bytes are not what was written."""


def read(connection: Connection, teacher_id: int, digests: Sequence[bytes]) -> dict[str, Tensor]:
    """The responses of n inputs, in their order: those outputs that all of them have.

    Vectors are float32, feature maps bfloat16.

    Raises:
        DamagedError: a blob's bytes or an index entry are not what was written.
        UserError: some are not stored, or they have no output of one shape in common.
    """
    where = located(connection, teacher_id, list(dict.fromkeys(digests)))
    missing = sum(digest not in where for digest in digests)
    if missing:
        raise UserError(f"{missing} responses are not in the store any more; they were pruned meanwhile, ask again.")
    fingerprint = connection.scalar(sa.select(teachers.c.fingerprint).where(teachers.c.id == teacher_id)) or ""
    blob_of, row_of = np.array([where[digest] for digest in digests]).T
    order = np.argsort(blob_of, kind="stable")
    needed, starts = np.unique(blob_of[order], return_index=True)
    members = dict(zip(needed.tolist(), np.split(order, starts[1:]), strict=True))

    shapes = common_outputs(connection, teacher_id, needed.tolist())
    found = {name: torch.empty((len(digests), *shape), dtype=dtype) for name, (dtype, shape) in shapes.items()}
    for blob_id, inputs, outputs in fetch(connection, fingerprint, needed.tolist()):
        at, rows = members[blob_id], row_of[members[blob_id]]
        for i, row in zip(at.tolist(), rows.tolist(), strict=True):
            if row >= len(inputs) or inputs[row] != digests[i]:
                raise damaged(blob_id, "its index points to another input's answer")
        at, rows = torch.from_numpy(at), torch.from_numpy(rows)
        for name, value in found.items():
            value[at] = outputs[name][rows].to(value.dtype)
    return found


def common_outputs(
    connection: Connection, teacher_id: int, blob_ids: Sequence[int]
) -> dict[str, tuple[torch.dtype, list[int]]]:
    """The outputs that all these blobs hold, as name -> (type as read, shape of a row)."""
    used: set[int] = set()
    for start in range(0, len(blob_ids), 500):
        query = sa.select(blobs.c.layout_id).distinct().where(blobs.c.id.in_(blob_ids[start : start + 500]))
        used.update(connection.scalars(query))
    query = sa.select(layouts.c.outputs).where(layouts.c.id.in_(used))
    specs = [payload.read_layout(text) for text in connection.scalars(query)]
    shapes = {}
    for name in [name for name in specs[0] if all(name in spec for spec in specs)]:
        shape = specs[0][name][1]
        if any(spec[name][1] != shape for spec in specs):
            raise UserError(
                f"the stored answers have {name} in different shapes; ask about inputs of one size at a time."
            )
        shapes[name] = (torch.bfloat16 if len(shape) > 1 else torch.float32, shape)
    if not shapes:
        raise UserError("the stored answers have no output in common; ask about them separately.")
    return shapes


def fetch(
    connection: Connection, fingerprint: str, blob_ids: Sequence[int]
) -> Iterator[tuple[int, list[bytes], dict[str, Tensor]]]:
    """Blob by blob: its id, its inputs' digests and its outputs, checked."""
    for start in range(0, len(blob_ids), BLOBS):
        part = blob_ids[start : start + BLOBS]
        query = sa.select(blobs.c.id, blobs.c.checksum, blobs.c.payload).where(blobs.c.id.in_(part))
        for blob_id, checksum, data in connection.execute(query):
            if payload.checksum(fingerprint, data) != checksum:
                raise damaged(blob_id, "its bytes do not match their checksum")
            yield blob_id, *payload.decode(data)


def damaged(blob_id: int, why: str) -> DamagedError:
    return DamagedError(
        f"blob {blob_id} of the store is damaged ({why}); restore a copy, or drop what is damaged with "
        "`tuition store prune --damaged` and ask about it again."
    )
