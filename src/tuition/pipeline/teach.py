"""Teachers trained on labels: those of `tuition teach`, and the small one that the digits have."""

from __future__ import annotations

from pathlib import Path

from tuition.pipeline.question import question_of
from tuition.pipeline.settings import DistillSettings, TeachSettings
from tuition.pipeline.settings_file import kept_settings
from tuition.pipeline.sources import Sources
from tuition.pipeline.watch import Watch
from tuition.training import Run, check, train_teacher

DIGITS_MODEL, DIGITS_EPOCHS = "resnet14", 3
DIGITS_FOLDER = Path("teachers") / f"digits-{DIGITS_MODEL}"


def teach(settings: TeachSettings, out: Path, watch: Watch | None = None) -> Run:
    """Train a teacher on the data's labels; without `validation` a tenth is held out to choose the best epoch by, or
    with `hold_out: false` none is.
    """
    sources, seed = Sources(), settings.data.seed
    pool = sources.pool(settings.data, "train")
    if settings.examples is not None:
        pool = pool.sample(settings.examples, seed=seed, stratified=True)
    validation, train = sources.validation_pool(settings.data), pool
    if validation is None and settings.hold_out:
        validation, train = pool.split(max(10, len(pool) // 10), seed=seed, stratified=True)
    test = sources.test_pool(settings.data)
    with (watch or Watch()).training(settings.train.epochs) as callbacks:
        return train_teacher(
            settings.model,
            train,
            validation=validation,
            test=test,
            seed=seed,
            out=out,
            described=settings.data.model_dump(exclude={"seed"})
            | {"examples": settings.examples, "hold_out": settings.hold_out},
            keep=kept_settings(settings),
            callbacks=callbacks,
            **settings.train.model_dump(),
        )


def with_digits_teacher(settings: DistillSettings, sources: Sources, watch: Watch) -> DistillSettings:
    """The same settings; for the digits without a teacher, with a small one, which is trained unless it was before."""
    if settings.ask.teacher is not None or settings.data.data != "digits":
        return settings
    check(
        settings.student,
        question_of(settings, sources).inputs,
        settings.method,
        answer=None,
        test=sources.test_pool(settings.data),
        seed=settings.data.seed,
        options=settings.options,
        **settings.train.model_dump(),
    )
    watch.say(
        f"No teacher is named, so a small one for the digits is used: {DIGITS_MODEL}, trained for {DIGITS_EPOCHS} "
        f"epochs and kept in {DIGITS_FOLDER}."
    )
    values = settings.data.model_dump(exclude={"seed"}) | {"device": settings.device, "learning_rate": 0.1}
    teach(TeachSettings.of(values | {"model": DIGITS_MODEL, "epochs": DIGITS_EPOCHS}), DIGITS_FOLDER, watch)
    return settings.changed(teacher=str(DIGITS_FOLDER))
