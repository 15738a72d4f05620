"""Copies of models as people have them: wrapped, used once already, not initialised yet."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, is_lazy
from torch.utils._pytree import tree_leaves

from tuition.errors import UserError, first_line
from tuition.models.features import classifier

M = TypeVar("M", bound=nn.Module)


def copied(model: M) -> M:
    """A copy of a plain model: without what torch.compile, DataParallel and DistributedDataParallel put around it.

    Tensors that modules keep from an earlier forward pass, as weight_norm does, are copied without their history.

    Raises:
        UserError: the model holds what cannot be copied.
    """
    plain = _inner(model)
    kept = [value for module in plain.modules() for value in tree_leaves(dict(vars(module)))]
    memo: dict[int, Tensor] = {}
    for value in kept:
        if isinstance(value, UninitializedBuffer):  # which deepcopy does not take
            like = {"device": value.data.device, "dtype": value.data.dtype}
            memo[id(value)] = UninitializedBuffer(**like)  # type: ignore[arg-type]
        elif isinstance(value, Tensor) and not value.is_leaf:
            memo[id(value)] = value.detach().clone()
    try:
        result = copy.deepcopy(plain, memo)
    except Exception as error:  # whatever the model holds
        raise UserError(
            f"the student cannot be copied ({first_line(error)}); keep out of it what copy.deepcopy does not take."
        ) from error
    for module in list(result.modules()):
        for name, child in module.named_children():
            module._modules[name] = _inner(child)
    return result  # type: ignore[return-value]


def _inner(model: nn.Module) -> nn.Module:
    while True:
        if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        elif "_orig_mod" in model._modules:  # of torch.compile
            model = model._modules["_orig_mod"]  # type: ignore[assignment]
        else:
            return model


def initialise(model: nn.Module, preprocess: nn.Module, example: Tensor, seed: int = 0) -> None:
    """Give the parameters of lazy modules their shapes, in place, by a forward pass of raw inputs (n, ...)."""
    if not any(is_lazy(value) for value in (*model.parameters(), *model.buffers())):
        return
    training = model.training
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.default_generator.manual_seed(seed)
        model.eval()(preprocess(example))
    model.train(training)


def with_head(model: M, num_classes: int, seed: int) -> M:
    """A copy of a model whose last linear layer has `num_classes` outputs: the same one, or a new one."""
    changed = copied(model)
    path = classifier(changed)
    old = changed.get_submodule(path)
    assert isinstance(old, nn.Linear)
    if old.out_features != num_classes:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            head = nn.Linear(old.in_features, num_classes, bias=old.bias is not None)
        changed.set_submodule(path, head)
    return changed
