"""Every method by name: the objective it stands for, with its usual weights.

A method is a function from what is known of the task to an `Objective`; its keyword arguments are its settings.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from typing import Any

from torch import Tensor

from tuition import losses
from tuition.errors import UserError
from tuition.training.objective import Batch, Objective, Term


@dataclass(frozen=True)
class Task:
    """What a method may depend on.

    Attributes:
        labels: class indices (n,) of the transfer set, or None.
        responses: the teacher's responses by name, rows as the labels.
        num_classes: width of the student's logits.
        seed: of the run.
    """

    labels: Tensor | None
    responses: dict[str, Tensor]
    num_classes: int
    seed: int


Loss = Callable[[Tensor, Tensor], Tensor]


def on_response(loss: Loss, name: str = "logits") -> Callable[[Tensor, Batch], Tensor]:
    """`loss(student, teacher)` on the teacher's response `name`."""
    return lambda student, batch: loss(student, batch.responses[name])


def on_label(loss: Loss) -> Callable[[Tensor, Batch], Tensor]:
    """`loss(student, target)` on the label probabilities."""

    def term(student: Tensor, batch: Batch) -> Tensor:
        assert batch.targets is not None
        return loss(student, batch.targets)

    return term


def label_terms(task: Task, name: str, loss: Loss, weight: float = 1.0) -> list[Term]:
    """The term on labels, which falls away where there are none."""
    return [] if task.labels is None or weight == 0 else [Term(name, on_label(loss), weight)]


def distilled(task: Task, kd: float, ce: float, temperature: float) -> list[Term]:
    """The two terms that most methods keep beside their own."""
    terms = [Term("kd", on_response(partial(losses.kd, temperature=temperature)), kd)] if kd else []
    return terms + label_terms(task, "ce", losses.cross_entropy, ce)


def ce(task: Task) -> Objective:
    """Cross-entropy on the labels alone; no teacher."""
    if task.labels is None:
        raise UserError("the method ce learns from labels, and there are none; use another method or teacher_labels.")
    return Objective(label_terms(task, "ce", losses.cross_entropy))


def kd(task: Task, *, temperature: float = 4.0, kd: float = 1.0, ce: float = 1.0) -> Objective:
    """Soft targets with cross-entropy (Hinton et al., 2015)."""
    return Objective(distilled(task, kd, ce, temperature))


def mse(task: Task, *, weight: float = 2.0) -> Objective:
    """Plain regression onto logits and labels; weight 2 gives the gradient scale of `ckd`."""
    return Objective(
        [Term("mse", on_response(losses.mse), weight), *label_terms(task, "mse_label", losses.mse, weight)]
    )


def ckd(task: Task, *, anchor: float = 0.1, teacher: float = 1.0, label: float = 1.0) -> Objective:
    """CKD over every pair of a batch, exact, anchored (after Xu et al., 2025)."""
    loss = partial(losses.ckd, anchor=anchor)
    return Objective([Term("ckd", on_response(loss), teacher), *label_terms(task, "ckd_label", loss, label)])


def ckd_groups(
    task: Task, *, left: int = 1, right: int = 1, drawn: int = 100_000, teacher: float = 1.0, label: float = 1.0
) -> Objective:
    """CKD between groups drawn once and reused, both sides forwarded apart, no anchor (Xu et al., 2025)."""
    term = partial(_groups, name="logits")
    terms = [Term("ckd", term, teacher)]
    if task.labels is not None:
        terms.append(Term("ckd_label", partial(_groups, name=None), label))
    return Objective(terms, groups=(left, right), groups_drawn=drawn)


def _groups(student: Tensor, batch: Batch, name: str | None) -> Tensor:
    target = batch.targets if name is None else batch.responses[name]
    assert target is not None
    return losses.ckd_groups(student, target, *batch.group_indices())


METHODS: dict[str, Callable[..., Objective]] = {
    "ce": ce,
    "kd": kd,
    "mse": mse,
    "ckd": ckd,
    "ckd_exact": partial(ckd, anchor=0.0),
    "ckd_published": ckd_groups,
    "ckd_2_1": partial(ckd_groups, left=2, right=1),
    "ckd_2_2": partial(ckd_groups, left=2, right=2),
}


def settings_of(name: str) -> dict[str, Any]:
    """The settings of a method and their defaults."""
    parameters = inspect.signature(_find(name)).parameters
    return {k: p.default for k, p in parameters.items() if p.default is not inspect.Parameter.empty}


def summary(name: str) -> str:
    """The first line of a method's documentation."""
    method = _find(name)
    return inspect.getdoc(method.func if isinstance(method, partial) else method).splitlines()[0]  # type: ignore[union-attr]


def create(name: str, task: Task, options: dict[str, Any] | None = None) -> Objective:
    """The objective of the method `name`.

    Raises:
        UserError: an unknown method or setting (the nearest is named), or a task it cannot be used for.
    """
    method = _find(name)
    known = settings_of(name)
    for option in options or {}:
        if option not in known:
            near = get_close_matches(option, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"its settings are {', '.join(known) or 'none'}."
            raise UserError(f"the method {name} has no setting {option!r}; {hint}")
    return method(task, **(options or {}))


def _find(name: str) -> Callable[..., Objective]:
    if name not in METHODS:
        near = get_close_matches(name, METHODS, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"methods are {', '.join(METHODS)}."
        raise UserError(f"there is no method {name!r}; {hint}")
    return METHODS[name]
