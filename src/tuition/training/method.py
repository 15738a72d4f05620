"""What a method is: a named function that makes an objective for a task."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from typing import Any, Literal, get_type_hints

from pydantic import create_model
from torch import nn

from tuition.errors import UserError
from tuition.training import published
from tuition.training.objective import Objective
from tuition.training.options import defaults_of
from tuition.training.settings import SettingError, Settings
from tuition.training.student import load
from tuition.training.task import Task

Family = Literal["labels", "logits", "relations", "ckd", "mixing", "features", "own"]


@dataclass(frozen=True)
class Method:
    """A named objective.

    Attributes:
        name: what users call it.
        build: from a `Task` to an `Objective`; its keyword arguments are the options.
        family: what it learns from; "ckd" has every method that compares as CKD does.
        layers: the layers of a teacher whose maps it compares, unless the option `pairs` names others; None for a
            method that reads no maps.
        groups: from all options to (p, q), where a step compares groups of p and q inputs that are forwarded apart.
        own: the user's own objective or function that it stands for.
    """

    name: str
    build: Callable[..., Objective]
    family: Family
    layers: Callable[[nn.Module | str], list[str]] | None = None
    groups: Callable[[Mapping[str, Any]], tuple[int, int] | None] = lambda options: None
    own: Objective | Callable[..., Any] | None = None

    @property
    def summary(self) -> str:
        """The first line of its documentation."""
        return (inspect.getdoc(self.build) or "").partition("\n")[0]

    @cached_property
    def defaults(self) -> dict[str, Any]:
        """Its options and their defaults."""
        return defaults_of(self.build)

    def checked(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """The given options, with numbers for numbers that were written as text.

        Raises:
            UserError: an unknown option, or a value of another type or out of range.
        """
        if isinstance(self.own, Objective) and options:
            raise UserError("options are those of a method given by name; an Objective has its own.")
        known = self.defaults
        for option in options:
            if option not in known:
                near = get_close_matches(str(option), known, n=1)
                hint = f"did you mean {near[0]}?" if near else f"its settings are {', '.join(known) or 'none'}."
                raise SettingError(f"the method {self.name} has no setting {option!r}; {hint}")
        values = self._model._of(options, "options.").model_dump()
        # 25 stays 25: equal to 25.0, but not in the digest that names a run of a study.
        return {key: it if type(it) is int and it == values[key] else values[key] for key, it in options.items()}

    def teacher_layers(self, model: nn.Module | str, options: Mapping[str, Any]) -> list[str]:
        """Module paths of the teacher whose maps it compares; none for a black-box method."""
        if self.layers is None:
            return []
        pairs = options.get("pairs")
        if pairs is not None:
            return sorted(set(pairs.values()))
        if isinstance(model, str) and published.is_run(model):  # a student that is trained further
            model = load(model).model
        return self.layers(model)

    def create(self, task: Task, options: Mapping[str, Any]) -> Objective:
        """The objective of a task.

        Raises:
            UserError: the method cannot be used for this task.
        """
        try:
            return self.build(task, **options)
        except UserError:
            raise
        except ValueError as error:  # of the losses
            raise UserError(f"the method {self.name} cannot be used like this: {str(error).rstrip('.')}.") from error

    @cached_property
    def _model(self) -> type[Settings]:
        hints = get_type_hints(self.build, include_extras=True)
        fields: Any = {key: (hints.get(key, Any), default) for key, default in self.defaults.items()}
        return create_model(f"Options of {self.name}", __base__=Settings, **fields)
