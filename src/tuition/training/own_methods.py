"""Methods of the user's own: a function of a `Task`, or simply a loss of logits and labels."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial, wraps
from typing import Any

from torch import Tensor

from tuition import factories
from tuition.errors import UserError
from tuition.training.method import Method
from tuition.training.objective import Batch, Objective, Term
from tuition.training.options import options_of
from tuition.training.task import Task


def own_method(function: Callable[..., Any], name: str | None = None) -> Method:
    """The method that a function stands for. Arguments with defaults are its options.

    Args:
        function: from a `Task` to an `Objective`; or `loss(student, teacher, labels)` of logits (b, k), (b, k) and
            class indices (b,), which are None without labels, to a scalar.
        name: by default its module and name.

    Raises:
        UserError: it takes other arguments.
    """
    name = name or f"{function.__module__}:{getattr(function, '__name__', type(function).__name__)}"
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # of some functions that are not written in Python
        parameters = {}.values()
    required = [it for it in parameters if it.default is it.empty]
    positional = all(it.kind in (it.POSITIONAL_ONLY, it.POSITIONAL_OR_KEYWORD) for it in required)
    if not positional or len(required) not in (1, 3) or isinstance(function, type):
        raise UserError(
            f"{name} is not a method; write it as loss(student, teacher, labels), which returns a number, or as a "
            "function of a Task, which returns an Objective, and give its options defaults."
        )
    # An objective may compare groups, which is not known before it is made.
    build, groups = (_of_loss(name, function), None) if len(required) == 3 else (_of_task(name, function), (1, 1))
    method = Method(name, build, "own", groups=lambda options: groups, own=function)
    try:
        options_of(build)
        method.checked(method.defaults)
    except UserError:
        raise
    except Exception as error:  # whatever annotations hold
        raise UserError(
            f"the options of {name} cannot be read ({type(error).__name__}); annotate them with plain types, such as "
            "float."
        ) from error
    return method


def _of_task(name: str, function: Callable[..., Any]) -> Callable[..., Objective]:
    @wraps(function)
    def build(task: Task, **options: Any) -> Objective:
        made = factories.call(name, partial(function, task), **options)
        if not isinstance(made, Objective):
            raise UserError(f"{name} returned {factories.kind(made)}, not an Objective; return Objective([Term(...)]).")
        return made

    return build


def _of_loss(name: str, function: Callable[..., Any]) -> Callable[..., Objective]:
    @wraps(function)
    def build(task: Task, **options: Any) -> Objective:
        answer = task.answer
        task.response(answer)

        def loss(student: Tensor, batch: Batch) -> Tensor:
            labels = None if batch.targets is None else batch.labels
            value = function(student, batch.responses[answer], labels, **options)
            if not isinstance(value, Tensor) or value.ndim > 0:
                kind = f"a tensor {tuple(value.shape)}" if isinstance(value, Tensor) else factories.kind(value)
                raise UserError(f"{name} returned {kind}, not one number as a tensor; return its mean, loss.mean().")
            return value

        return Objective([Term(name, loss)])

    return build
