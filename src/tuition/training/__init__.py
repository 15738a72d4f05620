"""One run: objective, loop, schedule, checkpoint, evaluation, and the finished student."""

from tuition.training.distillation import distill, train_teacher
from tuition.training.objective import Batch, Objective, Term
from tuition.training.preflight import check
from tuition.training.run import Run
from tuition.training.settings import TrainSettings
from tuition.training.student import Student, load
from tuition.training.task import Task

__all__ = [
    "Batch",
    "Objective",
    "Run",
    "Student",
    "Task",
    "Term",
    "TrainSettings",
    "check",
    "distill",
    "load",
    "train_teacher",
]
