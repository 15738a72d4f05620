"""Every method by name: its function, its family, and the facts that others need to know of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any

from torch import nn

from tuition import factories
from tuition.errors import UserError
from tuition.training import black_box, white_box
from tuition.training.method import Method
from tuition.training.objective import Objective
from tuition.training.options import Option, options_of
from tuition.training.own_methods import own_method
from tuition.training.settings import SettingError
from tuition.training.task import Task, middle_layer, middle_layers


def _sampled(options: Mapping[str, Any]) -> tuple[int, int] | None:
    return (1, 1) if options["sampled"] else None


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("ce", black_box.ce, "labels"),
        Method("kd", black_box.kd, "logits"),
        Method("dkd", black_box.dkd, "logits"),
        Method("standardised_kd", black_box.standardised_kd, "logits"),
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
    """The method of this name, or the user's own function `package.module:function`, which is imported.

    Raises:
        UserError: it is unknown; the nearest names are given.
    """
    if factories.is_factory(name):
        try:
            return own_method(factories.find(name), name)
        except UserError as error:
            raise SettingError(str(error)) from None
    if name not in METHODS:
        near = get_close_matches(name, METHODS, n=3)
        known = f"methods are {', '.join(METHODS)}, or package.module:function."
        hint = f"did you mean {' or '.join(near)}?" if near else known
        raise SettingError(f"the method {name!r} was not found; {hint}")
    return METHODS[name]


def of(objective: str | Objective | Callable[..., Any]) -> Method:
    """The method of this name, or one that stands for an objective or a function of the user's own."""
    if isinstance(objective, str):
        return find(objective)
    if not isinstance(objective, Objective):
        return own_method(objective)
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
