"""The teacher that settings name."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from tuition import factories, teachers
from tuition.errors import UserError
from tuition.models import Hashing, Preprocess
from tuition.pipeline.settings import (
    AskSettings,
)
from tuition.teachers import Teacher
from tuition.teachers.function import with_code
from tuition.teachers.protocol import as_texts
from tuition.teachers.pytorch import TorchTeacher
from tuition.training import load
from tuition.training.preflight import pick_device

KINDS: dict[str, Callable[[str], Teacher]] = {
    "onnx": teachers.from_onnx,
    "openai": teachers.from_openai,
    "timm": teachers.from_timm,
    "transformers": teachers.from_transformers,
    "v2": teachers.from_v2,
}


def named_teacher(settings: AskSettings) -> Teacher:
    """The teacher; a model of PyTorch on the device of training, where answers and maps take seconds."""
    if settings.teacher is None:
        described = type(settings).model_fields["teacher"].description
        raise UserError(f"name a teacher: {described}.")
    teacher = find_teacher(settings.teacher, trust_code=settings.trust_code)
    if isinstance(teacher, TorchTeacher):
        teacher.model.to(pick_device(settings.device))
    return teacher


def find_teacher(name: str, *, trust_code: bool = False) -> Teacher:
    """A teacher by the folder that `tuition teach` made, by a kind of `KINDS` and its name, or by `module:factory`.

    The factory's name is the user's own word, and its code is run; code that a folder names needs `trust_code`.

    Raises:
        UserError: nothing of that name, a missing extra, a factory that fails or returns something else, or code that
            is not trusted.
    """
    if "\0" in name:
        raise UserError(f"the teacher's name {name!r} holds a zero byte; correct it.")
    module_name, _, attribute = name.partition(":")
    if ":" in name and not Path(name).exists():
        if module_name in KINDS:
            return _of_kind(module_name, attribute, Path.cwd())
        return _from_factory(name)
    return _taught(str(Path(name).resolve()), trust_code)


def _from_factory(name: str) -> Teacher:
    if not factories.is_factory(name):
        known = ", ".join(f"{kind}:..." for kind in KINDS)
        raise UserError(f"{name!r} is not a teacher; name a folder, {known} or package.module:factory.")
    factory = factories.find(name)
    if isinstance(factory, nn.Module):  # a model of the module itself
        return teachers.from_torch(factory)
    made = factories.call(name, factory)
    if isinstance(made, nn.Module):
        return teachers.from_torch(made)
    if isinstance(made, type) or not callable(made) or not all(hasattr(made, it) for it in ("name", "fingerprint")):
        raise UserError(f"{name} returned {factories.kind(made)}, not a teacher; return teachers.from_callable(...).")
    return with_code(made)


@lru_cache(maxsize=4)
def _of_kind(kind: str, name: str, here: Path) -> Teacher:
    """Made once for each folder `here`, as `name` may be a path from it."""
    return KINDS[kind](name)


@lru_cache(maxsize=4)
def _taught(folder: str, trust_code: bool) -> Teacher:
    taught = load(folder, trust_code=trust_code)
    name, names = Path(folder).name, taught.class_names
    if isinstance(taught.preprocess, Hashing):
        return TorchTeacher(taught.model, name, _Hashed(taught.preprocess), class_names=names)
    assert isinstance(taught.preprocess, Preprocess)
    mean, std = taught.preprocess.mean.tolist(), taught.preprocess.std.tolist()
    return teachers.from_torch(taught.model, name=name, mean=mean, std=std, class_names=names)


@dataclass(frozen=True)
class _Hashed:
    """Texts to the token ids that a model of text was trained on."""

    hashing: Hashing

    def __call__(self, inputs: Any, /) -> Tensor:
        return self.hashing(as_texts(inputs, "it"))

    def __str__(self) -> str:
        return f"hashing {json.dumps(self.hashing.settings())}"


def is_local(teacher: Teacher) -> bool:
    """Whether it computes here, so that it can be tried before calls are paid."""
    return getattr(teacher, "local", False)
