"""A small teacher that is trained where no teacher is named."""

from __future__ import annotations

from pathlib import Path

from tuition.pipeline.job import teach
from tuition.pipeline.settings import (
    AskSettings,
    DistillSettings,
    TeachSettings,
)
from tuition.pipeline.sources import question, test_data
from tuition.training import TrainSettings, check
from tuition.training.loop import Progress

STAND_IN, STAND_IN_EPOCHS = "resnet14", 3


def stand_in_folder(settings: AskSettings) -> Path:
    return Path("teachers") / f"{Path(settings.data).name}-{STAND_IN}"


def with_stand_in(settings: DistillSettings, progress: Progress | None = None) -> DistillSettings:
    """The same settings, with a small teacher that is trained now, unless it was trained before."""
    folder = stand_in_folder(settings)
    check(
        settings.student,
        question(settings).inputs,
        settings.method,
        answer=None,
        test=test_data(settings),
        seed=settings.seed,
        options=settings.options,
        **settings.model_dump(include=set(TrainSettings.model_fields)),
    )
    quick = TeachSettings(
        data=settings.data,
        size=settings.size,
        test=settings.test,
        model=STAND_IN,
        epochs=STAND_IN_EPOCHS,
        learning_rate=0.1,
        device=settings.device,
        text_column=settings.text_column,
        label_column=settings.label_column,
        image_column=settings.image_column,
    )
    teach(quick, folder, progress)
    return settings.model_copy(update={"teacher": str(folder)})
