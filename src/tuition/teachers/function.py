"""Any Python function as a teacher."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from tuition.errors import UserError
from tuition.identity import code_digest
from tuition.teachers.fingerprint import short
from tuition.teachers.names import class_names as checked_names
from tuition.teachers.protocol import Answer, Teacher


@dataclass(frozen=True)
class CallableTeacher:
    """A function as a teacher; made by `from_callable` and `from_onnx`."""

    function: Callable[[Any], Any]
    fingerprint: str
    name: str
    local: bool = False
    class_names: tuple[str, ...] | None = None
    code: str | None = None

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
            changed teacher needs another fingerprint, or its answers pass for the old one's.
        name: what people call it; by default derived from the function's name and the fingerprint.
        class_names: one name a class, in the order of the logits.
        code: digest of the code that stored answers were made with, to keep them after an edit that changes no answer
            (see `with_code`). The message that refuses the edited function says it.

    Raises:
        UserError: an empty fingerprint, or class names that are empty or repeated.
    """
    if not fingerprint:
        raise UserError(
            "a teacher needs a fingerprint that tells it from others; give its version or a digest of its weights."
        )
    if name is None:
        name = f"{getattr(function, '__name__', type(function).__name__)}-{short(fingerprint)}"
    return CallableTeacher(function, fingerprint, name, class_names=checked_names(class_names), code=code)


def with_code(teacher: Teacher) -> Teacher:
    """A teacher of the user's own code, whose fingerprint holds the digest of that code (see `tuition.identity`).

    For teachers that a command names as `package.module:factory`, whose code is edited between two commands while the
    fingerprint in it is easily forgotten. The name stays. So an edited function is neither served the old one's answers
    nor asked about everything again: a store refuses it, because its name is bound to the other code, until the user
    says which of the two is meant: another `fingerprint` where the answers differ, `code` where they do not. Asking
    again about two stored inputs would show less, and would cost two calls each time. In Python, where two functions
    are often deliberately one teacher (a stub, a retry, another client), the fingerprint given is the user's word.
    """
    if isinstance(teacher, CallableTeacher):
        code = code_digest(teacher.function) if teacher.code is None else teacher.code
        return replace(teacher, fingerprint=f"{teacher.fingerprint}; code {code}", code=code) if code else teacher
    code = code_digest(type(teacher))
    return teacher if code is None else Coded(teacher, code)


@dataclass(frozen=True)
class Coded:
    """A teacher of a class of the user's own; made by `with_code`."""

    teacher: Teacher
    code: str

    @property
    def name(self) -> str:
        return self.teacher.name

    @property
    def fingerprint(self) -> str:
        return f"{self.teacher.fingerprint}; code {self.code}"

    def __call__(self, inputs: Any) -> Mapping[str, Tensor]:
        return self.teacher(inputs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "teacher":  # as while it is copied
            raise AttributeError(name)
        return getattr(self.teacher, name)
