"""Any Python function as a teacher."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tuition.errors import UserError
from tuition.identity import code_digest
from tuition.source_digest import source_digest
from tuition.teachers.fingerprint import short
from tuition.teachers.names import class_names as checked_names
from tuition.teachers.protocol import Answer, BadAnswer, Reads, Teacher, as_floats, as_teacher, wrapped

SURE = 0.9  # probability of a class that a teacher names, where it gives no probabilities


@dataclass(frozen=True)
class CallableTeacher(Teacher):
    """A function as a teacher; made by `from_callable` and `from_onnx`."""

    function: Callable[[Any], Any]
    fingerprint: str
    name: str
    local: bool = False
    class_names: tuple[str, ...] | None = None
    reads: Reads = "anything"
    uncoded: str | None = None  # the fingerprint without the code that `from_callable` added

    def __call__(self, inputs: Any) -> dict[str, Tensor]:
        self.check(inputs)
        answer = self.function(as_floats(inputs) if self.reads == "floats" else inputs)
        outputs = _named(answer, self.class_names)
        found = Answer((name, torch.as_tensor(value).detach().cpu()) for name, value in outputs.items())
        found.tokens = getattr(answer, "tokens", None)
        return found


def from_callable(
    function: Callable[[Any], Any],
    *,
    fingerprint: str,
    name: str | None = None,
    class_names: Sequence[str] | None = None,
    reads: Reads = "anything",
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
        uncoded=fingerprint if code is None else None,
    )


def _named(answer: Any, class_names: tuple[str, ...] | None) -> Mapping[str, Any]:
    """An answer as named outputs; the classes of hard labels become logits.

    These are the logarithms of smoothed probabilities: `SURE` of the class that was named, the rest shared alike.

    Raises:
        BadAnswer: a label that is not a class, or hard labels where the classes are not known.
    """
    if isinstance(answer, (list, tuple)) and answer and all(isinstance(it, Mapping) and "label" in it for it in answer):
        answer = {"label": [it["label"] for it in answer]}  # as pipelines of transformers answer
    outputs = answer if isinstance(answer, Mapping) else {"logits": answer}
    name = "logits" if "label" not in outputs else "label"
    labels: Any = outputs.get(name)
    if name == "logits" and not _hard(labels):
        return outputs
    if class_names is None:
        raise BadAnswer("it answers with hard labels, which need the list of classes; give class_names=[...]")
    rows = [
        _index(label, class_names) for label in (labels.flatten().tolist() if hasattr(labels, "flatten") else labels)
    ]
    others = (1 - SURE) / max(len(class_names) - 1, 1)
    logits = torch.full((len(rows), len(class_names)), others).log()
    logits[torch.arange(len(rows)), torch.tensor(rows, dtype=torch.int64)] = torch.tensor(SURE).log()
    return {key: value for key, value in outputs.items() if key != name} | {"logits": logits}


LABEL = (int, str, np.integer, np.str_)


def _hard(value: Any) -> bool:
    """Whether an answer holds one whole number or one word a row, (n,) or (n, 1)."""
    if isinstance(value, (Tensor, np.ndarray)) and value.ndim != 1 and tuple(value.shape[1:]) != (1,):
        return False
    if isinstance(value, Tensor):
        return not (value.is_floating_point() or value.is_complex())
    if isinstance(value, np.ndarray):
        return value.dtype.kind in "iubOU"
    return isinstance(value, (list, tuple)) and bool(value) and all(isinstance(it, LABEL) for it in value)


def _index(label: Any, class_names: tuple[str, ...]) -> int:
    """The class of a label: its index, its name, digits of its index, or its name in another letter case."""
    if str(label) in class_names and not isinstance(label, int):
        return class_names.index(str(label))
    if isinstance(label, str):
        alike = [i for i, name in enumerate(class_names) if name.casefold() == label.strip().casefold()]
        if len(alike) == 1:
            return alike[0]
        label = int(label) if label.isascii() and label.isdecimal() and len(label) < 10 else label
    if isinstance(label, (int, np.integer)) and 0 <= label < len(class_names):
        return int(label)
    raise BadAnswer(
        f"it answers with the label {str(label)[:60]!r}, which is not one of the {len(class_names)} classes"
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
