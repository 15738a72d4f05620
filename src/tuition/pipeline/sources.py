"""The pools and teachers that settings name, each loaded once for the jobs that share them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tuition import data
from tuition.data import Pool
from tuition.data.sources import SHORT_NAMES
from tuition.data.splits import SplitError, canonical
from tuition.errors import UserError
from tuition.pipeline.parts import AskSettings, DataSettings
from tuition.pipeline.settings import Asking
from tuition.pipeline.teacher import find_teacher
from tuition.teachers import Teacher
from tuition.training.preflight import pick_device


class Sources:
    """Pools and teachers, loaded where a job first needs them. Another process gets an empty one."""

    def __init__(self) -> None:
        self._pools: dict[tuple[object, ...], Pool] = {}
        self._teachers: dict[tuple[object, ...], Teacher] = {}

    def __reduce__(self) -> tuple[type[Sources], tuple[()]]:
        return Sources, ()

    def pool(self, settings: DataSettings, split: str, *, labels: bool = True) -> Pool:
        """A split of the data; its labels are read only if somebody needs them."""
        return self._load(settings, settings.data, split, labels=labels)

    def _load(self, settings: DataSettings, name: str, split: str, *, labels: bool = True) -> Pool:
        columns: dict[str, Any] = {"text_column": settings.text_column, "image_column": settings.image_column}
        columns |= {"label_column": settings.label_column if labels else None}
        columns |= {"class_names": _parts(settings.class_names)}
        key = name, split, settings.size, repr(columns)
        if key not in self._pools:
            self._pools[key] = data.load(_parts(name) or (), split=split, size=settings.size, **columns)
        return self._pools[key]

    def train_pool(self, settings: Asking) -> Pool:
        """What a teacher is asked about."""
        return self.pool(settings.data, "train", labels=settings.ask.labels or settings.ask.select == "stratified")

    def held_out(self, settings: DataSettings, name: str, split: str) -> Pool:
        """Labelled inputs to measure on: a split of the data, or other data, all of it or its split of that name.

        Raises:
            UserError: they were not found, or have no labels.
        """
        if not _is_other(name):
            try:
                pool = self.pool(settings, name)
            except SplitError as error:
                if Path(name).exists():
                    raise UserError(f"{str(error).rstrip('.')}; for the data {name} here write ./{name}.") from error
                if canonical(name) is None:
                    splits = ", ".join(error.splits)
                    raise UserError(
                        f"{name} is neither a split of {settings.data} ({splits}) nor data here; name one of these."
                    ) from error
                raise
        else:
            try:
                pool = self._load(settings, name, split)
            except SplitError as error:
                if len(error.splits) > 1:
                    raise
                pool = self._load(settings, name, error.splits[0])
        if pool.labels is None:
            raise UserError(f"{pool.name} has no labels to evaluate by; name labelled inputs for the {split}.")
        return pool

    def validation_pool(self, settings: DataSettings) -> Pool | None:
        """The labelled inputs to choose the epoch by; None where they are a part of train."""
        return None if settings.validation is None else self.held_out(settings, settings.validation, "validation")

    def test_pool(self, settings: DataSettings) -> Pool | None:
        """The labelled inputs to evaluate on.

        Raises:
            UserError: they were not found, or have no labels.
        """
        if settings.test is None:
            return None
        try:
            return self.held_out(settings, settings.test, "test")
        except UserError as error:
            raise UserError(f"{str(error).rstrip('.')} (or --set test=null, to evaluate nothing).") from error

    def teacher(self, settings: Asking) -> Teacher:
        """The teacher; a model of PyTorch on the device of training, where answers and maps take seconds."""
        name, options, trust_code = settings.ask.teacher, settings.ask.teacher_options, settings.ask.trust_code
        if name is None:
            described = AskSettings.model_fields["teacher"].description
            raise UserError(f"name a teacher with --teacher: {described}.")
        place = pick_device(settings.device)
        key = name, repr(options), Path.cwd(), trust_code, place
        if key not in self._teachers:
            self._teachers[key] = find_teacher(name, options, trust_code=trust_code).to(place)
        return self._teachers[key]


def _parts(name: str | None) -> str | list[str] | None:
    """Names that are joined by commas, unless there is a file or folder of the name as it stands."""
    return name if name is None or "," not in name or Path(name).exists() else [it.strip() for it in name.split(",")]


def _is_other(name: str) -> bool:
    """Whether a name stands for other data: a path, a name on the hub, or a file or folder not named after a split."""
    if any(sign in name for sign in "/\\,") or name in ("digits", *SHORT_NAMES):
        return True
    return canonical(name) is None and Path(name).expanduser().exists()
