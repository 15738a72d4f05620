"""What a teacher answered: what of it can be stored, and what is wrong with it. No error is raised, whatever it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tuition.data.transfer import by_class
from tuition.store import payload
from tuition.store.ledger import Flight, Ledger

LONGEST_NAME = 200  # characters of an output's name


@dataclass(frozen=True)
class CheckedAnswer:
    """An answer that was looked at.

    Attributes:
        digests: the inputs whose answers are to be stored.
        outputs: those answers, rows in the same order, in their stored types.
        wrong: what is wrong with the answer, None if nothing is.
    """

    digests: list[bytes] = field(default_factory=list)
    outputs: dict[str, Tensor] = field(default_factory=dict)
    wrong: str | None = None


Check = Callable[[Flight, Any], CheckedAnswer]


def recorder(ledger: Ledger, dtype: torch.dtype, classes: int | None) -> Check:
    """The check of an ask: good answers are stored, vectors in `dtype`."""

    def check_answer(flight: Flight, answer: Any) -> CheckedAnswer:
        outputs, keep, wrong = check(answer, len(flight.digests), ledger.layers, classes)
        kept = payload.shrink({name: value[keep] for name, value in outputs.items()}, dtype) if keep else {}
        return CheckedAnswer([flight.digests[row] for row in keep], kept, wrong)

    return check_answer


def check(
    answer: Any, rows: int, layers: Sequence[str], classes: int | None = None
) -> tuple[dict[str, Tensor], list[int], str | None]:
    """Outputs as float32 on the CPU, the rows that may be stored, and what is wrong with the answer, or None.

    Logits have at least one column for each known class.
    """
    try:
        return _check(answer, rows, layers, classes)
    except Exception as error:  # a mapping or a tensor of the teacher's own kind may fail at anything
        return {}, [], f"answered with something that cannot be stored ({type(error).__name__})"


def wrong_name(name: Any) -> bool:
    """Whether an output of this name could not be stored, or not be read back."""
    if not isinstance(name, str) or not 0 < len(name) <= LONGEST_NAME or name in payload.RESERVED:
        return True
    return not name.isprintable() or any(0xD800 <= ord(character) <= 0xDFFF for character in name)


def _check(
    answer: Any, rows: int, layers: Sequence[str], classes: int | None
) -> tuple[dict[str, Tensor], list[int], str | None]:
    if not isinstance(answer, Mapping) or not answer:
        return {}, [], "answered without named outputs"
    for name, value in answer.items():
        if wrong_name(name):
            return {}, [], f"answered with an output named {ascii(name)[:60]}, which cannot be stored"
        if not isinstance(value, Tensor) or value.is_complex() or value.is_quantized or value.layout != torch.strided:
            return {}, [], f"answered with {name!r} of a kind that cannot be stored"
        if value.ndim == 0 or len(value) != rows or value.numel() == 0:
            return {}, [], f"answered {rows} inputs with {name} of shape {tuple(value.shape)}"
    logits = by_class(answer)
    if logits is not None and classes is not None and (logits.ndim != 2 or logits.shape[1] < classes):
        return {}, [], f"answered with logits of shape {tuple(logits.shape)}, where the inputs have {classes} classes"
    lacking = [layer for layer in layers if layer not in answer]
    if lacking:
        return {}, [], f"answered without {', '.join(lacking)}"
    outputs = {name: value.detach().cpu().float() for name, value in answer.items()}
    finite = torch.stack([torch.isfinite(value).flatten(1).all(1) for value in outputs.values()]).all(0)
    keep = finite.nonzero().flatten().tolist()
    wrong = f"answered {rows - len(keep)} of {rows} inputs with NaN or infinity"
    return outputs, keep, None if len(keep) == rows else wrong
