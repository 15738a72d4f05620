"""One run: objective, loop, schedule, checkpoint, evaluation, and the finished student."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tuition.training.callbacks import Callback, Deadline, UnfinishedError
    from tuition.training.distillation import distill, train_teacher
    from tuition.training.objective import Batch, Objective, Term
    from tuition.training.preflight import check
    from tuition.training.run import Run
    from tuition.training.settings import TrainSettings
    from tuition.training.student import Student, load
    from tuition.training.task import Task

__all__ = [
    "Batch",
    "Callback",
    "Deadline",
    "Objective",
    "Run",
    "Student",
    "Task",
    "Term",
    "TrainSettings",
    "UnfinishedError",
    "check",
    "distill",
    "load",
    "train_teacher",
]

_MODULES = {  # imported when used: settings are read without torch
    "callbacks": ("Callback", "Deadline", "UnfinishedError"),
    "distillation": ("distill", "train_teacher"),
    "objective": ("Batch", "Objective", "Term"),
    "preflight": ("check",),
    "run": ("Run",),
    "settings": ("TrainSettings",),
    "student": ("Student", "load"),
    "task": ("Task",),
}


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"tuition.training.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
