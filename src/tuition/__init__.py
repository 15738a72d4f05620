"""Distil an expensive teacher into a small student, paying for as few teacher calls as possible."""

from __future__ import annotations

import importlib

# Not imported from typing: with `python -m tuition` the current folder comes first until __main__ ends that.
TYPE_CHECKING = False

__version__ = "0.1.0"
__all__ = [
    "ResponseStore",
    "TrainSettings",
    "UserError",
    "data",
    "distill",
    "load",
    "losses",
    "models",
    "teachers",
    "train_teacher",
]

if TYPE_CHECKING:
    from typing import Any

    from tuition import data, losses, models, teachers
    from tuition.errors import UserError
    from tuition.store import ResponseStore
    from tuition.training import TrainSettings, distill, load, train_teacher

_HOMES = {
    "ResponseStore": "store",
    "TrainSettings": "training",
    "UserError": "errors",
    "distill": "training",
    "load": "training",
    "train_teacher": "training",
}


def __getattr__(name: str) -> Any:
    # Rooms are imported when they are first used, so that `import tuition` and `tuition --help` cost nothing.
    if name in _HOMES:
        return getattr(importlib.import_module(f"tuition.{_HOMES[name]}"), name)
    if name in __all__:
        return importlib.import_module(f"tuition.{name}")
    raise AttributeError(f"module 'tuition' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
