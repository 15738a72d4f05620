"""Any Python function as a teacher."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from tuition.errors import UserError
from tuition.identity import code_digest
from tuition.source_digest import source_digest
from tuition.teachers.fingerprint import short
from tuition.teachers.hard_labels import named_outputs
from tuition.teachers.names import class_names as checked_names
from tuition.teachers.protocol import Answer, Reads, Teacher, as_floats, as_teacher, wrapped


@dataclass(frozen=True)
class CallableTeacher(Teacher):
    """A function as a teacher; made by `from_callable` and `from_onnx`."""

    function: Callable[[Any], Any]
    fingerprint: str
    name: str
    local: bool = False
    class_names: tuple[str, ...] | None = None
    reads: Reads = "anything"
    hard_labels: bool = False
    uncoded: str | None = None  # the fingerprint without the code that `from_callable` added

    def __call__(self, inputs: Any) -> dict[str, Tensor]:
        self.check(inputs)
        answer = self.function(as_floats(inputs) if self.reads == "floats" else inputs)
        outputs = named_outputs(answer, self.class_names)
        reply = Answer((name, torch.as_tensor(value).detach().cpu()) for name, value in outputs.items())
        reply.tokens = getattr(answer, "tokens", None)
        return reply


def from_callable(
    function: Callable[[Any], Any],
    *,
    fingerprint: str,
    name: str | None = None,
    class_names: Sequence[str] | None = None,
    reads: Reads = "anything",
    hard_labels: bool = False,
    code: str | None = None,
) -> CallableTeacher:
    """A teacher from a function of raw inputs.

    Args:
        function: takes a batch of the pool's raw inputs (uint8 images (b, c, h, w), floats (b, d), or b strings) and
            returns {"logits": (b, k), ...} as tensors or arrays (an `Answer` to tell tokens too), or the logits alone.
            It raises `NotCharged` where a request was refused and costs nothing.
        fingerprint: whatever tells this teacher from others beside its code: a version, a digest of its weights,
            endpoint and model. The digest of the own source that the function reaches is added to it
            (see `tuition.source_digest`), but no value: a teacher of other weights or settings needs another
            fingerprint, or its answers pass for the old one's.
        name: what people call it; by default derived from the function's name and this fingerprint without the code, so
            that a store refuses an edited function instead of paying for its answers again.
        class_names: one name a class, in the order of the logits.
        reads: "floats" gives the function images as floats in [0, 1]; see `Teacher`.
        hard_labels: whether it answers with labels: indices, words, or {"label": ..., "confidence": ...}. They are
            understood in any case; where this is declared, a method that needs logits is refused before the first call.
        code: digest of the code that stored answers were made with, to keep them after an edit that changes no answer.
            The message that refuses the edited function says it. "" is for answers stored without one.

    Raises:
        UserError: an empty fingerprint, or class names that are empty or repeated.
    """
    if not fingerprint:
        raise UserError(
            "a teacher needs a fingerprint that tells it from others; give its version or a digest of its weights."
        )
    if name is None:
        name = f"{getattr(function, '__name__', type(function).__name__)}-{short(fingerprint)}"
    part = source_digest(function) if code is None else code
    return CallableTeacher(
        function,
        f"{fingerprint}; code {part}" if part else fingerprint,
        name,
        class_names=checked_names(class_names),
        reads=reads,
        hard_labels=hard_labels,
        uncoded=fingerprint if code is None else None,
    )


def with_code(teacher: Any) -> Teacher:
    """A teacher of the user's own code, whose fingerprint holds the digest of that code (see `tuition.identity`).

    For teachers that a command names as `package.module:factory`. Here the values that the code refers to count too, as
    they stand in the user's module. The name stays. An edited function is not served the old one's answers, and is not
    asked about everything again. A store refuses it, because its name is bound to the other code, until the user says
    which of the two is meant: another name where the answers differ, `code` where they do not. Asking again about two
    stored inputs would show less, and would cost two calls each time.

    Raises:
        UserError: it is not a teacher.
    """
    if isinstance(teacher, CallableTeacher):
        code = None if teacher.uncoded is None else code_digest(teacher.function)
        return replace(teacher, fingerprint=f"{teacher.uncoded}; code {code}", uncoded=None) if code else teacher
    code = code_digest(type(teacher))
    if code is None:
        return as_teacher(teacher)
    own = wrapped(teacher)
    return replace(own, fingerprint=f"{own.fingerprint}; code {code}")
