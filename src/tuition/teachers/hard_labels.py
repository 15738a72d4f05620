"""Hard labels: class indices, words, or {"label", "confidence"}, as votes for classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tuition.teachers.protocol import BadAnswer


def named_outputs(answer: Any, class_names: tuple[str, ...] | None) -> Mapping[str, Any]:
    """An answer as named outputs; hard labels become "votes" (b, k), one-hot, with their "confidence" (b, 1).

    Raises:
        BadAnswer: a label that is not a class, or hard labels where the classes are not known.
    """
    if isinstance(answer, (list, tuple)) and answer and all(isinstance(it, Mapping) and "label" in it for it in answer):
        answer = {name: [it[name] for it in answer] for name in ("label", "confidence") if name in answer[0]}
    outputs = answer if isinstance(answer, Mapping) else {"logits": answer}
    name = "label" if "label" in outputs else "logits"
    labels: Any = outputs.get(name)
    if name == "logits" and not _hard(labels):
        return outputs
    if class_names is None:
        raise BadAnswer("it answers with hard labels, which need the list of classes; give class_names=[...]")
    listed = labels.flatten().tolist() if hasattr(labels, "flatten") else labels
    rows = [_index(label, class_names) for label in listed]
    votes = torch.nn.functional.one_hot(torch.tensor(rows, dtype=torch.int64), len(class_names)).float()
    if name == "label" and "confidence" in outputs:
        confidence = torch.as_tensor(outputs["confidence"], dtype=torch.float32).reshape(-1, 1)
        if len(confidence) != len(rows) or not bool(((confidence >= 0) & (confidence <= 1)).all()):
            raise BadAnswer("a confidence is not a number from 0 to 1")
        outputs = {**outputs, "confidence": confidence}
    return {key: value for key, value in outputs.items() if key != name} | {"votes": votes}


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
