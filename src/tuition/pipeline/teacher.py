"""The teacher that settings name."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from torch import Tensor

from tuition import teachers
from tuition.errors import UserError
from tuition.models import Hashing, Preprocess
from tuition.pipeline.settings import (
    AskSettings,
)
from tuition.teachers import Teacher
from tuition.teachers.pytorch import TorchTeacher
from tuition.training import load
from tuition.training.preflight import pick_device


def named_teacher(settings: AskSettings) -> Teacher:
    """The teacher; a model of PyTorch on the device of training, where answers and maps take seconds."""
    if settings.teacher is None:
        described = type(settings).model_fields["teacher"].description
        raise UserError(f"name a teacher: {described}.")
    return find_teacher(settings.teacher, trust_code=settings.trust_code).to(pick_device(settings.device))


def find_teacher(name: str, *, trust_code: bool = False) -> Teacher:
    """A teacher by the folder that `tuition teach` made, or by a name that `teachers.load` takes.

    Raises:
        UserError: the name is unknown, as `teachers.load` says; or the folder names code that is not trusted.
    """
    if "\0" in name:
        raise UserError(f"the teacher's name {name!r} holds a zero byte; correct it.")
    if ":" in name and not Path(name).exists():
        kind = name.partition(":")[0]
        return _of_kind(name, Path.cwd()) if kind in teachers.KINDS else teachers.load(name)
    return _taught(str(Path(name).resolve()), trust_code)


@lru_cache(maxsize=4)
def _of_kind(name: str, here: Path) -> Teacher:
    """Made once for each folder `here`, because `name` may be a path from it."""
    return teachers.load(name)


@lru_cache(maxsize=4)
def _taught(folder: str, trust_code: bool) -> Teacher:
    taught = load(folder, trust_code=trust_code)
    name, names = Path(folder).name, taught.class_names
    if isinstance(taught.preprocess, Hashing):
        return TorchTeacher(taught.model, name, _Hashed(taught.preprocess), class_names=names, reads="texts")
    assert isinstance(taught.preprocess, Preprocess)
    mean, std = taught.preprocess.mean.tolist(), taught.preprocess.std.tolist()
    return teachers.from_torch(taught.model, name=name, mean=mean, std=std, class_names=names)


@dataclass(frozen=True)
class _Hashed:
    """Texts to the token ids that a model of text was trained on."""

    hashing: Hashing

    def __call__(self, inputs: Any, /) -> Tensor:
        return self.hashing(inputs)

    def __str__(self) -> str:
        return f"hashing {json.dumps(self.hashing.settings())}"
