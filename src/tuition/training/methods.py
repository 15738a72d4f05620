"""Every method by name: its function, its family, and the facts that others need to know of it."""

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
from tuition.training import black_box, white_box
from tuition.training.objective import Objective
from tuition.training.options import Option, defaults_of, options_of
from tuition.training.settings import SettingError, Settings
from tuition.training.task import Task, middle_layer, middle_layers

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
        own: the user's own objective that it stands for.
    """

    name: str
    build: Callable[..., Objective]
    family: Family
    layers: Callable[[nn.Module | str], list[str]] | None = None
    groups: Callable[[Mapping[str, Any]], tuple[int, int] | None] = lambda options: None
    own: Objective | None = None

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
        if self.own is not None and options:
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
        return self.layers(model) if pairs is None else sorted(set(pairs.values()))

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


def _sampled(options: Mapping[str, Any]) -> tuple[int, int] | None:
    return (1, 1) if options["sampled"] else None


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("ce", black_box.ce, "labels"),
        Method("kd", black_box.kd, "logits"),
        Method("mse", black_box.mse, "logits"),
        Method("ckd", black_box.ckd, "ckd"),
        Method("ckd_published", black_box.ckd_published, "ckd", groups=lambda o: (o["left"], o["right"])),
        Method("rkd", black_box.rkd, "relations"),
        Method("rkd_projected", black_box.rkd_projected, "relations"),
        Method("dist", black_box.dist, "relations"),
        Method("cc", black_box.cc, "relations"),
        Method("crd", black_box.crd, "relations"),
        Method("mixup", black_box.mixup, "mixing"),
        Method("cutmix", black_box.cutmix, "mixing"),
        Method("cutmix_pick", black_box.cutmix_pick, "mixing"),
        Method("tf_fd", white_box.tf_fd, "labels"),
        Method("fitnets", white_box.fitnets, "features", middle_layer),
        Method("fitnets_ckd", white_box.fitnets_ckd, "ckd", middle_layer, _sampled),
        Method("vid", white_box.vid, "features", middle_layers),
        Method("vid_ckd", white_box.vid_ckd, "ckd", middle_layers, _sampled),
    )
}


def find(name: str) -> Method:
    """The method of this name.

    Raises:
        UserError: it is unknown; the nearest names are given.
    """
    if name not in METHODS:
        near = get_close_matches(name, METHODS, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"methods are {', '.join(METHODS)}."
        raise SettingError(f"the method {name!r} was not found; {hint}")
    return METHODS[name]


def of(objective: str | Objective) -> Method:
    """The method of this name, or one that stands for an objective of the user's own."""
    if isinstance(objective, str):
        return find(objective)
    # Not copied, because its terms would still call the modules that it was made with.
    name = " + ".join(f"{term.weight:g} {term.name}({term.reads})" for term in objective.terms)
    return Method(name, lambda task: objective, "own", own=objective)


def options(name: str) -> list[Option]:
    """The options of a method: name, type, default and a sentence of each."""
    return options_of(find(name).build)


def defaults(name: str) -> dict[str, Any]:
    """The options of a method and their defaults."""
    return find(name).defaults


def groups(name: str, options: Mapping[str, Any]) -> tuple[int, int] | None:
    """Sizes of the groups that a step compares; None for a method that sees a batch as one."""
    method = find(name)
    return method.groups(method.defaults | dict(options))


def summary(name: str) -> str:
    """The first line of a method's documentation."""
    return find(name).summary


def markdown() -> str:
    """The table of all methods, for the README."""
    rows = ["| method | what it is | options |", "|---|---|---|"]
    for name, method in METHODS.items():
        values = ", ".join(f"{key} {value}" for key, value in method.defaults.items() if value is not None)
        rows.append(f"| `{name}` | {method.summary} | {values} |")
    return "\n".join(rows)


def teacher_layers(name: str, model: nn.Module | str, options: Mapping[str, Any] | None = None) -> list[str]:
    """Module paths of the teacher whose maps a method compares; none for a black-box method."""
    return find(name).teacher_layers(model, options or {})


def checked(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The given options of a method; see `Method.checked`."""
    return find(name).checked(options)


def create(name: str, task: Task, options: Mapping[str, Any] | None = None) -> Objective:
    """The objective of the method `name`.

    Raises:
        UserError: an unknown method or option (the nearest is named), or a task it cannot be used for.
    """
    method = find(name)
    return method.create(task, method.checked(options or {}))
