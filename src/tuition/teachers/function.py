"""Any Python function as a teacher."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tuition.errors import UserError
from tuition.teachers.fingerprint import short


@dataclass(frozen=True)
class CallableTeacher:
    """A function as a teacher; made by `from_callable` and `from_onnx`."""

    function: Callable[[Any], Any]
    fingerprint: str
    name: str
    local: bool = False

    def __call__(self, inputs: Any) -> dict[str, Tensor]:
        answer = self.function(inputs)
        outputs = answer if isinstance(answer, Mapping) else {"logits": answer}
        return {name: torch.as_tensor(value).detach().cpu() for name, value in outputs.items()}


def from_callable(function: Callable[[Any], Any], *, fingerprint: str, name: str | None = None) -> CallableTeacher:
    """A teacher from a function of raw inputs.

    Args:
        function: takes a batch of the pool's raw inputs (uint8 images (b, c, h, w), floats (b, d), or b strings) and
            returns {"logits": (b, k), ...} as tensors or arrays, or the logits alone. It raises `NotCharged` where a
            request was refused and costs nothing.
        fingerprint: whatever tells this teacher from others: a version, a digest of its weights, endpoint and model. A
            changed teacher needs another fingerprint, or its answers pass for the old one's.
        name: what people call it; by default derived from the function's name and the fingerprint.

    Raises:
        UserError: an empty fingerprint.
    """
    if not fingerprint:
        raise UserError(
            "a teacher needs a fingerprint that tells it from others; give its version or a digest of its weights."
        )
    if name is None:
        name = f"{getattr(function, '__name__', type(function).__name__)}-{short(fingerprint)}"
    return CallableTeacher(function, fingerprint, name)
