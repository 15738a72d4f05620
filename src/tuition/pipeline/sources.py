"""The pools and teachers that settings name, each loaded once for the jobs that share them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tuition import data
from tuition.data import Pool
from tuition.errors import UserError
from tuition.pipeline.settings import Asking, AskSettings, DataSettings
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
        columns: dict[str, Any] = {"text_column": settings.text_column, "image_column": settings.image_column}
        columns |= {"label_column": settings.label_column if labels else None}
        columns |= {"class_names": settings.class_names}
        key = settings.data, split, settings.size, *columns.values()
        if key not in self._pools:
            self._pools[key] = data.load(settings.data, split=split, size=settings.size, **columns)
        return self._pools[key]

    def train_pool(self, settings: Asking) -> Pool:
        """What a teacher is asked about."""
        return self.pool(settings.data, "train", labels=settings.ask.labels or settings.ask.select == "stratified")

    def test_pool(self, settings: DataSettings) -> Pool | None:
        """The labelled inputs to evaluate on.

        Raises:
            UserError: the data has no such split, or no labels in it.
        """
        if settings.test is None:
            return None
        try:
            pool = self.pool(settings, settings.test)
        except UserError as error:
            raise UserError(f"{str(error).rstrip('.')} (or --set test=null, to evaluate nothing).") from error
        if pool.labels is None:
            raise UserError(f"{pool.name} has no labels to evaluate by; evaluate nothing with --set test=null.")
        return pool

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
