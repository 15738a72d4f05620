"""What tells one run from another: its settings, and digests of its data, student and own code."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tuition.data import Pool, TransferSet
from tuition.identity import code_digest, state_digest
from tuition.training.objective import Objective
from tuition.training.setup import Setup
from tuition.training.student import Student


def recorded_settings(setup: Setup, described: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a run records of its settings, and compares when it resumes."""
    return {
        "method": setup.method.name,
        "options": setup.options,
        "student": setup.student.card()["model"] or type(setup.student.model).__name__,
        "seed": setup.seed,
        **setup.settings.model_dump(),
        **(described or {}),
    }


def recorded_digests(setup: Setup, objective: Objective) -> dict[str, str | None]:
    """Digests that a run records and compares too."""
    return {
        "initial_digest": module_digest(setup.student) if setup.is_module else None,
        "own_code": own_code(setup.student, objective, setup.method.own),
        "transfer_digest": data_digest(setup.transfer),
        "validation_digest": None if setup.validation is None else data_digest(setup.validation),
        "unasked_digest": None if setup.unasked is None else data_digest(setup.unasked),
        "test_digest": None if setup.test is None else data_digest(setup.test),
    }


def nearness_digest(setup: Setup, described: Mapping[str, Any] | None) -> dict[str, str]:
    """Digest of a nearness that was passed; one that follows from settings may differ in its last bits elsewhere."""
    if setup.nearness is None or "neighbours" in (described or {}):
        return {}
    return {"nearness_digest": tensors_digest({"nearness": setup.nearness})}


def own_code(student: Student, objective: Objective, own: object | None) -> str | None:
    """Digest of the user's own code in a run: of the student, and of the loss; None where there is none.

    An objective of the user's own counts by all that its terms hold too, but not by the state they train.
    """
    function = None if isinstance(own, Objective) else own
    parts = [(term.name, term.weight, term.reads, term.loss) for term in objective.terms]
    drawn = (objective.groups, objective.groups_drawn, objective.distinct, objective.per_class)
    others = (objective.mix, drawn, objective.recentre)
    loss = code_digest(type(objective), parts, others, function, but=objective.state, always=own is not None)
    model = code_digest(student.model, student.preprocess)
    return None if loss is None and model is None else f"student {model}, loss {loss}"


def data_digest(data: Pool | TransferSet) -> str:
    """Identity of what a run learns from or is measured on: contents, labels, responses, in their order."""
    pool = data.pool if isinstance(data, TransferSet) else data
    tensors = {} if pool.labels is None else {"labels": pool.labels}
    if isinstance(data, TransferSet):
        tensors |= data.responses
    return tensors_digest(tensors, b"".join(pool.digests))


def module_digest(student: nn.Module) -> str:
    """Identity of a module by its state, what stands beside it, and its structure."""
    structure = re.sub(r" at 0x[0-9a-fA-F]+", "", repr(student))
    return tensors_digest(student.state_dict(), f"{structure} {state_digest(student)}".encode())


def tensors_digest(tensors: Mapping[str, Tensor], also: bytes = b"") -> str:
    total = hashlib.sha256(also)
    for name, value in sorted(tensors.items()):
        total.update(f"{name}{value.dtype}{tuple(value.shape)}".encode())
        total.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return total.hexdigest()[:32]
