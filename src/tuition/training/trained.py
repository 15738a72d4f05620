"""Which parameters of a student are trained, and at what share of the learning rate."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from tuition import models
from tuition.errors import UserError
from tuition.training.settings import TrainSettings
from tuition.training.student import Student

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


@contextmanager
def freezing(student: Student, settings: TrainSettings) -> Iterator[None]:
    """Within a `with`, the parameters that `freeze` and `head_only` name need no gradient.

    Raises:
        UserError: a path is not a module of the student's model.
    """
    held = [parameter for parameter in _frozen(student.model, settings) if parameter.requires_grad]
    for parameter in held:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in held:
            parameter.requires_grad_(True)


def training_mode(student: Student, settings: TrainSettings) -> None:
    """The student in training mode, the batch norms of its frozen modules in evaluation mode."""
    student.train()
    for root in _roots(student.model, settings):
        for module in root.modules():
            if isinstance(module, BATCH_NORMS):
                module.eval()


def parameter_groups(student: Student, objective: nn.Module, settings: TrainSettings) -> list[dict[str, Any]]:
    """What an optimizer takes: the parameters by their `factor` of the learning rate, which is 1 for an objective's.

    Raises:
        UserError: the model has no stack of layers, or no linear layer.
    """
    factors: dict[nn.Parameter, float] = {}
    if settings.layer_decay != 1:
        factors |= _layer_factors(student.model, settings.layer_decay)
    if settings.head_learning_rate is not None:
        factors |= dict.fromkeys(
            _head(student.model).parameters(), settings.head_learning_rate / settings.learning_rate
        )
    groups: dict[float, list[nn.Parameter]] = {}
    for parameter in dict.fromkeys((*student.parameters(), *objective.parameters())):
        groups.setdefault(factors.get(parameter, 1.0), []).append(parameter)
    return [{"params": parameters, "factor": factor} for factor, parameters in groups.items()]


def stack(model: nn.Module) -> list[nn.Module]:
    """The layers of a model: numbered siblings of one class, as encoder.layer.0, encoder.layer.1, ... or stage1, ....

    Of several such families, the one with the most parameters, and of ties the outermost.

    Raises:
        UserError: there is none.
    """
    families: dict[str, list[nn.Module]] = {}
    for path, module in model.named_modules():
        numbered = re.fullmatch(r"(.*?)\d+", path)
        if numbered and any(True for _ in module.parameters()):
            families.setdefault(numbered[1], []).append(module)
    alike = [layers for layers in families.values() if len(layers) > 1 and len({type(layer) for layer in layers}) == 1]
    if not alike:
        raise UserError(f"{type(model).__name__} has no stack of layers of one class; leave layer_decay out.")
    return max(alike, key=lambda layers: sum(map(models.num_parameters, layers)))


def _layer_factors(model: nn.Module, decay: float) -> dict[nn.Parameter, float]:
    """decay^d, where d is 0 behind the stack of layers, 1 in its last, and one more than in its first before it."""
    layers = stack(model)
    within = {p: level for level, layer in enumerate(layers, 1) for p in layer.parameters()}
    factors, reached = {}, False
    for parameter in model.parameters():
        reached = reached or parameter in within
        level = within.get(parameter, len(layers) + 1 if reached else 0)
        factors[parameter] = decay ** (len(layers) + 1 - level)
    return factors


def _frozen(model: nn.Module, settings: TrainSettings) -> list[nn.Parameter]:
    named = dict.fromkeys(p for root in _named(model, settings) for p in root.parameters())
    if settings.head_only:
        named |= dict.fromkeys(set(model.parameters()) - set(_head(model).parameters()))
    return list(named)


def _roots(model: nn.Module, settings: TrainSettings) -> list[nn.Module]:
    return [model] if settings.head_only else _named(model, settings)


def _named(model: nn.Module, settings: TrainSettings) -> list[nn.Module]:
    return [models.module(model, path) for path in settings.freeze]


def _head(model: nn.Module) -> nn.Module:
    return model.get_submodule(models.classifier(model))
