"""A teacher by name: a folder made by `tuition teach`, or what `teachers.load` takes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from tuition import teachers
from tuition.errors import UserError
from tuition.factories import own_module
from tuition.models import Preprocess, TextReader
from tuition.teachers import Teacher
from tuition.teachers.pytorch import TorchTeacher
from tuition.training import load


def find_teacher(name: str, options: Mapping[str, Any] | None = None, *, trust_code: bool = False) -> Teacher:
    """A teacher by the folder that `tuition teach` made, or by a name and options that `teachers.load` takes.

    Raises:
        UserError: the name is unknown, as `teachers.load` says; or a folder gets options, or names untrusted code.
    """
    if "\0" in name:
        raise UserError(f"the teacher's name {name!r} holds a zero byte; correct it.")
    if (":" in name and not Path(name).exists()) or (own_module(name) is not None and not Path(name).is_dir()):
        return teachers.load(name, **options or {})
    if options:
        raise UserError(f"{name} is a folder, whose teacher has no options; leave out teacher.{min(options)}.")
    folder = Path(name).resolve()
    taught = load(folder, trust_code=trust_code)
    if isinstance(taught.preprocess, TextReader):
        reader = _Read(taught.preprocess)
        return TorchTeacher(taught.model, folder.name, reader, class_names=taught.class_names, reads="texts")
    assert isinstance(taught.preprocess, Preprocess)
    mean, std = taught.preprocess.mean.tolist(), taught.preprocess.std.tolist()
    return teachers.from_torch(taught.model, name=folder.name, mean=mean, std=std, class_names=taught.class_names)


@dataclass(frozen=True)
class _Read:
    """Texts to the token ids that a model of text was trained on."""

    reader: TextReader

    def __call__(self, inputs: Any, /) -> Tensor:
        return self.reader(inputs)

    def __str__(self) -> str:
        return f"{self.reader!r} {json.dumps(self.reader.settings())}"
