"""Any Python function as a teacher."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tuition.errors import UserError
from tuition.identity import code_digest
from tuition.teachers.fingerprint import short
from tuition.teachers.names import class_names as checked_names
from tuition.teachers.protocol import Answer


@dataclass(frozen=True)
class CallableTeacher:
    """A function as a teacher; made by `from_callable` and `from_onnx`."""

    function: Callable[[Any], Any]
    fingerprint: str
    name: str
    local: bool = False
    class_names: tuple[str, ...] | None = None

    def __call__(self, inputs: Any) -> dict[str, Tensor]:
        answer = self.function(inputs)
        outputs = answer if isinstance(answer, Mapping) else {"logits": answer}
        found = Answer((name, torch.as_tensor(value).detach().cpu()) for name, value in outputs.items())
        found.tokens = getattr(answer, "tokens", None)
        return found


def from_callable(
    function: Callable[[Any], Any],
    *,
    fingerprint: str,
    name: str | None = None,
    class_names: Sequence[str] | None = None,
    code: str | None = None,
) -> CallableTeacher:
    """A teacher from a function of raw inputs.

    Args:
        function: takes a batch of the pool's raw inputs (uint8 images (b, c, h, w), floats (b, d), or b strings) and
            returns {"logits": (b, k), ...} as tensors or arrays (an `Answer` to tell tokens too), or the logits alone.
            It raises `NotCharged` where a request was refused and costs nothing.
        fingerprint: whatever tells this teacher from others: a version, a digest of its weights, endpoint and model. A
            changed teacher needs another fingerprint.
        name: what people call it; by default derived from the function's name and the fingerprint.
        class_names: one name a class, in the order of the logits.
        code: digest of the code that the stored answers were made with, to keep them after an edit that changes no
            answer. The message that refuses the edited function says it.

    A digest of the function's own code (see `tuition.identity`) is a part of the fingerprint, but not of the default
    name. So an edited function is neither served the old one's answers nor asked about everything again: a store
    refuses it, because its name is bound to the other code, until you say which of the two is meant: another
    `fingerprint` where the answers differ, `code` where they do not. Asking again about two stored inputs would show
    less, and would cost two calls each time.

    Raises:
        UserError: an empty fingerprint, or class names that are empty or repeated.
    """
    if not fingerprint:
        raise UserError(
            "a teacher needs a fingerprint that tells it from others; give its version or a digest of its weights."
        )
    if name is None:
        name = f"{getattr(function, '__name__', type(function).__name__)}-{short(fingerprint)}"
    code = code_digest(function) if code is None else code
    whole = fingerprint if code is None else f"{fingerprint}; code {code}"
    return CallableTeacher(function, whole, name, class_names=checked_names(class_names))
