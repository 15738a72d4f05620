"""Feature maps of a local teacher, recomputed for what was asked: no calls, nothing stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from tuition.data.ondisk import scratch
from tuition.data.transfer import TransferSet
from tuition.errors import UserError
from tuition.store.class_columns import match_classes
from tuition.teachers.protocol import Teacher

TOLERANCE = 2e-3  # of the largest logit: float16 storage and other devices' rounding, not other weights


def maps_bytes(teacher: Teacher, transfer: TransferSet, layers: Sequence[str]) -> int:
    """Memory that `recompute` will take for the maps, in bytes; it runs one input through the teacher."""
    answer = teacher.with_layers(layers)(transfer.pool.asked(slice(0, 1)))
    return len(transfer) * sum(answer[layer].nbytes for layer in layers)


def recompute(teacher: Teacher, transfer: TransferSet, layers: Sequence[str], *, batch_size: int = 64) -> TransferSet:
    """The transfer set with the teacher's feature maps (n, ...) added, in bfloat16, for the views that were asked.

    Args:
        teacher: the local model that gave the answers; its own `layers` do not matter.
        transfer: n inputs with their answers.
        layers: module paths.
        batch_size: inputs a forward pass.

    Raises:
        UserError: another teacher than the one that answered, by its fingerprint or by what it answers now.
    """
    if teacher.fingerprint != transfer.fingerprint:
        raise UserError("these answers are another teacher's; give the model that was asked.")
    teacher = teacher.with_layers(layers)
    order, maps = match_classes(teacher, transfer.pool), dict[str, torch.Tensor]()
    for start in range(0, len(transfer), batch_size):
        part = slice(start, start + batch_size)
        answer = order.responses(dict(teacher(transfer.pool.asked(part))))
        for name, stored in transfer.responses.items():
            if name in answer and stored.ndim <= 2:
                difference = float((answer[name] - stored[part]).abs().max())
                if not difference <= TOLERANCE * (1 + float(stored[part].abs().max())):
                    raise UserError(
                        f"the teacher now answers {name} up to {difference:.3g} away from what it answered when asked; "
                        "the model's forward pass must have changed, ask it again under another name."
                    )
        for layer in layers:
            if start == 0:
                maps[layer] = scratch((len(transfer), *answer[layer].shape[1:]), torch.bfloat16)
            maps[layer][part] = answer[layer]
    return replace(transfer, responses=transfer.responses | maps)
