"""Reading responses back, each checked against its checksum and its input's digest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import sqlalchemy as sa
import torch
from sqlalchemy.engine import Connection
from torch import Tensor

from tuition.data.ondisk import scratch
from tuition.errors import UserError
from tuition.store import payload
from tuition.store.database import blobs, layouts, teachers
from tuition.store.responses import located

BLOBS = 32  # blobs a query, so that few of them are in memory at a time
BLOCK = 65536  # digests looked up at a time
MISSING = (0, -1)

_blobs = (
    sa.select(blobs.c.id, blobs.c.checksum, blobs.c.payload, layouts.c.outputs, layouts.c.teacher_id)
    .add_columns(teachers.c.fingerprint)
    .join(layouts, layouts.c.id == blobs.c.layout_id)
    .join(teachers, teachers.c.id == layouts.c.teacher_id)
    .order_by(blobs.c.id)
)


class DamagedError(UserError):
    """Stored bytes are not what was written."""


def read(connection: Connection, teacher_id: int, digests: Sequence[bytes]) -> dict[str, Tensor]:
    """The responses of n inputs, in their order: those outputs that all of them have.

    Vectors are float32, feature maps bfloat16; what takes more than 512 MiB lies in a file (`scratch`).

    Raises:
        DamagedError: a blob or an index entry is not what was written.
        UserError: some are not stored, or they have no output of one shape in common.
    """
    places = np.empty((len(digests), 2), np.int64)
    for start in range(0, len(digests), BLOCK):
        part = digests[start : start + BLOCK]
        where = located(connection, teacher_id, list(dict.fromkeys(part)))
        places[start : start + len(part)] = [where.get(digest, MISSING) for digest in part]
    blob_of, row_of = places.T
    missing = int((row_of < 0).sum())
    if missing:
        raise UserError(f"{missing} responses are not in the store any more, they were pruned meanwhile; ask again.")
    order = np.argsort(blob_of, kind="stable")
    needed, starts = np.unique(blob_of[order], return_index=True)
    members = dict(zip(needed.tolist(), np.split(order, starts[1:]), strict=True))

    shapes = _common(connection, needed.tolist())
    responses = {name: scratch((len(digests), *shape), dtype) for name, (dtype, shape) in shapes.items()}
    for start in range(0, len(needed), BLOBS):
        part = needed[start : start + BLOBS].tolist()
        for blob in connection.execute(_blobs.where(blobs.c.id.in_(part))):
            inputs, outputs = open_blob(blob)
            at = members.pop(blob.id)
            rows = row_of[at]
            for i, row in zip(at.tolist(), rows.tolist(), strict=True):
                if not row < len(inputs) or inputs[row] != digests[i]:
                    raise damaged(blob.id, "its index points to another input's answer")
            for name, value in responses.items():
                value[torch.from_numpy(at)] = outputs[name][torch.from_numpy(rows)].to(value.dtype)
    if members:
        raise damaged(next(iter(members)), "the index points to it, but it is not there")
    return responses


def every_blob(connection: Connection, *conditions: Any) -> Iterator[Any]:
    """All blobs that meet the conditions, by id: checksum, payload, outputs, teacher_id and fingerprint."""
    last = 0
    while page := connection.execute(_blobs.where(blobs.c.id > last, *conditions).limit(BLOBS)).all():
        yield from page
        last = page[-1].id


def open_blob(blob: Any) -> tuple[list[bytes], dict[str, Tensor]]:
    """Digests of the inputs and outputs, as stored, of a row of `every_blob`.

    Raises:
        DamagedError: they are not what was written.
    """
    if payload.checksum(blob.fingerprint, blob.payload) != blob.checksum:
        raise damaged(blob.id, "its bytes do not match their checksum")
    try:
        inputs, outputs = payload.decode(blob.payload)
    except payload.UndecodableError as error:
        raise damaged(blob.id, str(error)) from error
    if payload.layout(outputs) != blob.outputs:
        raise damaged(blob.id, "its outputs are not those in its layout")
    return inputs, outputs


def damaged(blob_id: int, why: str) -> DamagedError:
    return DamagedError(
        f"blob {blob_id} of the store is damaged ({why}); restore a copy of the store, or drop what is damaged with "
        "`tuition store prune --damaged` and ask about it again."
    )


def _common(connection: Connection, blob_ids: Sequence[int]) -> dict[str, tuple[torch.dtype, list[int]]]:
    """The outputs that all these blobs hold, as name -> (type as read, shape of a row)."""
    texts: set[str] = set()
    for start in range(0, len(blob_ids), 500):
        query = sa.select(layouts.c.outputs).distinct().join(blobs, blobs.c.layout_id == layouts.c.id)
        texts.update(connection.scalars(query.where(blobs.c.id.in_(blob_ids[start : start + 500]))))
    specs = [payload.read_layout(text) for text in sorted(texts)]
    shapes = {}
    for name in [name for name in specs[0] if all(name in spec for spec in specs)]:
        shape = specs[0][name][1]
        if any(spec[name][1] != shape for spec in specs):
            raise UserError(
                f"the stored answers have {name} in different shapes; ask about inputs of one size at a time."
            )
        shapes[name] = (torch.bfloat16 if len(shape) > 1 else torch.float32, shape)
    if not shapes:
        raise UserError("the stored answers have no output in common; ask about these inputs separately.")
    return shapes
