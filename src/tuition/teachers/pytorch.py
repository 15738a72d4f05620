"""A PyTorch model on this machine as a teacher."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from numbers import Real
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from tuition.errors import UserError
from tuition.identity import code_digest, state_digest
from tuition.teachers.fingerprint import short, structure_digest, weights_digest
from tuition.teachers.names import class_names as checked_names
from tuition.teachers.protocol import NotCharged, Reads, Teacher, as_floats

INPUT = ":input"  # after the path of a module: what goes into it


class Prepare(Protocol):
    """From a batch of a pool's raw inputs to what a model reads: a tensor, or arguments by name.

    Its `str` stands in the teacher's fingerprint. It raises `NotCharged` for inputs of another kind.
    """

    def __call__(self, inputs: Any, /) -> Tensor | Mapping[str, Tensor]: ...


@dataclass(frozen=True)
class Scaled:
    """Bytes to [0, 1], floats as they are; then `resize`, and (x - mean) / std per channel, where these are set."""

    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    resize: Callable[[Tensor], Tensor] | None = None

    def __call__(self, inputs: Any, /) -> Tensor:
        inputs = as_floats(inputs).float()
        if self.resize is not None:
            inputs = self.resize(inputs)
        if self.mean is not None and self.std is not None:
            shape = (1, -1) + (1,) * (inputs.ndim - 2)
            inputs = (inputs - inputs.new_tensor(self.mean).view(shape)) / inputs.new_tensor(self.std).view(shape)
        return inputs

    def __str__(self) -> str:
        scale = "scale 1/255" if self.mean is None else f"scale 1/255 mean {self.mean} std {self.std}"
        return scale if self.resize is None else f"{scale}; {self.resize}"


def scaled(mean: Sequence[float] | None, std: Sequence[float] | None) -> Scaled:
    """Raises UserError where only one of the two is set, or one is a single number."""
    for name, value in (("mean", mean), ("std", std)):
        if isinstance(value, Real):
            raise UserError(f"{name} needs one value a channel, such as {name}=[{value}].")
    if mean is None or std is None:
        if mean is not std:
            raise UserError("normalisation needs both mean and std; give both or neither.")
        return Scaled()
    return Scaled(tuple(float(x) for x in mean), tuple(float(x) for x in std))


@dataclass(frozen=True, eq=False)
class TorchTeacher(Teacher):
    """A model as a teacher; made by `from_torch`, `from_timm` and `from_transformers`."""

    model: nn.Module
    given_name: str | None
    prepare: Prepare
    layers: tuple[str, ...] = ()
    class_names: tuple[str, ...] | None = None
    reads: Reads = "anything"
    local = True
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def fingerprint(self) -> str:
        """Class, structure, weights, preprocessing, own code; read each time, as further training makes another one."""
        cls = type(self.model)
        with self._lock:  # a call under way has hooks on the model
            code, state = code_digest(self.model), state_digest(self.model)
            parts = [
                f"torch {cls.__module__}.{cls.__qualname__}",
                f"structure {structure_digest(self.model)}",
                f"weights {weights_digest(self.model)}",
                str(self.prepare),
            ]
        return "; ".join([*parts, *([f"code {code}"] if code else []), *([f"state {state}"] if state else [])])

    @property
    def name(self) -> str:
        return self.given_name or f"{type(self.model).__name__}-{short(self.fingerprint)}"

    def __call__(self, inputs: Any) -> dict[str, Tensor]:
        self.check(inputs)
        # One call at a time: hooks and the evaluation mode belong to the model, not to a thread.
        with self._lock, _evaluating(self.model), ExitStack() as hooks, torch.inference_mode():
            maps: dict[str, Tensor] = {}
            for path in self.layers:
                module = self.model.get_submodule(path.removesuffix(INPUT))
                register = module.register_forward_pre_hook if path.endswith(INPUT) else module.register_forward_hook
                hooks.callback(register(_keep(maps, path)).remove)
            try:
                answer = self._run(inputs)
            except NotCharged:
                raise
            except Exception as error:  # known fate: no answer, and nothing to pay for
                raise NotCharged(f"the model failed with {type(error).__name__}: {error}", retry=False) from error
        outputs = _outputs(answer, len(inputs))
        self._check_names(outputs.get("logits"))
        rows = {name: value.float().cpu() for name, value in outputs.items()}
        return rows | {path: value.to(torch.bfloat16).cpu() for path, value in maps.items()}

    def _check_names(self, logits: Any) -> None:
        width = logits.shape[-1] if isinstance(logits, Tensor) and logits.ndim else None
        if self.class_names is not None and width is not None and width != len(self.class_names):
            raise NotCharged(
                f"the model answers with {width} classes, and class_names holds {len(self.class_names)} names",
                retry=False,
            )

    def _run(self, inputs: Any) -> Any:
        anchor = next(self.model.parameters(), torch.empty(0))

        def fit(value: Tensor) -> Tensor:
            both_float = value.is_floating_point() and anchor.is_floating_point()
            return value.to(anchor.device, anchor.dtype if both_float else None)

        prepared = self.prepare(inputs.to(anchor.device) if isinstance(inputs, Tensor) else inputs)
        if isinstance(prepared, Mapping):
            return self.model(**{name: fit(value) for name, value in prepared.items()})
        return self.model(fit(prepared))

    def with_layers(self, layers: Sequence[str]) -> TorchTeacher:
        """The same teacher, whose answers hold the outputs of these modules too; with ":input", what goes into one.

        Raises:
            UserError: a layer that the model does not have.
        """
        paths = {path for path, _ in self.model.named_modules() if path}
        for path in layers:
            if path.removesuffix(INPUT) not in paths:
                shown = sorted(paths)
                if len(shown) > 10:
                    shown = [*(get_close_matches(path, paths, n=3) or shown[:3]), "others"]
                raise UserError(f"the teacher has no layer {path!r}; it has {', '.join(shown)}.")
            if path == "logits":
                raise UserError("a layer called 'logits' would hide the teacher's logits; rename that module.")
        return replace(self, layers=tuple(layers))

    def to(self, device: torch.device | str) -> TorchTeacher:
        """The same teacher, whose model now lies on this device."""
        self.model.to(device)
        return self


def from_torch(
    model: nn.Module,
    *,
    name: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    layers: Sequence[str] = (),
    class_names: Sequence[str] | None = None,
) -> TorchTeacher:
    """A teacher from a PyTorch model, asked in evaluation mode, without gradients, on the device where it lies.

    uint8 images become floats in [0, 1], floats are taken as they are; then (x - mean) / std if these are set. A
    model that returns one tensor answers {"logits": float32 (b, k)}; one that returns a mapping, with its tensors of b
    rows; one that returns an object with `logits`, with these. An exported program (torch.export) is asked as it was
    exported, a compiled model as the model that it wraps.

    Its fingerprint is a digest of class, structure, weights and preprocessing; of buffers, tensors and hooks that are
    not among the weights; and of the code of classes that are your own (see `tuition.identity`). It is not of `layers`,
    whose logits are equal. A model that is edited is another teacher, then, and is asked again, which costs only time.

    Args:
        model: any module; its training mode is put back after each call.
        name: what people call it; by default the class's name and eight digits of the fingerprint.
        mean: one value a channel, for inputs in [0, 1].
        std: likewise.
        layers: module paths whose outputs (b, ...) are returned by the same call, as bfloat16 feature maps.
        class_names: one name a class, in the order of the logits.

    Raises:
        UserError: `model` is not a module; only one of mean and std, or a single number for one; a layer that the
            model does not have; or class names that are empty or repeated.
    """
    if isinstance(model, torch.export.ExportedProgram):
        model = model.module()
    model = getattr(model, "_orig_mod", model)  # torch.compile wraps it and renames its weights
    if not isinstance(model, nn.Module):
        raise UserError(
            f"from_torch takes a torch.nn.Module, not {type(model).__name__}; use from_callable for a function."
        )
    teacher = TorchTeacher(model, name, scaled(mean, std), class_names=checked_names(class_names), reads="floats")
    return teacher.with_layers(layers)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    training = [module for module in model.modules() if module.training]
    with contextlib.suppress(NotImplementedError):  # an exported program has one mode, in which it was exported
        model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _outputs(answer: Any, rows: int) -> dict[str, Tensor]:
    """A model's answer to `rows` inputs as tensors by name.

    Raises:
        NotCharged: it is not clear which tensor holds the logits, or they are of another number of rows.
    """
    named = getattr(answer, "logits", None)
    if isinstance(answer, (tuple, list)) and not isinstance(named, Tensor) and len(answer) == 1:
        answer = answer[0]
    if isinstance(answer, Mapping):
        outputs = {name: value for name, value in answer.items() if isinstance(value, Tensor) and value.ndim > 0}
    elif isinstance(answer, Tensor):
        outputs = {"logits": answer}
    else:
        outputs = {"logits": named} if isinstance(named, Tensor) else {}
    wrong = [name for name, value in outputs.items() if value.ndim == 0 or len(value) != rows or value.is_complex()]
    if not outputs or wrong:
        single = not isinstance(answer, (Mapping, tuple, list))
        parts = [answer] if single else list(answer.values() if isinstance(answer, Mapping) else answer)
        shapes = [str(tuple(part.shape)) if isinstance(part, Tensor) else type(part).__name__ for part in parts]
        raise NotCharged(
            f"the model answers {rows} inputs with {type(answer).__name__} of {', '.join(shapes)}, not with logits "
            "(n, classes); wrap it in a module that returns these",
            retry=False,
        )
    return outputs


def _keep(maps: dict[str, Tensor], path: str) -> Any:
    def hook(module: nn.Module, args: Any, output: Any = None) -> None:
        value = next(iter(args), None) if path.endswith(INPUT) else output
        if not isinstance(value, Tensor):
            raise UserError(f"layer {path!r} is not one tensor; choose a layer inside it.")
        maps[path] = value

    return hook
