"""What happens inside a model: modules by dotted path, and their outputs by forward hooks."""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from tuition.errors import UserError
from tuition.models.zoo import create, nearest, reads_tokens


class Capture(dict[str, Tensor]):
    """Within a `with`, the tensors of the last forward pass by path; outside, no hook is left on the model.

        with Capture(model, ["stage2", "classifier:input"]) as features:
            logits = model(inputs)
            features["stage2"]

    A path names a module's output, or its first input with ":input" after it. Tensors carry gradients, are copies
    (so that a later ReLU in place does not change them), and are dropped when the next forward pass begins.
    A module that runs several times keeps its last tensor.

    Raises:
        UserError: no such module; when read, a module that did not run or does not yield a tensor.
    """

    def __init__(self, model: nn.Module, paths: Iterable[str]) -> None:
        super().__init__()
        self._model = model
        self._modules = {path: module(model, path.removesuffix(":input")) for path in paths}
        self._hooks: list[RemovableHandle] = []

    def __enter__(self) -> Self:
        if self._hooks:
            raise RuntimeError("This Capture is already in use; make another.")
        if self._modules:
            self._hooks.append(self._model.register_forward_pre_hook(lambda *_: self.clear()))
        for path, module in self._modules.items():
            register = module.register_forward_pre_hook if _is_input(path) else module.register_forward_hook
            self._hooks.append(register(self._keep(path)))
        return self

    def __exit__(self, *_: object) -> None:
        while self._hooks:
            self._hooks.pop().remove()

    def __missing__(self, path: str) -> Tensor:
        raise UserError(f"{path!r} was not captured: it was not requested, did not run, or is not a single tensor.")

    def _keep(self, path: str) -> Callable[..., None]:
        def hook(_: nn.Module, inputs: tuple[Any, ...], output: Any = None) -> None:
            value = next(iter(inputs), None) if _is_input(path) else output
            if isinstance(value, Tensor):
                self[path] = value.clone()

        return hook


def forward_with_features(model: nn.Module, inputs: Tensor, paths: Iterable[str]) -> tuple[Tensor, dict[str, Tensor]]:
    """The model's output and the tensors at `paths` (see `Capture`)."""
    with Capture(model, paths) as captured:
        outputs = model(inputs)
    return outputs, {path: captured[path] for path in paths}


def stages(model: nn.Module | str) -> list[str]:
    """Paths of the successive stages, `stage1`, `stage2`, ...: the default layers for losses on feature maps.

    A name stands for the zoo's model of this name. Models of one family pair stage by stage. In the numbering of
    Tian et al. 2020, whose layer 0 is the stem, layer 2 of a residual net is `stage2`; VGG has no stem there, so its
    layer 2 is `stage3`.

    Raises:
        UserError: a model from elsewhere that has no modules of these names.
    """
    if isinstance(model, str):
        model = create(model, num_classes=1)
    paths = [path for path, _ in model.named_modules() if re.fullmatch(r"(.+\.)?stage\d+", path)]
    if not paths:
        raise UserError(f"{type(model).__name__} has no stage1, stage2, ...: name its layers by their module paths.")
    return paths


def classifier(model: nn.Module) -> str:
    """Path of the last linear layer; with ":input" after it, that of the penultimate representation.

    Raises:
        UserError: there is no linear layer.
    """
    linear = [path for path, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise UserError(f"{type(model).__name__} has no linear layer: name the layer by its module path.")
    return linear[-1]


def num_parameters(model: nn.Module) -> int:
    """All parameters, trainable or not; shared ones count once, buffers do not."""
    return sum(parameter.numel() for parameter in model.parameters())


class Layer(NamedTuple):
    """A row of `describe`. `shape` is its output's for a batch of one; None if it did not run or gives several."""

    path: str
    type: str
    shape: tuple[int, ...] | None
    parameters: int


def describe(model: nn.Module, input_shape: Sequence[int]) -> list[Layer]:
    """Every module inside `model`, in order, with the output it gives for one input of zeros and its parameters' count.

    Args:
        input_shape: of one input without the batch, such as (3, 32, 32); (64,) for 64 tokens of text.

    Raises:
        UserError: the model does not take inputs of this shape.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    modules = {path: module for path, module in model.named_modules() if path}

    def note(path: str) -> Callable[..., None]:
        def hook(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            if isinstance(output, Tensor):
                shapes[path] = tuple(output.shape)

        return hook

    hooks = [module.register_forward_hook(note(path)) for path, module in modules.items()]
    training = [module for module in model.modules() if module.training]
    like = next(model.parameters(), torch.zeros(()))
    try:
        with torch.no_grad():
            dtype = torch.int32 if reads_tokens(model) else like.dtype
            model.eval()(torch.zeros(1, *input_shape, dtype=dtype, device=like.device))
    except Exception as error:  # whatever the model's own code raises
        shape = tuple(input_shape)
        raise UserError(f"{type(model).__name__} does not take inputs of shape {shape}: {error!r}.") from error
    finally:
        for module in training:
            module.training = True
        for hook in hooks:
            hook.remove()
    return [
        Layer(path, type(module).__name__, shapes.get(path), num_parameters(module)) for path, module in modules.items()
    ]


def _is_input(path: str) -> bool:
    return path.endswith(":input")


def module(model: nn.Module, path: str) -> nn.Module:
    """The module at a dotted path.

    Raises:
        UserError: it was not found; the nearest path is named.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    if path not in modules:
        near = nearest(path, modules)
        raise UserError(f"{type(model).__name__} has no module {path!r}{near}; `tuition models` lists a model's paths.")
    return modules[path]
